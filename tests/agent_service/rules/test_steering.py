"""The rules of a run, on a real server, store and client."""

from collections.abc import Callable

import numpy as np
import pytest

from agent_service.client import AgentClient
from agent_service.controllers.random import RandomSettings
from agent_service.domain.errors import AgentError, AlreadyExists, FailedPrecondition, NotFound
from agent_service.domain.rewards import Reward
from agent_service.domain.runs import Mode, Outcome
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert
from tests.agent_service.specs import spec
from tests.given import ServedAgent

LOSSES = [2.0, 1.5, 1.25, 1.0]


def report(run_id: str, chunk: int, **changes: object) -> pb.ReportChunkRequest:
    content: dict[str, object] = {
        "losses": LOSSES,
        "scores": pb.Scores(training=0.6, validation=0.5),
    }
    return pb.ReportChunkRequest(run_id=run_id, chunk_index=chunk, **(content | changes))  # type: ignore[arg-type]


def test_each_action_is_for_the_chunk_after_the_reported_one(client: AgentClient) -> None:
    """A_0 is for chunk 1, and the answer to the report of chunk t is A_t, for chunk t + 1."""
    client.create_controller(spec())
    with client.run("c") as run:
        chunks = [run.action.chunk_index]
        for _ in range(3):
            run.report_chunk(LOSSES, training_score=0.5, validation_score=0.4)
            chunks.append(run.action.chunk_index)

    assert chunks == [1, 2, 3, 4]


def test_a_repeated_call_gets_the_same_answer_and_changes_nothing(
    served: ServedAgent, client: AgentClient
) -> None:
    """Start, report and finish may each be sent again at any time, to the same answer."""
    stub, call = client._stub, client._calls.call
    client.create_controller(spec())
    start = pb.StartRunRequest(controller="c", run_id="r", labels={"a": "b"})
    finish = pb.FinishRunRequest(run_id="r", outcome=pb.OUTCOME_TERMINATED, final_score=0.5)
    calls: list[tuple[Callable[..., object], object]] = [
        (stub.StartRun, start),
        (stub.ReportChunk, report("r", 1)),
        (stub.ReportChunk, report("r", 2)),
        (stub.FinishRun, finish),
    ]
    first = [call(method, request) for method, request in calls]
    log = list(client.transitions())

    again = [call(method, request) for method, request in calls]

    assert again == first
    assert list(client.transitions()) == log


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (report("r", 1, losses=[9.0, 1.5, 1.25, 1.0]), AlreadyExists),
        (report("r", 1, scores=pb.Scores(training=0.1, validation=0.5)), AlreadyExists),
        (report("r", 3), FailedPrecondition),
        (report("missing", 1), NotFound),
    ],
)
def test_a_refused_report_changes_nothing(
    client: AgentClient, request_: pb.ReportChunkRequest, error: type[AgentError]
) -> None:
    """A repeated chunk with other content, a skipped one and an unknown run are refused."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    client._calls.call(client._stub.ReportChunk, report("r", 1))
    before = client.get_run("r")

    with pytest.raises(error):
        client._calls.call(client._stub.ReportChunk, request_)

    assert client.get_run("r") == before
    run.finish()


def test_a_skipped_chunk_is_told_the_expected_one(client: AgentClient) -> None:
    """FAILED_PRECONDITION carries the chunk that the run expects."""
    client.create_controller(spec())
    client.run("c", run_id="r")

    with pytest.raises(FailedPrecondition) as raised:
        client._calls.call(client._stub.ReportChunk, report("r", 5))

    assert raised.value.expected_chunk == 1


def test_a_finished_run_takes_no_more_chunks(client: AgentClient) -> None:
    """Nor another outcome; but its old reports are still answered."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    answer = client._calls.call(client._stub.ReportChunk, report("r", 1))
    run.finish(Outcome.TERMINATED)

    with pytest.raises(FailedPrecondition, match="finished"):
        client._calls.call(client._stub.ReportChunk, report("r", 2))
    other = pb.FinishRunRequest(run_id="r", outcome=pb.OUTCOME_DIVERGED)
    with pytest.raises(FailedPrecondition, match="terminated"):
        client._calls.call(client._stub.FinishRun, other)
    assert client._calls.call(client._stub.ReportChunk, report("r", 1)) == answer


def test_a_run_id_belongs_to_one_start(client: AgentClient) -> None:
    """The id of a run cannot be started again with other labels, mode or controller."""
    client.create_controller(spec())
    client.run("c", run_id="r")

    for other in (
        pb.StartRunRequest(controller="c", run_id="r", labels={"x": "y"}),
        pb.StartRunRequest(controller="c", run_id="r", mode=pb.MODE_FROZEN),
        pb.StartRunRequest(controller="d", run_id="r"),
    ):
        with pytest.raises(AlreadyExists):
            client._calls.call(client._stub.StartRun, other)


def test_rewards_and_states_are_those_of_the_reports(client: AgentClient) -> None:
    """The log holds (S_t, A_t, R_t, S_{t+1}) with S_0 zeros and the spec's reward."""
    client.create_controller(spec(reward=Reward.IMPROVEMENT))
    with client.run("c") as run:
        run.report_chunk([1, 2, 3, 4], training_score=0.9, validation_score=0.5)
        run.report_chunk([5, 6, 7, 8], training_score=0.9, validation_score=0.25)

    first, second = client.transitions()
    assert (list(first.state), list(first.next_state)) == ([0] * 4, [1, 2, 3, 4])
    assert (list(second.state), list(second.next_state)) == ([1, 2, 3, 4], [5, 6, 7, 8])
    assert (first.reward, second.reward) == (0.5, -0.25)


def test_transitions_under_other_values_are_recorded_and_never_learned_from(
    client: AgentClient,
) -> None:
    """`applied` keeps a transition out of learning; its neighbours are ready."""
    client.create_controller(spec())
    with client.run("c") as run:
        for chunk in (1, 2, 3):
            applied = {"dropout": 0.123} if chunk == 2 else None
            run.report_chunk(LOSSES, training_score=0, validation_score=0, applied=applied)

    uses = [t.use for t in client.transitions()]
    assert uses == [pb.USE_READY, pb.USE_RECORDED, pb.USE_READY]


def test_the_newest_transition_waits_until_its_end_is_known(client: AgentClient) -> None:
    """Whether a transition ends the episode shows with the next report or the run's end."""
    client.create_controller(spec())
    run = client.run("c")
    run.report_chunk(LOSSES, training_score=0, validation_score=0)
    assert [t.use for t in client.transitions()] == [pb.USE_PENDING]

    run.finish()
    assert [t.use for t in client.transitions()] == [pb.USE_READY]


def test_frozen_runs_and_baselines_are_never_learned_from(client: AgentClient) -> None:
    """Their transitions are recorded only."""
    client.create_controller(spec("frozen"))
    client.create_controller(spec("random", RandomSettings()))
    for name, mode in (("frozen", Mode.FROZEN), ("random", Mode.LEARNING)):
        with client.run(name, mode=mode) as run:
            run.report_chunk(LOSSES, training_score=0, validation_score=0)

    assert {t.use for t in client.transitions()} == {pb.USE_RECORDED}


def test_a_frozen_controller_starts_frozen_runs_only(client: AgentClient) -> None:
    """A learning run is refused, and a run that names no mode is frozen and explores nothing."""
    client.create_controller(spec())
    client.set_mode("c", Mode.FROZEN)

    with pytest.raises(FailedPrecondition, match="frozen"):
        client.run("c", mode=Mode.LEARNING)
    run = client.run("c")
    assert not run.action.explored
    assert client.get_run(run.run_id).mode == pb.MODE_FROZEN


def test_deleted_controllers_keep_log_and_name(client: AgentClient) -> None:
    """Deleting needs finished runs, hides the controller, and may be repeated."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    with pytest.raises(FailedPrecondition, match="active"):
        client.delete_controller("c")
    run.finish()

    client.delete_controller("c")
    client.delete_controller("c")

    assert list(client.list_controllers()) == []
    assert client.get_run("r").controller == "c"
    with pytest.raises(AlreadyExists, match="deleted"):
        client.create_controller(spec())


def test_a_controller_is_created_once(client: AgentClient) -> None:
    """The same spec answers the one that is there; another one is refused."""
    client.create_controller(spec())

    assert client.create_controller(spec()).policy_version == 1
    with pytest.raises(AlreadyExists):
        client.create_controller(spec(seed=8))


def test_specs_come_back_as_they_went(client: AgentClient) -> None:
    """What GetController answers is the spec that was sent, defaults filled in."""
    client.create_controller(spec())

    assert convert.spec_from_message(client.get_controller("c").spec) == spec()


def test_lists_are_paged(client: AgentClient) -> None:
    """Pages of two show every controller by name and every run newest first, once each."""
    for name in "abcde":
        client.create_controller(spec(name))
        client.run("a", run_id=f"r-{name}")
    stub, call = client._stub, client._calls.call
    controllers, runs, token = [], [], ""
    for _ in range(3):
        page = call(stub.ListControllers, pb.ListControllersRequest(page_size=2, page_token=token))
        controllers += [c.spec.name for c in page.controllers]
        token = page.next_page_token
    for _ in range(3):
        page_ = call(stub.ListRuns, pb.ListRunsRequest(page_size=2, page_token=token))
        runs += [r.run_id for r in page_.runs]
        token = page_.next_page_token

    assert controllers == list("abcde")
    assert runs == ["r-e", "r-d", "r-c", "r-b", "r-a"]
    assert token == ""


def test_runs_are_found_by_label_and_state(client: AgentClient) -> None:
    """ListRuns filters by all labels that are given, and by state."""
    client.create_controller(spec())
    client.run("c", run_id="kept", labels={"seed": "1", "set": "fer"}).finish()
    client.run("c", run_id="other", labels={"seed": "2", "set": "fer"})

    def found(**filters: object) -> list[str]:
        request = pb.ListRunsRequest(**filters)  # type: ignore[arg-type]
        return [r.run_id for r in client._calls.call(client._stub.ListRuns, request).runs]

    assert found(labels={"seed": "1", "set": "fer"}) == ["kept"]
    assert found(state=pb.RUN_STATE_ACTIVE) == ["other"]
    assert found(labels={"seed": "3"}) == []


def test_policies_travel_as_files(client: AgentClient) -> None:
    """An export imported elsewhere is a new version that decides alike; again, the same one."""
    client.create_controller(spec("a", seed=1))
    client.create_controller(spec("b", seed=2))
    data = client.export_policy("a")

    assert client.import_policy("b", data) == 2
    assert client.import_policy("b", data) == 2
    assert client.export_policy("b") == data
    a, b = (client.run(name, mode=Mode.FROZEN) for name in "ab")
    assert a.hyperparameters == b.hyperparameters


def test_a_stream_answers_each_report_with_its_own_status(client: AgentClient) -> None:
    """Reports of two runs over one stream: a refused one ends neither the stream nor a run."""
    client.create_controller(spec())
    for name in ("r", "s"):
        client.run("c", run_id=name)
    reports = [report("r", 1), report("s", 2), report("s", 1), report("r", 2, losses=[1.0])]

    answers = list(
        client._stub.StreamReports(iter([pb.StreamReportsRequest(report=r) for r in reports]))
    )

    assert [(a.run_id, a.chunk_index, a.code, a.expected_chunk) for a in answers] == [
        ("r", 1, 0, 0),
        ("s", 2, 9, 1),
        ("s", 1, 0, 0),
        ("r", 2, 3, 0),
    ]
    assert answers[0].action.chunk_index == 2


def test_a_stream_of_the_log_follows_what_is_reported(client: AgentClient) -> None:
    """With `follow`, a transition that is reported later arrives on the open stream."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    run.report_chunk(LOSSES, training_score=0, validation_score=0)
    stream = client._stub.StreamTransitions(
        pb.StreamTransitionsRequest(run_id="r", follow=True), timeout=30
    )
    assert next(stream).transition.chunk_index == 1

    run.report_chunk(LOSSES, training_score=0, validation_score=0)
    assert next(stream).transition.chunk_index == 2
    stream.cancel()


def test_starts_of_learning_runs_are_uniform(client: AgentClient) -> None:
    """A_0 ~ U(low, high) by Kolmogorov-Smirnov, with the uniform's own log probability."""
    from scipy import stats

    client.create_controller(spec())
    runs = [client.run("c", run_id=f"r{i}") for i in range(200)]
    values = [run.hyperparameters["dropout"] for run in runs]
    runs[0].report_chunk(LOSSES, training_score=0, validation_score=0)

    assert stats.kstest(np.array(values) / 0.9, "uniform").pvalue > 0.001
    (transition,) = client.transitions(run_id="r0")
    assert transition.log_probability == pytest.approx(np.log(0.5))
