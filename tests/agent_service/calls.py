"""Calls of the contract as any program makes them, and short runs of the Python client."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.protobuf.message import Message

from agent_service.client import AgentClient, Mode, Outcome, Run
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1.agent_pb2_grpc import AgentServiceStub
from agent_service.wire.status import from_rpc_error

Call = Callable[[Message], Any]
"""Makes the call that a request is for; see the fixture `call`."""
LOSSES = [2.0, 1.5, 1.25, 1.0]
SCORES = pb.Scores(training=0.5, validation=0.5)


@contextmanager
def raw_stub(address: str) -> Iterator[AgentServiceStub]:
    """Yield gRPC's own stub for a service: it neither retries nor converts errors."""
    with grpc.insecure_channel(address) as channel:
        yield AgentServiceStub(channel)


def call_of(stub: AgentServiceStub, request: Message) -> Any:
    """Return the answer to a request, a list if it is a stream; raises the domain's errors."""
    method = getattr(stub, type(request).__name__.removesuffix("Request"))
    try:
        answer = method(request, timeout=30)
        return answer if isinstance(answer, Message) else list(answer)
    except grpc.RpcError as error:
        raise from_rpc_error(error) or error from None


def report_of(run_id: str, chunk: int = 1, **changes: Any) -> pb.ReportChunkRequest:
    """Return a report, with some fields replaced; those that are None are left out."""
    content: dict[str, Any] = {"losses": LOSSES, "scores": SCORES} | changes
    return pb.ReportChunkRequest(run_id=run_id, chunk_index=chunk, **content)


def report(
    run: Run,
    chunks: int = 1,
    *,
    training: float = 0.5,
    validation: float = 0.5,
    applied: dict[str, float] | None = None,
) -> None:
    """Report chunks of a run, all alike."""
    for _ in range(chunks):
        run.report_chunk(
            LOSSES, training_score=training, validation_score=validation, applied=applied
        )


def train(
    client: AgentClient,
    controller: str = "c",
    *,
    chunks: int = 1,
    run_id: str | None = None,
    mode: Mode | None = None,
    outcome: Outcome = Outcome.TERMINATED,
    score: float | None = None,
) -> None:
    """Start a run, report chunks with falling losses and rising scores, and finish it."""
    run = client.run(controller, run_id=run_id, mode=mode)
    for chunk in range(1, chunks + 1):
        losses = [loss / chunk for loss in LOSSES]
        run.report_chunk(losses, training_score=0.5, validation_score=chunk / 100)
    run.finish(outcome, final_score=score)
