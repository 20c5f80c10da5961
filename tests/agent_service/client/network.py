"""A network between client and server: it can be cut, and the server can be gone from it.

Bytes on their way wait, or are lost. To a client, a server that is gone is one that was killed.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class Network:
    """A TCP proxy on a port of its own; use it as a context manager."""

    def __init__(self, target: str) -> None:
        """Lead to `target`, HOST:PORT; somebody may listen there, or not yet."""
        host, port = target.split(":")
        self._target = (host, int(port))
        self._open = threading.Event()
        self._open.set()
        self._ends: list[socket.socket] = []
        self._gates = [self._open]
        self._threads: list[threading.Thread] = []

    def cut(self) -> None:
        """Let nothing through, and say so to nobody."""
        self._open.clear()

    def mend(self) -> None:
        """Let through what waited, as when lost packets are sent again."""
        self._open.set()

    def forget(self) -> None:
        """Lose all connections that there are without a word to either end; new ones work."""
        self._open.clear()
        self._open = threading.Event()
        self._open.set()
        self._gates.append(self._open)

    def leave(self) -> None:
        """End all connections, and refuse others: the server's process is gone."""
        _close(self._listener)
        for end in self._ends:
            _close(end)
        self._ends.clear()

    def come_back(self) -> None:
        """Take connections again: another process of the server."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._start(self._accept, self._listener)

    def __enter__(self) -> Self:
        self._port = 0
        self.come_back()
        self._port = self._listener.getsockname()[1]
        self.address = f"127.0.0.1:{self._port}"
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        for gate in self._gates:
            gate.set()
        for thread in self._threads:
            thread.join(20)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._ends += [near, far]
            self._start(self._carry, near, far, self._open)
            self._start(self._carry, far, near, self._open)

    def _carry(self, of: socket.socket, to: socket.socket, gate: threading.Event) -> None:
        with suppress(OSError):
            while data := of.recv(65536):
                gate.wait()
                to.sendall(data)
        gate.wait()
        _close(of)
        _close(to)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
