"""The composition root: the one place that names concrete classes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing

import torch
from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from agent_service.domain.errors import AgentError
from agent_service.rpc.serving import Server, serve_until_signal
from trainer_service.config import TrainerConfig
from trainer_service.metrics import Metrics, StoreCollector
from trainer_service.process import Place
from trainer_service.rpc.servicer import TrainerServicer
from trainer_service.runs import Runs
from trainer_service.store import RunStore
from trainer_service.training.loop import describe_device
from trainer_service.v1 import trainer_pb2 as pb
from trainer_service.v1 import trainer_pb2_grpc

SERVICE = pb.DESCRIPTOR.services_by_name["TrainerService"].full_name


def serve(config: TrainerConfig, announce: Callable[[int, int], None]) -> None:
    """Run the trainer service until a signal ends it.

    Args:
        config: how.
        announce: told the ports of gRPC and metrics once it serves.

    Raises:
        AgentError: where the device is not there, or the address or run store cannot be taken.
    """
    torch.set_num_threads(config.threads)
    device = _checked_device(config.device)
    # Creation times would double the page and tell what process_start_time_seconds tells.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    metrics = Metrics(registry)
    place = Place(
        agent=config.agent, device=config.device, data=config.data, threads=config.threads
    )
    with closing(RunStore(config.runs)) as store:
        registry.register(StoreCollector(store, config.device))
        page, thread = start_http_server(config.metrics_port, addr=config.host, registry=registry)
        with closing(Runs(store, place, parallel=config.parallel, observer=metrics)) as runs:
            shown = pb.Device(
                name=config.device,
                description=describe_device(device),
                parallel=config.parallel,
            )
            servicer = TrainerServicer(runs, store, device=shown)
            asyncio.run(
                _serve(
                    servicer,
                    registry,
                    address=config.listen,
                    announce=lambda port: announce(port, page.server_port),
                )
            )
        page.shutdown()
        page.server_close()
        thread.join()


async def _serve(
    servicer: TrainerServicer,
    registry: CollectorRegistry,
    *,
    address: str,
    announce: Callable[[int], None],
) -> None:
    # Made here, since an asyncio server belongs to the loop that runs when it is made.
    server = Server(registry=registry, services=[SERVICE])
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, server.grpc_server)
    await serve_until_signal(server, address, announce)


def _checked_device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise AgentError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device
