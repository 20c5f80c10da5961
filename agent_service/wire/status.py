"""Conversion between errors and gRPC statuses, by one table.

Details are `google.rpc` messages: `BadRequest` names the violated fields, `ErrorInfo` carries the
chunk that a run expects, `RetryInfo` the delay before a retry.
"""

from __future__ import annotations

from typing import TypeVar

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from agent_service.domain import errors

Detail = TypeVar("Detail", bound=Message)

RETRY_NANOSECONDS = 100_000_000
"""Delay in `RetryInfo` for a call that the service was too busy, or temporarily unable, to serve.
Short, since another replica may serve it."""
LONGEST = 1000
"""Maximum number of characters of a status's message, and of each field and description in its
details; a quarter of it for non-ASCII text. Clients accept 8 KiB in all, and report an error of
their own beyond."""
DOMAIN = "agent_service"
"""`ErrorInfo.domain` of all our errors."""

CODES: dict[type[errors.AgentError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Busy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
}
_ERRORS: dict[grpc.StatusCode, type[errors.AgentError]] = {
    code: error for error, code in CODES.items() if error is not errors.Busy
}


def to_status(error: errors.AgentError) -> status_pb2.Status:
    """Return the status for an error."""
    status = status_pb2.Status(code=CODES[type(error)].value[0], message=_cut(str(error)))
    if isinstance(error, errors.InvalidArgument):
        violations = [
            error_details_pb2.BadRequest.FieldViolation(
                field=_cut(v.field), description=_cut(v.description)
            )
            for v in error.violations
        ]
        _pack(status, error_details_pb2.BadRequest(field_violations=violations))
    if isinstance(error, errors.Busy | errors.Unavailable):
        _pack(status, error_details_pb2.RetryInfo(retry_delay={"nanos": RETRY_NANOSECONDS}))
    if isinstance(error, errors.FailedPrecondition) and error.expected_chunk is not None:
        metadata = {"expected_chunk": str(error.expected_chunk)}
        _pack(
            status,
            error_details_pb2.ErrorInfo(
                reason="UNEXPECTED_CHUNK", domain=DOMAIN, metadata=metadata
            ),
        )
    return status


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """Return the status code of a client's failed call."""
    assert isinstance(error, grpc.Call)
    return error.code()


def details_of(error: grpc.RpcError) -> str:
    """Return the status message of a client's failed call."""
    assert isinstance(error, grpc.Call)
    return error.details() or ""


def is_of_service(error: grpc.RpcError) -> bool:
    """Whether the service itself reported the error, not the connection."""
    return _status(error) is not None


def retry_seconds(error: grpc.RpcError) -> float:
    """Return the delay in seconds that the service asks for before a retry; 0 if none."""
    info = _detail(_status(error), error_details_pb2.RetryInfo)
    delay = None if info is None else info.retry_delay
    return 0.0 if delay is None else max(delay.seconds + delay.nanos / 1e9, 0.0)


def from_rpc_error(error: grpc.RpcError) -> errors.AgentError | None:
    """Return the error of a failed call; None if its status does not stand for one."""
    status = _status(error)
    message = details_of(error)
    kind = _ERRORS.get(code_of(error))
    if kind is errors.InvalidArgument:
        return errors.InvalidArgument(*_violations(status, message))
    if kind is errors.ResourceExhausted and _detail(status, error_details_pb2.RetryInfo):
        return errors.Busy(message)
    if kind is errors.FailedPrecondition:
        return errors.FailedPrecondition(message, expected_chunk=_expected_chunk(status))
    return None if kind is None else kind(message)


def _cut(text: str) -> str:
    longest = LONGEST if text.isascii() else LONGEST // 4  # a character is sent as up to 12 bytes
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _pack(status: status_pb2.Status, detail: Message) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def _status(error: grpc.RpcError) -> status_pb2.Status | None:
    """Return a failed call's details; None if they are missing or unreadable.

    A proxy's error may carry another service's details, or truncated ones.
    """
    from grpc_status import rpc_status  # slow to import, and most calls do not fail

    assert isinstance(error, grpc.Call)
    try:
        return rpc_status.from_call(error)
    except (ValueError, DecodeError):
        return None


def _detail(status: status_pb2.Status | None, kind: type[Detail]) -> Detail | None:
    """Return the detail of a type; None if it is missing or unreadable."""
    detail = kind()
    for packed in status.details if status else ():
        try:
            if packed.Unpack(detail):
                return detail
        except DecodeError:
            pass
    return None


def _violations(status: status_pb2.Status | None, message: str) -> list[errors.FieldViolation]:
    bad = _detail(status, error_details_pb2.BadRequest)
    fields = () if bad is None else bad.field_violations
    violations = [errors.FieldViolation(v.field, v.description) for v in fields]
    return violations or [errors.FieldViolation("request", message)]


def _expected_chunk(status: status_pb2.Status | None) -> int | None:
    info = _detail(status, error_details_pb2.ErrorInfo)
    chunk = "" if info is None else info.metadata.get("expected_chunk", "")
    return int(chunk) if chunk.isascii() and chunk.isdecimal() else None
