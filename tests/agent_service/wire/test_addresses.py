"""Addresses: how they may be written, what is said of others, and what may be listened on."""

import socket
from pathlib import Path
from typing import Any

import pytest

from agent_service.cli.main import cli as agent
from agent_service.client import AgentClient
from agent_service.config import AgentConfig
from agent_service.domain.errors import InvalidArgument
from agent_service.serving.command import Commands, run_command
from agent_service.serving.ports import ListenError, check_free
from agent_service.serving.server import metrics_page, process_registry
from agent_service.wire.addresses import address_to_call, address_to_listen
from trainer_service.cli.main import cli as trainer
from trainer_service.config import ExecutorName, TrainerConfig

REPLICAS = ["dns:///agent:50051", "dns:agent:50051", "ipv4:10.0.0.1:5,10.0.0.2:5", "ipv6:[::1]:5"]


@pytest.mark.parametrize(
    "text",
    [
        "localhost:50051",
        "127.0.0.1:1",
        "[::1]:65535",
        "agent_1.example.org:5",
        "unix:a",
        "unix:///a",
    ],
)
def test_an_address_is_given_to_grpc_as_it_is(text: str) -> None:
    """One place, to call or to listen on; what an environment file adds around it is taken off."""
    assert address_to_call(f" {text}\n").target == text
    assert address_to_listen(text, "listen").target == text
    assert not address_to_call(text).is_of_replicas


@pytest.mark.parametrize("text", REPLICAS)
def test_replicas_are_called_and_never_listened_on(text: str) -> None:
    """A client takes gRPC's lists and names of them; a server has one place."""
    assert address_to_call(text).target == text
    with pytest.raises(InvalidArgument, match=r"listen: .* HOST:PORT"):
        address_to_listen(text, "listen")


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("http://10.0.0.1:5", "without 'http://': 10.0.0.1:5"),
        ("https://agent:5/", "without 'https://': agent:5"),
        ("grpc://agent", "without 'grpc://': agent"),
        ("agent", "write agent:50051"),
        ("127.0.0.1", r"write 127\.0\.0\.1:50051"),
        ("[::1]", r"write \[::1\]:50051"),
        ("::1", r"write \[::1\]:50051"),
        ("::1:70", r"write \[::1\]:70"),
        ("50060", r"write 127\.0\.0\.1:50060"),
        ("dns:///agent", "write agent:50051"),
        ("dns://", "'dns://' names no host; .*dns:///NAME:PORT"),
        ("dns:", "'dns:' names no host"),
        ("dns://8.8.8.8", "names no host"),
        ("ipv4:", "'ipv4:' names no host"),
        ("http://", "write e.g. 127"),
        ("xds:///agent", ": agent:50051"),
        ("localhost:", "PORT .* 65535; write localhost:50051"),
        ("unix-abstract:", "write unix:PATH"),
        ("unix-abstract:a", "write unix:PATH"),
        ("-", "write e.g. 127"),
        ("-a:1", "write e.g. 127"),
        ("..:1", "write e.g. 127"),
        ("999.1.1.1:5", "write e.g. 127"),
        ("99999", "write e.g. 127"),
        ("", "HOST:PORT"),
        (":50051", "HOST:PORT"),
        ("my agent:50051", "HOST:PORT"),
        ("*:50051", "HOST:PORT"),
        ("[agent]:50051", "HOST:PORT"),
        ("agent:port", "PORT .* from 1 to 65535"),
        ("agent:", "PORT .* from 1 to 65535"),
        ("agent:0", "PORT .* from 1 to 65535"),
        ("agent:65536", "PORT .* from 1 to 65535"),
        ("agent:99999999999", "PORT .* from 1 to 65535"),
        ("agent:-1", "PORT .* from 1 to 65535"),
        ("agent:\u0661", "PORT .* from 1 to 65535"),
        ("a:1,b:2", "ipv4:HOST:PORT,HOST:PORT"),
        ("unix:", "107 bytes"),
        ("unix:" + "a" * 108, "107 bytes"),
        ("unix://agent/a", "unix:///PATH"),
    ],
)
def test_what_is_no_address_is_told_with_how_to_write_it(text: str, fix: str) -> None:
    """In one line that names the field."""
    with pytest.raises(InvalidArgument, match=rf"^agent: .*{fix}"):
        address_to_call(text, "agent")


@pytest.mark.parametrize("text", ["dns://", "localhost:", "unix-abstract:", "a b", "-", ":50051"])
@pytest.mark.parametrize(
    ("cli", "words"),
    [
        (agent, "serve --listen"),
        (agent, "runs --agent"),
        (agent, "health --agent"),
        (trainer, "serve --listen"),
        (trainer, "serve --agent"),
        (trainer, "runs --trainer"),
        (trainer, "compare --output x --trainer"),
        (trainer, "compare --output x --agent"),
    ],
)
def test_a_command_tells_a_wrong_address_by_its_option(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    cli: Commands,
    words: str,
    text: str,
) -> None:
    """In one line, and as bad usage."""
    command = [*words.split(), text]
    monkeypatch.setattr("sys.argv", ["command", *command])
    with pytest.raises(SystemExit) as ended:
        run_command(cli)
    shown = capsys.readouterr().err
    assert ended.value.code == 2
    assert shown.startswith(f"{cli.name}: Invalid value for '{command[-2]}': ")
    assert shown.count("\n") == 1


def test_a_long_address_is_cut_where_it_is_quoted() -> None:
    """Whatever is given for one."""
    with pytest.raises(InvalidArgument) as raised:
        address_to_call("a b" * 100_000)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("listen", "is_private"),
    [
        ("127.0.0.2:1", True),
        ("[::1]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("localhost:1", True),
        ("unix:agent.sock", True),
        ("[::]:1", False),
        ("0.0.0.0:1", False),
        ("10.0.0.1:1", False),
        ("[fe80::1]:1", False),
        ("nobody.invalid:1", False),
    ],
)
def test_only_what_others_cannot_reach_is_open_without_tls(listen: str, is_private: bool) -> None:
    """Loopback in any form is; anything else needs TLS and a token, or --insecure."""
    for config in (AgentConfig, TrainerConfig):
        make: Any = config
        if is_private:
            make(listen=listen)
        else:
            with pytest.raises(InvalidArgument, match="can be reached from other machines"):
                make(listen=listen)


@pytest.mark.parametrize(("number", "is_private"), [("127.0.1.1", True), ("10.0.0.1", False)])
def test_a_name_is_as_private_as_what_it_stands_for(
    monkeypatch: pytest.MonkeyPatch, number: str, is_private: bool
) -> None:
    """A host's own name is often loopback's; `localhost` may be made something else."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    assert address_to_listen("localhost:1", "listen").is_private == is_private
    assert address_to_listen("myself:1", "listen").is_private == is_private


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_port_of_metrics_out_of_range_is_refused(port: int) -> None:
    """Not with a traceback of sockets."""
    for config in (AgentConfig, TrainerConfig):
        make: Any = config
        with pytest.raises(InvalidArgument, match=f"metrics_port: {port} is not from 0 to 65535"):
            make(metrics_port=port)


def test_the_trainers_agent_is_an_address() -> None:
    """It is read as the trainer starts, not by the first run."""
    with pytest.raises(InvalidArgument, match=r"agent: .*write 10\.0\.0\.1:50051"):
        TrainerConfig(agent="10.0.0.1")
    with pytest.raises(InvalidArgument, match=r"agent: .* is where this service listens itself"):
        TrainerConfig(agent="127.0.0.1:50052")


def test_a_clusters_address_is_read_likewise() -> None:
    """Not by Ray, which finds out after minutes."""
    for address in ("ray://head:port", "head:99999"):
        with pytest.raises(InvalidArgument, match=r"address: the PORT of 'head:"):
            TrainerConfig(executor=ExecutorName.RAY, address=address)
    TrainerConfig(executor=ExecutorName.RAY, address="auto")


@pytest.mark.parametrize(("given", "fix"), [(50060, r"127\.0\.0\.1:50060"), (None, "e.g. 127")])
def test_what_is_no_text_is_no_address(given: Any, fix: str) -> None:
    """As a script may give a port, or a variable that is not set."""
    with pytest.raises(InvalidArgument, match=rf"is not HOST:PORT; write {fix}"):
        AgentClient(given)


def test_a_taken_port_is_told_with_its_option() -> None:
    """Also where it is taken on one only of the numbers that a name stands for."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(ListenError, match=rf"{host}:{port} of --listen: it is in use"):
                check_free(address_to_listen(f"{host}:{port}", "listen"), "--listen")
        with (
            pytest.raises(ListenError, match=rf"{port} of --metrics-port: it is in use"),
            metrics_page(process_registry(), host="127.0.0.1", port=port),
        ):
            pass
    check_free(address_to_listen(f"localhost:{port}", "listen"), "--listen")


def test_a_unix_socket_is_not_taken_from_who_listens(tmp_path: Path) -> None:
    """GRPC replaces what is there; only what a killed service left may be replaced."""
    path = tmp_path / "agent.sock"
    address = address_to_listen(f"unix:{path}", "listen")
    check_free(address, "--listen")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(ListenError, match=r"agent\.sock of --listen: it is in use"):
            check_free(address, "--listen")
    check_free(address, "--listen")
    with pytest.raises(ListenError, match="No such file"):
        check_free(address_to_listen(f"unix:{tmp_path}/no/agent.sock", "listen"), "--listen")


@pytest.mark.parametrize("listen", ["nobody.invalid:1", "192.0.2.1:1"])
def test_a_host_that_is_not_here_is_told(listen: str) -> None:
    """A name that is not found, and a number that is none of this machine's."""
    with pytest.raises(ListenError, match=f"cannot listen on {listen} of --listen: "):
        check_free(address_to_listen(listen, "listen"), "--listen")
