"""Reaching a service: by a proxy, by another's address, over IPv6 and Unix sockets."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from agent_service.client import AgentClient
from agent_service.client.connection import services
from agent_service.domain.errors import AgentError, Unavailable
from agent_service.serving.health import check_health
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess
from tests.given import ServedAgent
from trainer_service.app import _check_agent
from trainer_service.client import TrainerClient
from trainer_service.config import TrainerConfig

AGENT, TRAINER = "agent_service.v1.AgentService", "trainer_service.v1.TrainerService"


@contextmanager
def server_of(*services: str) -> Iterator[str]:
    """Give the address of a gRPC server that has the health of some services, and nothing else."""
    server = grpc.server(ThreadPoolExecutor(2))
    states = health.HealthServicer()
    for service in services:
        states.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_the_trainers_address_is_not_the_agents() -> None:
    """Calls, streams, health and a trainer's start say which answered, and where to name ours."""
    said = r"is the trainer service, not the agent service; .* `address` in a script, `--agent`"
    with server_of("", TRAINER) as address, AgentClient(address, budget_seconds=5) as client:
        with pytest.raises(AgentError, match=said):
            client.create_controller(spec())
        with pytest.raises(AgentError, match=said):
            list(client.transitions())
        with pytest.raises(AgentError, match=said):
            check_health(address, "agent service")
        with pytest.raises(AgentError, match=said):
            _check_agent(TrainerConfig(agent=address))


def test_the_agents_address_is_not_the_trainers(served: ServedAgent) -> None:
    """Likewise the other way around."""
    said = r"is the agent service, not the trainer service; .* `address` in a script, `--trainer`"
    with TrainerClient(served.address, budget_seconds=5) as client:
        with pytest.raises(AgentError, match=said):
            list(client.list())
        with pytest.raises(AgentError, match=said):
            list(client.watch("r"))
        with pytest.raises(AgentError, match=said):
            check_health(served.address, "trainer service")


def test_an_agent_that_is_away_does_not_keep_a_trainer_from_starting() -> None:
    """It may start later."""
    _check_agent(TrainerConfig(agent="127.0.0.1:9"))


def test_another_grpc_server_and_an_older_agent_are_told_apart() -> None:
    """Neither is a trainer: one is none of ours, the other lacks the call."""
    for known, said in (((), "a gRPC server, but no agent service"), ((AGENT,), "it is older")):
        with (
            server_of(*known) as address,
            AgentClient(address, budget_seconds=5) as client,
            pytest.raises(AgentError, match=said),
        ):
            client.get_controller("c")


class Odd(grpc.GenericRpcHandler):
    """A service whose health hangs, and which knows no call but `known`, which answers nothing."""

    def __init__(self, known: str = "-") -> None:
        self.known = known
        self.probes = 0
        self.leaves = threading.Event()

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        if call.method.endswith(self.known):
            return grpc.unary_unary_rpc_method_handler(lambda *_: b"")
        return grpc.unary_unary_rpc_method_handler(self._hang) if "Health" in call.method else None

    def _hang(self, *_: object) -> bytes:
        self.probes += 1
        self.leaves.wait(30)
        return b""


@contextmanager
def served_by(odd: Odd) -> Iterator[AgentClient]:
    server = grpc.server(ThreadPoolExecutor(4), handlers=[odd])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with AgentClient(f"127.0.0.1:{port}", budget_seconds=5) as client:
            yield client
    finally:
        odd.leaves.set()
        server.stop(None).wait()


def test_which_service_answers_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that never says it, at the first call that it does not know."""
    monkeypatch.setattr(services, "PROBE_SECONDS", 0.3)
    odd = Odd()
    with served_by(odd) as client:
        probes = []
        for _ in range(3):
            with pytest.raises(AgentError, match="a gRPC server, but no agent service"):
                client.get_run("r")
            probes.append(odd.probes)
    assert probes[0] == probes[-1] > 0


def test_an_agent_that_has_answered_is_not_asked_which_it_is() -> None:
    """It does not know the call, that is all."""
    odd = Odd(known="GetRun")
    with served_by(odd) as client:
        client.get_run("r")
        with pytest.raises(AgentError, match="it is older than this client"):
            client.get_controller("c")
    assert odd.probes == 0


class Page(BaseHTTPRequestHandler):
    """A page of metrics, say."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_page_of_metrics_is_no_service() -> None:
    """What speaks no gRPC is told as that, not only as away."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        with pytest.raises(
            Unavailable, match=r"serve`\. The .* does not speak gRPC: is it the metrics page"
        ):
            check_health(address, "agent service")
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_loopback_is_reached_without_the_environments_proxy(
    served: ServedAgent, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The proxy's port is nobody's: a call that went there would fail."""
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    port = served.address.rpartition(":")[2]
    for address in (served.address, f"dns:///127.0.0.1:{port}", f"ipv4:127.0.0.1:{port}"):
        with AgentClient(address, budget_seconds=2) as client:
            assert list(client.list_controllers()) == []
        check_health(address, "agent service")


def test_a_proxy_is_named_where_it_may_be_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where calls go by it: no_proxy takes hosts out."""
    monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "other.invalid")
    with pytest.raises(Unavailable, match=r"use the proxy of https_proxy; .* to no_proxy") as told:
        check_health("agent.invalid:1", "agent service")
    assert "secret" not in str(told.value)
    with pytest.raises(Unavailable, match=r"^the host 'other.invalid' is not found; is its"):
        check_health("other.invalid:1", "agent service")


def listens_on_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("listen", "options"),
    [
        ("unix:{folder}/agent.sock", ()),
        pytest.param(
            "[::1]:0", (), marks=pytest.mark.skipif(not listens_on_ipv6(), reason="needs IPv6")
        ),
        pytest.param(
            "[::]:0",
            ("--insecure",),
            marks=pytest.mark.skipif(not listens_on_ipv6(), reason="needs IPv6"),
        ),
    ],
)
def test_a_service_is_called_where_it_says_that_it_listens(
    tmp_path: Path, listen: str, options: tuple[str, ...]
) -> None:
    """Over a Unix socket and IPv6, in the very words that it announces."""
    agent = AgentProcess(tmp_path / "agent.db", *options)
    agent.address = listen.format(folder=tmp_path)
    with agent, AgentClient(agent.address, budget_seconds=5) as client:
        check_health(agent.address, "agent service")
        assert client.create_controller(spec()).spec.name == "c"
