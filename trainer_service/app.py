"""The composition root: the only module that chooses concrete classes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress

import torch

from agent_service.domain.errors import AgentError, Unavailable
from agent_service.serving.disk import DiskCollector
from agent_service.serving.guard import Needs
from agent_service.serving.health import check_health
from agent_service.serving.server import Server, metrics_page, process_registry, serve_until_signal
from agent_service.serving.tracing import tracing
from trainer_service.config import ExecutorName, TrainerConfig
from trainer_service.rpc.servicer import TrainerServicer
from trainer_service.runs.metrics import Metrics, StoreCollector
from trainer_service.runs.queue import Observer, RunQueue
from trainer_service.runs.store import RunStore
from trainer_service.runs.tensorboard import EventFiles
from trainer_service.v1 import trainer_pb2 as pb
from trainer_service.v1 import trainer_pb2_grpc
from trainer_service.workers.executor import Executor
from trainer_service.workers.local import LocalExecutor
from trainer_service.workers.temporary_folder import temporary_folder

SERVICE = pb.DESCRIPTOR.services_by_name["TrainerService"].full_name


def serve(config: TrainerConfig, announce: Callable[[int, int], None]) -> None:
    """Run the trainer service until a signal ends it.

    Args:
        config: the service's.
        announce: called with the ports of gRPC and metrics once the service is ready.

    Raises:
        AgentError: the device does not exist, the address or run store is in use, or the service
            at the agent's address is not an agent.
    """
    asyncio.run(_serve(config, announce))


async def _serve(config: TrainerConfig, announce: Callable[[int, int], None]) -> None:
    torch.set_num_threads(config.threads)
    config.agent_access.check()
    registry = process_registry()
    server = Server(
        registry=registry,
        services=[SERVICE],
        config=config.serving,
        limits={"runs": config.max_runs},
    )
    _check_agent(config)
    with ExitStack() as opened:
        opened.enter_context(temporary_folder())
        store = opened.enter_context(closing(RunStore(config.runs)))
        config = config.with_storage_of(store.identity)
        executor = opened.enter_context(closing(_executor(config)))
        device = pb.Device(
            name=config.device,
            description=executor.describe(),
            parallel=config.parallel,
            together=config.together,
        )
        observers: list[Observer] = [Metrics(registry)]
        if config.tensorboard is not None:
            observers.append(EventFiles(config.tensorboard, store))
        opened.enter_context(tracing("trainer", config.serving.traces))
        page = opened.enter_context(
            metrics_page(registry, host=config.listening.host, port=config.metrics_port)
        )
        runs = opened.enter_context(closing(RunQueue(store, config, executor, observers=observers)))
        registry.register(StoreCollector(store, config.device))
        registry.register(DiskCollector("trainer", config.runs.resolve().parent))
        servicer = TrainerServicer(runs, store, device=device, pause=server.pause)
        server.add(
            trainer_pb2_grpc.add_TrainerServiceServicer_to_server, servicer, needs=Needs.RUN_TOKEN
        )
        await serve_until_signal(server, config.listen, lambda port: announce(port, page))


def _check_agent(config: TrainerConfig) -> None:
    """Raise AgentError if another service answers there; an unavailable agent may still start."""
    with suppress(Unavailable):
        check_health(config.agent, "agent service", tls=config.agent_access.tls)


def _executor(config: TrainerConfig) -> Executor:
    if config.executor is ExecutorName.LOCAL:
        return LocalExecutor(config)
    try:
        from trainer_service.workers.ray_executor import RayExecutor
    except ModuleNotFoundError as missing:
        extra = "pip install 'reinforced-regularization[ray]'"
        raise AgentError(f"{missing.name} is not installed; {extra}") from missing
    return RayExecutor(config)
