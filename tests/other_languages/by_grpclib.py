"""Calls of both services by grpclib, a client that shares no code with gRPC's own.

by_grpclib.py FOLDER_OF_SECRETS HOST:PORT_OF_AGENT HOST:PORT_OF_TRAINER
"""

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import Message
from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.exceptions import GRPCError

from agent_service.v1 import agent_pb2
from trainer_service.v1 import trainer_pb2

T = TypeVar("T", bound=Message)


async def call(secrets: Path, address: str, path: str, request: Message, kind: type[T]) -> T:
    context = ssl.create_default_context(cafile=secrets / "ca.pem")
    context.load_cert_chain(secrets / "client.pem", secrets / "client.key")
    context.set_alpn_protocols(["h2"])
    token = (secrets / "run.token").read_text().strip()
    host, _, port = address.rpartition(":")
    async with Channel(host, int(port), ssl=context) as channel:
        method: UnaryUnaryMethod[Message, T] = UnaryUnaryMethod(channel, path, type(request), kind)
        answer = await method(request, metadata={"authorization": f"Bearer {token}"})
    assert answer is not None
    return answer


async def main(secrets: Path, agent: str, trainer: str) -> None:
    listed = await call(
        secrets,
        agent,
        "/agent_service.v1.AgentService/ListControllers",
        agent_pb2.ListControllersRequest(),
        agent_pb2.ListControllersResponse,
    )
    told = {"controllers": [c.spec.name for c in listed.controllers]}
    try:
        await call(
            secrets,
            trainer,
            "/trainer_service.v1.TrainerService/GetRun",
            trainer_pb2.GetRunRequest(run_id="nobody"),
            trainer_pb2.GetRunResponse,
        )
    except GRPCError as error:
        print(json.dumps({**told, "status": error.status.name}))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
