"""Converts messages to plain values and back, by the names of their fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any

from google.protobuf.message import Message


def contents(message: Message, kind: type[Any] | None = None) -> dict[str, Any]:
    """Return a message's fields by name, as plain values.

    An enum's value is its name in lower case; a message that only holds a map is that map.

    Args:
        message: of any type.
        kind: the dataclass that takes the fields. If a field has a default there, and the message
            does not record whether it is set, a zero counts as unset.
    """
    with_default = {f.name for f in fields(kind) if f.default is not MISSING} if kind else ()
    is_set = {field.name for field, _ in message.ListFields()}
    return {
        field.name: _values(field, getattr(message, field.name), plain)
        for field in message.DESCRIPTOR.fields
        if field.name in is_set or not (field.has_presence or field.name in with_default)
    }


def _values(field: Any, value: Any, convert: Callable[[Any, Any], Any]) -> Any:
    """Convert the value of a field, or each of several."""
    if value is None:
        return None
    if _is_map(field):
        return dict(value)
    if field.is_repeated:
        return tuple(convert(field, one) for one in value)
    return convert(field, value)


def plain(field: Any, value: Any) -> Any:
    """Return one value of a field as `contents` does; an enum's unknown number as its digits."""
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return str(value) if named is None else named.name.removeprefix(_prefix(field)).lower()
    if field.message_type is not None:
        return dict(value.values) if _holds_map(field) else contents(value)
    return value


def arguments(value: Any, descriptor: Any) -> dict[str, Any]:
    """Return the arguments of a message's constructor from the attributes of the same names."""
    return {f.name: _values(f, getattr(value, f.name), _argument) for f in descriptor.fields}


def _argument(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return _prefix(field) + value.name
    if field.message_type is not None:
        return {"values": value} if _holds_map(field) else arguments(value, field.message_type)
    return value


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _holds_map(field: Any) -> bool:
    """Whether a message only holds a map, `values`, since maps cannot be repeated."""
    held = field.message_type.fields
    return [one.name for one in held] == ["values"] and _is_map(held[0])


def _prefix(field: Any) -> str:
    """Return the prefix of an enum's values in the contract, such as `SHAPE_`."""
    unspecified: str = field.enum_type.values_by_number[0].name
    return unspecified.removesuffix("UNSPECIFIED")
