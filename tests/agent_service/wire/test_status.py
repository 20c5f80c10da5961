"""gRPC statuses and the errors that they stand for."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from agent_service.domain.errors import FailedPrecondition, Unavailable
from agent_service.wire.status import from_rpc_error, retry_seconds


class Refusal(grpc.RpcError, grpc.Call):
    """A failed call with these details."""

    def __init__(self, code: grpc.StatusCode, details: bytes) -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "no"

    def trailing_metadata(self) -> Any:
        return (("grpc-status-details-bin", self._details),)


Refusal.__abstractmethods__ = frozenset()
refusal: Any = Refusal


def packed(code: int, *details: Any) -> bytes:
    message = status_pb2.Status(code=code, message="no")
    for detail in details:
        message.details.add().Pack(detail)
    return bytes(message.SerializeToString())


NEGATIVE = error_details_pb2.RetryInfo(retry_delay={"seconds": -5})
NO_CHUNK = error_details_pb2.ErrorInfo(metadata={"expected_chunk": "abc"})


@pytest.mark.parametrize(
    "details", [b"\xff\xff\xff", packed(8), packed(14, NEGATIVE), packed(14, NO_CHUNK)]
)
def test_unreadable_details_are_ignored(details: bytes) -> None:
    """Truncated ones, another error's, and values that no service of ours sends."""
    error = refusal(grpc.StatusCode.UNAVAILABLE, details)

    assert retry_seconds(error) == 0.0
    assert isinstance(from_rpc_error(error), Unavailable)


def test_an_unreadable_chunk_is_ignored() -> None:
    error = from_rpc_error(refusal(grpc.StatusCode.FAILED_PRECONDITION, packed(9, NO_CHUNK)))

    assert isinstance(error, FailedPrecondition)
    assert error.expected_chunk is None
