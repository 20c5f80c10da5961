"""The reference: a bare gRPC server that answers each call with the bytes that it got."""

from __future__ import annotations

import asyncio

import grpc

METHOD = "/benchmark.Echo/Call"


async def _echo(request: bytes, _context: object) -> bytes:
    return request


async def serve() -> None:
    """Serve on a free port, told on standard output, until the process is ended."""
    server = grpc.aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(_echo)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("benchmark.Echo", {"Call": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve())
