"""Traffic that no gRPC client sends: HTTP/2 by hand, down to broken frames."""

import gzip
import random
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, AWAY, WINDOW, MORE = range(10)
END_STREAM, END_HEADERS, PADDED = 0x1, 0x4, 0x8
PATH = "/agent_service.v1.AgentService/GetRun"
ANSWER_SECONDS = 0.5

Headers = list[tuple[str, str]]


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(**changes: str | None) -> Headers:
    """Return those of a call, some changed (`_` for `-`, `p_` for `:`), or left out by None."""
    fields: dict[str, str | None] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": PATH,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for name, value in changes.items():
        fields[name.replace("p_", ":").replace("_", "-")] = value
    return [(name, value) for name, value in fields.items() if value is not None]


def call(
    data: bytes | None, stream: int = 1, *, ends: bool = True, fields: Headers | None = None
) -> bytes:
    """Return the frames of a call; None for its headers alone."""
    block = Encoder().encode(fields or headers())
    flags = END_HEADERS | (END_STREAM if data is None and ends else 0)
    begun = frame(HEADERS, flags, stream, block)
    return begun if data is None else begun + frame(DATA, END_STREAM if ends else 0, stream, data)


def message(data: bytes, *, length: int | None = None, compressed: int = 0) -> bytes:
    """Return a message as gRPC frames it, or one that lies about its length."""
    return struct.pack(">BI", compressed, len(data) if length is None else length) + data


def _noise(draws: random.Random, size: int) -> bytes:
    return draws.randbytes(draws.randrange(1, size))


def _frames(draws: random.Random) -> bytes:
    """Return frames of any kind, flags and stream, their payloads noise or parts of a call."""
    parts = [b"", Encoder().encode(headers()), message(b"\x0a\x01r"), b"\0" * 8]
    return b"".join(
        frame(
            draws.randrange(12),
            draws.randrange(256),
            draws.choice([0, 1, 1, 2, 3, 5, 2**31 - 1]),
            draws.choice([*parts, _noise(draws, 200)]),
        )
        for _ in range(draws.randrange(1, 20))
    )


def _bomb() -> bytes:
    return message(gzip.compress(b"\0" * 2**28), compressed=1)


_MANY = 1000
_SETTINGS = frame(SETTINGS)
ATTACKS: dict[str, Callable[[random.Random], bytes]] = {
    "noise": lambda draws: _noise(draws, 4000),
    "an HTTP/1.1 request": lambda draws: b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
    "a TLS greeting": lambda draws: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "half a preface": lambda draws: PREFACE[:10],
    "noise after the preface": lambda draws: PREFACE + _noise(draws, 4000),
    "noise after the settings": lambda draws: PREFACE + _SETTINGS + _noise(draws, 4000),
    "frames of any kind": lambda draws: PREFACE + _SETTINGS + _frames(draws),
    "a frame of 16 MiB": lambda draws: PREFACE + _SETTINGS + b"\xff\xff\xff\0\0\0\0\0\1",
    "settings without end": lambda draws: PREFACE + _SETTINGS * _MANY,
    "pings without end": lambda draws: PREFACE + _SETTINGS + frame(PING, payload=b"\0" * 8) * _MANY,
    "headers without end": lambda draws: (
        PREFACE + _SETTINGS + frame(HEADERS, 0, 1) + frame(MORE, 0, 1, b"\0" * 1000) * _MANY
    ),
    "calls begun and reset": lambda draws: (
        PREFACE
        + _SETTINGS
        + b"".join(
            call(None, stream, ends=False) + frame(RESET, 0, stream, b"\0\0\0\x08")
            for stream in range(1, 2 * _MANY, 2)
        )
    ),
    "a window of nothing": lambda draws: (
        PREFACE + _SETTINGS + call(message(b"")) + frame(WINDOW, 0, 1, b"\0" * 4)
    ),
}


def _of_calls() -> dict[str, bytes]:
    """Return malformed calls, each complete, so that it is answered."""
    return {
        "a content type of text": call(message(b""), fields=headers(content_type="text/plain")),
        "no content type": call(message(b""), fields=headers(content_type=None)),
        "gRPC-web": call(message(b""), fields=headers(content_type="application/grpc-web+proto")),
        "JSON": call(b"{}", fields=headers(content_type="application/json")),
        "a GET": call(None, fields=headers(p_method="GET")),
        "no path": call(message(b""), fields=headers(p_path=None)),
        "an unknown path": call(message(b""), fields=headers(p_path="/x.Y/Z")),
        "a path without a slash": call(message(b""), fields=headers(p_path="x")),
        "a path of noise": call(message(b""), fields=headers(p_path="/\x7f/../..")),
        "a deadline of noise": call(message(b""), fields=headers(grpc_timeout="soon")),
        "a deadline below zero": call(message(b""), fields=headers(grpc_timeout="-1S")),
        "an unknown encoding": call(message(b"", compressed=1), fields=headers(grpc_encoding="x")),
        "no message": call(None),
        "an empty message": call(message(b"")),
        "two messages for one": call(message(b"") * 2),
        "a length that lies": call(message(b"12345", length=100)),
        "a length of 4 GiB": call(message(b"12345", length=2**32 - 1)),
        "half a prefix": call(b"\0\0\0"),
        "a compressed message that says so nowhere": call(message(b"12345", compressed=1)),
        "invalid gzip": call(message(b"12345", compressed=1), fields=headers(grpc_encoding="gzip")),
        "a gzip bomb of 256 MiB": call(_bomb(), fields=headers(grpc_encoding="gzip")),
        "a flag of 7": call(message(b"", compressed=7)),
        "a header of 64 KiB": call(message(b""), fields=[*headers(), ("a", "b" * 2**16)]),
        "an invalid binary header": call(message(b""), fields=[*headers(), ("a-bin", "%%%")]),
        "a header twice": call(message(b""), fields=[*headers(), (":path", PATH)]),
        "a header in capitals": call(message(b""), fields=[*headers(), ("Upper", "x")]),
    }


CALLS = _of_calls()
"""Whole calls, wrong in one thing each."""
ATTACKS |= {
    name: lambda draws, frames=frames: PREFACE + _SETTINGS + frames  # type: ignore[misc]
    for name, frames in CALLS.items()
}
BY_CORE = {
    "a deadline of noise",
    "a deadline below zero",
    "an unknown encoding",
    "a compressed message that says so nowhere",
    "invalid gzip",
    "an invalid binary header",
    "a header in capitals",
}
"""Calls that gRPC's core answers with INTERNAL itself, before any code of ours."""


def attack(address: str, name: str, draws: random.Random) -> list[int]:
    """Send what it is, hear what comes back for a moment; return the gRPC statuses in it."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        heard = b""
        # The server may close while this still writes.
        with suppress(OSError):
            connection.sendall(ATTACKS[name](draws))
            connection.settimeout(ANSWER_SECONDS)
            while piece := connection.recv(65536):
                heard += piece
                if statuses(heard):
                    break
    return statuses(heard)


def statuses(heard: bytes) -> list[int]:
    """Return the values of `grpc-status` in what a server sent."""
    decoder, found = Decoder(), []
    while len(heard) >= 9:
        length = int.from_bytes(heard[:3], "big")
        kind, payload, heard = heard[3], heard[9 : 9 + length], heard[9 + length :]
        if kind == HEADERS:
            with suppress(HPACKError):
                fields = decoder.decode(payload, raw=True)
                found += [int(value) for name, value in fields if name == b"grpc-status"]
    return found
