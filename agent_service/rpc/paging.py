"""Page sizes and tokens of lists."""

from __future__ import annotations

from agent_service.domain.errors import invalid

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000


def page_size(asked: int) -> int:
    """Return the entries of a page for a request's `page_size`; raises InvalidArgument."""
    if not 0 <= asked <= LARGEST_PAGE:
        raise invalid("page_size", f"{asked} is not in [0, {LARGEST_PAGE}]")
    return asked or DEFAULT_PAGE


def number_token(token: str) -> int | None:
    """Return the number in a page token, None for the first page; raises InvalidArgument."""
    if not token:
        return None
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise invalid("page_token", f"{token!r} is none of ours; pass next_page_token on")
    return int(token)
