"""A cluster of Ray on this machine for tests: its own nodes and processes, GPUs in name only.

Run as a program it is the cluster, told by its standard input what to do, and ends with that:
what Ray leaves open in a process is so no test's.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

from tests.end_to_end.processes import children

_TRIES = 5
_OURS = "TEST_CLUSTER"
"""The environment variable of all of a cluster's processes, with the cluster's name."""
_NODE: dict[str, Any] = {"object_store_memory": 80 * 2**20, "include_log_monitor": False}
"""Of each node: as few processes, and as little memory, as Ray lets it have."""


class RayCluster:
    """A head, where nothing trains, and nodes that come and die; ends with its context."""

    def __init__(self, *, cpus: int, gpus: int) -> None:
        """Each node has so many CPUs and GPUs, whatever the machine has."""
        self._node = (cpus, gpus)
        self._name = secrets.token_hex(8)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.end_to_end.ray_cluster", *map(str, self._node)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # No figures of tests for Ray's makers.
            env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", _OURS: self._name},
        )
        self.address = self._answer()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def add_node(self) -> None:
        """Start a node, and wait until it is there."""
        self._tell("add")

    def kill_node(self) -> None:
        """Kill the node that came last, and all of its processes."""
        self._tell("kill")

    def run_processes(self) -> list[int]:
        """Return the processes of runs on all nodes: forked from those that have torch there."""
        mark = f"{_OURS}={self._name}".encode()
        servers = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                is_forked = b"multiprocessing.forkserver" in (folder / "cmdline").read_bytes()
                if is_forked and mark in (folder / "environ").read_bytes():
                    servers.append(int(folder.name))
        return [run for server in servers for run in children(server)]

    def _tell(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        assert self._answer() == what

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            mark, _, answer = line.strip().partition(" ")
            if mark == "cluster:":
                return answer
        raise AssertionError("the cluster ended")


def _patiently(start: Callable[[], Any]) -> Any:
    """Start a node; again where Ray gave it up, as it does after 30 s of a busy machine."""
    for _ in range(_TRIES - 1):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
    return start()


def main() -> None:
    """Be a cluster until standard input ends."""
    from ray.cluster_utils import Cluster

    cpus, gpus = map(int, sys.argv[1:])
    head = _NODE | {"num_cpus": 0, "include_dashboard": False, "no_monitor": True}
    cluster = _patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    nodes: list[Any] = []
    print(f"cluster: {cluster.address}", flush=True)
    for line in sys.stdin:
        if line == "add\n":
            node = _NODE | {"num_cpus": cpus, "num_gpus": gpus}
            nodes.append(_patiently(partial(cluster.add_node, **node)))
        else:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
        print(f"cluster: {line}", end="", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
