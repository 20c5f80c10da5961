"""JSON of a folder's files, read as what a stranger wrote: errors are one line with the place."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from agent_service.domain.errors import AgentError, InvalidArgument
from trainer_service.study.plain import shortened

BOM = b"\xef\xbb\xbf"
"""Byte order mark that some editors put before UTF-8."""
LONGEST_ERROR = 300
"""Characters of the error about wrong content."""


def read_json(adapter: TypeAdapter[Any], data: bytes, place: str) -> Any:
    """Return what JSON describes, with or without a mark; raises AgentError begun by `place`."""
    try:
        if "\0" in data.decode():
            raise AgentError(f"{place}: has zero bytes, which are no JSON; save it as UTF-8")
        return adapter.validate_json(data.removeprefix(BOM))
    except UnicodeDecodeError:
        raise AgentError(f"{place}: is not in UTF-8, so it is no JSON; save it as UTF-8") from None
    except (ValidationError, InvalidArgument) as error:
        why = _first(error) if isinstance(error, ValidationError) else str(error)
        raise AgentError(f"{place}: {shortened(why, LONGEST_ERROR)}") from None


def _first(error: ValidationError) -> str:
    """Return the first thing that is wrong, in one line."""
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
