"""Both services as a deployment starts them: certificates and tokens by `make certificates`."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from agent_service.client import AgentClient, Tls
from agent_service.domain.errors import Unauthenticated, Unavailable
from tests.end_to_end.collector import Collector
from tests.end_to_end.processes import AgentProcess, ServiceProcess, TrainerProcess, wait_for
from tests.end_to_end.runs import controller
from tests.given import run_command
from tests.trainer_service.specs import run_spec
from trainer_service.client import TrainerClient
from trainer_service.runs.run import RunState, StateChanged
from trainer_service.training.spec import Method

SCRIPT = Path(__file__).parents[2] / "deploy/certificates.sh"


def make_certificates(folder: Path, *names: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    subprocess.run([SCRIPT, folder, *names], check=True, capture_output=True)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy") / "secrets"
    make_certificates(folder)
    return folder


def serving(secrets: Path, name: str) -> list[str]:
    files = {
        "tls-certificate": f"{name}.pem",
        "tls-key": f"{name}.key",
        "tls-clients": "ca.pem",
        "run-token": "run.token",
        "admin-token": "admin.token",
    }
    options = [part for option, file in files.items() for part in (f"--{option}", secrets / file)]
    return [*map(str, options), "--log-format", "json"]


def tls(secrets: Path) -> Tls:
    certificate, key = secrets / "client.pem", secrets / "client.key"
    return Tls(ca=secrets / "ca.pem", certificate=certificate, key=key)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def services(
    secrets: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServiceProcess, ServiceProcess]]:
    """An agent and a trainer that call one another by name, listen by TLS and want tokens."""
    folder = tmp_path_factory.mktemp("services")
    traces = ("--traces", collector.url)
    agent = AgentProcess(folder / "agent.db", *serving(secrets, "agent"), *traces)
    agent.log = folder / "agent.log"
    with agent:
        trainer = TrainerProcess(
            folder,
            *serving(secrets, "trainer-0"),
            *traces,
            *("--agent-ca", str(secrets / "ca.pem"), "--agent-token", str(secrets / "run.token")),
            *("--agent-certificate", str(secrets / "trainer-0.pem")),
            *("--agent-key", str(secrets / "trainer-0.key")),
            agent=agent.address.replace("127.0.0.1", "localhost"),
        )
        trainer.log = folder / "trainer.log"
        with trainer:
            yield agent, trainer


def test_a_child_trains_through_secured_services(
    secrets: Path, services: tuple[ServiceProcess, ServiceProcess], collector: Collector
) -> None:
    """A run is submitted, steered by the agent, watched to its end, and no secret is shown.

    The traces have each report as the trainer sent it and, in the same trace, as the agent took it.
    """
    agent, trainer = services
    with (
        AgentClient(agent.address, tls=tls(secrets), token=secrets / "admin.token") as admin,
        TrainerClient(trainer.address, tls=tls(secrets), token=secrets / "run.token") as client,
    ):
        admin.create_controller(controller("rd", rollout_size=4, batch_size=2))
        client.submit("r", run_spec(Method.RD, controller="rd"))
        last = [event.what for event in client.watch("r")][-1]
        assert last == StateChanged(state=RunState.SUCCEEDED)
        assert admin.get_run("r").reported_chunks == 3
    with (
        TrainerClient(trainer.address, tls=tls(secrets)) as nobody,
        pytest.raises(Unauthenticated, match="no token"),
    ):
        nobody.device()
    with (
        TrainerClient(trainer.address, budget_seconds=0) as plain,
        pytest.raises(Unavailable, match="requires TLS"),
    ):
        plain.device()
    for service in ("trainer", "agent"):
        wait_for(lambda service=service: len(collector.reports(service)) == 3)  # type: ignore[misc]
    assert collector.reports("agent") == collector.reports("trainer")
    shown = [(service.log or Path()).read_text() for service in services]
    events = [json.loads(line) for text in shown for line in text.splitlines()]
    about = {"run": "r", "controller": "rd", "service": "agent"}
    assert any("is started" in e["event"] and about.items() <= e.items() for e in events)
    assert any(e["service"] == "trainer" and e.get("state") == "succeeded" for e in events)
    pages = [urlopen(service.metrics).read().decode() for service in services]
    hidden = [path.read_text().strip() for path in secrets.glob("*.token")]
    hidden += [path.read_text().splitlines()[1] for path in secrets.glob("*.key")]
    assert len(hidden) == 8
    for text in (*shown, *pages, collector.text):
        assert not any(secret in text for secret in hidden)


def test_commands_prove_who_they_are(
    secrets: Path,
    services: tuple[ServiceProcess, ServiceProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By options, and by variables of the environment for all commands at once."""
    agent, trainer = services
    for package, option, address, listed in (
        ("agent_service", "--agent", agent.address, "controllers"),
        ("trainer_service", "--trainer", trainer.address, "runs"),
    ):
        for name, file in (
            ("CA", "ca.pem"),
            ("CERTIFICATE", "client.pem"),
            ("KEY", "client.key"),
            ("TOKEN", "run.token"),
        ):
            monkeypatch.setenv(f"{package.upper()}_{name}", str(secrets / file))
        for asked in (listed, "health"):
            assert run_command(package, asked, option, address).returncode == 0
        monkeypatch.delenv(f"{package.upper()}_TOKEN")
        ended = run_command(package, listed, option, address)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "no token" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def curl(
    secrets: Path, service: ServiceProcess, method: str, data: str = "{}", token: str = "run"
) -> subprocess.CompletedProcess[str]:
    """Call by `buf curl`, a client in Go that asks the service itself for its contract."""
    bearer = f"Authorization: Bearer {(secrets / f'{token}.token').read_text().strip()}"
    files = [f"--{name}={secrets / file}" for name, file in CURL_FILES.items()]
    url = f"https://{service.address}/{method}"
    command = [str(Path(sys.executable).with_name("buf")), "curl", *files, "--protocol", "grpc"]
    command += ["--reflect-header", bearer, "--header", bearer, "--data", data, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON documents that stand in a text, one after another."""
    found, decoder = [], json.JSONDecoder()
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


CURL_FILES = {"cacert": "ca.pem", "cert": "client.pem", "key": "client.key"}


def test_buf_curl_calls_both_services(
    secrets: Path, services: tuple[ServiceProcess, ServiceProcess]
) -> None:
    """By reflection, TLS with its own certificate, a token; answers, streams and errors come."""
    agent, trainer = services
    service = "agent_service.v1.AgentService"
    spec = {"name": "by-go", "hyperparameters": [{"name": "dropout", "high": 0.5}], "random": {}}
    creation = (f"{service}/CreateController", json.dumps({"spec": spec}))
    refused = curl(secrets, agent, *creation)
    assert json.loads(refused.stderr)["code"] == "permission_denied"
    created = curl(secrets, agent, *creation, token="admin")
    assert json.loads(created.stdout)["controller"]["spec"]["name"] == "by-go"
    start = json.dumps({"controller": "by-go", "runId": "go-1"})
    started = curl(secrets, agent, f"{service}/StartRun", start)
    assert json.loads(started.stdout)["action"]["chunkIndex"] == "1"
    report = {"runId": "go-1", "losses": [1.0] * 20, "scores": {"training": 1, "validation": 1}}
    reports = [json.dumps({"report": {**report, "chunkIndex": chunk}}) for chunk in (1, 2, 9)]
    answers = curl(secrets, agent, f"{service}/StreamReports", "\n".join(reports)).stdout
    codes = [answer.get("code", 0) for answer in documents(answers)]
    assert codes == [0, 0, 9], "the last is FAILED_PRECONDITION"
    log = curl(secrets, agent, f"{service}/StreamTransitions", '{"runId": "go-1"}').stdout
    assert len(documents(log)) == 2
    devices = curl(secrets, trainer, "trainer_service.v1.TrainerService/ListDevices")
    assert json.loads(devices.stdout)["devices"][0]["name"] == "cpu"
    missing = curl(secrets, trainer, "trainer_service.v1.TrainerService/GetRun")
    assert json.loads(missing.stderr)["code"] == "not_found"


def test_certificates_are_renewed_under_the_same_authority(tmp_path: Path) -> None:
    """Called again, the script leaves authority and tokens, and hosts may be added."""
    kept = ("ca.pem", "ca.key", "run.token", "admin.token", "grafana.password", "postgres.password")
    make_certificates(tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    make_certificates(tmp_path, "agent.example.org")
    after = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert set(after) == set(before)
    assert {name for name in before if after[name] == before[name]} == set(kept)
    text = subprocess.run(
        ["openssl", "x509", "-in", tmp_path / "agent.pem", "-noout", "-ext", "subjectAltName"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert "DNS:agent, DNS:localhost" in text
    assert "DNS:agent.example.org" in text
    assert (tmp_path / "ca.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            ["--listen", "0.0.0.0:0"],
            "'--listen': 0.0.0.0:0 can be reached from other machines: give --tls-certificate",
        ),
        (["--run-token", "hush"], "'--run-token': there is no such file (not shown: it may be the"),
        (
            ["--tls-certificate", __file__, "--tls-key", "-----BEGIN hush"],
            "'--tls-key': there is no such file (not shown: it may be the",
        ),
        (["--max-message-bytes", str(2**40)], f"'--max-message-bytes': {2**40} is not from 1"),
    ],
)
@pytest.mark.parametrize("package", ["agent_service", "trainer_service"])
def test_bad_usage_of_a_service_makes_nothing(
    package: str,
    options: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is refused in one line, without a secret, before there is a store."""
    monkeypatch.chdir(tmp_path)
    ended = run_command(package, "serve", "--metrics-port", "0", *options)
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "hush" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_other_machines_are_let_in_where_that_is_said(tmp_path: Path) -> None:
    """With --insecure it serves, and the log warns of what is missing."""
    agent = AgentProcess(tmp_path / "agent.db", "--insecure")
    agent.address, agent.log = "0.0.0.0:0", tmp_path / "log"
    with agent:
        told = agent.log.read_text()
    assert "insecure: 0.0.0.0:0 is open to other machines without --tls-certificate" in told
