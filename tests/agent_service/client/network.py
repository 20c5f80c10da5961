"""A network between client and server that can be cut, or lose its connections.

A server whose network has left looks to the client as if it was killed.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self


class Network:
    """A TCP proxy on its own port; use it as a context manager."""

    def __init__(self, target: str) -> None:
        """Lead to `target`, HOST:PORT, where a server may listen, now or later."""
        host, port = target.split(":")
        self._target = (host, int(port))
        self._open = threading.Event()
        self._open.set()
        self._ends: list[socket.socket] = []
        self._gates = [self._open]
        self._threads: list[threading.Thread] = []

    def cut(self) -> None:
        """Let nothing through; neither end notices."""
        self._open.clear()

    def mend(self) -> None:
        """Let through what waited, as when lost packets are sent again."""
        self._open.set()

    def forget(self) -> None:
        """Lose all present connections, without either end noticing; new ones work."""
        self._open.clear()
        self._open = threading.Event()
        self._open.set()
        self._gates.append(self._open)

    def leave(self) -> None:
        """Close all connections and refuse others, as if the server's process had ended."""
        _close(self._listener)
        for end in self._ends:
            _close(end)
        self._ends.clear()

    def come_back(self) -> None:
        """Accept connections again, as a restarted server does."""
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

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # when it is closed
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._ends += [near, far]
                self._start(self._carry, near, far, self._open)
                self._start(self._carry, far, near, self._open)

    def _carry(self, source: socket.socket, to: socket.socket, gate: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                gate.wait()
                to.sendall(data)
        gate.wait()
        _close(source)
        _close(to)


def _close(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
