"""Public scripts' shapes lose nothing by the client, though its agent is killed once."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from agent_service.client import AgentClient, delivery
from agent_service.v1 import agent_pb2 as pb
from tests.end_to_end import scripts
from tests.end_to_end.processes import AgentProcess, wait_for


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path / "agent.db") as process:
        yield process


def killed_once(agent: AgentProcess, patch: pytest.MonkeyPatch) -> Callable[[int], None]:
    patient = delivery.PATIENCE_SECONDS

    def watch(step: int) -> None:
        if step == scripts.KILLED:
            agent.kill()
            patch.setattr(delivery, "PATIENCE_SECONDS", 0.2)  # it is away for sure
        elif step == scripts.BACK:
            agent.start()
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
    agent: AgentProcess, script: scripts.Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, where the rates are the same; each chunk is in the log once."""
    alone = script(None, lambda step: None).state_dict()

    with AgentClient(agent.address) as client:
        steered = script(client, killed_once(agent, monkeypatch)).state_dict()

        check_log(client)
    assert list(steered) == list(alone)
    assert all(torch.equal(steered[name], alone[name]) for name in alone)


def torchrun(folder: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", "tests.end_to_end.scripts", str(folder)]
    with open(folder / "log", "wb") as log:
        return subprocess.Popen([*command, *arguments], stdout=log, stderr=log)


def test_two_processes_end_with_the_weights_that_they_have_without_a_client(
    agent: AgentProcess, tmp_path: Path
) -> None:
    """DistributedDataParallel over gloo; rank 0 alone talks to the agent."""
    assert torchrun(tmp_path).wait() == 0
    alone = torch.load(tmp_path / "weights.pt")

    job = torchrun(tmp_path, "--agent", agent.address)
    for step, act in ((scripts.KILLED, agent.kill), (scripts.BACK, agent.start)):
        wait_for((tmp_path / f"{step}").exists)
        act()
        (tmp_path / f"{step}").unlink()
    assert job.wait() == 0

    steered = torch.load(tmp_path / "weights.pt")
    assert all(torch.equal(steered[name], alone[name]) for name in alone)
    with AgentClient(agent.address) as client:
        check_log(client)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_raises_ends_the_job(agent: AgentProcess, tmp_path: Path, rank: int) -> None:
    """Leaving the run enters no collective, which the other rank would never join."""
    job = torchrun(tmp_path, "--agent", agent.address, "--fails", str(rank))

    assert job.wait(120) == 1
    assert "ValueError: boom" in (tmp_path / "log").read_text()
