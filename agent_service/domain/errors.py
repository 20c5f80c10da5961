"""Errors of calls; each says what the caller should do.

AgentError
├── InvalidArgument      the request is invalid: fix the named field
├── NotFound             the controller, run or policy version does not exist: create or rename it
├── AlreadyExists        the name or chunk has other content: choose another, or send the same
├── FailedPrecondition   valid request, wrong moment: see the message (and the expected chunk)
├── ResourceExhausted    a limit is reached: raise the named limit, or make room
│   └── Busy             too many concurrent calls: retry the same call a little later
├── Unauthenticated      no token or an unknown one: send the right one
├── PermissionDenied     the token does not allow this call: send the other one
├── Failed               the service failed: see its log
└── Unavailable          the service is draining or unreachable: retry the same call later

The transport maps each to one canonical status code; this module knows no transport.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """An invalid field of a request, and how to fix it."""

    field: str
    """Path of the field, as in the `.proto` files, e.g. `spec.hyperparameters[0].low`."""
    description: str
    """The fault, with the offending value, and the fix."""


class AgentError(Exception):
    """Base class of the errors of calls."""


class InvalidArgument(AgentError):
    """The request is invalid; nothing changed. Fix the named fields and call again."""

    def __init__(self, *violations: FieldViolation) -> None:
        """Carry all violations; the message names each field."""
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling, for example from rank 0 of a training to the others."""
        return type(self), self.violations


class NotFound(AgentError):
    """The named controller, run or policy version does not exist."""


class AlreadyExists(AgentError):
    """The name, run id or chunk already exists with other content; nothing changed."""


class FailedPrecondition(AgentError):
    """The call is valid, but not in the current state; nothing changed."""

    def __init__(self, message: str, *, expected_chunk: int | None = None) -> None:
        """Carry a message, and the run's next chunk index if another chunk was sent."""
        super().__init__(message)
        self.expected_chunk = expected_chunk


class ResourceExhausted(AgentError):
    """A limit of the service is reached; the message names it."""

    def __init__(self, message: str, *, limit: str = "") -> None:
        """Carry a message, and the limit's name as in metrics."""
        super().__init__(message)
        self.limit = limit


class Busy(ResourceExhausted):
    """The service has too many concurrent calls; retry the same call soon."""


class Unauthenticated(AgentError):
    """The call carried no token or an unknown one; nothing changed."""


class PermissionDenied(AgentError):
    """The call needs another token than it carried; nothing changed."""


class Failed(AgentError):
    """The service failed, or its answer is invalid; raised by clients only."""


class Unavailable(AgentError):
    """The service cannot answer now; retry the same call later."""


def invalid(field: str, description: str) -> InvalidArgument:
    """Return the error for a single violated field."""
    return InvalidArgument(FieldViolation(field, description))


@contextmanager
def about(field: str, subject: str) -> Iterator[None]:
    """Raise an InvalidArgument from inside as one of `field`, its description after `subject`.

    For descriptions of a part of what the caller named, such as a policy's file.
    """
    try:
        yield
    except InvalidArgument as error:
        reasons = "; ".join(v.description for v in error.violations)
        raise invalid(field, f"{subject} {reasons}") from error


@contextmanager
def within(path: str) -> Iterator[None]:
    """Prefix the field names of an InvalidArgument that is raised inside with `path`.

    Values know only their own fields; the code that builds them knows their place in the request.
    """
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(
            *(FieldViolation(f"{path}{v.field}", v.description) for v in error.violations)
        ) from None
