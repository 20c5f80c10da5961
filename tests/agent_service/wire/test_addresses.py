"""Addresses: their forms, the fixes that errors name, and the addresses to listen on."""

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

BOTH: tuple[Any, Any] = (AgentConfig, TrainerConfig)


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
def test_a_valid_address_is_passed_to_grpc_unchanged(text: str) -> None:
    """To call or to listen on; white space around it, as of an environment file, is removed."""
    assert address_to_call(f" {text}\n").target == text
    assert address_to_listen(text, "listen").target == text
    assert not address_to_call(text).is_of_replicas


@pytest.mark.parametrize(
    "text", ["dns:///agent:50051", "dns:agent:50051", "ipv4:10.0.0.1:5,10.0.0.2:5", "ipv6:[::1]:5"]
)
def test_replicas_can_be_called_and_not_listened_on(text: str) -> None:
    """By gRPC's lists and names."""
    assert address_to_call(text).target == text
    with pytest.raises(InvalidArgument, match=r"listen: .* HOST:PORT"):
        address_to_listen(text, "listen")


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("http://10.0.0.1:5", "without 'http://': 10.0.0.1:5"),
        ("https://agent:5/", "without 'https://': agent:5"),
        ("grpc://agent", "without 'grpc://': agent"),
        ("http://", "write e.g. 127"),
        ("xds:///agent", ": agent:50051"),
        ("agent", "write agent:50051"),
        ("dns:///agent", "write agent:50051"),
        ("[::1]", r"write \[::1\]:50051"),
        ("::1", r"write \[::1\]:50051"),
        ("::1:70", r"write \[::1\]:70"),
        ("50060", r"write 127\.0\.0\.1:50060"),
        ("99999", "write e.g. 127"),
        ("dns://", "'dns://' names no host; .*dns:///NAME:PORT"),
        ("ipv4:", "'ipv4:' names no host"),
        ("a:1,b:2", "ipv4:HOST:PORT,HOST:PORT"),
        ("", "HOST:PORT"),
        ("-a:1", "write e.g. 127"),
        ("..:1", "write e.g. 127"),
        ("999.1.1.1:5", "write e.g. 127"),
        ("my agent:50051", "HOST:PORT"),
        ("[agent]:50051", "HOST:PORT"),
        ("localhost:", "PORT .* 1 to 65535; write localhost:50051"),
        ("agent:port", "PORT .* from 1 to 65535"),
        ("agent:0", "PORT .* from 1 to 65535"),
        ("agent:65536", "PORT .* from 1 to 65535"),
        ("agent:\u0661", "PORT .* from 1 to 65535"),
        ("unix-abstract:a", "write unix:PATH"),
        ("unix:", "107 bytes"),
        ("unix:" + "a" * 108, "107 bytes"),
        ("unix://agent/a", "unix:///PATH"),
    ],
)
def test_an_invalid_address_is_refused_with_the_fix(text: str, fix: str) -> None:
    """In one line that names the field."""
    with pytest.raises(InvalidArgument, match=rf"^agent: .*{fix}"):
        address_to_call(text, "agent")


@pytest.mark.parametrize("text", ["localhost:", "-"])
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
def test_a_command_names_the_option_of_an_invalid_address(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    cli: Commands,
    words: str,
    text: str,
) -> None:
    """In one line, with the exit code of bad usage."""
    command = [*words.split(), text]
    monkeypatch.setattr("sys.argv", ["command", *command])
    with pytest.raises(SystemExit) as ended:
        run_command(cli)
    shown = capsys.readouterr().err
    assert ended.value.code == 2
    assert shown.startswith(f"{cli.name}: Invalid value for '{command[-2]}': ")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "fix"), [(50060, r"127\.0\.0\.1:50060$"), (None, "e.g. 127"), ("a b" * 10**5, "")]
)
def test_a_script_may_give_anything(given: Any, fix: str) -> None:
    """A number, None, or a long text, which is quoted in short."""
    with pytest.raises(InvalidArgument, match=rf"is not HOST:PORT; write .*{fix}") as error:
        AgentClient(given)
    assert len(str(error.value)) < 400


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
def test_only_a_loopback_address_may_be_served_without_tls(listen: str, is_private: bool) -> None:
    """Any other needs TLS and a token, or --insecure."""
    for config in BOTH:
        if is_private:
            config(listen=listen)
        else:
            with pytest.raises(InvalidArgument, match="can be reached from other machines"):
                config(listen=listen)


@pytest.mark.parametrize(("number", "is_private"), [("127.0.1.1", True), ("10.0.0.1", False)])
def test_a_name_is_as_private_as_its_addresses(
    monkeypatch: pytest.MonkeyPatch, number: str, is_private: bool
) -> None:
    """A machine's own name often resolves to loopback; `localhost` may resolve elsewhere."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)

    assert address_to_listen("localhost:1", "listen").is_private == is_private
    assert address_to_listen("myself:1", "listen").is_private == is_private


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_metrics_port_out_of_range_is_refused(port: int) -> None:
    for config in BOTH:
        with pytest.raises(InvalidArgument, match=f"metrics_port: {port} is not from 0 to 65535"):
            config(metrics_port=port)


RAY: dict[str, Any] = {"executor": ExecutorName.RAY}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": "10.0.0.1"}, r"agent: .*write 10\.0\.0\.1:50051"),
        ({"agent": "127.0.0.1:50052"}, r"agent: .* is where this service listens itself"),
        ({**RAY, "address": "ray://head:port"}, "address: the PORT of 'head:"),
        ({**RAY, "address": "head:99999"}, "address: the PORT of 'head:"),
    ],
)
def test_a_trainers_addresses_are_checked_when_it_starts(
    options: dict[str, Any], message: str
) -> None:
    """Of its agent, and of a Ray cluster; not by the first run."""
    with pytest.raises(InvalidArgument, match=message):
        TrainerConfig(**options)
    TrainerConfig(**RAY, address="auto")


def test_a_taken_port_is_refused_by_its_option() -> None:
    """Also if it is taken on only one of the addresses of a name."""
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


def test_a_unix_socket_in_use_is_refused(tmp_path: Path) -> None:
    """The library would replace it; only one that a killed service left may be replaced."""
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
def test_a_host_of_another_machine_is_refused(listen: str) -> None:
    """An unknown name, and an address that this machine does not have."""
    with pytest.raises(ListenError, match=f"cannot listen on {listen} of --listen: "):
        check_free(address_to_listen(listen, "listen"), "--listen")
