"""What an agent service on this machine takes while it is under load: memory, time, its store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent_service.wire.addresses import address_to_call


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a service takes at a moment."""

    memory: dict[str, int]
    """Resident bytes of each of its processes."""
    cpu: dict[str, float]
    """Seconds of a processor that each of them has used since it began."""
    store: int | None
    """Bytes of its SQLite files; None for another store."""


class Service:
    """The processes of a service that listens on this machine: its servers, and what they start."""

    def __init__(self, servers: list[psutil.Process]) -> None:
        """Watch servers, more than one where they are replicas, and what they started."""
        self._servers = servers

    @classmethod
    def listening(cls, address: str) -> Service | None:
        """Return the service of an address, `HOST:PORT` or `ipv4:HOST:PORT,HOST:PORT`.

        None where one of its servers is on another machine, or is nobody's that may be looked at.
        """
        place = address_to_call(address)
        if not place.is_loopback:
            return None
        servers = [server for _, port in place.places if (server := _server(port)) is not None]
        return cls(servers) if servers and len(servers) == len(place.places) else None

    def taken(self) -> Taken:
        """Return what it takes now; a process that has just ended takes nothing."""
        memory, cpu = {}, {}
        for name, process in self._processes():
            try:
                memory[name] = process.memory_info().rss
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            cpu[name] = times.user + times.system
        return Taken(memory=memory, cpu=cpu, store=self._store())

    def _processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """Yield each process by what it does; of replicas the second's names end in 2."""
        for number, server in enumerate(self._servers, 1):
            suffix = f" {number}" if number > 1 else ""
            yield f"server{suffix}", server
            for child in server.children(recursive=True):
                yield f"{_role(child)}{suffix}", child

    def _store(self) -> int | None:
        files = {
            Path(f"{file.path.removesuffix('-wal').removesuffix('-shm')}{ending}")
            for server in self._servers
            for file in server.open_files()
            if ".db" in Path(file.path).name
            for ending in ("", "-wal")
        }
        sizes = [file.stat().st_size for file in files if file.exists()]
        return sum(sizes) if sizes else None


def _server(port: int) -> psutil.Process | None:
    """Return who listens on a port of this machine."""
    for process in psutil.process_iter():
        try:
            found = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in found):
            return process
    return None


def _role(child: psutil.Process) -> str:
    """Return what a server started a process for, by how Python starts such ones."""
    try:
        line = " ".join(child.cmdline())
    except psutil.Error:
        return "ended"
    if "spawn_main" in line:
        return "learner"
    return "resource tracker" if "resource_tracker" in line else child.name()
