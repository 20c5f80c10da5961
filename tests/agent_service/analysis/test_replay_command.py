"""The command `replay`: another policy version's decisions on the logged states."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
from click.testing import CliRunner, Result

from agent_service.cli.main import cli
from agent_service.client import AgentClient, ControllerSpec, Mode, PPOSettings, RandomSettings
from agent_service.domain.errors import AgentError, FailedPrecondition, NotFound
from agent_service.learning.policy_file import from_bytes, to_bytes
from agent_service.learning.snapshot import PolicySnapshot
from tests.agent_service.calls import train
from tests.agent_service.specs import spec
from tests.given import ServedAgent

CHUNKS = 3
SPEC = spec("c")
STEPS = spec("steps", PPOSettings(observe_action=True, observe_scores=True, max_change=0.25))
"""Decides by more than the losses, and by changes of what ran before."""


def opinionated(of: ControllerSpec, data: bytes) -> bytes:
    """Return a policy whose mean action lies high, and follows the losses."""
    arrays = safetensors.numpy.load(data)
    arrays["action_net.weight"] *= np.float32(10)
    arrays["action_net.bias"] += np.float32(0.3)
    return to_bytes(PolicySnapshot(arrays), of, policy_version=2)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedAgent]:
    """A log of learning runs under version 1 and of frozen runs under version 2."""
    with ServedAgent(tmp_path_factory.mktemp("replay") / "agent.db") as served:
        with AgentClient(served.address) as client:
            for of in (SPEC, STEPS, spec("dice", RandomSettings()), spec("idle")):
                client.create_controller(of)
            for _ in range(5):
                train(client, "c", chunks=CHUNKS)
            for of in (SPEC, STEPS):
                client.import_policy(of.name, opinionated(of, client.export_policy(of.name)))
                for number in range(5):
                    run_id = f"frozen-{of.name}-{number}"
                    train(client, of.name, run_id=run_id, chunks=CHUNKS, mode=Mode.FROZEN)
        yield served


def replay(served: ServedAgent, *words: str) -> Result:
    return CliRunner().invoke(cli, ["replay", "--agent", served.address, *words])


def rows(served: ServedAgent, *words: str) -> tuple[list[dict[str, str]], str]:
    """Return the table and the summary of a replay as CSV."""
    result = replay(served, *words, "--format", "csv")
    assert result.exit_code == 0, result.exception
    return list(csv.DictReader(io.StringIO(result.stdout))), result.stderr


def test_the_version_that_decided_decides_the_same_again(served: ServedAgent) -> None:
    """On frozen runs, to the bit, also by its context and by changes; the text says so."""
    for name in ("c", "steps"):
        table, _summary = rows(served, name, "--policy", "2", "--run", f"frozen-{name}-3")
        assert len(table) == CHUNKS
        assert all(row["replayed.dropout"] == row["decided.dropout"] for row in table)
    with AgentClient(served.address) as client:
        assert any(any(step.context) for step in client.transitions(controller="steps"))

    result = replay(served, "c", "--policy", "2", "--run", "frozen-c-3")
    header, *lines, summary = result.stdout.splitlines()
    assert header.split() == [
        *("position", "run_id", "chunk_index", "policy_version"),
        *("decided.dropout", "replayed.dropout"),
    ]
    assert len(lines) == CHUNKS
    assert summary.startswith("dropout: mean difference 0 over 3 decisions, correlation 1.000, 100")


def test_another_version_is_replayed_by_its_mean(served: ServedAgent, tmp_path: Path) -> None:
    """In the hyperparameters' own units, on all logged states, beside the decisions."""
    with AgentClient(served.address) as client:
        policy = from_bytes(client.export_policy("c", 2), SPEC)
        log = list(client.transitions(controller="c"))
    table, summary = rows(served, "c", "--policy", "2")

    (dropout,) = SPEC.hyperparameters
    assert len(table) == len(log) == 10 * CHUNKS
    differences = []
    for row, step in zip(table, log, strict=True):
        mean = dropout.value(float(policy.mean(np.array(step.state))[0]))
        assert float(row["replayed.dropout"]) == mean
        assert float(row["decided.dropout"]) == step.action.values["dropout"]
        assert int(row["policy_version"]) == step.action.policy_version
        differences.append(abs(mean - step.action.values["dropout"]))
    found = re.search(r"mean difference (\S+) over 30 decisions", summary)
    assert found
    assert float(found[1]) == pytest.approx(np.mean(differences), rel=1e-3)

    path = tmp_path / "replay.parquet"
    replay(served, "c", "--policy", "2", "--format", "parquet", "--output", str(path))
    assert pyarrow.parquet.read_table(path).num_rows == len(table)


def test_two_versions_are_compared(served: ServedAgent) -> None:
    """--against puts the other's mean beside; a version agrees with itself."""
    both, _ = rows(served, "c", "--policy", "2", "--against", "1")
    first, _ = rows(served, "c", "--policy", "1")
    same = replay(served, "c", "--policy", "2", "--against", "2")

    assert [row["against.dropout"] for row in both] == [row["replayed.dropout"] for row in first]
    assert "mean difference 0 " in same.stdout
    assert "100.0% within 5% of the range" in same.stdout


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        ("c --policy 9", NotFound, "no policy version 9"),
        ("c --policy 1 --against 9", NotFound, "no policy version 9"),
        ("nobody --policy 1", NotFound, "no controller 'nobody'"),
        ("c --policy 1 --run nobody", NotFound, "no run 'nobody'"),
        ("dice --policy 1", FailedPrecondition, "it has no policy"),
        ("idle --policy 1", FailedPrecondition, "no transition of 'idle'"),
    ],
)
def test_an_unknown_name_is_an_error(
    served: ServedAgent, words: str, error: type[AgentError], says: str
) -> None:
    """As is a controller without a policy, or without transitions."""
    result = replay(served, *words.split())

    assert isinstance(result.exception, error)
    assert says in str(result.exception)
