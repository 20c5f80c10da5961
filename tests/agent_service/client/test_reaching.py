"""Reaching a service: mistaken addresses, proxies, IPv6 and Unix sockets."""

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
def serving(*handlers: grpc.GenericRpcHandler, health_of: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the address of a gRPC server with the health of some services, and handlers."""
    server = grpc.server(ThreadPoolExecutor(4), handlers=[*handlers])
    if not handlers:
        states = health.HealthServicer()
        for service in health_of:
            states.set(service, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(states, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_the_trainers_address_is_refused_as_the_agents() -> None:
    """By calls, streams, health checks and a trainer's start: with what is there, and the fix."""
    message = r"is the trainer service, not the agent service; .* `address` in a script, `--agent`"
    with (
        serving(health_of=("", TRAINER)) as address,
        AgentClient(address, budget_seconds=5) as client,
    ):
        for call in (
            lambda: client.create_controller(spec()),
            lambda: list(client.transitions()),
            lambda: check_health(address, "agent service"),
            lambda: _check_agent(TrainerConfig(agent=address)),
        ):
            with pytest.raises(AgentError, match=message):
                call()


def test_the_agents_address_is_refused_as_the_trainers(served: ServedAgent) -> None:
    message = r"is the agent service, not the trainer service; .* in a script, `--trainer`"
    with TrainerClient(served.address, budget_seconds=5) as client:
        for call in (
            lambda: list(client.list()),
            lambda: list(client.watch("r")),
            lambda: check_health(served.address, "trainer service"),
        ):
            with pytest.raises(AgentError, match=message):
                call()


def test_an_absent_agent_does_not_keep_a_trainer_from_starting() -> None:
    """It may start later."""
    _check_agent(TrainerConfig(agent="127.0.0.1:9"))


@pytest.mark.parametrize(
    ("known", "message"), [((), "a gRPC server, but no agent service"), ((AGENT,), "it is older")]
)
def test_another_server_is_told_from_an_older_agent(known: tuple[str, ...], message: str) -> None:
    """Neither knows the call."""
    with (
        serving(health_of=known) as address,
        AgentClient(address, budget_seconds=5) as client,
        pytest.raises(AgentError, match=message),
    ):
        client.get_controller("c")


class Odd(grpc.GenericRpcHandler):
    """A service whose health check hangs, and which knows no call but GetRun, if that."""

    def __init__(self, *, knows_runs: bool) -> None:
        self._knows_runs = knows_runs
        self.probes = 0
        self.leaves = threading.Event()

    def service(self, call: grpc.HandlerCallDetails) -> Any:
        if call.method.endswith("GetRun") and self._knows_runs:
            return grpc.unary_unary_rpc_method_handler(lambda *_: b"")
        return grpc.unary_unary_rpc_method_handler(self._hang) if "Health" in call.method else None

    def _hang(self, *_: object) -> bytes:
        self.probes += 1
        self.leaves.wait(30)
        return b""


@pytest.mark.parametrize("knows_runs", [False, True])
def test_a_service_is_identified_once(monkeypatch: pytest.MonkeyPatch, knows_runs: bool) -> None:
    """At the first call that it does not know, and never once it has answered one."""
    monkeypatch.setattr(services, "PROBE_SECONDS", 0.3)
    odd = Odd(knows_runs=knows_runs)
    message = "it is older than this client" if knows_runs else "no agent service"
    with serving(odd) as address, AgentClient(address, budget_seconds=5) as client:
        if knows_runs:
            client.get_run("r")
        probes = []
        for _ in range(3):
            with pytest.raises(AgentError, match=message):
                client.get_controller("c")
            probes.append(odd.probes)
        odd.leaves.set()
    assert probes[0] == probes[-1]
    assert (probes[0] == 0) is knows_runs


class Page(BaseHTTPRequestHandler):
    """A metrics page, for example."""

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def test_a_metrics_page_is_told_from_an_absent_service() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with pytest.raises(
            Unavailable, match=r"serve`\. The .* does not speak gRPC: is it the metrics page"
        ):
            check_health(f"127.0.0.1:{server.server_port}", "agent service")
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
def test_loopback_is_reached_without_the_environments_proxy(
    served: ServedAgent, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Nobody listens at the proxy's port, so a call by it would fail."""
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    port = served.address.rpartition(":")[2]
    for address in (served.address, f"dns:///127.0.0.1:{port}", f"ipv4:127.0.0.1:{port}"):
        with AgentClient(address, budget_seconds=2) as client:
            assert list(client.list_controllers()) == []
    check_health(served.address, "agent service")


def test_a_proxy_is_named_if_it_may_be_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for hosts in no_proxy."""
    monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "other.invalid")
    with pytest.raises(Unavailable, match=r"use the proxy of https_proxy; .* to no_proxy") as error:
        check_health("agent.invalid:1", "agent service")
    assert "secret" not in str(error.value)
    with pytest.raises(Unavailable, match=r"^the host 'other.invalid' is not found; is its"):
        check_health("other.invalid:1", "agent service")


def listens_on_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


ipv6 = pytest.mark.skipif(not listens_on_ipv6(), reason="needs IPv6")


@pytest.mark.parametrize(
    ("listen", "options"),
    [
        ("unix:{folder}/agent.sock", ()),
        pytest.param("[::1]:0", (), marks=ipv6),
        pytest.param("[::]:0", ("--insecure",), marks=ipv6),
    ],
)
def test_a_service_is_reached_at_the_address_that_it_announces(
    tmp_path: Path, listen: str, options: tuple[str, ...]
) -> None:
    """Over a Unix socket and IPv6."""
    agent = AgentProcess(tmp_path / "agent.db", *options)
    agent.address = listen.format(folder=tmp_path)
    with agent, AgentClient(agent.address, budget_seconds=5) as client:
        check_health(agent.address, "agent service")
        assert client.create_controller(spec()).spec.name == "c"
