"""Shared set-up of tests: a served agent, a served trainer, a new store, a command run here."""

import asyncio
import functools
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory
from typing import Any, Self

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
from agent_service.serving.server import Server
from agent_service.store.journal.journal import LoopJournal
from agent_service.store.store import SqlStore
from tests.agent_service.client import ranks
from tests.end_to_end.processes import children
from trainer_service.config import TrainerConfig
from trainer_service.workers.local import PRELOAD

ON_POSTGRESQL = os.environ.get("TEST_STORE") == "postgresql"
FORK_SERVER: Any = forkserver._forkserver
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

    def __enter__(self) -> Self:
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


class ServedTrainer:
    """A real trainer service in this process. Its runs are forked from a process that has torch.

    That process serves all tests, so each service starts at once.
    """

    def __init__(self, folder: Path, *, agent: str = "127.0.0.1:9", **settings: Any) -> None:
        """Keep runs and data in a folder; runs have one thread each, so sums are alike."""
        self.store = folder / "trainer.db"
        settings |= {"runs": self.store, "data": folder, "agent": agent, "threads": 1}
        self._config = TrainerConfig(listen="127.0.0.1:0", metrics_port=0, **settings)

    def start(self) -> None:
        """Serve, at the address of the last time if there was one."""
        from trainer_service import app  # takes seconds

        _start_fork_server()
        started = threading.Event()

        def announce(port: int, page: int) -> None:
            self.address = f"127.0.0.1:{port}"
            self.metrics = f"http://127.0.0.1:{page}/metrics"
            self._config = replace(self._config, listen=self.address)
            started.set()

        self._thread = threading.Thread(target=app.serve, args=(self._config, announce))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app, "serve_until_signal", self._serve_until_stopped)
            patch.setattr(app, "temporary_folder", nullcontext)  # it is this process's own
            self._thread.start()
            assert started.wait(60)

    async def _serve_until_stopped(self, server: Server, address: str, announce: Any) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        announce(await server.start(address))
        await self._stopping.wait()
        await server.drain()

    def stop(self) -> None:
        """Stop it, as SIGTERM stops a service."""
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    def run_processes(self) -> list[int]:
        """Return the processes of runs, of this service and of others in this process."""
        return children(FORK_SERVER._forkserver_pid)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()


@functools.cache
def _start_fork_server() -> None:
    """Start it with what runs import, in place of one that another test needed for less."""
    FORK_SERVER._stop()
    FORK_SERVER.set_forkserver_preload([*PRELOAD, *ranks.IMPORTED])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("OMP_WAIT_POLICY", "passive")
        FORK_SERVER.ensure_running()
