"""The compose files, started as a user starts them, and what a machine without a registry needs."""

import json
import os
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent_service.client import Tls
from tests.deploy.engine import FOLDER

ROOT = Path(__file__).parents[2]
OVERRIDE = FOLDER / "override.yaml"
BASE = "compose.yaml"
CPU = "compose.cpu.yaml"
POSTGRES = "compose.postgres.yaml"
COMPOSE = ("docker", "compose", "--env-file", str(ROOT / "deploy/.env.example"))
"""With the example's settings, whatever a developer has in his own."""
SECRETS = FOLDER / "secrets"
AUTHORITY = Tls(ca=SECRETS / "ca.pem")
ADMIN = SECRETS / "admin.token"

_OVERRIDE = """
# Builds use the machine's own network, and its wheel of PyTorch.
x-build: &build {{network: host, args: {{TORCH_WHEELS: "{wheels}"}}}}
services:
  agent: {{build: *build}}
  trainer-0: {{build: *build, environment: {{TRAINER_SERVICE_SERVE_DEVICE: cpu}}}}
  trainer-1: {{build: *build, environment: {{TRAINER_SERVICE_SERVE_DEVICE: cpu}}}}
  # Its image cannot be had without a registry.
  grafana: {{profiles: [registry]}}
"""


def prepare(wheels: str) -> None:
    """Write what the compose files need on this machine, certificates and tokens among it.

    Args:
        wheels: URL of a page that has the wheel of PyTorch for CPUs.
    """
    OVERRIDE.write_text(_OVERRIDE.format(wheels=wheels))
    subprocess.run([ROOT / "deploy/certificates.sh", SECRETS], check=True)


class Deployment:
    """The services of some of the compose files."""

    def __init__(self, *files: str, **settings: str) -> None:
        """Take compose files by their names in deploy/; nothing starts yet.

        Args:
            files: their names.
            settings: of .env.example, where they are not the example's.
        """
        self._settings = settings
        paths = [*(ROOT / "deploy" / file for file in files), OVERRIDE]
        self._compose = [*COMPOSE, *(w for path in paths for w in ("-f", str(path)))]

    def compose(self, *arguments: str) -> str:
        """Run a compose command and return what it prints; raises where it fails."""
        return _run([*self._compose, *arguments], self._settings)

    def up(self) -> float:
        """Start all and wait until all is healthy; return the seconds that took."""
        started = time.monotonic()
        self.compose("up", "--wait", "--wait-timeout", "180", "--no-build", "--pull", "never")
        return time.monotonic() - started

    def down(self) -> None:
        self.compose("down", "--volumes")

    def call(self, service: str, *command: str) -> str:
        """Run a command in a service's container and return what it prints."""
        return self.compose("exec", "-T", service, *command)

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service)

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(docker("inspect", self.container(service)))[0]
        return found

    def health(self, service: str) -> str:
        return str(self.inspect(service)["State"]["Health"]["Status"])


def docker(*arguments: str) -> str:
    """Run a docker command and return what it prints; raises where it fails."""
    return _run(["docker", *arguments], {})


def _run(command: list[str], settings: Mapping[str, str]) -> str:
    environment = {**os.environ, "SECRETS": str(SECRETS), **settings}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout.strip()


def prometheus(path: str, **parameters: str) -> Any:
    """Return the data that Prometheus answers on its published port."""
    url = f"http://127.0.0.1:9090/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]
