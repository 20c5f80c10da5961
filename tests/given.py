"""What many tests are given: a served agent, a new store, a console command run here."""

import asyncio
import functools
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

import pytest
from prometheus_client import CollectorRegistry

from agent_service.app import add_agent, make_server
from agent_service.domain.store import Durability
from agent_service.metrics.decisions import DecisionMetrics
from agent_service.metrics.stored import StoreCollector
from agent_service.rules.capacity import DEFAULT as DEFAULT_CAPACITY
from agent_service.rules.capacity import Capacity
from agent_service.rules.runs import RunService
from agent_service.serving.config import ServingConfig
from agent_service.store.journal.journal import LoopJournal
from agent_service.store.store import SqlStore

ON_POSTGRESQL = os.environ.get("TEST_STORE") == "postgresql"
of_sqlite = pytest.mark.skipif(ON_POSTGRESQL, reason="looks into the SQLite file of the store")


@functools.cache
def _new_store() -> bytes:
    """Return the file of a store in which nothing is; made once, as its migrations take a while."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "agent.db"
        SqlStore(f"sqlite:///{path}").close()
        return path.read_bytes()


def new_store(path: Path) -> str:
    """Write a new store to a file; return its URL."""
    path.write_bytes(_new_store())
    return f"sqlite:///{path}"


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Set the handlers of signals as they were, afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_command(package: str, *words: str) -> CompletedProcess[str]:
    """Run a package's console command in this process; return its exit code, output and errors.

    For commands that serve nothing, and that nobody interrupts: those take a process of their own.
    """
    main = importlib.import_module(f"{package}.cli.main").main
    output, errors, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        redirect_stdout(output),
        redirect_stderr(errors),
        handlers_kept(),
    ):
        patch.setattr(sys, "argv", [package, *words])
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return CompletedProcess([package, *words], code, output.getvalue(), errors.getvalue())


class ServedAgent:
    """A real agent server on a real store, in this process, without a learner."""

    def __init__(
        self,
        store: Path | str,
        config: ServingConfig | None = None,
        capacity: Capacity = DEFAULT_CAPACITY,
        durability: Durability = Durability.POWER,
    ) -> None:
        self._config = config or ServingConfig()
        self._durability = durability
        self._capacity = capacity
        if isinstance(store, Path) and not store.exists():
            new_store(store)
        self.url = store if isinstance(store, str) else f"sqlite:///{store}"
        self.registry = CollectorRegistry()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        self.metrics = DecisionMetrics(self.registry)
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with SqlStore(
            self.url,
            durability=self._durability,
            observe_commit=self.metrics.committed,
            journal=LoopJournal,
        ) as store:
            self.registry.register(StoreCollector(store, self.metrics))
            run_service = RunService(store, metrics=self.metrics, capacity=self._capacity)
            server = make_server(self.registry, self._config, self._capacity)
            add_agent(server, store, run_service, self._capacity)
            self.address = f"127.0.0.1:{await server.start('127.0.0.1:0')}"
            self._started.set()
            await self._stop.wait()
            await server.drain()

    def __enter__(self) -> "ServedAgent":
        self._thread.start()
        assert self._started.wait(20)
        # What tests read, learn and change beside the server, as another process would.
        self.store = SqlStore(self.url)
        return self

    def drain(self) -> None:
        """Stop it, as SIGTERM stops a service."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        self.store.close()
        if self._thread.is_alive():
            self.drain()
