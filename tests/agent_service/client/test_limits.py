"""Limits of a run: values that they change are applied, reported, and not learned from."""

import itertools
import math
from unittest.mock import Mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent_service.client import AgentClient, Limits, RandomSettings, Run
from agent_service.client.limits import RunLimiter
from agent_service.domain.errors import InvalidArgument
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import DROPOUT, spec


def train(run: Run, *means: float) -> list[float]:
    """Report a chunk for each mean loss; return the values that the chunks ran under."""
    rates = []
    for mean in means:
        rates.append(run.hyperparameters["dropout"])
        run.report_chunk([mean] * 4, training_score=0.5, validation_score=0.5)
    return rates


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0.01, 1))
@example([0.0005, 1.0, 0.0005], 0.25)
def test_no_value_moves_further_than_the_largest_change(rates: list[float], most: float) -> None:
    """From chunk to chunk; values within it are not changed, not even by rounding."""
    limiter = RunLimiter(Limits(max_change=most))
    before = None
    for rate in rates:
        after = limiter.limited({"dropout": rate})["dropout"]
        if before is None or abs(rate - before) <= most:
            assert after == rate
        else:
            assert abs(after - before) == pytest.approx(most)
        before = after


def test_values_stay_in_their_range_whatever_the_agent_answers() -> None:
    """A rate of 2, or NaN: the nearest bound, reported as applied."""
    actions = [
        pb.Action(values={"dropout": rate}, chunk_index=chunk)
        for chunk, rate in enumerate((2.0, math.nan, -1.0, 0.5), start=2)
    ]
    agent = Mock(joined=lambda numbers: numbers)
    agent.send.side_effect = [pb.ReportChunkResponse(action=action) for action in actions]
    first = pb.Action(values={"dropout": 0.25}, chunk_index=1)
    run = Run(agent, run_id="r", chunk_size=4, action=first, hyperparameters=[DROPOUT])

    assert train(run, *[1.0] * 4) == [0.25, 0.9, 0.0, 0.0]
    assert run.interventions == {"range": 3}
    reports = [call.args[0] for call in agent.send.call_args_list]
    assert [r.applied.values.get("dropout") for r in reports] == [None, 0.9, 0.0, 0.0]
    assert run.hyperparameters == {"dropout": 0.5}


def test_a_cut_change_is_reported_and_not_learned_from(client: AgentClient) -> None:
    """The log has both values; the script runs under the cut one."""
    with client.run("c", run_id="r", limits=Limits(max_change=0.01)) as run:
        rates = train(run, *[1.0] * 6)
        assert run.interventions == {"change": 6}

    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) <= 0.01 + 1e-12
    first, *others = client.transitions(run_id="r")
    assert first.use != pb.USE_RECORDED, "A_0 is not limited"
    assert not first.HasField("applied")
    for transition, rate in zip(others, rates[1:], strict=True):
        assert transition.applied.values["dropout"] == rate != transition.action.values["dropout"]
        assert transition.use == pb.USE_RECORDED


def test_values_stay_in_the_part_of_the_range_that_the_script_leaves(client: AgentClient) -> None:
    """From A_0 on; the agent is told what the chunk ran under. The ends are the script's own."""
    client.create_controller(spec("walks", RandomSettings()))

    with client.run("walks", run_id="r", limits=Limits(low=0.3, high=0.5)) as run:
        rates = train(run, *[1.0] * 12)

    log = list(client.transitions(run_id="r"))
    decided = [t.action.values["dropout"] for t in log]
    assert min(decided) < 0.3 < 0.5 < max(decided)
    assert rates == [min(max(rate, 0.3), 0.5) for rate in decided]
    told = [t.applied.values["dropout"] if t.HasField("applied") else None for t in log]
    assert told == [None if a == b else a for a, b in zip(rates, decided, strict=True)]


@pytest.mark.parametrize("limits", [Limits(low=0.9), Limits(high=0.0), Limits(low=1.0, high=2.0)])
def test_limits_that_leave_nothing_are_refused_before_the_run_starts(
    client: AgentClient, limits: Limits
) -> None:
    with pytest.raises(InvalidArgument, match=r"limits\.\w+: \S+ leaves nothing of dropout's"):
        client.run("c", run_id="r", limits=limits)

    assert not list(client.list_runs())


def test_a_spike_or_non_finite_loss_restores_the_last_safe_values(client: AgentClient) -> None:
    """For one chunk; the agent's values follow. A report that is sent again counts once."""
    with client.run("c", run_id="r", limits=Limits(spike=3.0)) as run:
        rates = train(run, 1.0, 1.1)
        with pytest.raises(InvalidArgument, match="applied"):
            run.report_chunk(
                [5.0] * 4, training_score=0.5, validation_score=0.5, applied={"rate": 0.1}
            )
        rates += train(run, 5.0, 1.0, math.nan, 1.0, 1.0)
        assert run.interventions == {"spike": 1, "not finite": 1}

    assert rates[3] == rates[1], "chunk 3 spiked, chunk 2 was safe"
    assert rates[5] == rates[3], "chunk 5 was not finite, chunk 4 was safe"
    assert len(set(rates)) == 5
    log = list(client.transitions(run_id="r"))
    assert [t.chunk_index for t in log if t.HasField("applied")] == [4, 6]
    assert list(log[4].next_state) == [5.0] * 4, "the largest finite loss so far"


@pytest.mark.parametrize(
    "limits",
    [
        {"max_change": 0.0},
        {"max_change": math.nan},
        {"spike": 1.0},
        {"low": math.nan},
        {"high": math.inf},
        {"low": 0.5, "high": 0.5},
    ],
)
def test_an_invalid_limit_is_refused(limits: dict[str, float]) -> None:
    """Naming the field."""
    with pytest.raises(InvalidArgument, match=f"limits.{next(iter(limits))}"):
        Limits(**limits)
