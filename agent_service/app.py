"""The composition root: assembles the service and the learner from their parts."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial

import numpy as np
from prometheus_client import CollectorRegistry

from agent_service.analysis.comparison import Difference, PastRun, differences
from agent_service.analysis.verification import VerificationError, verify
from agent_service.client import AgentClient
from agent_service.config import AgentConfig
from agent_service.domain.errors import AgentError, NotFound
from agent_service.domain.store import Durability
from agent_service.learning import policies
from agent_service.learning.learner import Learner
from agent_service.learning.process import Heartbeat, Supervisor
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.metrics.stored import StoreCollector
from agent_service.rpc.servicer import AgentServicer
from agent_service.rules.capacity import Capacity
from agent_service.rules.catalog import Catalog
from agent_service.rules.leases import watching_leases
from agent_service.rules.runs import RunService
from agent_service.serving.config import ServingConfig
from agent_service.serving.disk import DiskCollector
from agent_service.serving.guard import Needs
from agent_service.serving.logs import LogFormat, start_logging
from agent_service.serving.server import Server, metrics_page, process_registry, serve_until_signal
from agent_service.serving.tracing import tracing
from agent_service.shutdown import end_with_parent
from agent_service.store.journal.journal import LoopJournal, ThreadJournal
from agent_service.store.store import SqlStore, require_store
from agent_service.v1 import agent_pb2, agent_pb2_grpc
from agent_service.wire import convert

log = logging.getLogger(__name__)

LEARNER_RETRY_SECONDS = 3.0
"""Pause before the learner reopens a store that failed."""
ADMINISTRATION = {"CreateController", "UpdateController", "DeleteController", "ImportPolicy"}
"""Calls that affect other callers' runs, so they need the admin token."""
SERVICE = agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name


def make_server(registry: CollectorRegistry, config: ServingConfig, capacity: Capacity) -> Server:
    """Return a server, not yet started, to which `add_agent` adds the agent."""
    limits = asdict(capacity)
    return Server(registry=registry, services=[SERVICE], config=config, limits=limits)


def add_agent(server: Server, store: SqlStore, run_service: RunService, capacity: Capacity) -> None:
    """Add the agent's servicer to a server; the caller closes the store."""
    catalog = Catalog(store, capacity=capacity)
    servicer = AgentServicer(catalog, run_service, pause=server.pause, draining=server.draining)
    server.add(
        agent_pb2_grpc.add_AgentServiceServicer_to_server,
        servicer,
        needs=Needs.RUN_TOKEN,
        administration=ADMINISTRATION,
    )


def serve(config: AgentConfig, announce: Callable[[int, int], None]) -> None:
    """Run the agent service, with the learner in a separate process, until a signal ends it.

    Args:
        config: the service's configuration.
        announce: called with the ports of gRPC and metrics once it serves.

    Raises:
        AgentError: the store cannot be opened, or an address cannot be bound.
    """
    asyncio.run(_serve(config, announce))


async def _serve(config: AgentConfig, announce: Callable[[int, int], None]) -> None:
    registry = process_registry()
    metrics = DecisionMetrics(registry)
    server = make_server(registry, config.serving, config.capacity)  # first: it may raise
    with (
        SqlStore(
            config.store,
            durability=config.durability,
            observe_commit=metrics.committed,
            journal=LoopJournal,
        ) as store,
        tracing("agent", config.serving.traces),
        metrics_page(registry, host=config.listening.host, port=config.metrics_port) as page,
        Supervisor(run_learner, config.store, config.durability, config.serving.log_format),
    ):
        store.join()
        registry.register(StoreCollector(store, metrics))
        if store.folder is not None:
            registry.register(DiskCollector("agent", store.folder))
        run_service = RunService(store, metrics=metrics, capacity=config.capacity)
        add_agent(server, store, run_service, config.capacity)
        # What exists now lives for good; without this, the collector would scan it during reports.
        gc.freeze()
        # Each call leaves a reference cycle of gRPC, five objects. Collecting 2,000 objects takes
        # at most 8 ms, which delays no report; 50,000 took 80 ms.
        gc.set_threshold(2_000, 10, 100)
        async with watching_leases(run_service, lease=config.lease):
            await serve_until_signal(server, config.listen, lambda port: announce(port, page))


def verify_store(url: str) -> int:
    """Re-derive every decision of a store, and return their number.

    Raises:
        VerificationError: a decision differs, naming the first; or there is none.
        StoreError: it is not a store.
    """
    require_store(url)
    with SqlStore(url) as store:
        count = 0
        for decision in verify(store):
            count += 1
            if decision.difference is not None:
                raise VerificationError(f"position {decision.position}: {decision.difference}")
    if count == 0:
        raise VerificationError(f"store {url} has no decisions; is the URL right?")
    return count


def compare_policies(
    client: AgentClient, name: str, one: int, other: int, *, transitions: int
) -> tuple[list[Difference], int]:
    """Return how two policy versions differ on a controller's newest runs, and the state count.

    Args:
        client: client of the service that has the controller.
        name: the controller's name.
        one: a policy version.
        other: another one.
        transitions: minimum number of transitions; whole runs are taken, newest first.

    Raises:
        AgentError: the controller or a version does not exist, or there is no transition yet.
    """
    spec = convert.spec_from_message(client.get_controller(name).spec)
    versions = (
        policies.load(client.export_policy(name, one), spec),
        policies.load(client.export_policy(name, other), spec),
    )
    runs = _newest_runs(client, name, transitions=transitions)
    if not runs:
        raise NotFound(f"controller {name!r} has no transition yet to compare its policies on")
    found = differences(spec, versions, runs)
    return found, sum(len(run.states) for run in runs)


def _newest_runs(client: AgentClient, controller: str, *, transitions: int) -> list[PastRun]:
    runs: list[PastRun] = []
    for run in client.list_runs(controller=controller):
        log = list(client.transitions(run_id=run.run_id))
        if log:
            states, contexts = [np.array(t.state) for t in log], [np.array(t.context) for t in log]
            runs.append(PastRun(run_id=run.run_id, states=states, contexts=contexts))
            transitions -= len(log)
        if transitions <= 0:
            break
    return runs


def run_learner(
    heartbeat: Heartbeat, store_url: str, durability: Durability, log_format: LogFormat
) -> None:
    """Learn forever: the main function of the learner's process."""
    # One thread: two spinning thread pools on two cores make an update 15 to 50 times slower. Lower
    # priority, since callers wait for decisions and not for updates. But decisions do wait while an
    # update is stored, so that is done by a thread from before: on Linux priority is per thread.
    os.environ["OMP_NUM_THREADS"] = "1"
    writing = ThreadPoolExecutor(1, thread_name_prefix="writing")
    writing.submit(os.getpid).result()
    os.nice(10)
    end_with_parent()
    start_logging("learner", log_format)
    learner = Learner()
    while True:
        try:
            require_store(store_url)
            journal = partial(ThreadJournal, writing)
            with SqlStore(store_url, durability=durability, journal=journal) as store:
                _learn(store, learner, heartbeat)
        except AgentError as error:
            log.warning("learning is suspended: %s", error)
        heartbeat.beat()
        time.sleep(LEARNER_RETRY_SECONDS)


def _learn(store: SqlStore, learner: Learner, heartbeat: Heartbeat) -> None:
    """Learn until the store fails and must be reopened."""
    try:
        learner.learn(store, heartbeat)
    except AgentError as error:
        # For example a full disk or a damaged row: nothing is consumed, and serving may go on.
        log.warning("learning is suspended: %s", error)
    # While its files are replaced, reopening would find another store, or an empty one.
    while not store.is_in_place():
        heartbeat.beat()
        time.sleep(LEARNER_RETRY_SECONDS)
