"""Kinds of malformed traffic, each sent as often as is asked; what is sent follows from a seed."""

import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any

import grpc
import hypothesis
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from tests.end_to_end import frames
from tests.end_to_end.messages import Request, requests
from tests.end_to_end.processes import ServiceProcess

SENDERS = 4
BATCH = 25
"""Requests that are sent together. Where all are refused, what is stored must be as before."""
FOLLOW_SECONDS = 0.3
"""How long a stream that follows is listened to."""
NEVER = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNAVAILABLE}


class Target:
    """A service under traffic, with a controller or run of known names in it."""

    def __init__(
        self, process: ServiceProcess, service: ServiceDescriptor, restore: Callable[[], None]
    ) -> None:
        self.process = process
        self.service = service
        self._restore = restore
        restore()

    def send_generated(self, count: int, *, seed: int, state: Callable[[], str]) -> Counter[str]:
        """Send so many requests; fail where one is our fault, or changed state and was refused.

        They go together BATCH by BATCH, so `count` is to be a multiple of that.
        """
        codes: Counter[str] = Counter()
        with (
            ThreadPoolExecutor(SENDERS) as pool,
            grpc.insecure_channel(self.process.address) as channel,
        ):

            @hypothesis.seed(seed)
            @hypothesis.settings(
                max_examples=count // BATCH,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @hypothesis.given(st.lists(requests(self.service), min_size=BATCH, max_size=BATCH))
            def send(batch: list[Request]) -> None:
                before = state()
                answers = list(pool.map(lambda request: _code(channel, request), batch))
                codes.update(code.name for code in answers)
                faults = [
                    f"{c.name}: {r}" for r, c in zip(batch, answers, strict=True) if c in NEVER
                ]
                assert not faults, faults
                if grpc.StatusCode.OK not in answers:
                    assert state() == before, "refused requests changed something"
                self._restore()

            send()
        return codes


def _code(channel: grpc.Channel, request: Request) -> grpc.StatusCode:
    method = request.method
    shape = [method.client_streaming, method.server_streaming]
    make = getattr(channel, "_".join("stream" if streams else "unary" for streams in shape))
    call: Any = make(f"/{method.containing_service.full_name}/{method.name}")
    data = iter([request.data]) if method.client_streaming else request.data
    try:
        answer = call(data, timeout=FOLLOW_SECONDS if method.server_streaming else 20)
        if method.server_streaming:
            for _ in answer:
                pass
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def send_frames(address: str, *, times: int, seed: int) -> int:
    """Send each kind of frames so many times; fail where one is answered as our fault."""

    def send(name: str, number: int) -> None:
        statuses = frames.attack(address, name, random.Random(f"{name} {number} {seed}"))
        assert grpc.StatusCode.UNKNOWN.value[0] not in statuses, name
        # What breaks HTTP/2 or gRPC's framing the core calls INTERNAL, as the protocol says.
        if name in frames.CALLS.keys() - frames.BY_CORE:
            assert grpc.StatusCode.INTERNAL.value[0] not in statuses, name

    wanted = [(name, number) for number in range(times) for name in frames.ATTACKS]
    with ThreadPoolExecutor(2 * SENDERS) as pool:
        list(pool.map(lambda each: send(*each), wanted))
    return len(wanted)


def send_oversized(address: str) -> None:
    """Send messages over the limit, whole."""
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(frames.PATH)
        for size in (5 * 2**20, 10 * 2**20, 64 * 2**20):
            with pytest.raises(grpc.RpcError) as raised:
                call(b"\0" * size, timeout=20)
            assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def write_slowly(address: str, count: int, *, seconds: float) -> None:
    """Begin so many calls and write them byte by byte for so long, none to its end."""
    begun = frames.PREFACE + frames.frame(frames.SETTINGS) + frames.call(b"\0", ends=False)
    drop = frames.frame(frames.DATA, 0, 1, b"\0")
    with ExitStack() as opened:
        writers = [_connect(opened, address, begun) for _ in range(count)]
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            for writer in writers:
                with suppress(OSError):
                    writer.sendall(drop)
            time.sleep(0.1)


def hold_idle(address: str, count: int, *, seconds: float) -> None:
    """Hold so many connections for so long, and ask nothing; half of them say not even hello."""
    hello = frames.PREFACE + frames.frame(frames.SETTINGS)
    with ExitStack() as opened:
        for number in range(count):
            _connect(opened, address, hello if number % 2 else b"")
        time.sleep(seconds)


def _connect(opened: ExitStack, address: str, first: bytes) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = opened.enter_context(socket.create_connection((host, int(port)), timeout=20))
    connection.sendall(first)
    return connection
