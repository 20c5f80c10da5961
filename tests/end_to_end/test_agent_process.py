"""The agent service as a process: its learner, many runs at once, its imports, its commands."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from agent_service.client import AgentClient, Run
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.random import RandomSettings
from agent_service.domain.runs import Mode
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess, learners, wait_for
from tests.given import ServedAgent, run_command

FAST = PPOSettings(rollout_size=32, batch_size=16, n_epochs=2)


def losses_of(run: int, chunk: int) -> list[float]:
    return [float(x) for x in np.random.default_rng([run, chunk]).uniform(0, 3, 4)]


def report(run: Run, number: int, chunk: int) -> None:
    losses = losses_of(number, chunk)
    run.report_chunk(losses, training_score=0.5, validation_score=min(sum(losses) / 12, 1.0))


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the process's")
def test_learning_yields_to_serving_but_not_while_it_writes(agent: AgentProcess) -> None:
    """Its threads have a lower priority, except while others wait for what they write."""

    def worked(*, above: int) -> float:
        """Return the seconds that the learner's threads of such a priority had a core."""
        (pid,) = learners(agent)
        tasks = [
            task
            for task in Path(f"/proc/{pid}/task").iterdir()
            if os.getpriority(os.PRIO_PROCESS, int(task.name)) == ours + above
        ]
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    ours = os.getpriority(os.PRIO_PROCESS, 0)
    with AgentClient(agent.address) as client:
        client.create_controller(spec("yields", FAST))
        # Until the first update, libraries are loaded, and threads of theirs begin.
        began: list[float] = []
        ended: list[float] = []
        for seen, updates in ((began, 1), (ended, 8)):
            with client.run("yields") as run:
                for chunk in range(1, 1 + updates * 32):
                    report(run, 0, chunk)
            wait_for(lambda: client.get_controller("yields").ready_transitions == 0)
            seen += [worked(above=0), worked(above=10)]

    writing, learning = (after - before for after, before in zip(ended, began, strict=True))
    assert learning > writing > 0.005


def test_interleaved_runs_never_leak_into_one_another(tmp_path: Path) -> None:
    """50 runs of two controllers, interleaved, get the actions that each gets alone."""

    def steer(client: AgentClient, controller: str, number: int) -> list[dict[str, float]]:
        actions = []
        with client.run(controller, run_id=f"{controller}-{number}") as run:
            for chunk in range(1, 11):
                actions.append(run.hyperparameters)
                report(run, number, chunk)
        return actions

    def steer_all(path: Path, workers: int) -> list[list[dict[str, float]]]:
        with ServedAgent(path) as agent, AgentClient(agent.address) as client:
            slow = PPOSettings(rollout_size=50_000)
            for name, seed in (("a", 1), ("b", 2)):
                client.create_controller(spec(name, slow, seed=seed))
            with ThreadPoolExecutor(workers) as pool:
                work = [(name, number) for number in range(25) for name in "ab"]
                return list(pool.map(lambda one: steer(client, *one), work))

    together = steer_all(tmp_path / "together.db", 50)
    alone = steer_all(tmp_path / "alone.db", 1)

    assert together == alone
    assert len({str(actions) for actions in together}) == 50


def test_the_learner_loads_torch_when_a_controller_learns(tmp_path: Path) -> None:
    """A service of baselines does not hold it; no first update waits for it."""
    with AgentProcess(tmp_path / "agent.db") as agent, AgentClient(agent.address) as client:
        client.create_controller(spec("never", FAST), Mode.FROZEN)
        client.create_controller(spec("random", RandomSettings()))
        wait_for(lambda: has_opened_its_store(agent))
        with client.run("random") as run:
            for chunk in range(1, 101):
                report(run, 0, chunk)
        assert not holds_torch(agent)

        client.create_controller(spec("learning", FAST))
        wait_for(lambda: holds_torch(agent))


def has_opened_its_store(agent: AgentProcess) -> bool:
    """Whether the learner has opened its store; from then on it looks for full rollouts."""
    opened = (file for pid in learners(agent) for file in psutil.Process(pid).open_files())
    return any(file.path.endswith("agent.db") for file in opened)


def holds_torch(agent: AgentProcess) -> bool:
    (learner,) = learners(agent)
    return "libtorch" in Path(f"/proc/{learner}/maps").read_text()


TORCH = ("torch", "stable_baselines3", "gymnasium", "optuna")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        # NumPy was half of what importing the client took. What few scripts do, and what servers
        # need, takes its time to import, too.
        (
            "agent_service.client",
            (
                *TORCH,
                *("numpy", "sqlalchemy", "pydantic", "click", "prometheus_client", "json", "uuid"),
                *("grpc_status", "agent_service.domain.store", "agent_service.wire.pem"),
            ),
        ),
        ("agent_service.app", TORCH),
        ("agent_service.analysis.replay", (*TORCH, "pyarrow", "sqlalchemy")),
        ("trainer_service.client", (*TORCH, "sqlalchemy", "click")),
        # It describes the device, and leaves training to processes of their own.
        (
            "trainer_service.app, trainer_service.training.child.execution",
            ("torchvision", "sklearn"),
        ),
    ],
)
def test_nothing_is_imported_that_is_not_needed(module: str, heavy: tuple[str, ...]) -> None:
    """The agent's server leaves torch to the learner's process; the clients are lighter still."""
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout == "[]\n"


@pytest.mark.parametrize("command", ["health", "controllers"])
def test_commands_without_a_service_fail_in_one_line(command: str) -> None:
    """Exit code 1, and a line that says where nobody answered."""
    shown = run_command("agent_service", command, "--agent", "127.0.0.1:9")

    assert shown.returncode == 1
    assert "127.0.0.1:9" in shown.stderr
    assert shown.stderr.count("\n") == 1
