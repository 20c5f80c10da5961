"""Requests that Hypothesis makes from a contract: any message, whole, torn, changed, or noise."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

_F = FieldDescriptor
NAMES = st.sampled_from(["", "c", "live", "new", "nobody", "../x", 'a"b', "\0", "é", "x" * 200])
TEXTS = NAMES | st.text(max_size=20)
FLOATS = st.sampled_from([0.5, 0.0, -1.0, 1e308, float("nan"), float("inf")]) | st.floats()
DEEPEST = 4
"""Messages inside one another; some of the contract's have no end."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call's bytes."""

    method: MethodDescriptor
    data: bytes

    def __str__(self) -> str:
        return f"{self.method.name}({self.data!r})"


def _integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    usual = [n for n in (-1, 0, 1, 2, 3, 4, 1001, low, high) if low <= n <= high]
    return st.sampled_from(usual) | st.integers(low, high)


_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    _F.TYPE_STRING: TEXTS,
    _F.TYPE_BYTES: st.binary(max_size=200),
    _F.TYPE_BOOL: st.booleans(),
    _F.TYPE_DOUBLE: FLOATS,
    _F.TYPE_INT32: _integers(32, signed=True),
    _F.TYPE_INT64: _integers(64, signed=True),
    _F.TYPE_UINT64: _integers(64, signed=False),
    _F.TYPE_ENUM: st.integers(0, 6) | _integers(32, signed=True),
}


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    of = field.message_type
    if of is None:
        return _SCALARS[field.type]
    return messages(of, depth + 1)


def _field(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    of = field.message_type
    if of is not None and of.GetOptions().map_entry:
        keys, values = (_values(of.fields_by_name[name], depth) for name in ("key", "value"))
        return st.dictionaries(keys, values, max_size=3)
    one = _values(field, depth)
    return st.lists(one, max_size=5) if field.is_repeated else one


@cache
def messages(of: Descriptor, depth: int = 0) -> st.SearchStrategy[Message]:
    """Return messages of a type with any of their fields set, mostly to what is near a rule."""
    kind = GetMessageClass(of)
    if depth >= DEEPEST:
        return st.just(kind())
    fields = {field.name: _field(field, depth) for field in of.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


NOISE = st.binary(max_size=100)
_DAMAGES = st.sampled_from(["none", "none", "none", "torn", "changed", "noise"])


@st.composite
def _data(draw: st.DrawFn, of: Descriptor) -> bytes:
    """Draw a message's bytes, or what is left of them."""
    damage = draw(_DAMAGES)
    if damage == "noise":
        return draw(NOISE)
    data = draw(messages(of)).SerializeToString()
    if damage == "none" or not data:
        return data
    place = draw(st.integers(0, len(data) - 1))
    if damage == "torn":
        return data[:place]
    return data[:place] + bytes([data[place] ^ draw(st.integers(1, 255))]) + data[place + 1 :]


@st.composite
def requests(draw: st.DrawFn, service: ServiceDescriptor) -> Request:
    """Draw a request to any method of a service."""
    method = draw(st.sampled_from(list(service.methods)))
    return Request(method, draw(_data(method.input_type)))
