"""`verify`: an honest log is derived again; a changed one is found, at the first that differs."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient
from agent_service.controllers.bayesian import BayesianSettings
from agent_service.controllers.constant import ConstantSettings
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.errors import AgentError
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode
from agent_service.store.store import SqlStore
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import Call, train
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.given import ServedAgent, run_command


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of learning and frozen runs over two policy versions, a baseline, and proposals.

    Draws follow from the runs' ids: of a random one, another policy might have decided alike.
    """
    path = tmp_path_factory.mktemp("honest") / "agent.db"
    small = PPOSettings(rollout_size=8, batch_size=4, n_epochs=2, net_arch=(8,))
    with ServedAgent(path) as served, AgentClient(served.address) as client:
        client.create_controller(spec("ppo", small, reward=Reward.IMPROVEMENT))
        client.create_controller(spec("fixed", ConstantSettings(values={"dropout": 0.3})))
        modes = (("ppo", None), ("ppo", None), ("ppo", Mode.FROZEN), ("fixed", None))
        for number, (name, mode) in enumerate(modes):
            with client.run(name, run_id=f"{name}-{number}", mode=mode) as run:
                for chunk in range(1, 10):
                    losses = [3.0 / chunk, 2.0 / chunk, 1.0, 0.5]
                    run.report_chunk(losses, training_score=0.5, validation_score=chunk / 10)
            learn_once(served.store)
        client.create_controller(spec("tpe", BayesianSettings(n_startup_trials=3)))
        for number in range(6):
            train(client, "tpe", run_id=f"proposed-{number}", score=number / 10)
    return path


@pytest.fixture
def log(honest: Path, tmp_path: Path) -> Path:
    """A copy of the honest log."""
    path = tmp_path / "agent.db"
    with closing(sqlite3.connect(honest)) as source, closing(sqlite3.connect(path)) as copy:
        source.backup(copy)
    return path


def change(path: Path, statement: str) -> None:
    """Change rows as one would who knows of their checksums."""
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement).rowcount >= 1
        for table in ("decisions", "policies"):
            connection.execute(f"UPDATE {table} SET checksum = NULL")


EDGES = (-0.0, 5e-324, 1e-310, 0.1, float(np.float32(0.1)), 1.0, 1 - 2**-53)
"""Numbers that a column may not give back as they came, or that lie at an end of their range."""


def test_numbers_at_the_edges_are_decided_from_as_they_are_stored(
    served: ServedAgent, client: AgentClient, call: Call
) -> None:
    """As scores, rewards, applied values, losses, bounds and final scores; seen by the policy."""
    sees_all = PPOSettings(
        rollout_size=8, batch_size=4, n_epochs=1, observe_scores=True, observe_action=True
    )
    bounded = replace(sees_all, max_change=0.5)
    signed = Hyperparameter(name="dropout", low=-1.0, high=-0.0)
    client.create_controller(spec("gap", bounded))
    client.create_controller(spec("improvement", sees_all, reward=Reward.IMPROVEMENT))
    client.create_controller(spec("given", bounded, reward=Reward.GIVEN, hyperparameters=(signed,)))
    client.create_controller(spec("zero", ConstantSettings(values={"dropout": -0.0})))
    client.create_controller(spec("tpe", BayesianSettings()))
    for name in ("gap", "improvement", "given", "zero", "tpe"):
        with client.run(name, run_id=name) as run:
            for chunk, (edge, other) in enumerate(zip(EDGES, EDGES[::-1], strict=True), 1):
                report = pb.ReportChunkRequest(run_id=name, chunk_index=chunk)
                report.losses[:] = [edge, -edge, 1e308 * other, 3.0]
                report.applied.values["dropout"] = edge
                if name == "given":
                    report.reward = 1e308 if edge == 1.0 else -edge
                else:
                    report.scores.MergeFrom(pb.Scores(training=edge, validation=other))
                call(report)
            run.finish(final_score=-0.0)

    assert verify_store(served.url) == 5 * (len(EDGES) + 1)


SET_13 = "UPDATE decisions SET {} WHERE position = 13"
POLICY = (
    "UPDATE policies SET data = (SELECT data FROM policies WHERE version = {other} "
    "AND controller_id = {controller}) WHERE version = {version} AND controller_id = {controller}"
)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (SET_13.format("""action = '{"dropout": 0.123}'"""), "position 13: run"),
        (SET_13.format("reward = reward + 0.001"), "position 13: run"),
        (SET_13.format("log_probability = log_probability - 0.001"), "position 13: run"),
        (SET_13.format("state = zeroblob(32)"), "position 13: run"),
        (SET_13.format("validation_score = 0.99"), "position 13: run"),
        (SET_13.format("policy_version = 1"), "position 13: run"),
        (POLICY.format(version=2, other=3, controller=1), "position 12: run"),
        # Of the fifth run of `tpe`, the second that TPE proposed.
        ("UPDATE decisions SET sample = zeroblob(8) WHERE position = 49", "position 49: run"),
        (POLICY.format(version=6, other=4, controller=3), "position 51: run"),
        ("DELETE FROM decisions WHERE position = 10", "position 1: .* counted by the run, but not"),
        ("DELETE FROM decisions WHERE position = 5", "position 6: .* is incomplete"),
        ("DELETE FROM decisions WHERE position = 1", "position 2: .* is incomplete"),
        ("DELETE FROM policies WHERE version = 2", "ppo has no policy version 2"),
        (
            "UPDATE runs SET reported_chunks = 8, checksum = NULL WHERE key = 1",
            "position 10: .* in the log, but not counted",
        ),
    ],
)
def test_the_first_difference_is_named(log: Path, statement: str, says: str) -> None:
    """Whatever of a decision or policy was changed, and whichever row is missing."""
    change(log, statement)

    with pytest.raises(AgentError, match=says):
        verify_store(f"sqlite:///{log}")


def test_the_command_says_what_it_found(log: Path, tmp_path: Path) -> None:
    """Exit code 0 with the count; 1 with one line for a changed, an empty or a missing store."""

    def command(url: str) -> tuple[int, str]:
        shown = run_command("agent_service", "verify", "--store", url)
        assert (shown.stdout + shown.stderr).count("\n") == 1
        return shown.returncode, shown.stdout + shown.stderr

    code, said = command(f"sqlite:///{log}")
    assert (code, said) == (0, "52 decisions derived again, all equal\n")

    change(log, "UPDATE decisions SET reward = 9 WHERE position = 13")
    code, said = command(f"sqlite:///{log}")
    assert code == 1
    assert "position 13" in said

    SqlStore(f"sqlite:///{tmp_path}/empty.db").close()
    code, said = command(f"sqlite:///{tmp_path}/empty.db")
    assert code == 1
    assert "no decision" in said

    code, said = command(f"sqlite:///{tmp_path}/mistyped.db")
    assert code == 1
    assert "no file" in said
    assert not (tmp_path / "mistyped.db").exists()
