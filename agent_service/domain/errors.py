"""What can be wrong with a call; each error says what the caller should do.

AgentError
├── InvalidArgument      the request itself is wrong: mend the named field
├── NotFound             no such controller, run or policy version: create it, or mend the name
├── AlreadyExists        the name or chunk has other content: choose another, or send the same
├── FailedPrecondition   right request, wrong moment: see the message (and the expected chunk)
├── ResourceExhausted    a limit is reached: raise the limit that is named, or make room
│   └── Busy             too many calls at once: retry the same call a little later
├── Unauthenticated      no token, or none that the service knows: send the right one
├── PermissionDenied     the token is not for this call: send the other one
├── Failed               the service failed at the call: see its log
└── Unavailable          the service is draining or cannot be reached: retry the same call later

The transport maps each to one canonical status code; this module knows no transport.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that breaks a rule, and how to mend it."""

    field: str
    """Path of the field, as in the `.proto` files, e.g. `spec.hyperparameters[0].low`."""
    description: str
    """What is wrong, with the offending value, and what would be right."""


class AgentError(Exception):
    """Base of all errors that a call of the agent service can end with."""


class InvalidArgument(AgentError):
    """The request is wrong in itself; nothing changed. Mend the named fields and call again."""

    def __init__(self, *violations: FieldViolation) -> None:
        """Carry all violations found; the message names each field."""
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to other processes, as from rank 0 of a training to the others."""
        return type(self), self.violations


class NotFound(AgentError):
    """The named controller, run or policy version does not exist."""


class AlreadyExists(AgentError):
    """The name, run id or chunk is there already with other content; nothing changed."""


class FailedPrecondition(AgentError):
    """The call is valid but not now; nothing changed."""

    def __init__(self, message: str, *, expected_chunk: int | None = None) -> None:
        """Say what is expected instead; `expected_chunk` is the run's next chunk index."""
        super().__init__(message)
        self.expected_chunk = expected_chunk


class ResourceExhausted(AgentError):
    """A limit of the service is reached; the message names it."""

    def __init__(self, message: str, *, limit: str = "") -> None:
        """Say what is too much, and what sets it; `limit` is the limit's name in metrics."""
        super().__init__(message)
        self.limit = limit


class Busy(ResourceExhausted):
    """The service has too many calls in work; the same call may be sent again soon."""


class Unauthenticated(AgentError):
    """The call carried no token that the service knows; nothing changed."""


class PermissionDenied(AgentError):
    """The call needs another token than it carried; nothing changed."""


class Failed(AgentError):
    """The service failed at the call, or what it answered makes no sense; a client's error."""


class Unavailable(AgentError):
    """The service cannot answer now; the same call may be sent again later."""


def invalid(field: str, description: str) -> InvalidArgument:
    """Return the error for a single violated field."""
    return InvalidArgument(FieldViolation(field, description))


@contextmanager
def within(path: str) -> Iterator[None]:
    """Put `path` before the field names of an InvalidArgument that is raised inside.

    Values know their own fields only; who builds them from a request knows where they stood in it.
    """
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(
            *(FieldViolation(f"{path}{v.field}", v.description) for v in error.violations)
        ) from None
