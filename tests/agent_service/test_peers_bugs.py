"""Bugs that users of similar services met, and which must not be met here.

What is not here stands with its subject: runs that leak into one another, kills and taken ports in
`end_to_end/test_agent_process.py` and `end_to_end/test_kills.py`; leases, late reports and runs
that never end in `test_leases.py`; repeated and skipped chunks, and controllers that are frozen, in
`test_steering.py`; a service that is up later than its client in `test_client.py`.
"""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_service.app import verify_store
from agent_service.client import AgentClient, Outcome
from agent_service.controllers.ppo import PPOSettings
from agent_service.domain.errors import AlreadyExists, NotFound, Unavailable
from agent_service.domain.store import Durability
from agent_service.rules.leases import SHORTEST_PAUSE, watching_leases
from agent_service.store.sql.sqlite import LOG_BYTES
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.learned import learn_once
from tests.agent_service.specs import spec
from tests.end_to_end.processes import wait_for
from tests.given import ServedAgent, of_sqlite

LOSSES = [2.0, 1.5, 1.25, 1.0]
SCORES = pb.Scores(training=0.5, validation=0.5)


def test_a_run_may_end_before_its_first_chunk(served: ServedAgent, client: AgentClient) -> None:
    """With any outcome: it is finished, nobody is hurt, and other runs go on and are learned."""
    client.create_controller(spec(algorithm=PPOSettings(rollout_size=2, batch_size=2)))
    for outcome in Outcome:
        client.run("c", run_id=outcome).finish(outcome)
    with client.run("c") as run:
        for _ in range(3):
            run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
    learn_once(served.store)

    assert {client.get_run(outcome).reported_chunks for outcome in Outcome} == {0}
    assert client.get_controller("c").policy_version == 2
    # Their starts, the end that the action of the diverged one earned, and the other's.
    assert verify_store(served.url) == len(Outcome) + 1 + 4


class CountedRunService:
    """Finds no silent run, or fails, and remembers when it was asked."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.asked: list[float] = []

    def abandon_silent_runs(self, *, lease: float) -> Future[int]:
        self.asked.append(time.monotonic())
        answer: Future[int] = Future()
        if self.error is None:
            answer.set_result(0)
        else:
            answer.set_exception(self.error)
        return answer


@pytest.mark.parametrize("error", [None, Unavailable("the disk is full")])
def test_the_watch_of_leases_does_not_spin(error: Exception | None) -> None:
    """However short the lease, and whether the store answers or not, it pauses between looks."""
    run_service = CountedRunService(error)

    async def watch() -> None:
        async with watching_leases(run_service, lease=1e-9):  # type: ignore[arg-type]
            await asyncio.to_thread(wait_for, lambda: len(run_service.asked) >= 4)

    asyncio.run(watch())

    assert min(b - a for a, b in pairwise(run_service.asked)) >= SHORTEST_PAUSE


def test_a_page_fits_in_a_message_whatever_its_labels(client: AgentClient) -> None:
    """Runs with 64 KiB of labels each, asked for a thousand at once: all come, in several pages."""
    client.create_controller(spec())
    labels = {f"{i:03}": "x" * 1000 for i in range(64)}
    for number in range(120):
        client.run("c", run_id=f"r{number}", labels=labels)

    request, pages = pb.ListRunsRequest(page_size=1000), []
    while True:
        page = client._calls.call(client._stub.ListRuns, request)
        pages.append([run.run_id for run in page.runs])
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token

    assert len(pages) == 3
    assert [run for page in pages for run in page] == [f"r{n}" for n in reversed(range(120))]


@pytest.mark.parametrize("key", ['a"b', "a'b", "a\\b", "é", "$", "a.b", "[0]", " ", "%"])
def test_a_label_is_found_whatever_its_key(client: AgentClient, key: str) -> None:
    """By key and value, and by no other of either."""
    client.create_controller(spec())
    client.run("c", run_id="r", labels={key: "ü", "other": "x"})

    def found(labels: dict[str, str]) -> int:
        request = pb.ListRunsRequest(labels=labels)
        return len(client._calls.call(client._stub.ListRuns, request).runs)

    assert [found({key: "ü"}), found({key: "x"}), found({f"{key}2": "ü"})] == [1, 0, 0]


def test_two_clients_on_one_run_agree_or_one_is_refused(served: ServedAgent) -> None:
    """Both get the same start; of two reports of a chunk one stands, and the other is told."""
    with AgentClient(served.address) as one, AgentClient(served.address) as other:
        one.create_controller(spec())
        first, second = (client.run("c", run_id="r") for client in (one, other))
        assert first.action == second.action
        barrier = threading.Barrier(2)

        def report(client: AgentClient, loss: float) -> pb.Action | None:
            request = pb.ReportChunkRequest(
                run_id="r", chunk_index=1, losses=[loss] * 4, scores=SCORES
            )
            barrier.wait(20)
            try:
                return client._calls.call(client._stub.ReportChunk, request).action
            except AlreadyExists:
                return None

        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(report, (one, other), (1.0, 2.0)))

        (stored,) = one.transitions()
        assert sorted(answer is None for answer in answers) == [False, True]
        assert stored.next_state[0] == (1.0 if answers[1] is None else 2.0)


def test_another_configuration_takes_runs_over(tmp_path: Path) -> None:
    """Restarted with another durability, a service goes on with the live runs."""
    path = tmp_path / "agent.db"
    with (
        ServedAgent(path, durability=Durability.PROCESS) as agent,
        AgentClient(agent.address) as client,
    ):
        client.create_controller(spec())
        client.run("c", run_id="r")
    with (
        ServedAgent(path, durability=Durability.POWER) as agent,
        AgentClient(agent.address) as client,
    ):
        client.run("c", run_id="r").report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
        assert client.get_run("r").reported_chunks == 1


@of_sqlite
def test_a_reader_of_the_file_holds_nobody_up(served: ServedAgent, client: AgentClient) -> None:
    """Reports go on beside a long reading transaction; the log it made grow is cut afterwards."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    path = served.url.removeprefix("sqlite:///")
    slowest = 0.0

    def report_until(is_enough: Callable[[], bool]) -> None:
        nonlocal slowest
        for _ in range(20_000):
            started = time.monotonic()
            run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)
            slowest = max(slowest, time.monotonic() - started)
            if is_enough():
                return
        raise AssertionError("never enough")

    def log_bytes() -> int:
        return Path(f"{path}-wal").stat().st_size

    with closing(sqlite3.connect(path, isolation_level=None)) as dashboard:
        dashboard.execute("BEGIN")
        (before,) = dashboard.execute("SELECT count(*) FROM decisions").fetchone()
        report_until(lambda: log_bytes() > LOG_BYTES + 2**20)
        assert dashboard.execute("SELECT count(*) FROM decisions").fetchone() == (before,)
    report_until(lambda: log_bytes() <= LOG_BYTES)

    assert slowest < 2


# An error that changed state

NAMES = st.sampled_from(["", "c", "live", "new", "nobody", "../x", 'a"b', "$", "é", "x" * 200])
NUMBERS = st.sampled_from([-(2**31), -1, 0, 1, 2, 3, 1001, 2**31 - 1])
FLOATS = st.sampled_from([0.5, 0.0, -1.0, 1.5, 1e308, float("nan"), float("inf")])
LABELS = st.dictionaries(NAMES, NAMES, max_size=2)
REQUESTS: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        lambda **fields: pb.CreateControllerRequest(spec=pb.ControllerSpec(**fields)),
        name=NAMES,
        chunk_size=NUMBERS,
        hyperparameters=st.lists(
            st.builds(pb.Hyperparameter, name=NAMES, low=FLOATS, high=FLOATS), max_size=2
        ),
        ppo=st.builds(pb.Ppo, gamma=FLOATS, rollout_size=NUMBERS, learning_rate=FLOATS),
    ),
    st.builds(pb.GetControllerRequest, name=NAMES),
    st.builds(pb.ListControllersRequest, page_size=NUMBERS, page_token=NAMES),
    st.builds(pb.UpdateControllerRequest, name=NAMES, mode=NUMBERS),
    st.builds(pb.DeleteControllerRequest, name=NAMES),
    st.builds(pb.StartRunRequest, controller=NAMES, run_id=NAMES, mode=NUMBERS, labels=LABELS),
    st.builds(
        pb.ReportChunkRequest,
        run_id=NAMES,
        chunk_index=NUMBERS,
        losses=st.lists(FLOATS, min_size=3, max_size=5),
        scores=st.none() | st.builds(pb.Scores, training=FLOATS, validation=FLOATS),
        applied=st.none() | st.builds(pb.Applied, values=st.dictionaries(NAMES, FLOATS)),
    ),
    st.builds(pb.FinishRunRequest, run_id=NAMES, outcome=NUMBERS, final_score=FLOATS),
    st.builds(pb.GetRunRequest, run_id=NAMES),
    st.builds(
        pb.ListRunsRequest,
        controller=NAMES,
        state=NUMBERS,
        labels=LABELS,
        page_size=NUMBERS,
        page_token=NAMES | NUMBERS.map(str),
    ),
    st.builds(pb.StreamTransitionsRequest, controller=NAMES, run_id=NAMES, after_position=NUMBERS),
    st.builds(pb.ExportPolicyRequest, controller=NAMES, policy_version=NUMBERS),
)
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
}


def content(served: ServedAgent) -> str:
    with closing(sqlite3.connect(served.url.removeprefix("sqlite:///"))) as connection:
        return "\n".join(connection.iterdump())


def code_of_call(method: Callable[..., Any], request: Message) -> grpc.StatusCode:
    try:
        answer = method(request, timeout=20)
        if not isinstance(answer, Message):
            list(answer)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


@of_sqlite
@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=4))
def test_an_error_changes_nothing(
    served: ServedAgent, client: AgentClient, requests: list[Message]
) -> None:
    """Whatever is asked for, an error is the caller's, and leaves every row as it was."""
    # An example before this one may have finished the run, and deleted the controller.
    with suppress(AlreadyExists, NotFound):
        client.create_controller(spec())
        client.run("c", run_id="live")
    for request in requests:
        method = type(request).__name__.removesuffix("Request")
        before = content(served)
        code = code_of_call(getattr(client._stub, method), request)
        assert code in {*REFUSALS, grpc.StatusCode.OK}, request
        if code is not grpc.StatusCode.OK:
            assert content(served) == before, f"{request} was refused, and changed something"


@pytest.mark.parametrize(
    "request_",
    [
        pb.GetControllerRequest(name="nobody"),
        pb.UpdateControllerRequest(name="nobody", mode=pb.MODE_FROZEN),
        pb.DeleteControllerRequest(name="nobody"),
        pb.StartRunRequest(controller="nobody", run_id="r"),
        pb.ReportChunkRequest(run_id="r", chunk_index=1, losses=LOSSES, scores=SCORES),
        pb.FinishRunRequest(run_id="r", outcome=pb.OUTCOME_TERMINATED),
        pb.GetRunRequest(run_id="r"),
        pb.StreamTransitionsRequest(run_id="r"),
        pb.StreamTransitionsRequest(controller="nobody"),
        pb.ExportPolicyRequest(controller="nobody"),
    ],
    ids=lambda request: type(request).__name__,
)
def test_what_is_not_there_is_not_found(client: AgentClient, request_: Message) -> None:
    """Never UNKNOWN or INTERNAL, in any call that names something."""
    method = getattr(client._stub, type(request_).__name__.removesuffix("Request"))

    def call(request: Message, timeout: float) -> object:
        answer = method(request, timeout=timeout)
        return answer if isinstance(answer, Message) else list(answer)

    with pytest.raises(NotFound, match=r"nobody|'r'"):
        client._calls.call(call, request_)
