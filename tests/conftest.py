import logging
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from agent_service.client import AgentClient, delivery
from agent_service.v1.agent_pb2_grpc import AgentServiceStub
from tests.agent_service.calls import Call, call_of, raw_stub
from tests.given import ON_POSTGRESQL, ServedAgent
from tests.postgresql import PostgresServer, running_server


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow ones: one that is left for the end keeps the other process waiting."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take no agent for absent that a busy machine keeps waiting."""
    for seconds in ("PATIENCE", "TRY", "CATCH_UP", "END"):
        monkeypatch.setattr(delivery, f"{seconds}_SECONDS", 20.0)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo `start_logging` after a test: others count the lines that they see."""
    root = logging.getLogger()
    level = root.level
    yield
    logging.captureWarnings(False)
    root.setLevel(level)
    for handler in root.handlers[:]:
        if type(handler.formatter).__module__ == "agent_service.serving.logs":
            root.removeHandler(handler)
    for name in ("agent_service", "trainer_service"):
        logging.getLogger(name).setLevel(logging.NOTSET)


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


@pytest.fixture
def stub(served: ServedAgent) -> Iterator[AgentServiceStub]:
    """The service's calls as gRPC makes them."""
    with raw_stub(served.address) as stub:
        yield stub


@pytest.fixture
def call(stub: AgentServiceStub) -> Call:
    """Make the call that a request is for, once; raises the domain's errors."""
    return partial(call_of, stub)
