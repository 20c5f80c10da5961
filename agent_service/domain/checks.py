"""Checks of user input, and quoting of it in messages, truncated if long."""

from __future__ import annotations

import functools
import inspect
import re
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, ParamSpec, TypeVar

from agent_service.domain.errors import invalid

T = TypeVar("T")
P = ParamSpec("P")
E = TypeVar("E", bound=StrEnum)

LONGEST_QUOTE = 128
"""Maximum length of a name that a message quotes in full: that of a run id."""
FEW_NAMES = 10
"""With more names than this, messages suggest the closest match."""
MOST_DIFFERENCES = 5
"""Maximum number of differences in a message."""
_SHORT = reprlib.Repr()
_SHORT.maxother = LONGEST_QUOTE


def cut(text: str) -> str:
    """Return a text; if it is long, its beginning and its length."""
    if len(text) <= LONGEST_QUOTE:
        return text
    return f"{text[:40]}... ({len(text):,} characters)"


def quoted(value: object) -> str:
    """Return a value as messages quote it."""
    if isinstance(value, StrEnum):
        return str(value)
    return repr(cut(value)) if isinstance(value, str) else cut(_SHORT.repr(value))


def check_name(name: object, form: re.Pattern[str], *, longest: int, field: str = "name") -> None:
    """Check a name's length and form; raises InvalidArgument naming `field`."""
    if isinstance(name, str) and len(name) > longest:
        raise invalid(field, f"{quoted(name)} is too long; at most {longest}")
    if not (isinstance(name, str) and form.fullmatch(name)):
        raise invalid(field, f"{quoted(name)} does not match {form.pattern}")


def check_number(value: object, field: str) -> None:
    """Check that a value is a number; raises InvalidArgument naming `field`."""
    if not hasattr(value, "__float__"):
        raise invalid(field, f"{quoted(value)} is not a number")


def check_at_least_one(name: str, value: int) -> None:
    """Check a count; raises InvalidArgument naming it."""
    if value < 1:
        raise invalid(name, f"{value} must be at least 1")


def member(kind: type[E], given: Any, field: str) -> E:
    """Return an enum's member by its name; raises InvalidArgument listing the valid names."""
    try:
        return kind(given)
    except ValueError:
        meant = _meant(given, kind) if len(kind) > FEW_NAMES else ""
        raise invalid(field, f"{quoted(given)}{meant} is not one of {', '.join(kind)}") from None


def _meant(given: object, names: Iterable[str]) -> str:
    from difflib import get_close_matches  # slow to import, and only needed for an error

    near = get_close_matches(str(given), [*names], n=1)
    return f": did you mean {str(near[0])!r}? It" if near else ""


def check_kind(given: object, kind: Any, field: str, example: str) -> None:
    """Check a value's type; raises InvalidArgument naming `field` and the example."""
    if not isinstance(given, kind):
        raise invalid(field, f"{quoted(given)} given; write {example}")


def several(given: Any, kind: Any, field: str, example: str) -> tuple[Any, ...]:
    """Return one or several values of a type as a tuple.

    Raises:
        InvalidArgument: a value has another type; names `field` and the example.
    """
    items = given if isinstance(given, list | tuple) else (given,)
    for item in items:
        check_kind(item, kind, field, f"[{example}]")
    return tuple(items)


def by_name(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function name its keyword-only arguments if they are passed positionally."""
    parameters = inspect.signature(function).parameters.values()
    places = sum(p.kind is not p.KEYWORD_ONLY for p in parameters)
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    called = function.__qualname__.removesuffix(".__init__")

    @functools.wraps(function)
    def checked(*given: P.args, **named: P.kwargs) -> T:
        if len(given) > places:
            raise TypeError(f"{called}: give by name {', '.join(names)}, as {names[0]}=...")
        return function(*given, **named)

    return checked


def fields_by_name(kind: type[T]) -> type[T]:
    """Make a dataclass name its fields if they are passed positionally."""
    kind.__init__ = by_name(kind.__init__)  # type: ignore[method-assign]
    return kind


def differences(there: object, sent: object) -> str:
    """Return the fields that differ between two values of the same type, each with both values."""
    found = list(_differing(there, sent, ""))
    more = len(found) - MOST_DIFFERENCES
    return ", ".join(found[:MOST_DIFFERENCES]) + (f" and {more} more" if more > 0 else "")


def _differing(there: Any, sent: Any, path: str) -> Iterator[str]:
    if there == sent:
        return
    parts: list[tuple[str, Any, Any]] = []
    if is_dataclass(there) and type(there) is type(sent):
        names = [field.name for field in fields(there)]
        parts = [(f".{name}", getattr(there, name), getattr(sent, name)) for name in names]
    elif isinstance(there, tuple) and isinstance(sent, tuple) and len(there) == len(sent):
        parts = [(f"[{i}]", *pair) for i, pair in enumerate(zip(there, sent, strict=True))]
    elif isinstance(there, Mapping) and isinstance(sent, Mapping) and there.keys() == sent.keys():
        parts = [(f"[{key}]", there[key], sent[key]) for key in there]
    else:
        yield f"{path.removeprefix('.')} is {_short(there)} there, {_short(sent)} sent"
    for name, one, other in parts:
        yield from _differing(one, other, path + name)


def _short(value: Any) -> str:
    """Return a field's value in short: an algorithm by its kind, hyperparameters by name."""
    if isinstance(value, tuple):
        return cut(f"[{', '.join(map(_short, value))}]")
    named = getattr(value, "kind", "") or getattr(value, "name", "")
    return named if is_dataclass(value) and named else quoted(value)
