"""Truths of two agents on PostgreSQL on a real engine; run by `make test-deploy`, in this order."""

import os
import signal
from collections.abc import Iterator

import pytest

from tests.deploy.deployment import BASE, CPU, POSTGRES, Deployment, prometheus
from tests.deploy.steered import (
    assert_nothing_was_lost,
    ended,
    steered_run,
    targets_down,
    trainer_client,
)
from tests.end_to_end.processes import wait_for
from trainer_service.client import TrainerClient

SERVICES = ("postgres", "agent", "agent-2", "trainer-0", "prometheus")
STORE = ("--store", "postgresql+psycopg://agent@postgres/agent")
PASSWORD = ("--store-password", "/run/secrets/postgres.password")


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployment]:
    """Two agents that share a database, and a trainer without a GPU, by one command."""
    deployment = Deployment(BASE, POSTGRES, CPU)
    deployment.down()
    print(f"\nall healthy after {deployment.up():.0f} s")
    yield deployment
    deployment.down()


@pytest.fixture
def trainer(deployed: Deployment) -> Iterator[TrainerClient]:
    with trainer_client() as trainer:
        yield trainer


def test_all_is_healthy_after_one_command(deployed: Deployment) -> None:
    """Both agents on the one database, with the password of the secret."""
    assert [deployed.health(service) for service in SERVICES] == ["healthy"] * len(SERVICES)


def test_both_agents_answer_the_trainer_and_are_scraped(
    deployed: Deployment, trainer: TrainerClient
) -> None:
    """One name, two addresses, in turn; Prometheus knows each by its own."""
    steered_run(trainer, "in-turn")
    wait_for(lambda: ended(trainer, "in-turn"), seconds=300)
    assert_nothing_was_lost(deployed, trainer, "in-turn", *STORE, *PASSWORD)

    wait_for(lambda: not targets_down())
    assert len(prometheus("targets")["activeTargets"]) == 3
    wait_for(lambda: set(answered()) == {"agent:9464", "agent-2:9464"})
    assert min(answered().values()) > 100


def answered() -> dict[str, float]:
    """Return how many reports each agent has answered so far."""
    query = 'grpc_server_handled_total{grpc_method="ReportChunk",grpc_code="OK"}'
    found = prometheus("query", query=query)["result"]
    return {series["metric"]["instance"]: float(series["value"][1]) for series in found}


@pytest.mark.parametrize("service", ["agent", "agent-2", "postgres"])
def test_whichever_is_killed_nothing_is_lost(
    deployed: Deployment, trainer: TrainerClient, service: str
) -> None:
    """The engine starts it again; the run that went on meanwhile has each of its chunks once."""
    run_id = f"without-{service}"
    steered_run(trainer, run_id)
    before = deployed.inspect(service)
    os.kill(before["State"]["Pid"], signal.SIGKILL)

    wait_for(lambda: deployed.inspect(service)["RestartCount"] == before["RestartCount"] + 1)
    wait_for(lambda: deployed.health(service) == "healthy")
    wait_for(lambda: ended(trainer, run_id), seconds=300)
    assert_nothing_was_lost(deployed, trainer, run_id, *STORE, *PASSWORD)
    assert deployed.inspect("trainer-0")["RestartCount"] == 0
