"""The agent service as a process: killed, stopped, many runs at once."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient, Run
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.random import RandomSettings
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import spec
from tests.end_to_end.processes import (
    AgentProcess,
    children,
    command_of,
    is_alive,
    learners,
    wait_for,
)
from tests.given import ServedAgent, run_command

FAST = PPOSettings(rollout_size=32, batch_size=16, n_epochs=2)


def losses_of(run: int, chunk: int) -> list[float]:
    return [float(x) for x in np.random.default_rng([run, chunk]).uniform(0, 3, 4)]


def report(run: Run, number: int, chunk: int) -> None:
    losses = losses_of(number, chunk)
    run.report_chunk(losses, training_score=0.5, validation_score=min(sum(losses) / 12, 1.0))


def test_a_killed_service_goes_on_with_every_live_run(tmp_path: Path) -> None:
    """After SIGKILL and restart each live run's next report is answered, and the log verifies.

    The learner ends, too: nobody is left behind who writes to the store.
    """
    with AgentProcess(tmp_path / "agent.db") as agent:
        with AgentClient(agent.address) as client:
            client.create_controller(spec(algorithm=FAST))
            runs = [client.run("c", run_id=f"r{i}") for i in range(8)]
            for chunk in range(1, 6):
                for number, run in enumerate(runs):
                    report(run, number, chunk)
            wait_for(lambda: client.get_controller("c").ready_transitions < 32)
            log = list(client.transitions())
            left = children(agent.process.pid)
            assert left
            agent.kill()
            wait_for(lambda: not any(is_alive(pid) for pid in left))
            agent.start()
            assert [t.position for t in client.transitions()] == [t.position for t in log]
            for number, run in enumerate(runs):
                report(run, number, 6)
                run.finish()
            assert len(list(client.transitions())) == 8 * 6
        assert agent.stop() == 0
    assert verify_store(agent.url) == 8 * 7


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority is the process's")
def test_learning_yields_to_serving_but_not_while_it_writes(agent: AgentProcess) -> None:
    """What it does has a lower priority, all but what others wait for."""

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


def test_each_transition_is_learned_from_once(tmp_path: Path) -> None:
    """Though the service is killed while it learns: versions consume whole rollouts, none twice."""
    with AgentProcess(tmp_path / "agent.db") as agent, AgentClient(agent.address) as client:
        client.create_controller(spec(algorithm=FAST))
        for number in range(8):
            with client.run("c", run_id=f"r{number}") as run:
                for chunk in range(1, 21):
                    report(run, number, chunk)
            if number in (2, 5):
                agent.kill()
                agent.start()
        wait_for(lambda: client.get_controller("c").ready_transitions == 0)

        learned = [t.learned_in for t in client.transitions()]
        assert sorted(learned) == sorted(list(range(2, 7)) * 32)
        assert client.get_controller("c").policy_version == 6


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


def test_a_frozen_controller_never_learns(agent: AgentProcess) -> None:
    """Frozen runs explore nothing and leave the policy as it is."""
    with AgentClient(agent.address) as client:
        client.create_controller(spec("never", FAST), Mode.FROZEN)
        client.create_controller(spec("other", FAST))
        for name in ("never", "other"):
            for number in range(2):
                with client.run(name) as run:
                    for chunk in range(1, 20):
                        report(run, number, chunk)
        wait_for(lambda: client.get_controller("other").policy_version == 2)

        assert client.get_controller("never").policy_version == 1
        log = list(client.transitions(controller="never"))
        assert not any(t.action.explored for t in log)
        assert {t.use for t in log} == {pb.USE_RECORDED}


def test_baselines_answer_by_the_same_calls(served: ServedAgent, client: AgentClient) -> None:
    """A random controller's actions stay in range; its log verifies as PPO's does."""
    client.create_controller(spec(algorithm=RandomSettings(), reward=Reward.VALIDATION))
    with client.run("c") as run:
        for chunk in range(1, 51):
            assert 0 <= run.hyperparameters["dropout"] <= 0.9
            report(run, 0, chunk)
    assert verify_store(served.url) == 51


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
    """Whether the learner has; from then on it looks for full rollouts."""
    opened = (file for pid in learners(agent) for file in psutil.Process(pid).open_files())
    return any(file.path.endswith("agent.db") for file in opened)


def holds_torch(agent: AgentProcess) -> bool:
    (learner,) = learners(agent)
    return "libtorch" in Path(f"/proc/{learner}/maps").read_text()


def test_a_taken_port_is_said_in_one_line(agent: AgentProcess, tmp_path: Path) -> None:
    """A second server on the port ends with exit code 1 and no traceback."""
    command = [*command_of("agent_service"), "serve"]
    command += ["--listen", agent.address, "--store", f"sqlite:///{tmp_path}/two.db"]
    second = subprocess.run(
        [*command, "--metrics-port", "0"], capture_output=True, text=True, timeout=60
    )

    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert agent.address in second.stderr


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
        ("trainer_service.app, trainer_service.training.device", ("torchvision", "sklearn")),
    ],
)
def test_nothing_is_imported_that_is_not_needed(module: str, heavy: tuple[str, ...]) -> None:
    """The agent's server leaves torch to the learner's process; the clients are lighter still."""
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"

    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert shown.stdout == "[]\n"


@pytest.mark.parametrize(
    "command",
    [["health"], ["controllers"], ["runs"], ["transitions"], ["compare-policies", "c", "1", "2"]],
)
def test_commands_without_a_service_fail_in_one_line(command: list[str]) -> None:
    """Exit code 1, and a line that says where nobody answered."""
    shown = run_command("agent_service", *command, "--agent", "127.0.0.1:9")

    assert shown.returncode == 1
    assert "127.0.0.1:9" in shown.stderr
    assert shown.stderr.count("\n") == 1
