"""A training by two processes is one run: one report per chunk, the same action on both ranks.

By each of torch's ways: DistributedDataParallel, fully_shard, and FullyShardedDataParallel.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent_service.client import AgentClient, Reward
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire.convert import problem_from_message
from tests.agent_service.client.network import Network
from tests.agent_service.client.ranks import two_ranks
from tests.agent_service.specs import DROPOUT, NOISE, spec
from tests.end_to_end.processes import wait_for
from tests.given import ServedAgent

BEGIN = """
import datetime, json, os, sys, time
import numpy as np
import torch
from torch import distributed, nn, tensor
from torch.utils.data import DataLoader
from agent_service.client import AgentClient, GaussianNoise

rank, store, address, *rest = int(sys.argv[1]), *sys.argv[2:]
torch.set_num_threads(1)
distributed.init_process_group(
    "gloo",
    init_method=f"file://{store}",
    rank=rank,
    world_size=2,
    timeout=datetime.timedelta(seconds=%d),  # ranks wait for each other half as long
)
"""
WAYS = ("ddp", "fully_shard", "fsdp")
SCRIPT = """
folder, *ways = rest

def wrapped(way, block, plain):
    # With FSDP a block is a unit of its own, as the blocks of a large model are.
    if way == "ddp":
        return nn.parallel.DistributedDataParallel(plain)
    from torch.distributed import fsdp
    if way == "fully_shard":
        fsdp.fully_shard(block)
        return fsdp.fully_shard(plain)
    cpu = torch.device("cpu")
    plain[1] = fsdp.FullyShardedDataParallel(block, device_id=cpu)
    return fsdp.FullyShardedDataParallel(plain, device_id=cpu)

def train(agent, way):
    torch.manual_seed(0)
    dropout = nn.Dropout(0.25)
    block = nn.Sequential(nn.Linear(8, 8), dropout)
    plain = nn.Sequential(nn.Linear(4, 8), block, nn.Linear(8, 3))
    model = wrapped(way, block, plain)
    keys = list(model.state_dict())
    optimizer = torch.optim.Adam(model.parameters())
    torch.manual_seed(rank)
    seen = {"losses": [], "rates": []}
    steered = {"sites": {"1": GaussianNoise("noise")}, "drives": {"dropout": "1.*"}}
    loader = DataLoader(torch.zeros(60, 4), batch_size=6)
    about = {"optimizer": optimizer, "loader": loader}
    with agent.run("c", run_id=way, model=model, **steered, **about) as run:
        assert list(model.state_dict()) == keys
        for _ in range(8):
            x, y = torch.randn(6, 4), torch.randint(3, (6,))
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss, logits, y)
            seen["losses"].append(loss.item())
            seen["rates"].append(dropout.p)
            if run.chunk_full:
                run.report([(logits, y)])
    assert dropout.p == 0.25 and "__reduce_ex__" not in vars(dropout)
    assert list(model.state_dict()) == keys
    return seen

# Only rank 0 may need the agent: nobody listens at the address that the other is given.
with AgentClient(address if rank == 0 else "127.0.0.1:9", budget_seconds=1) as agent:
    seen = {way: train(agent, way) for way in ways}
    try:
        agent.run("nobody", model=nn.Dropout(0.1))
    except Exception as error:
        seen["error"] = type(error).__name__
open(f"{folder}/{rank}.json", "w").write(json.dumps(seen))
# Without it a rank of torch 2.13 sometimes aborts as it ends, while the other still sends.
distributed.barrier()
distributed.destroy_process_group()
"""


@dataclass(frozen=True)
class Seen:
    """By both ranks, and in the agent's log."""

    ranks: list[dict[str, Any]]
    logs: dict[str, list[pb.Transition]]
    runs: dict[str, pb.Run]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """Train once in each way, in two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    with ServedAgent(folder / "agent.db") as served, AgentClient(served.address) as client:
        client.create_controller(spec(hyperparameters=(DROPOUT, NOISE)))
        with two_ranks(BEGIN % 240 + SCRIPT, folder, served.address, str(folder), *WAYS) as ranks:
            assert [rank.wait(90) for rank in ranks] == [0, 0]
        yield Seen(
            ranks=[json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)],
            logs={way: list(client.transitions(run_id=way)) for way in WAYS},
            runs={way: client.get_run(way) for way in WAYS},
        )


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_are_one_run(seen: Seen, way: str) -> None:
    """The means of both are reported once; both train under the same action."""
    first, second = (rank[way] for rank in seen.ranks)
    log = seen.logs[way]

    assert [t.chunk_index for t in log] == [1, 2]
    means = [(a + b) / 2 for a, b in zip(first["losses"], second["losses"], strict=True)]
    assert [loss for t in log for loss in t.next_state] == pytest.approx(means)
    assert first["losses"] != second["losses"]
    assert first["rates"] == second["rates"]
    assert first["rates"][::4] == [t.action.values["dropout"] for t in log]


@pytest.mark.parametrize("way", WAYS)
def test_the_run_tells_of_both_ranks_training(seen: Seen, way: str) -> None:
    """A step has a batch of each; of FSDP's parameters a rank has a part, and tells no number."""
    told = {"training_samples": 60, "batch_size": 12, "learning_rate": 1e-3, "sites": 2}
    known = problem_from_message(seen.runs[way].problem).known()

    if way != "fsdp":
        told |= {"classes": 3, "parameters": 4 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3}
    assert known == told


def test_an_error_is_raised_on_both_ranks(seen: Seen) -> None:
    """Also on rank 1, which called no agent."""
    assert [rank["error"] for rank in seen.ranks] == ["NotFound", "NotFound"]


PARTING = """
(how,) = rest
model = nn.Dropout(0.1)
steps = {"leaves": (8, 4), "waits": (8, 4)}.get(how, (6, 4))[rank]

def train(run):
    for _ in range(steps):
        run.step(float("nan") if how == "diverges" and rank else 1.0, score=0.5)
        if run.chunk_full:
            run.report(0.5)
    if how == "waits":
        distributed.barrier()  # of the script's, which the other enters four steps later
    if how == "raises" and rank == 1:
        raise ValueError("boom")
    while how == "raises" and not os.path.exists(store + ".go"):
        time.sleep(0.05)  # elsewhere, as in a collective of its own, until the other has ended
    # A rank whose steps differed has left the run, and its model is restored.
    assert how in ("ends", "raises") or rank or (run.is_finished and model.p == 0.1)

with AgentClient(address) as agent:
    with agent.run("c", run_id="r", model=model, when_away=None) as run:
        train(run)
distributed.barrier()  # as in the other script
"""


@pytest.mark.parametrize(
    ("how", "codes", "outcome", "chunks"),
    [
        pytest.param("ends", [0, 0], pb.OUTCOME_TERMINATED, 1, id="after different steps"),
        pytest.param("diverges", [0, 0], pb.OUTCOME_DIVERGED, 0, id="by the mean of losses"),
        pytest.param("raises", [None, 1], pb.OUTCOME_TERMINATED, 1, id="by one's exception"),
        pytest.param("leaves", [0, 0], pb.OUTCOME_TRUNCATED, 1, id="one chunk early"),
        pytest.param("waits", [0, 0], pb.OUTCOME_TRUNCATED, 1, id="in the script's collective"),
    ],
)
def test_ranks_part_and_the_training_continues(
    served: ServedAgent,
    client: AgentClient,
    tmp_path: Path,
    how: str,
    codes: list[int | None],
    outcome: int,
    chunks: int,
) -> None:
    """However they part, none hangs, and no collective of the script pairs with one of the run."""
    with two_ranks(BEGIN % 12 + PARTING, tmp_path, served.address, how) as ranks:
        for rank, code in zip(reversed(ranks), reversed(codes), strict=True):
            if code is not None:
                assert rank.wait(90) == code
        (tmp_path / "store.go").touch()
        wait_for(lambda: client.get_run("r").outcome == outcome, seconds=90)
        assert client.get_run("r").reported_chunks == chunks


APART = """
model = nn.Dropout(0.1)

def batches(fails):
    if fails:
        raise OSError
    yield tensor([[1.0, 0.0]]), tensor([1])

with AgentClient(address) as agent:
    if rank == 0:
        with agent.run("c", model=model, when_away=None) as alone:
            assert alone.is_finished and model.p == 0.1
    distributed.barrier()
    with agent.run("c", model=model, when_away=None) as run:
        for _ in range(4):
            run.step(0.9, tensor([[1.0, 0.0]]), tensor([0]))
        try:
            run.report(batches(fails=rank == 1))
        except OSError:
            run.report(batches(fails=False))
    print(run.run_id)
assert run._delivery._ranks._store is None  # the script's next process group would find it
distributed.barrier()
"""


def test_ranks_find_each_other_again(
    served: ServedAgent, client: AgentClient, tmp_path: Path
) -> None:
    """After a run that one of them started alone, and after a report that failed on one."""
    with two_ranks(BEGIN % 12 + APART, tmp_path, served.address) as ranks:
        (first,), (second,) = (rank.printed(90) for rank in ranks)

    assert first == second
    (t,) = client.transitions(run_id=first)
    assert (t.scores.training, t.scores.validation) == (1.0, 0.0)
    assert list(t.next_state) == pytest.approx([0.9] * 4)


LATE = """
model = nn.Dropout(0.1)
begun = []
with AgentClient(address, budget_seconds=0.1) as agent, agent.run("given", model=model) as run:
    assert str(run.describe()).startswith("nothing is driven: the run has not started")
    assert run.report_reward([1.0], 0.5) == {}
    open(f"{store}.{rank}", "w").close()
    for step in range(100_000):
        if not begun and run.chunk_size:
            begun = [step, model.p]
            assert run.describe().driven
        if begun and step == begun[0] + 8:
            break
        run.step(float(rank), score=0.5)
        if run.chunk_full:
            run.report_reward(np.full(4, rank, np.float32), 0.25 + rank / 2)
        time.sleep(0.001)
print(*begun, run.run_id)
distributed.barrier()
"""


def test_a_run_of_several_ranks_starts_late_on_all_at_the_same_step(
    agent: Network, client: AgentClient, tmp_path: Path
) -> None:
    """With the same values; a reward of the script's own is the mean of the ranks', too."""
    client.create_controller(spec("given", reward=Reward.GIVEN))
    agent.leave()
    with two_ranks(BEGIN % 240 + LATE, tmp_path, agent.address) as ranks:
        files = [tmp_path / f"store.{rank}" for rank in (0, 1)]
        wait_for(lambda: all(file.exists() for file in files), seconds=90)
        agent.come_back()

        first, second = (rank.printed(90) for rank in ranks)

    assert first == second
    log = client.transitions(run_id=first[2])
    assert [(t.chunk_index, t.reward, *t.next_state) for t in log] == [
        (chunk, 0.5, *[0.5] * 4) for chunk in (1, 2)
    ]
