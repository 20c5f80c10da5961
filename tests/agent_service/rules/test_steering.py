"""The rules of a run, on a real server and store; `test_model` has their interleavings."""

import math
from typing import Any

import pytest
from google.protobuf.message import Message

from agent_service.client import AgentClient, Mode, RandomSettings, Reward
from agent_service.domain.errors import AgentError, AlreadyExists, FailedPrecondition, NotFound
from agent_service.domain.runs import Choice
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1.agent_pb2_grpc import AgentServiceStub
from tests.agent_service.calls import Call, report, report_of
from tests.agent_service.specs import spec


def finish_of(run_id: str, **changes: Any) -> pb.FinishRunRequest:
    content: dict[str, Any] = {"outcome": pb.OUTCOME_TERMINATED, "final_score": 0.5} | changes
    return pb.FinishRunRequest(run_id=run_id, **content)


def test_a_repeated_call_gets_the_same_answer_and_changes_nothing(
    client: AgentClient, call: Call
) -> None:
    """Start, report and finish may each be sent again at any time."""
    client.create_controller(spec())
    start = pb.StartRunRequest(controller="c", run_id="r", labels={"a": "b"})
    calls = [start, report_of("r", 1), report_of("r", 2), finish_of("r")]
    first = [call(request) for request in calls]
    log = list(client.transitions())

    assert [call(request) for request in calls] == first
    assert list(client.transitions()) == log


@pytest.mark.parametrize(
    ("request_", "error", "says"),
    [
        (report_of("done", 1, losses=[9.0, 1.5, 1.25, 1.0]), AlreadyExists, "other content"),
        (report_of("live", 1, scores=pb.Scores(training=0.1)), AlreadyExists, "other content"),
        (report_of("live", 1, applied=pb.Applied(values={"dropout": 0.1})), AlreadyExists, "other"),
        (report_of("live", 4), FailedPrecondition, "expects chunk 2, not 4"),
        (report_of("done", 2), FailedPrecondition, "finished"),
        (report_of("missing", 1), NotFound, "missing"),
        (finish_of("done", outcome=pb.OUTCOME_DIVERGED), FailedPrecondition, "terminated"),
        (finish_of("done", final_score=0.75), FailedPrecondition, "score 0.5"),
    ],
)
def test_a_refused_call_changes_nothing(
    client: AgentClient, call: Call, request_: Message, error: type[AgentError], says: str
) -> None:
    """Other content for a reported chunk, a skipped chunk, a finished or an unknown run."""
    client.create_controller(spec())
    for run_id in ("live", "done"):
        client.run("c", run_id=run_id)
        call(report_of(run_id))
    call(finish_of("done"))
    before = list(client.list_runs())

    with pytest.raises(error, match=says) as raised:
        call(request_)

    assert list(client.list_runs()) == before
    expected = getattr(raised.value, "expected_chunk", None)
    assert expected == (2 if "expects" in says else None)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": {"x": "y"}},
        {"mode": pb.MODE_LEARNING},
        {"policy_version": 1},
        {"planned_chunks": 6},
        {"problem": pb.Problem(classes=7, batch_size=32)},
        {"controller": "d"},
    ],
)
def test_a_run_id_belongs_to_one_start(
    client: AgentClient, call: Call, change: dict[str, Any]
) -> None:
    """The same start gets the same answer, also later; another one is ALREADY_EXISTS."""
    client.create_controller(spec())
    content: dict[str, Any] = {
        "controller": "c",
        "mode": pb.MODE_FROZEN,
        "planned_chunks": 5,
        "problem": pb.Problem(classes=7, batch_size=64),
    }
    first = call(pb.StartRunRequest(run_id="r", **content))
    # The newest version of then was requested, not version 1, which that was.
    client.create_controller(spec("other", seed=8))
    client.import_policy("c", client.export_policy("other"))

    assert call(pb.StartRunRequest(run_id="r", **content)) == first
    with pytest.raises(AlreadyExists, match=next(iter(change))):
        call(pb.StartRunRequest(run_id="r", **content | change))


@pytest.mark.parametrize(
    "again", [None, pb.Problem(), pb.Problem(classes=7), pb.Problem(batch_size=64, sites=3)]
)
def test_a_start_that_knows_more_or_less_of_the_problem_is_no_other(
    client: AgentClient, call: Call, again: pb.Problem | None
) -> None:
    """The run keeps what its first start said; what both say and differs in is named."""
    client.create_controller(spec())
    known = pb.Problem(classes=7, batch_size=64)
    content: dict[str, Any] = {"controller": "c", "run_id": "r"}
    first = call(pb.StartRunRequest(problem=known, **content))

    assert call(pb.StartRunRequest(problem=again, **content)) == first
    assert client.get_run("r").problem == known
    other = pb.Problem(classes=7, batch_size=32, sites=3)
    with pytest.raises(AlreadyExists, match=r"start: problem.batch_size is 64 there, 32 sent;"):
        call(pb.StartRunRequest(problem=other, **content))


def test_a_decision_that_is_not_finite_is_not_stored(
    client: AgentClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite stores NaN as NULL, which no checksum matches: the whole log would be unreadable."""
    client.create_controller(spec(algorithm=RandomSettings()))
    wrong = Choice((math.nan,), log_probability=0.0, explored=False)
    monkeypatch.setattr(RandomSettings, "decide", lambda *_: wrong)

    with pytest.raises(AgentError, match="see the service's log"):
        client.run("c")

    assert list(client.list_runs()) == []


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


def test_a_transition_is_learned_from_only_under_the_decided_values(client: AgentClient) -> None:
    """Under others, in frozen runs and of baselines it is recorded; the newest waits."""
    client.create_controller(spec("ppo"))
    client.create_controller(spec("random", RandomSettings()))
    for name, mode in (("ppo", Mode.LEARNING), ("ppo", Mode.FROZEN), ("random", Mode.LEARNING)):
        run = client.run(name, run_id=f"{name}-{mode}", mode=mode)
        for applied in (None, {"dropout": 0.123}, None):
            report(run, applied=applied)

    ready, recorded, pending = pb.USE_READY, pb.USE_RECORDED, pb.USE_PENDING
    for run_id, uses in (
        ("ppo-learning", [ready, recorded, pending]),
        ("ppo-frozen", [recorded] * 3),
        ("random-learning", [recorded] * 3),
    ):
        assert [t.use for t in client.transitions(run_id=run_id)] == uses


def test_a_frozen_controller_starts_frozen_runs_only(client: AgentClient) -> None:
    """A learning run is refused, and a run that names no mode is frozen and explores nothing."""
    client.create_controller(spec())
    client.set_mode("c", Mode.FROZEN)

    with pytest.raises(FailedPrecondition, match="frozen"):
        client.run("c", mode=Mode.LEARNING)
    run = client.run("c", policy_version=1)
    assert not run.action.explored
    assert client.get_run(run.run_id).mode == pb.MODE_FROZEN


def test_deleted_controllers_keep_log_and_name(client: AgentClient) -> None:
    """Deletion needs finished runs, hides the controller, and may be repeated."""
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


def test_lists_are_paged(client: AgentClient, call: Call) -> None:
    """Pages of two have every controller by name and every run newest first, once each."""
    for name in "abcde":
        client.create_controller(spec(name, RandomSettings()))
        client.run("a", run_id=name)

    controllers, runs, token = [], [], ""
    for _ in range(3):
        page = call(pb.ListControllersRequest(page_size=2, page_token=token))
        controllers += [c.spec.name for c in page.controllers]
        token = page.next_page_token
    assert (controllers, token) == (list("abcde"), "")
    for _ in range(3):
        page = call(pb.ListRunsRequest(page_size=2, page_token=token))
        runs += [r.run_id for r in page.runs]
        token = page.next_page_token
    assert (runs, token) == (list("edcba"), "")


def test_a_page_fits_in_a_message_whatever_its_labels(client: AgentClient, call: Call) -> None:
    """Runs with 64 KiB of labels each, asked for a thousand at once: all come, in several pages."""
    client.create_controller(spec())
    labels = {f"{i:03}": "x" * 1000 for i in range(64)}
    for number in range(120):
        client.run("c", run_id=f"r{number}", labels=labels)

    pages = [call(pb.ListRunsRequest(page_size=1000))]
    while token := pages[-1].next_page_token:
        pages.append(call(pb.ListRunsRequest(page_size=1000, page_token=token)))

    assert len(pages) == 3
    found = [run.run_id for page in pages for run in page.runs]
    assert found == [f"r{n}" for n in reversed(range(120))]


def test_a_label_is_found_whatever_its_key(client: AgentClient, call: Call) -> None:
    """By key and value, and by no other of either."""
    client.create_controller(spec())
    keys = ('a"b', "a'b", "a\\b", "é", "$", "a.b", "[0]", " ", "%")
    for key in keys:
        client.run("c", run_id=f"r{keys.index(key)}", labels={key: "ü", "other": "x"})

    def found(labels: dict[str, str]) -> list[str]:
        return [run.run_id for run in call(pb.ListRunsRequest(labels=labels)).runs]

    for key in keys:
        assert found({key: "ü"}) == [f"r{keys.index(key)}"]
        assert found({key: "x"}) == found({f"{key}2": "ü"}) == []


def test_a_stream_answers_each_report_with_its_own_status(
    client: AgentClient, stub: AgentServiceStub
) -> None:
    """Reports of two runs on one stream: a refused one ends neither the stream nor a run."""
    client.create_controller(spec())
    for name in ("r", "s"):
        client.run("c", run_id=name)
    reports = [
        report_of("r", 1),
        report_of("s", 2),
        report_of("s", 1),
        report_of("r", 2, losses=[1.0]),
    ]

    answers = list(stub.StreamReports(pb.StreamReportsRequest(report=report) for report in reports))

    assert [(a.run_id, a.chunk_index, a.code, a.expected_chunk) for a in answers] == [
        ("r", 1, 0, 0),
        ("s", 2, 9, 1),
        ("s", 1, 0, 0),
        ("r", 2, 3, 0),
    ]
    assert answers[0].action.chunk_index == 2
