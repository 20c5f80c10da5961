"""What an agent service on this machine takes while it is under load: memory, and its store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a service takes at a moment."""

    memory: dict[str, int]
    """Resident bytes of the server, and of each process below it."""
    store: int | None
    """Bytes of its SQLite files; None for another store."""


class Service:
    """The processes of a service that listens on this machine."""

    def __init__(self, server: psutil.Process) -> None:
        """Watch a server and what it started."""
        self._server = server

    @classmethod
    def listening(cls, address: str) -> Service | None:
        """Return the service of HOST:PORT; None where it is on another machine, or another's."""
        host, _, port = address.rpartition(":")
        if host not in ("localhost", "127.0.0.1", "[::1]"):
            return None
        for process in psutil.process_iter():
            try:
                found = process.net_connections(kind="tcp")
            except psutil.Error:
                continue
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == int(port) for c in found):
                return cls(process)
        return None

    def taken(self) -> Taken:
        """Return what it takes now."""
        memory = {"server": self._server.memory_info().rss}
        for number, child in enumerate(self._server.children(recursive=True), 1):
            memory[f"process {number} below it"] = child.memory_info().rss
        files = {
            Path(f"{file.path.removesuffix('-wal').removesuffix('-shm')}{ending}")
            for file in self._server.open_files()
            if ".db" in Path(file.path).name
            for ending in ("", "-wal")
        }
        sizes = [file.stat().st_size for file in files if file.exists()]
        return Taken(memory=memory, store=sum(sizes) if sizes else None)
