"""Messages to plain values by the names of their fields, and back: dataclasses need no more."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from google.protobuf.message import Message


def contents(message: Message, kind: type[Any] | None = None) -> dict[str, Any]:
    """Return a message's fields by name, as plain values.

    Enums are named as their members; a message that holds a map alone is that map.

    Args:
        message: of any type.
        kind: the dataclass that takes the fields. Where one does not tell whether it is set, and
            has a default there, its zero stands for that.
    """
    with_default = {f.name for f in fields(kind) if f.default is not MISSING} if kind else ()
    is_set = {field.name for field, _ in message.ListFields()}
    return {
        field.name: _field_plain(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if field.name in is_set or not (field.has_presence or field.name in with_default)
    }


def _field_plain(field: Any, value: Any) -> Any:
    if _is_map(field):
        return dict(value)
    if field.is_repeated:
        return tuple(plain(field, one) for one in value)
    return plain(field, value)


def plain(field: Any, value: Any) -> Any:
    """Return one value of a field as `contents` does; an enum's unknown number as its digits."""
    if field.enum_type is not None:
        named = field.enum_type.values_by_number.get(value)
        return str(value) if named is None else named.name.removeprefix(_prefix(field)).lower()
    if field.message_type is not None:
        return dict(value.values) if _holds_map(field) else contents(value)
    return value


def told(value: Any, descriptor: Any) -> dict[str, Any]:
    """Return the fields of a message by name, as its constructor takes them, from attributes."""
    return {f.name: _field_told(f, getattr(value, f.name)) for f in descriptor.fields}


def _field_told(field: Any, value: Any) -> Any:
    if value is None or _is_map(field):
        return value
    if field.is_repeated:
        return [_one_told(field, one) for one in value]
    return _one_told(field, value)


def _one_told(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return _prefix(field) + value.name
    if field.message_type is not None:
        return {"values": value} if _holds_map(field) else told(value, field.message_type)
    return value


def _is_map(field: Any) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _holds_map(field: Any) -> bool:
    """Whether a message holds a map alone, `values`, since maps cannot be repeated."""
    held = field.message_type.fields
    return [one.name for one in held] == ["values"] and _is_map(held[0])


def _prefix(field: Any) -> str:
    """Return what the names of an enum's values begin with in the contract, as `SHAPE_`."""
    unspecified: str = field.enum_type.values_by_number[0].name
    return unspecified.removesuffix("UNSPECIFIED")
