"""Runs that a deployed trainer trains under a deployed agent, and what must be true of them."""

from typing import Any

from agent_service.client import AgentClient
from tests.deploy.deployment import ADMIN, AUTHORITY, Deployment, prometheus
from tests.end_to_end.processes import wait_for
from tests.end_to_end.runs import controller
from tests.trainer_service.specs import run_spec
from trainer_service.client import TrainerClient
from trainer_service.training.spec import Method
from trainer_service.v1 import trainer_pb2 as pb

AGENT = "127.0.0.1:50051"
TRAINER = "127.0.0.1:50052"
LONG = 400
"""Chunks of a run that something happens to: half a minute of training."""


def agent_client() -> AgentClient:
    return AgentClient(AGENT, budget_seconds=60, tls=AUTHORITY, token=ADMIN)


def trainer_client() -> TrainerClient:
    return TrainerClient(TRAINER, budget_seconds=60, tls=AUTHORITY, token=ADMIN)


def steered_run(trainer: TrainerClient, run_id: str, *, chunks: int = LONG) -> None:
    """Submit a run that the agent steers, and return when it trains."""
    with agent_client() as agent:
        agent.create_controller(controller("rd"))
    trainer.submit(run_id, run_spec(Method.RD, controller="rd", chunks=chunks))
    wait_for(lambda: trainer.get(run_id).trained_chunks > 10)


def ended(trainer: TrainerClient, run_id: str) -> bool:
    return trainer.get(run_id).state in (pb.RUN_STATE_SUCCEEDED, pb.RUN_STATE_FAILED)


def assert_nothing_was_lost(
    deployed: Deployment, trainer: TrainerClient, run_id: str, *store: str
) -> None:
    """A run ended well, the agent has each of its chunks once, and its whole log verifies.

    Args:
        deployed: the services.
        trainer: that trained the run.
        run_id: the run.
        store: options that name the agent's store.
    """
    run = trainer.get(run_id)
    assert run.state == pb.RUN_STATE_SUCCEEDED, run.cause
    with agent_client() as agent:
        chunks = [t.chunk_index for t in agent.transitions(run_id=run_id)]
    assert chunks == list(range(1, LONG + 1))
    store = store or ("--store", "sqlite:////var/lib/agent/agent.db")
    assert "all equal" in deployed.call("agent", "agent-service", "verify", *store)


def targets_down() -> list[str]:
    """Return what Prometheus scrapes in vain."""
    targets: list[dict[str, Any]] = prometheus("targets")["activeTargets"]
    return [t["scrapeUrl"] for t in targets if t["health"] != "up"]
