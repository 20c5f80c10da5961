"""The compose files, without starting them; `make test-deploy` starts them."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from agent_service.cli.main import cli as agent_cli
from tests.deploy.deployment import BASE, COMPOSE, CPU, POSTGRES, ROOT
from trainer_service.cli.main import cli as trainer_cli

DEPLOY = ROOT / "deploy"
_HAS_COMPOSE = subprocess.run(["sh", "-c", "docker compose version"], capture_output=True)


def variables(group: click.Command, prefix: str) -> Iterator[str]:
    """Yield the environment variables that a command and its subcommands listen to."""
    for option in group.params:
        yield f"{prefix}_{(option.name or '').upper()}"
        yield from [option.envvar] if isinstance(option.envvar, str) else []
    for name, command in getattr(group, "commands", {}).items():
        yield from variables(command, f"{prefix}_{name.upper().replace('-', '_')}")


def test_each_setting_of_the_deployment_is_one_that_a_service_reads() -> None:
    """A misspelt variable would be ignored in silence, and its default be in force."""
    known = {*variables(agent_cli, "AGENT_SERVICE"), *variables(trainer_cli, "TRAINER_SERVICE")}
    files = [*DEPLOY.glob("*.yaml"), *DEPLOY.glob("*.Dockerfile"), *DEPLOY.rglob("base/*.yaml")]
    used = {
        name
        for file in files
        for name in re.findall(r"\b(?:AGENT|TRAINER)_SERVICE_[A-Z_]+", file.read_text())
    }
    assert len(used) > 20
    assert used <= known


def test_the_example_lists_each_setting_with_its_default() -> None:
    """.env.example and the compose files name the same variables and the same defaults."""
    example = dict(
        line.split("=", 1)
        for line in (DEPLOY / ".env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    files = "".join((DEPLOY / name).read_text() for name in (BASE, POSTGRES, CPU))
    assert example == dict(re.findall(r"\$\{(\w+):-([^}]*)\}", files))


@pytest.mark.skipif(_HAS_COMPOSE.returncode != 0, reason="Docker Compose is not installed")
@pytest.mark.parametrize(
    ("files", "trainers"),
    [((BASE,), 2), ((BASE, CPU), 1), ((BASE, POSTGRES), 2), ((BASE, POSTGRES, CPU), 1)],
)
def test_compose_reads_the_files(files: tuple[str, ...], trainers: int, tmp_path: Path) -> None:
    """Each service is confined, bounded, and ends and starts as a service should."""
    services = configured(files, tmp_path)
    assert len([name for name in services if name.startswith("trainer")]) == trainers
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert {"memory", "pids"} <= set(service["deploy"]["resources"]["limits"]), name
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", [])), name
        devices = service["deploy"]["resources"].get("reservations", {}).get("devices", [])
        expected = [name[-1]] if name.startswith("trainer") and trainers == 2 else []
        assert [gpu for device in devices for gpu in device["device_ids"]] == expected


class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types here
    """Reads Compose's own tags: `!reset` leaves nothing."""


Loader.add_constructor("!reset", lambda _loader, _node: None)


@pytest.mark.parametrize(
    "files", [(BASE,), (BASE, CPU), (BASE, POSTGRES), (BASE, POSTGRES, CPU), (BASE, CPU, POSTGRES)]
)
def test_each_service_that_starts_is_scraped(files: tuple[str, ...]) -> None:
    """And no other, whichever files are put together, in whatever order."""
    mounted = {f"{job}s.yml": f"{job}s.yml" for job in ("agent", "trainer")}
    services: set[str] = set()
    left_out: set[str] = set()
    for name in files:
        text = (DEPLOY / name).read_text()
        mounted |= {
            at: file
            for file, at in re.findall(r"\./prometheus/(\S+):/etc/prometheus/(\S+):ro", text)
        }
        here = yaml.load(text, Loader)["services"]
        services |= {service for service in here if service.startswith(("agent", "trainer"))}
        left_out |= {service for service, its in here.items() if its.get("profiles")}
    texts = [(DEPLOY / "prometheus" / file).read_text() for file in mounted.values()]
    assert services - left_out == set(re.findall(r'"([\w-]+):\d+"', "".join(texts)))


def configured(files: tuple[str, ...], folder: Path) -> dict[str, dict[str, Any]]:
    """Return the services as Compose understands the files, without profiles."""
    command = [*COMPOSE, *(w for name in files for w in ("-f", str(DEPLOY / name)))]
    environment = {**os.environ, "SECRETS": str(folder)}
    done = subprocess.run(
        [*command, "config", "--format", "json"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    services: dict[str, dict[str, Any]] = json.loads(done.stdout)["services"]
    return services
