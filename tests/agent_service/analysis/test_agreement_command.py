"""The command `agreement`: what a run ran under, beside what was decided for it."""

import csv
import io
from collections.abc import Sequence

import pytest
from click.testing import CliRunner, Result

from agent_service.cli.main import cli
from agent_service.client import AgentClient, ConstantSettings, Mode, Outcome
from agent_service.domain.errors import FailedPrecondition, NotFound
from tests.agent_service.specs import spec
from tests.given import ServedAgent

LOSSES = [2.0, 1.5, 1.25, 1.25]


def agreement(served: ServedAgent, *words: str) -> Result:
    return CliRunner().invoke(cli, ["agreement", "--agent", served.address, *words])


def shadow(client: AgentClient, rates: Sequence[float], outcome: Outcome) -> None:
    """Report a shadow run under rates of its own, where 0.45 would have been decided."""
    client.create_controller(
        spec(algorithm=ConstantSettings(values={"dropout": 0.45}), diverged_reward=-1.0)
    )
    with client.run("c", run_id="r", mode=Mode.SHADOW) as run:
        for rate in rates:
            run.report_chunk(
                LOSSES, training_score=0, validation_score=0, applied={"dropout": rate}
            )
        run.finish(outcome)


def test_a_shadow_runs_own_values_stand_beside_the_agents(
    served: ServedAgent, client: AgentClient
) -> None:
    """Chunk by chunk, and at the end how far they agree; a chunk that diverged told nothing."""
    shadow(client, (0.45, 0.25, 0.47, 0.45), Outcome.DIVERGED)

    header, *lines, summary = agreement(served, "r").stdout.splitlines()
    assert header.split() == ["chunk_index", "applied.dropout", "decided.dropout"]
    assert [line.split() for line in lines] == [
        [str(chunk), rate, "0.45"] for chunk, rate in enumerate(("0.45", "0.25", "0.47", "0.45"), 1)
    ]
    assert summary == (
        "dropout: mean difference 0.055 over 4 decisions, correlation none, "
        "75.0% within 5% of the range"
    )


def test_a_run_that_followed_agrees(served: ServedAgent, client: AgentClient) -> None:
    """Where nothing else was applied, both columns are the action; another program reads them."""
    client.create_controller(spec())
    with client.run("c", run_id="r") as run:
        for _ in range(3):
            run.report_chunk(LOSSES, training_score=0, validation_score=0)
    result = agreement(served, "r", "--format", "csv")

    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert len({row["applied.dropout"] for row in rows}) == 3
    assert all(row["applied.dropout"] == row["decided.dropout"] for row in rows)
    assert "100.0% within" in result.stderr


def test_what_has_told_nothing_is_an_error(served: ServedAgent, client: AgentClient) -> None:
    """A run that is not there, or has reported nothing yet."""
    client.create_controller(spec())
    client.run("c", run_id="r")
    for run_id, error in (("nobody", NotFound), ("r", FailedPrecondition)):
        with pytest.raises(error, match=run_id):
            raise agreement(served, run_id).exception or AssertionError
