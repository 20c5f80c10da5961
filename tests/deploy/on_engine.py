"""Truths of the deployment on a real engine; run by `make test-deploy`, in this order."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from agent_service.client import Tls
from agent_service.domain.errors import Unavailable
from tests.deploy.deployment import (
    ADMIN,
    AUTHORITY,
    BASE,
    CPU,
    SECRETS,
    Deployment,
    docker,
    prometheus,
)
from tests.deploy.steered import (
    AGENT,
    TRAINER,
    agent_client,
    assert_nothing_was_lost,
    ended,
    steered_run,
    targets_down,
    trainer_client,
)
from tests.end_to_end.processes import command_of, wait_for
from tests.trainer_service.specs import ENDLESS
from trainer_service.client import TrainerClient

PROJECT = "reinforced-regularization"
SERVICES = ("agent", "trainer-0", "prometheus")


@pytest.fixture(scope="module")
def figures() -> Iterator[dict[str, str]]:
    """Measured figures; printed at the end."""
    found: dict[str, str] = {}
    yield found
    print("\n" + "\n".join(f"{name}: {value}" for name, value in found.items()))


@pytest.fixture(scope="module")
def deployed(figures: dict[str, str]) -> Iterator[Deployment]:
    """The services without a GPU, started by one command."""
    deployment = Deployment(BASE, CPU)
    deployment.down()
    figures["all healthy after"] = f"{deployment.up():.0f} s"
    yield deployment
    deployment.down()


def test_all_is_healthy_after_one_command_in_order(deployed: Deployment) -> None:
    """`up --wait` ends with all healthy; the trainer started when the agent served."""
    assert [deployed.health(service) for service in SERVICES] == ["healthy"] * len(SERVICES)
    events = ["events", "--since", "0", "--until", str(int(time.time()))]
    events += ["--filter", f"container={deployed.container('agent')}"]
    events += ["--filter", "event=health_status", "--format", "{{.Time}} {{.Action}}"]
    served, became = docker(*events).splitlines()[0].split(maxsplit=1)
    assert became == "health_status: healthy"
    started = datetime.fromisoformat(deployed.inspect("trainer-0")["State"]["StartedAt"][:19] + "Z")
    assert int(served) <= started.timestamp()


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_may_do_no_more_than_its_work(deployed: Deployment, service: str) -> None:
    """Not root, no capabilities, no new privileges, a read-only root, bounded memory."""
    found = deployed.inspect(service)
    status = Path(f"/proc/{found['State']['Pid']}/status").read_text()
    facts = dict(line.split(":\t", 1) for line in status.splitlines())

    assert "0" not in facts["Uid"].split()
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert found["HostConfig"]["Memory"] > 0
    assert found["HostConfig"]["PidsLimit"] > 0


@pytest.mark.parametrize("service", ["agent", "trainer-0"])
def test_an_image_has_what_it_needs_and_no_more(
    deployed: Deployment, figures: dict[str, str], service: str
) -> None:
    """No compiler, no pip beside the packages, no CUDA; the agent's image is under 1.5 GB."""
    look = (
        "import shutil, torch; print(torch.version.cuda, *map(shutil.which, ('gcc', 'cc', 'make')))"
    )
    assert deployed.call(service, "python", "-c", look) == "None None None None"
    assert "No module named pip" in deployed.call(
        service, "sh", "-c", "/opt/venv/bin/python -m pip 2>&1 || true"
    )
    size = int(
        docker("image", "inspect", "--format", "{{.Size}}", deployed.inspect(service)["Image"])
    )
    figures[f"image of {service}"] = f"{size / 1e9:.2f} GB"
    assert service != "agent" or size < 1.5e9


def test_a_study_runs_through_the_published_ports(
    deployed: Deployment, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As a user's command line does it; its controller has learned afterwards."""
    folder = tmp_path_factory.mktemp("study")
    study = ["compare", "--agent", AGENT, "--trainer", TRAINER, "--output", str(folder)]
    study += ["--dataset", "digits", "--subset", "200", "--width", "0.125", "--chunks", "6"]
    study += ["--methods", "vanilla,d,rd", "--seeds", "1", "--learning-runs", "4"]
    study += ["--rollout-size", "12", "--ca", str(AUTHORITY.ca), "--token", str(ADMIN)]
    done = subprocess.run(
        [*command_of("trainer_service"), *study], capture_output=True, text=True, timeout=600
    )

    assert done.returncode == 0, done.stderr
    # Four children to learn on, and one of each method to be judged by.
    assert len((folder / "results.jsonl").read_text().splitlines()) == 4 + 3
    with agent_client() as agent:
        (controller,) = agent.list_controllers()
    assert controller.policy_version > 1


def test_a_study_runs_within_a_container(deployed: Deployment) -> None:
    """As the README's third command does it, for who has no Python; its report stays there."""
    study = "compare --dataset digits --subset 200 --width 0.125 --chunks 2 --methods vanilla"
    command = ["trainer-service", *study.split(), "--seeds", "1", "--output", "results"]
    assert "Vanilla" in deployed.call("trainer-0", *command)
    assert "report.md" in deployed.call("trainer-0", "ls", "/var/lib/trainer/results")


def test_prometheus_scrapes_all_and_every_rule_has_a_value(
    deployed: Deployment, trainer: TrainerClient
) -> None:
    """All targets are up; each recording rule gives a series while a run trains; none fails."""
    steered_run(trainer, "watched", chunks=ENDLESS)
    wait_for(lambda: not targets_down(), seconds=60)
    assert len(prometheus("targets")["activeTargets"]) >= 2
    wait_for(lambda: not _rules_without_value(), seconds=400)
    assert not [rule for rule in _rules() if rule["health"] == "err"]
    trainer.cancel("watched")


def _rules() -> list[dict[str, Any]]:
    return [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]


def _rules_without_value() -> list[str]:
    recorded = [rule["name"] for rule in _rules() if rule["type"] == "recording"]
    assert recorded
    return [name for name in recorded if not prometheus("query", query=name)["result"]]


@pytest.fixture
def trainer(deployed: Deployment) -> Iterator[TrainerClient]:
    with trainer_client() as trainer:
        yield trainer


def test_a_killed_agent_is_back_and_nothing_is_lost(
    deployed: Deployment, trainer: TrainerClient, figures: dict[str, str]
) -> None:
    """The engine starts it again on its own; the run that it steered goes on to its end."""
    steered_run(trainer, "agent-killed")
    before = deployed.inspect("agent")
    os.kill(before["State"]["Pid"], signal.SIGKILL)
    killed = time.monotonic()

    wait_for(lambda: deployed.inspect("agent")["RestartCount"] == before["RestartCount"] + 1)
    wait_for(lambda: deployed.health("agent") == "healthy")
    figures["a killed agent is healthy again after"] = f"{time.monotonic() - killed:.0f} s"
    wait_for(lambda: ended(trainer, "agent-killed"), seconds=180)
    assert_nothing_was_lost(deployed, trainer, "agent-killed")


def test_a_trainer_cut_off_the_network_holds_on_and_reports_later(
    deployed: Deployment, trainer: TrainerClient
) -> None:
    """It says that it waits, stays healthy, and the run ends as if nothing had been."""
    steered_run(trainer, "cut-off")
    container = deployed.container("trainer-0")
    with cut_off(container):
        wait_for(lambda: "waits for the agent" in runs(deployed)["cut-off"], seconds=120)
        assert runs(deployed)["cut-off"].startswith("running")
        assert deployed.health("trainer-0") == "healthy"

    wait_for(lambda: ended(trainer, "cut-off"), seconds=180)
    assert_nothing_was_lost(deployed, trainer, "cut-off")


@contextmanager
def cut_off(container: str) -> Iterator[None]:
    networks = [f"{PROJECT}_{name}" for name in ("services", "metrics")]
    for network in networks:
        docker("network", "disconnect", network, container)
    try:
        yield
    finally:
        for network in networks:
            docker("network", "connect", "--alias", "trainer-0", network, container)


def runs(deployed: Deployment) -> dict[str, str]:
    """Return what the trainer's own command tells of its runs, asked within its container."""
    lines = deployed.call("trainer-0", "trainer-service", "runs").splitlines()
    return dict(line.split("\t", 1) for line in lines)


def test_a_stopped_trainer_keeps_its_run_for_the_next_start(
    deployed: Deployment, trainer: TrainerClient
) -> None:
    """`stop` ends it in time, by itself, and with a checkpoint; `start` goes on from there."""
    steered_run(trainer, "stopped")
    deployed.compose("stop", "trainer-0")
    assert deployed.inspect("trainer-0")["State"]["ExitCode"] == 0
    deployed.compose("start", "trainer-0")

    wait_for(lambda: ended(trainer, "stopped"), seconds=180)
    assert_nothing_was_lost(deployed, trainer, "stopped")


def test_down_leaves_no_container_and_keeps_the_data(deployed: Deployment) -> None:
    """No container, no network; the volumes stay, and `up` finds the controllers again."""
    deployed.compose("down")
    assert docker("ps", "--all", "--quiet") == ""
    assert PROJECT not in docker("network", "ls")

    deployed.up()
    with agent_client() as agent:
        assert "rd" in [c.spec.name for c in agent.list_controllers()]


@pytest.fixture(scope="module")
def with_gpus(deployed: Deployment) -> Iterator[Deployment]:
    """Both trainers, each with a GPU, and callers asked for certificates."""
    deployed.down()
    both = Deployment(BASE, TLS_CLIENTS="/run/secrets/ca.pem")
    both.up()
    yield both
    both.down()


@pytest.mark.parametrize("number", [0, 1])
def test_a_trainer_sees_its_own_gpu(with_gpus: Deployment, number: int) -> None:
    """As the engine told its hook, which is what the first process's environment shows."""
    pid = with_gpus.inspect(f"trainer-{number}")["State"]["Pid"]
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert f"NVIDIA_VISIBLE_DEVICES={number}".encode() in environment


def test_mutual_tls_is_one_setting(with_gpus: Deployment) -> None:
    """Health checks and trainers have certificates; a caller without one is refused."""
    ours = Tls(ca=AUTHORITY.ca, certificate=SECRETS / "client.pem", key=SECRETS / "client.key")
    with TrainerClient("127.0.0.1:50053", budget_seconds=10, tls=ours, token=ADMIN) as trainer:
        assert list(trainer.list()) == []
    with (
        TrainerClient("127.0.0.1:50053", budget_seconds=0, tls=AUTHORITY, token=ADMIN) as trainer,
        pytest.raises(Unavailable),
    ):
        list(trainer.list())
