"""Public scripts' shapes lose nothing by the client, though its agent is killed once."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from agent_service.client import AgentClient, delivery
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.client.network import Network
from tests.agent_service.client.ranks import two_ranks
from tests.end_to_end import scripts
from tests.end_to_end.processes import wait_for
from tests.given import ServedAgent


@pytest.fixture
def agent(served: ServedAgent) -> Iterator[Network]:
    with Network(served.address) as network:
        yield network


def killed_once(agent: Network, patch: pytest.MonkeyPatch) -> Callable[[int], None]:
    patient = delivery.PATIENCE_SECONDS

    def watch(step: int) -> None:
        if step == scripts.KILLED:
            agent.leave()
            patch.setattr(delivery, "PATIENCE_SECONDS", 0.2)  # it is away for sure
        elif step == scripts.BACK:
            agent.come_back()
            patch.setattr(delivery, "PATIENCE_SECONDS", patient)

    return watch


def check_log(client: AgentClient) -> None:
    assert [t.chunk_index for t in client.transitions(run_id="r")] == [1, 2, 3, 4]
    assert client.get_run("r").outcome == pb.OUTCOME_TERMINATED


@pytest.mark.parametrize(
    "script",
    [
        scripts.accumulation,
        pytest.param(
            scripts.compiled,
            marks=[
                pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler"),
                # Of torch's own compiler, as it is imported.
                pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),
            ],
        ),
        scripts.two_optimizers,
        scripts.ema,
        scripts.token_classification,
        scripts.no_labels,
        scripts.no_validation_loader,
    ],
    ids=lambda script: script.__name__,
)
def test_a_script_ends_with_the_weights_that_it_has_without_a_client(
    agent: Network, script: scripts.Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, where the rates are the same; each chunk is in the log once."""
    alone = script(None, lambda step: None).state_dict()

    with AgentClient(agent.address) as client:
        steered = script(client, killed_once(agent, monkeypatch)).state_dict()

        check_log(client)
    assert list(steered) == list(alone)
    assert all(torch.equal(steered[name], alone[name]) for name in alone)


RANK = "from tests.end_to_end.scripts import main; main()"


def test_two_processes_end_with_the_weights_that_they_have_without_a_client(
    agent: Network, tmp_path: Path
) -> None:
    """DistributedDataParallel over gloo; rank 0 alone talks to the agent."""
    for name in ("alone", "steered"):
        (tmp_path / name).mkdir()
    with two_ranks(RANK, tmp_path / "alone", str(tmp_path / "alone")) as ranks:
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    alone = torch.load(tmp_path / "alone" / "weights.pt")

    folder = tmp_path / "steered"
    with two_ranks(RANK, folder, str(folder), "--agent", agent.address) as ranks:
        for step, act in ((scripts.KILLED, agent.leave), (scripts.BACK, agent.come_back)):
            wait_for((folder / f"{step}").exists)
            act()
            (folder / f"{step}").unlink()
        assert [rank.wait(120) for rank in ranks] == [0, 0]

    steered = torch.load(folder / "weights.pt")
    assert all(torch.equal(steered[name], alone[name]) for name in alone)
    with AgentClient(agent.address) as client:
        check_log(client)


@pytest.mark.parametrize("fails", [0, 1])
def test_a_rank_that_raises_ends(agent: Network, tmp_path: Path, fails: int) -> None:
    """Leaving the run enters no collective, which the other rank would never join."""
    options = ("--agent", agent.address, "--fails", str(fails))
    with two_ranks(RANK, tmp_path, str(tmp_path), *options) as ranks:
        assert ranks[fails].wait(120) == 1
