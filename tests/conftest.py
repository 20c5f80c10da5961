import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from prometheus_client import CollectorRegistry

from agent_service.app import make_server, make_steering
from agent_service.client import AgentClient, delivery
from agent_service.domain.store import Durability
from agent_service.metrics.decisions import Metrics
from agent_service.metrics.stored import StoreCollector
from agent_service.rules.capacity import DEFAULT as DEFAULT_CAPACITY
from agent_service.rules.capacity import Capacity
from agent_service.serving.config import ServingConfig
from agent_service.serving.server import Server
from agent_service.store.journal.journal import LoopJournal
from agent_service.store.store import SqlStore
from tests.postgresql import PostgresServer, running_server

ON_POSTGRESQL = os.environ.get("TEST_STORE") == "postgresql"
of_sqlite = pytest.mark.skipif(ON_POSTGRESQL, reason="looks into the SQLite file of the store")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow ones: one that is left for the end keeps the other process waiting."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class ServedAgent:
    """A real agent server on a real store, in this process, without a learner."""

    def __init__(
        self,
        store: Path | str,
        config: ServingConfig | None = None,
        capacity: Capacity = DEFAULT_CAPACITY,
        durability: Durability = Durability.POWER,
    ) -> None:
        self._config = config
        self._durability = durability
        self._capacity = capacity
        self.url = store if isinstance(store, str) else f"sqlite:///{store}"
        self.registry = CollectorRegistry()
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        self.metrics = Metrics(self.registry)
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        with SqlStore(
            self.url,
            durability=self._durability,
            observe_commit=self.metrics.committed,
            journal=LoopJournal,
        ) as store:
            self.registry.register(StoreCollector(store, self.metrics))
            steering = make_steering(store, metrics=self.metrics, capacity=self._capacity)
            server: Server = make_server(
                store,
                steering,
                registry=self.registry,
                config=self._config,
                capacity=self._capacity,
            )
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

    def __exit__(self, *_: object) -> None:
        self.store.close()
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no agent for absent that a busy machine keeps waiting."""
    for seconds in ("PATIENCE", "TRY", "CATCH_UP", "END"):
        monkeypatch.setattr(delivery, f"{seconds}_SECONDS", 20.0)


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server of each test process's own; tests take databases of their own from it."""
    # Not below pytest's folder, which only its user may enter, and the server is another one.
    with TemporaryDirectory(prefix="postgresql-") as folder:
        os.chmod(folder, 0o755)
        with running_server(Path(folder) / "server") as server:
            yield server


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServedAgent]:
    """On SQLite; with TEST_STORE=postgresql (`make test-postgresql`) on a server."""
    store: Path | str = tmp_path / "agent.db"
    if ON_POSTGRESQL:
        store = request.getfixturevalue("postgresql").new_database()
    with ServedAgent(store) as served:
        yield served


@pytest.fixture
def client(served: ServedAgent) -> Iterator[AgentClient]:
    with AgentClient(served.address, budget_seconds=5) as client:
        yield client
