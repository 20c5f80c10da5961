"""The command `replay`: what another policy version would have decided on the same states."""

import csv
import io
import re
from collections.abc import Iterator

import numpy as np
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

from agent_service.cli.main import cli
from agent_service.client import AgentClient
from agent_service.controllers.ppo import PPOSettings
from agent_service.controllers.random import RandomSettings
from agent_service.domain.errors import AgentError, FailedPrecondition, NotFound
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode
from agent_service.learning.policy_file import from_bytes
from tests.agent_service.analysis.populations import CHUNKS, create, opinionated, train_all
from tests.agent_service.specs import spec
from tests.given import ServedAgent

STEPS = PPOSettings(rollout_size=50_000, observe_action=True, observe_scores=True, max_change=0.25)
"""Decides by more than the losses, and by changes of what ran before."""
SPEC = spec("c", PPOSettings(rollout_size=50_000), reward=Reward.GIVEN)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedAgent]:
    """A log of learning runs under version 1 and of frozen runs under version 2."""
    with ServedAgent(tmp_path_factory.mktemp("replay") / "agent.db") as served:
        catalog = create(served.store, SPEC)
        train_all(served.store, "c", runs=10)
        data = opinionated(SPEC, catalog.export_policy("c", 1).data)
        catalog.import_policy("c", data).result()
        train_all(served.store, "c", runs=10, mode=Mode.FROZEN, prefix="frozen")
        create(served.store, spec("dice", RandomSettings()))
        create(served.store, spec("idle"))
        steps = spec("steps", STEPS, reward=Reward.GIVEN)
        first = create(served.store, steps).export_policy("steps", 1).data
        catalog.import_policy("steps", opinionated(steps, first)).result()
        train_all(served.store, "steps", runs=3, mode=Mode.FROZEN)
        yield served


def replay(served: ServedAgent, *words: str) -> Result:
    return CliRunner().invoke(cli, ["replay", "--agent", served.address, *words])


def rows(result: Result) -> list[dict[str, str]]:
    assert result.exit_code == 0, result.exception
    return list(csv.DictReader(io.StringIO(result.stdout)))


def test_the_version_that_decided_decides_the_same_again(served: ServedAgent) -> None:
    """On a frozen run, to the bit; the text says that all agree."""
    result = replay(served, "c", "--policy", "2", "--run", "frozen-3")
    table = rows(replay(served, "c", "--policy", "2", "--run", "frozen-3", "--format", "csv"))

    assert [row["replayed.dropout"] for row in table] == [row["decided.dropout"] for row in table]
    header, *lines, summary = result.stdout.splitlines()
    assert header.split() == [
        *("position", "run_id", "chunk_index", "policy_version"),
        *("decided.dropout", "replayed.dropout"),
    ]
    assert len(lines) == CHUNKS
    assert summary.startswith("dropout: mean difference 0 over 3 decisions, correlation 1.000, 100")


def test_what_was_seen_and_what_ran_before_count(served: ServedAgent) -> None:
    """A policy of changes that sees its context decides the same again, and each step is small."""
    table = rows(replay(served, "steps", "--policy", "2", "--format", "csv"))

    assert len(table) == 3 * CHUNKS
    assert [row["replayed.dropout"] for row in table] == [row["decided.dropout"] for row in table]
    with AgentClient(served.address) as client:
        log = list(client.transitions(controller="steps"))
    assert any(any(step.context) for step in log)


def test_another_version_is_replayed_by_its_mean(served: ServedAgent) -> None:
    """In the hyperparameters' own units, on all logged states; what was decided stands beside."""
    with AgentClient(served.address) as client:
        policy = from_bytes(client.export_policy("c", 2), SPEC)
        log = list(client.transitions(controller="c"))
    result = replay(served, "c", "--policy", "2", "--format", "csv")

    (dropout,) = SPEC.hyperparameters
    table = rows(result)
    assert len(table) == len(log) == 20 * CHUNKS
    for row, step in zip(table, log, strict=True):
        mean = dropout.value(float(policy.mean(np.array(step.state))[0]))
        assert float(row["replayed.dropout"]) == mean
        assert float(row["decided.dropout"]) == step.action.values["dropout"]
        assert int(row["policy_version"]) == step.action.policy_version
    differences = [abs(float(r["replayed.dropout"]) - float(r["decided.dropout"])) for r in table]
    told = re.search(r"mean difference (\S+) over 60 decisions", result.stderr)
    assert told
    assert float(told[1]) == pytest.approx(np.mean(differences), rel=1e-3)


def test_two_versions_are_compared(served: ServedAgent) -> None:
    """--against puts the other's mean where the decision was; a version agrees with itself."""
    both = rows(replay(served, "c", "--policy", "2", "--against", "1", "--format", "csv"))
    first = rows(replay(served, "c", "--policy", "1", "--format", "csv"))
    same = replay(served, "c", "--policy", "2", "--against", "2")

    assert [row["against.dropout"] for row in both] == [row["replayed.dropout"] for row in first]
    assert "mean difference 0 " in same.stdout
    assert "100.0% within 5% of the range" in same.stdout


def test_it_is_written_by_the_same_writers(
    served: ServedAgent, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Parquet too."""
    path = tmp_path_factory.mktemp("table") / "replay.parquet"
    result = replay(served, "c", "--policy", "1", "--format", "parquet", "--output", str(path))

    assert result.stdout == ""
    assert pyarrow.parquet.read_table(path).num_rows == 20 * CHUNKS


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["c", "--policy", "9"], NotFound, "no policy version 9"),
        (["c", "--policy", "1", "--against", "9"], NotFound, "no policy version 9"),
        (["nobody", "--policy", "1"], NotFound, "no controller 'nobody'"),
        (["c", "--policy", "1", "--run", "nobody"], NotFound, "no run 'nobody'"),
        (["dice", "--policy", "1"], FailedPrecondition, "it has no policy"),
        (["idle", "--policy", "1"], FailedPrecondition, "no transition of 'idle'"),
    ],
)
def test_what_cannot_be_replayed_is_said(
    served: ServedAgent, words: list[str], error: type[AgentError], said: str
) -> None:
    """By its name."""
    result = replay(served, *words)

    assert isinstance(result.exception, error)
    assert said in str(result.exception)
