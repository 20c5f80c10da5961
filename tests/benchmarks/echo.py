"""The references: a bare gRPC server that answers calls and messages with their own bytes.

In each style that gRPC offers in Python: `threads`, `asyncio`, which is the agent's, or `uvloop`.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

CALL = "/benchmark.Echo/Call"
STREAM = "/benchmark.Echo/Stream"
STYLES = ("threads", "asyncio", "uvloop")
THREADS = 72
"""An open stream holds a thread, so there are some more than the benchmarks open."""


async def _call(request: bytes, _context: object) -> bytes:
    return request


async def _stream(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


def _threads_call(request: bytes, _context: object) -> bytes:
    return request


def _threads_stream(requests: Iterator[bytes], _context: object) -> Iterator[bytes]:
    yield from requests


def _listen(server: Any, call: Any, stream: Any) -> None:
    """Serve the two methods on a free port, told on standard output."""
    methods: dict[str, Any] = {
        "Call": grpc.unary_unary_rpc_method_handler(call),
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
    }
    handler = grpc.method_handlers_generic_handler("benchmark.Echo", methods)
    server.add_generic_rpc_handlers((handler,))
    print(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", flush=True)


async def serve() -> None:
    server = grpc.aio.server()
    _listen(server, _call, _stream)
    await server.start()
    await server.wait_for_termination()


def serve_in_threads() -> None:
    server = grpc.server(ThreadPoolExecutor(THREADS))
    _listen(server, _threads_call, _threads_stream)
    server.start()
    server.wait_for_termination()


def main(style: str = "asyncio") -> None:
    if style == "threads":
        serve_in_threads()
    elif style == "uvloop":
        import uvloop

        uvloop.run(serve())
    else:
        asyncio.run(serve())


if __name__ == "__main__":
    main(*sys.argv[1:])
