"""Replicas of the agent service on one PostgreSQL database: together they answer as one."""

import os
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from agent_service.app import verify_store
from agent_service.client import AgentClient, PPOSettings, RandomSettings, Run
from agent_service.domain.errors import AlreadyExists
from tests.agent_service.specs import spec
from tests.end_to_end.processes import AgentProcess, command_of, wait_for
from tests.postgresql import PostgresServer

RACES = int(os.environ.get("RACES", "200"))
"""Chunks that both replicas are told of at once; `make test-postgresql` has more."""
LEARNING = PPOSettings(rollout_size=8, batch_size=8, n_epochs=1)


@pytest.fixture(scope="module")
def replicas(postgresql: PostgresServer) -> Iterator[tuple[AgentProcess, AgentProcess]]:
    url = postgresql.new_database()
    with AgentProcess(url) as one, AgentProcess(url) as other:
        yield one, other


def both(replicas: tuple[AgentProcess, AgentProcess]) -> str:
    """Return one address for both, as a name has that DNS knows several addresses of."""
    return "ipv4:" + ",".join(replica.address for replica in replicas)


def report(run: Run, loss: float = 1.0) -> float:
    values = run.report_chunk([loss] * 4, training_score=0.5, validation_score=0.5)
    return values["dropout"]


def test_one_chunk_has_one_decision_wherever_it_is_raced_for(
    replicas: tuple[AgentProcess, AgentProcess],
) -> None:
    """The same report at both at once: both get the one answer. Another one: one of them loses."""
    with AgentClient(replicas[0].address) as one, AgentClient(replicas[1].address) as other:
        one.create_controller(spec("raced", RandomSettings()))
        with ThreadPoolExecutor(2) as pool:
            for number in range(RACES // 10):
                runs = [
                    c.run("raced", run_id=f"race-{number}", when_away=None) for c in (one, other)
                ]
                assert runs[0].action == runs[1].action
                for _chunk in range(10):
                    answers = list(pool.map(report, runs))
                    assert answers[0] == answers[1]

            lost = 0
            runs = [c.run("raced", run_id="rivals", when_away=None) for c in (one, other)]
            for _chunk in range(20):
                futures = [
                    pool.submit(report, r, loss) for r, loss in zip(runs, (1.0, 2.0), strict=True)
                ]
                errors = [future.exception() for future in futures]
                assert Counter(type(e) for e in errors) == {type(None): 1, AlreadyExists: 1}
                lost += 1
                loser = errors.index(next(e for e in errors if e is not None))
                runs[loser] = (one, other)[loser].run("raced", run_id="rivals", when_away=None)
        told = [t.position for t in other.transitions(controller="raced")]
    assert len(told) == RACES // 10 * 10 + lost
    assert told == sorted(set(told)), "one order, nothing twice"


def test_a_client_goes_to_all_of_them(replicas: tuple[AgentProcess, AgentProcess]) -> None:
    """Call by call in turns, and a run does not notice; a repeated call is answered by any."""
    with AgentClient(both(replicas)) as client:
        client.create_controller(spec("turns", RandomSettings()))
        with client.run("turns", run_id="turns", when_away=None) as run:
            values = [report(run) for _ in range(20)]
        replayed = [t.action.values["dropout"] for t in client.transitions(run_id="turns")]
    assert replayed[1:] == values[:-1]
    assert min(handled(replica, "ReportChunk") for replica in replicas) >= 5


def handled(replica: AgentProcess, method: str) -> float:
    page = urllib.request.urlopen(replica.metrics).read().decode()
    return sum(
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith("grpc_server_handled_total") and f'grpc_method="{method}"' in line
    )


def test_a_learned_version_decides_everywhere_at_once(
    replicas: tuple[AgentProcess, AgentProcess],
) -> None:
    """A version that any of them tells of is the one that the next decision of each is made by."""
    with AgentClient(replicas[0].address) as one, AgentClient(replicas[1].address) as other:
        one.create_controller(spec("learned", LEARNING))
        runs = [client.run("learned") for client in (one, other)]

        def report_after_each_told() -> int:
            told = max(c.get_controller("learned").policy_version for c in (one, other))
            for run in runs:
                report(run)
                assert run.action.policy_version >= told
            return told

        wait_for(lambda: report_after_each_told() >= 5)


def test_another_learns_when_a_replica_dies(replicas: tuple[AgentProcess, AgentProcess]) -> None:
    """Killed with its learner: another goes on within 15 s, and nothing is learned from twice."""
    dies, lives = replicas
    with AgentClient(lives.address) as client:
        client.create_controller(spec("c", LEARNING))

        def version() -> int:
            return client.get_controller("c").policy_version

        with client.run("c", run_id="r", when_away=None) as run:
            wait_for(lambda: report(run) >= 0 and version() >= 3)
            dies.kill()
            killed_at, before = time.monotonic(), version()
            wait_for(lambda: report(run) >= 0 and version() > before + 2)
            assert time.monotonic() - killed_at < 15
        dies.start()
        wait_for(lambda: client.get_controller("c").ready_transitions < 8)
        entries = list(client.list_policy_versions("c"))
        controller = client.get_controller("c")
    learned = [entry.learned_transitions for entry in entries if entry.learned_transitions]
    assert set(learned) == {8}
    assert sum(learned) == controller.learned_transitions
    assert verify_store(lives.url) > 24


def test_a_password_is_never_shown() -> None:
    """Neither where the server is away, nor by a service that runs."""
    command = [*command_of("agent_service"), "serve", "--listen", "127.0.0.1:0"]
    command += ["--metrics-port", "0", "--store", "postgresql+psycopg://a:hush@127.0.0.1:1/x"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "hush" not in done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert "check the database server" in done.stderr
