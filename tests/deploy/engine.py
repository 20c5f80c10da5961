"""A container engine made by hand on a Debian machine: no service manager, no registry, no GPU.

It has two lives on one folder. *Connected* it builds, with the machine's own network. *Isolated*
it runs what was built, in a network namespace that has only loopback, so that its bridges, their
addresses and every published port stay inside. Knows nothing of what it runs.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.debian import APT, unpack
from tests.end_to_end.processes import wait_for

FOLDER = Path(__file__).parents[2] / ".engine"
"""Where the checks keep their engine, images included."""
NAMESPACE = "reinforced-regularization"
_RUNTIME = Path("/run") / NAMESPACE
"""Sockets lie here: their paths must be short."""
PACKAGES = ("docker.io", "iptables", "iproute2", "mmdebstrap", "util-linux")


class Engine:
    """An engine of our own; `environment` makes `docker` and its plugins talk to it."""

    def __init__(self, folder: Path) -> None:
        """Install what is missing: Debian's engine, and Compose and buildx of a later Debian.

        Args:
            folder: of all that it keeps, images included; made where it is not there.
        """
        self.folder = folder
        self._tools = folder / "tools"
        self._socket = f"unix://{_RUNTIME}/engine.sock"
        self._log = folder / "engine.log"
        for place in (folder, _RUNTIME):
            place.mkdir(parents=True, exist_ok=True)
        if not all(map(shutil.which, ("dockerd", "ip", "mmdebstrap", "nsenter"))):
            subprocess.run([*APT, "update"], check=True)
            subprocess.run(
                [*APT, "install", "-y", "--no-install-recommends", *PACKAGES], check=True
            )
        self._install_plugins()
        self._install_gpu_hook()

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which `docker` commands reach this engine."""
        return {
            **os.environ,
            "PATH": f"{self._tools}/bin:{os.environ['PATH']}",
            "DOCKER_HOST": self._socket,
            "DOCKER_CONFIG": str(self._tools),
            # Bake would ask before it lets a build use the machine's network.
            "COMPOSE_BAKE": "false",
        }

    def docker(self, *arguments: str) -> str:
        """Run a `docker` command and return what it prints; raises where it fails."""
        done = subprocess.run(
            ["docker", *arguments], env=self.environment, stdout=subprocess.PIPE, check=True
        )
        return done.stdout.decode().strip()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Let the engine run on the machine's own network, to build."""
        with self._running([], "--bridge=none", "--iptables=false"):
            yield

    @contextmanager
    def isolated(self) -> Iterator[list[str]]:
        """Let the engine run where only loopback is; gives what takes a command in there."""
        inside = ["nsenter", f"--net=/run/netns/{NAMESPACE}"]
        subprocess.run(["ip", "netns", "delete", NAMESPACE], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
        try:
            subprocess.run(["ip", "-n", NAMESPACE, "link", "set", "lo", "up"], check=True)
            with self._running(inside):
                yield inside
        finally:
            subprocess.run(["ip", "netns", "delete", NAMESPACE], check=True)

    @contextmanager
    def _running(self, inside: list[str], *options: str) -> Iterator[None]:
        command = [*inside, "dockerd", "--data-root", f"{self.folder}/data", "-H", self._socket]
        command += ["--exec-root", f"{_RUNTIME}/exec", "--pidfile", f"{_RUNTIME}/engine.pid"]
        with self._log.open("a") as log:
            engine = subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, env=self.environment
            )
        try:
            wait_for(lambda: self._answers(engine))
            yield
        finally:
            engine.send_signal(signal.SIGTERM)
            engine.wait(120)

    def _answers(self, engine: subprocess.Popen[bytes]) -> bool:
        assert engine.poll() is None, f"the engine ended; see {self._log}"
        ask = ["docker", "info"]
        return subprocess.run(ask, env=self.environment, capture_output=True).returncode == 0

    def _install_plugins(self) -> None:
        plugins = self._tools / "cli-plugins"
        if plugins.exists():
            return
        unpack("trixie", "docker-compose", "docker-buildx", into=self._tools)
        plugins.mkdir()
        for plugin in (self._tools / "usr/libexec/docker/cli-plugins").iterdir():
            (plugins / plugin.name).symlink_to(plugin)

    def _install_gpu_hook(self) -> None:
        """Stand in for NVIDIA's hook, which the engine calls for a container with a GPU.

        Which GPUs it was told to give is in the environment of the container's first process.
        """
        hook = self._tools / "bin/nvidia-container-runtime-hook"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text("#!/bin/sh\nexit 0\n")
        hook.chmod(0o755)
