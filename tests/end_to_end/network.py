"""Machines of a small network, each a Linux network namespace, whose cables can be pulled.

Needs root, `ip`, `ss` and `nsenter`, and a network namespace of one's own, by `unshare --net`: in
there is the network's switch, a bridge, and with it the machine that the caller itself is.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

HERE = "10.201.0.1"
"""The caller's own address."""
NETWORK = "10.201.0.0/16"


class Machine:
    """One of the network's machines."""

    def __init__(self, number: int) -> None:
        self._namespace = f"soak-{os.getpid()}-{number}"
        self._port = f"port{number}"
        self.address = f"10.201.1.{number}"
        self.within = ["nsenter", f"--net=/run/netns/{self._namespace}", "--"]
        """A command that runs what follows it on this machine."""
        _call("ip", "netns", "add", self._namespace)
        cable = ["ip", "link", "add", self._port, "type", "veth", "peer", "name", "eth0"]
        _call(*cable, "netns", self._namespace)
        _call("ip", "link", "set", self._port, "master", "switch", "up")
        there = ["ip", "-n", self._namespace]
        _call(*there, "address", "add", f"{self.address}/16", "dev", "eth0")
        _call(*there, "link", "set", "eth0", "up")
        _call(*there, "link", "set", "lo", "up")

    def cut(self) -> None:
        """Pull its cable: nothing arrives any more, and nobody is told."""
        _call("ip", "link", "set", self._port, "nomaster")

    def mend(self) -> None:
        _call("ip", "link", "set", self._port, "master", "switch")

    def reset_connections(self) -> int:
        """End its connections, as a firewall does that is started anew; return how many."""
        ended = _call(*self.within, "ss", "--no-header", "--kill", "--tcp", "state", "established")
        return len(ended.splitlines())

    def remove(self) -> None:
        """Take it away; what still runs there stays without a network."""
        _call("ip", "netns", "delete", self._namespace)


@contextmanager
def network(machines: int) -> Iterator[list[Machine]]:
    """Give so many machines; they are gone afterwards."""
    _call("ip", "link", "set", "lo", "up")
    _call("ip", "link", "add", "switch", "type", "bridge")
    _call("ip", "address", "add", f"{HERE}/16", "dev", "switch")
    _call("ip", "link", "set", "switch", "up")
    with ExitStack() as stack:
        made = []
        for number in range(1, machines + 1):
            machine = Machine(number)
            stack.callback(machine.remove)
            made.append(machine)
        yield made


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
