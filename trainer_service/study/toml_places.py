"""Places in a TOML text: as errors name them, and the lines where they stand."""

from __future__ import annotations

import re
from collections.abc import Sequence

Place = tuple[str | int, ...]
"""Path of a field: names of tables and keys, and places in arrays from 0."""


class WrongField(Exception):
    """Something is wrong at a place."""

    def __init__(self, place: Place, message: str) -> None:
        """Name the place, and say what is wrong there and how it is mended."""
        super().__init__(message)
        self.place = place
        self.message = message


def place_of(field: str) -> Place:
    """Return the place of a field that is written as in errors: `methods[3].values[dropout]`."""
    return tuple(int(p) if p.isdigit() else p for p in re.findall(r"[^.\[\]]+", field))


def in_words(place: Sequence[str | int]) -> str:
    """Return a place as people count it, from 1: `methods[4].values.dropout`."""
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


_TABLE = re.compile(r"\s*(\[\[?)\s*([\w.\-]+)\s*\]")
_KEY = re.compile(r"\s*([\w.\-]+)\s*=")


def line_of(text: str, place: Place) -> int:
    """Return the line of a field, from 1; where it is missing, that of the table that lacks it.

    tomllib reports no lines, so tables and keys are looked for at the beginnings of lines.
    """
    found: dict[Place, int] = {(): 1}
    table: Place = ()
    counts: dict[Place, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if head := _TABLE.match(line):
            names: Place = tuple(head[2].split("."))
            # A table below an array of tables belongs to the last one of these.
            for cut in range(1, len(names)):
                if names[:cut] in counts:
                    names = (*names[:cut], counts[names[:cut]], *names[cut:])
            if head[1] == "[[":
                counts[names] = counts.get(names, -1) + 1
                names = (*names, counts[names])
            table = names
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, *key[1].split(".")), number)
    return next(found[place[:cut]] for cut in range(len(place), -1, -1) if place[:cut] in found)
