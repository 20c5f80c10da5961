"""The composition root: the one place that names concrete classes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from agent_service.config import AgentConfig
from agent_service.controllers.registry import make_decider
from agent_service.domain.catalog import Catalog
from agent_service.domain.errors import AgentError
from agent_service.domain.ports import Durability, Store
from agent_service.domain.steering import Steering
from agent_service.domain.verification import VerificationError, verify
from agent_service.learning.policies import SnapshotPolicies
from agent_service.learning.process import Heartbeat, Supervisor
from agent_service.leases import LeaseWatch
from agent_service.lifeline import end_with_parent
from agent_service.metrics import Metrics, StoreCollector
from agent_service.rpc.servicer import AgentServicer
from agent_service.rpc.serving import Server, metrics_page, process_registry, serve_until_signal
from agent_service.store.sql import SqlStore, require_store
from agent_service.v1 import agent_pb2, agent_pb2_grpc

log = logging.getLogger(__name__)

LEARNER_RETRY_SECONDS = 3.0
"""Pause before the learner opens a store again that failed it."""
SERVICE = agent_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name


def make_steering(store: Store, *, metrics: Metrics) -> Steering:
    """Return the rules of runs on `store`, which stays the caller's."""
    return Steering(store, make_decider=make_decider, policies=SnapshotPolicies(), observer=metrics)


def make_server(store: Store, steering: Steering, *, registry: CollectorRegistry) -> Server:
    """Return an agent server, not yet started; the store stays the caller's."""
    server = Server(registry=registry, services=[SERVICE])
    catalog = Catalog(store, policies=SnapshotPolicies())
    servicer = AgentServicer(catalog, steering, pause=server.pause)
    agent_pb2_grpc.add_AgentServiceServicer_to_server(servicer, server.grpc_server)
    return server


def serve(config: AgentConfig, announce: Callable[[int, int], None]) -> None:
    """Run the agent service until a signal ends it, the learner in a process of its own.

    Args:
        config: how.
        announce: told the ports of gRPC and metrics once it serves.

    Raises:
        AgentError: where the store cannot be opened or the address not be taken.
    """
    registry = process_registry()
    metrics = Metrics(registry)
    with (
        SqlStore(
            config.store, durability=config.durability, observe_commit=metrics.committed
        ) as store,
        metrics_page(registry, host=config.host, port=config.metrics_port) as page,
        Supervisor(run_learner, config.store, config.durability),
    ):
        registry.register(StoreCollector(store))
        steering = make_steering(store, metrics=metrics)
        with LeaseWatch(steering, lease=config.lease):
            serve_until_signal(
                lambda: make_server(store, steering, registry=registry),
                config.listen,
                announce=lambda port: announce(port, page),
            )


def verify_store(url: str) -> int:
    """Derive every decision of a store again and return how many there are.

    Raises:
        VerificationError: naming the first decision that differs, or where there is none at all.
        StoreError: where this is no store.
    """
    require_store(url)
    with SqlStore(url) as store:
        count = 0
        for decision in verify(store, make_decider=make_decider, policies=SnapshotPolicies()):
            count += 1
            if decision.difference is not None:
                raise VerificationError(f"position {decision.position}: {decision.difference}")
    if count == 0:
        raise VerificationError(f"store {url} holds no decision; is the URL right?")
    return count


def run_learner(heartbeat: Heartbeat, store_url: str, durability: Durability) -> None:
    """Learn for ever, as the main function of the learner's process."""
    # One thread: two spinning thread pools on two cores slow an update 15 to 50 times. And a lower
    # priority, since a decision is waited for and an update is not.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.nice(10)
    end_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s learner %(message)s")
    # Imported here, after the settings that torch reads at its import.
    import torch

    from agent_service.learning.learner import learn

    torch.set_num_threads(1)
    while True:
        try:
            with SqlStore(store_url, durability=durability) as store:
                learn(store, heartbeat)
        except AgentError as error:
            # A full disk, a damaged row: nothing is consumed, and others may still be served.
            log.warning("nothing is learned: %s", error)
        heartbeat.beat()
        time.sleep(LEARNER_RETRY_SECONDS)
