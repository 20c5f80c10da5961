"""Text that somebody else wrote, made harmless where it is shown."""

from __future__ import annotations

LONGEST_LABEL = 80
"""Characters of a name in tables and pictures."""


def plain(text: str) -> str:
    """Return text in one line of printable characters: no escape sequence reaches a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shortened(text: str, length: int = LONGEST_LABEL) -> str:
    """Return plain text, cut where it is longer than that."""
    whole = plain(text)
    return whole if len(whole) <= length else f"{whole[: length - 1]}…"
