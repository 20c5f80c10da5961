"""TLS, with real certificates: who is accepted, and what clients are told that are not."""

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from agent_service.client import AgentClient, Tls
from agent_service.domain.errors import InvalidArgument, Unavailable
from agent_service.serving.config import ServingConfig
from agent_service.serving.health import check_health
from tests.agent_service.calls import report, train
from tests.agent_service.specs import spec
from tests.certificates import Authority
from tests.end_to_end.processes import AgentProcess, wait_for
from tests.given import ServedAgent

Pair = tuple[Path, Path]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


def served(tmp_path: Path, pair: Pair, clients: Path | None = None) -> ServedAgent:
    certificate, key = pair
    config = ServingConfig(tls_certificate=certificate, tls_key=key, tls_clients=clients)
    return ServedAgent(tmp_path / "agent.db", config)


def connected(agent: ServedAgent | AgentProcess, tls: Tls | None) -> AgentClient:
    return AgentClient(agent.address, budget_seconds=0, tls=tls)


def test_calls_go_over_tls(tmp_path: Path, authority: Authority) -> None:
    """A run from its start to its end, and the health probe."""
    with served(tmp_path, authority.issue("agent")) as agent:
        tls = Tls(ca=authority.ca)
        with connected(agent, tls) as client:
            client.wait_ready(10)
            client.create_controller(spec())
            train(client)
            assert len(list(client.transitions())) == 1
        check_health(agent.address, "agent service", tls=tls)


BAD_SERVERS: dict[str, tuple[Callable[[Authority], Pair], str]] = {
    "expired": (lambda a: a.issue("agent", days=-1), r"not trusted.*\(certificate has expired\)"),
    "of another host": (lambda a: a.issue("agent", ("example.org",)), "for another host"),
    "self-signed": (lambda a: a.self_signed("agent"), r"not trusted.*\(self signed certificate\)"),
    "of another authority": (
        lambda a: Authority(a.ca.parent, "other").issue("agent"),
        r"not trusted.*\(unable to get local issuer certificate\)",
    ),
}


@pytest.mark.parametrize("what", BAD_SERVERS)
def test_a_server_that_is_not_trusted_is_left_at_once(
    tmp_path: Path, authority: Authority, what: str
) -> None:
    """The error says what is wrong with the certificate, and no budget is spent on asking again."""
    make, message = BAD_SERVERS[what]
    with served(tmp_path, make(authority)) as agent:
        tls = Tls(ca=authority.ca)
        with AgentClient(agent.address, budget_seconds=60, tls=tls) as client:
            started = time.monotonic()
            with pytest.raises(Unavailable, match=message):
                client.get_run("r")
            assert time.monotonic() - started < 30
            with pytest.raises(Unavailable, match=message):
                client.wait_ready(0.1)


def test_clients_without_a_good_certificate_are_refused(
    tmp_path: Path, authority: Authority
) -> None:
    """None, expired, self-signed, another's, and no TLS at all: the client says what is missing."""
    bad = [
        authority.issue("old", days=-1),
        authority.self_signed("self"),
        Authority(authority.ca.parent, "other").issue("stranger"),
    ]
    refused = [Tls(ca=authority.ca), *(Tls(ca=authority.ca, certificate=c, key=k) for c, k in bad)]
    with served(tmp_path, authority.issue("agent"), clients=authority.ca) as agent:
        for tls in refused:
            with (
                connected(agent, tls) as client,
                pytest.raises(Unavailable, match="requires a client certificate that it trusts"),
            ):
                client.get_run("r")
        with (
            connected(agent, None) as plain,
            pytest.raises(Unavailable, match="Or it requires TLS: give `ca`"),
        ):
            plain.get_run("r")
        good = authority.issue("client")
        with connected(agent, Tls(ca=authority.ca, certificate=good[0], key=good[1])) as client:
            assert list(client.list_controllers()) == []


def test_a_server_without_tls_is_told_from_one_that_is_away(
    served: ServedAgent, authority: Authority
) -> None:
    """The error says that it speaks no TLS."""
    with (
        connected(served, Tls(ca=authority.ca)) as client,
        pytest.raises(Unavailable, match="it does not speak TLS"),
    ):
        client.get_run("r")


def test_a_renewed_server_certificate_holds_from_then_on(
    tmp_path: Path, authority: Authority
) -> None:
    """New connections get it; a stream that is open goes on. Half a pair changes nothing."""
    pair = authority.issue("agent")
    other = Authority(tmp_path / "other")
    renewed = other.issue("agent")
    with served(tmp_path, pair) as agent, connected(agent, Tls(ca=authority.ca)) as old:
        old.create_controller(spec())
        run = old.run("c", run_id="r")
        report(run)
        stream = old.follow_transitions()
        assert next(stream).chunk_index == 1
        shutil.copy(renewed[0], pair[0])
        with connected(agent, Tls(ca=authority.ca)) as client:
            assert answers(client)
        shutil.copy(renewed[1], pair[1])
        with connected(agent, Tls(ca=other.ca)) as client:
            wait_for(lambda: answers(client))
        wait_for(lambda: not is_trusted(agent, authority))
        with connected(agent, Tls(ca=other.ca)) as client:
            report(client.run("c", run_id="r"))
        assert next(stream).chunk_index == 2


def test_renewals_under_connecting_clients_do_not_end_the_server(
    tmp_path: Path, authority: Authority
) -> None:
    """Where the certificate of a port is exchanged meanwhile, gRPC crashes (grpc/grpc#36693)."""
    certificate, key = authority.issue("agent")
    options = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    agent = AgentProcess(tmp_path / "agent.db", *options)
    agent.log = tmp_path / "log"
    ends = Event()

    def connect() -> int:
        """Return how often a client of its own was answered."""
        count = 0
        while not ends.is_set():
            with AgentClient(agent.address, tls=Tls(ca=authority.ca)) as client:
                count += answers(client)
        return count

    def has_renewed_thrice() -> bool:
        for old, new in zip((certificate, key), authority.issue("new"), strict=True):
            os.replace(new, old)
        time.sleep(0.05)
        return (
            agent.process.poll() is not None
            or (tmp_path / "log").read_text().count("reloaded") >= 3
        )

    with agent, ThreadPoolExecutor(3) as pool:
        counts = [pool.submit(connect) for _ in range(3)]
        wait_for(has_renewed_thrice)
        ends.set()
        assert agent.process.poll() is None, "a renewal ended it"
        assert all(count.result() > 10 for count in counts)


def is_trusted(agent: ServedAgent, authority: Authority) -> bool:
    """Whether a new connection is accepted by who trusts an authority."""
    with connected(agent, Tls(ca=authority.ca)) as client:
        return answers(client)


def test_a_client_takes_up_renewed_files(tmp_path: Path, authority: Authority) -> None:
    """One that the server no longer takes is replaced, and the same client goes on."""
    pair = authority.issue("client", days=-1)
    tls = Tls(ca=authority.ca, certificate=pair[0], key=pair[1])
    with (
        served(tmp_path, authority.issue("agent"), clients=authority.ca) as agent,
        connected(agent, tls) as client,
    ):
        with pytest.raises(Unavailable):
            client.get_run("r")
        authority.issue("client")
        with AgentClient(agent.address, tls=tls) as fresh:
            assert list(fresh.list_controllers()) == []
        wait_for(lambda: answers(client))


def answers(client: AgentClient) -> bool:
    try:
        list(client.list_controllers())
    except Unavailable:
        return False
    return True


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("client")


@pytest.mark.parametrize("text", ["hush" * 100, "hush-hush-hush-hush", "hush.hush.hush"])
def test_a_token_in_place_of_its_files_path_is_not_shown(text: str) -> None:
    """Logs keep what is printed; one is longer than a file's name may be."""
    with pytest.raises(
        InvalidArgument, match=r"^token: there is no such file .* the path"
    ) as caught:
        AgentClient(token=text)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("form", ["{}", "# a.b\n{}", "{}{}{}"])
@pytest.mark.parametrize("field", ["ca", "certificate", "key"])
def test_a_key_in_place_of_its_files_path_is_not_shown(pair: Pair, field: str, form: str) -> None:
    """Nor a certificate; also without its first and last lines."""
    text = form.replace("{}", pair[1].read_text())
    for pasted in (text, "".join(text.splitlines()[1:-1][:3]), text.splitlines()[1]):
        files: dict[str, Any] = {"certificate": pair[0], "key": pair[1], field: pasted}
        with pytest.raises(
            InvalidArgument, match=rf"^tls.{field}: there is no such file"
        ) as caught:
            AgentClient(tls=Tls(**files))
        assert not any(line in str(caught.value) for line in text.splitlines())


def test_files_that_are_no_certificates_are_refused_by_name(
    authority: Authority, pair: Pair
) -> None:
    """A missing file, one of another kind, a key of another certificate: each names the file."""
    certificate, key = pair
    other = authority.issue("other")[1]
    key.with_name("empty").touch()
    for tls, message in (
        (Tls(ca="nowhere.pem"), "tls.ca: nowhere.pem cannot be read: No such file"),
        (Tls(ca=key), f"tls.ca: {key} has no certificates"),
        (Tls(ca=key.with_name("empty")), "has no certificates"),
        (Tls(certificate=certificate, key=other), "tls.certificate: .*key values mismatch"),
        (Tls(certificate=key, key=key), "tls.certificate: .*not a certificate and its"),
    ):
        with pytest.raises(InvalidArgument, match=message):
            AgentClient(tls=tls)
    with pytest.raises(InvalidArgument, match=r"^tls\.key: is not set; a certificate needs"):
        Tls(certificate=certificate)
