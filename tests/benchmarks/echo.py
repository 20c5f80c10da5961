"""The references: a bare gRPC server that answers calls and messages with their own bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

CALL = "/benchmark.Echo/Call"
STREAM = "/benchmark.Echo/Stream"


async def _call(request: bytes, _context: object) -> bytes:
    return request


async def _stream(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def serve() -> None:
    """Serve on a free port, told on standard output, until the process is ended."""
    server = grpc.aio.server()
    call: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_call)
    stream: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(_stream)
    handler = grpc.method_handlers_generic_handler(
        "benchmark.Echo", {"Call": call, "Stream": stream}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve())
