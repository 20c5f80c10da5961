"""Page sizes and page tokens of lists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.message import Message

from agent_service.domain.checks import quoted
from agent_service.domain.errors import invalid

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000
PAGE_BYTES = 3 * 2**20
"""Maximum size of a page's entries in bytes; by default clients accept messages of 4 MiB."""

M = TypeVar("M", bound=Message)


def page_size(asked: int) -> int:
    """Return the number of entries for a request's `page_size`; raises InvalidArgument."""
    if not 0 <= asked <= LARGEST_PAGE:
        raise invalid("page_size", f"{asked} is not in [0, {LARGEST_PAGE}]")
    return asked or DEFAULT_PAGE


def fitting(entries: Iterable[M], limit: int) -> tuple[list[M], bool]:
    """Return the first `entries` that fit in a page, and whether there are more.

    At most `limit`, and fewer if they are large, but at least one. Takes at most one more entry
    from the iterable.
    """
    shown: list[M] = []
    size = 0
    for entry in entries:
        size += entry.ByteSize()
        if len(shown) == limit or (shown and size > PAGE_BYTES):
            return shown, True
        shown.append(entry)
    return shown, False


def number_token(token: str) -> int | None:
    """Return the number in a page token, or None for the first page; raises InvalidArgument."""
    if not token:
        return None
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise invalid("page_token", f"{quoted(token)} is invalid; pass a next_page_token")
    return int(token)
