"""The command `simulate`: its figures are those of the service that it loads."""

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent_service.client import AgentClient
from agent_service.domain.runs import RunState
from agent_service.v1 import agent_pb2 as pb
from tests.end_to_end.processes import AgentProcess, command_of, start_in_terminal, wait_for
from trainer_service.load.service import Service


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with AgentProcess(tmp_path_factory.mktemp("load") / "agent.db") as agent:
        yield agent


def simulate(agent: AgentProcess, *options: str) -> subprocess.CompletedProcess[str]:
    command = [*command_of("trainer_service"), "simulate", "--agent", agent.address, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def calls(agent: AgentProcess) -> float:
    """Return how many reports came by a call of their own."""
    page = urllib.request.urlopen(agent.metrics).read().decode()
    return sum(
        sample.value
        for metric in text_string_to_metric_families(page)
        for sample in metric.samples
        if sample.name == "grpc_server_started_total"
        and sample.labels["grpc_method"] == "ReportChunk"
    )


@pytest.mark.parametrize(("how", "by_call"), [([], 200), (["--streams"], 0)])
def test_its_figures_are_the_services(agent: AgentProcess, how: list[str], by_call: int) -> None:
    """As many decisions as the log has reports; every run finished; some policies learned."""
    options = "--runs 20 --seconds 1 --rate 200 --chunks 5 --rollout-size 64 --json"
    before = calls(agent)
    shown = simulate(agent, *options.split(), *how)
    assert shown.returncode == 0, shown.stderr
    assert calls(agent) - before == by_call
    figures = json.loads(shown.stdout)

    with AgentClient(agent.address) as client:
        name = figures["controller"]
        runs = list(client.list_runs(controller=name))
        reports = sum(1 for _ in client.transitions(controller=name))
        assert list(client.list_controllers()) == [], "it deletes what it made"
    assert figures["decisions"] == 200
    assert reports == figures["decisions"]
    assert {run.state for run in runs} == {pb.RUN_STATE_FINISHED}
    assert len(runs) >= 20 + 20, "a run of 5 chunks makes room for another"
    assert figures["errors"] == {}
    assert 0 < figures["p50"] <= figures["p99"] <= figures["longest"]
    assert figures["memory"]["server"] > 2**25
    assert figures["memory"]["learner"] > 2**25
    assert 0 < figures["cpu"]["server"] < 100
    assert figures["store_growth"] > 0
    assert (figures["update_lag"] is None) == (figures["updates"] == 0)
    assert sum(figures["versions_behind"].values()) == 200


def test_replicas_are_watched_together(agent: AgentProcess) -> None:
    """Each server with its learner; the file that they share counts once."""
    alone = Service.listening(agent.address)
    both = Service.listening(f"ipv4:{agent.address},{agent.address}")
    elsewhere = Service.listening(f"ipv4:{agent.address},192.0.2.1:50051")
    by_socket = Service.listening("unix:/run/agent.socket")

    assert alone is not None
    assert both is not None
    wait_for(lambda: {"learner", "learner 2"} <= both.taken().memory.keys())
    assert {"server", "server 2"} <= both.taken().cpu.keys()
    assert both.taken().store == alone.taken().store
    assert (elsewhere, by_socket) == (None, None)


def test_as_fast_as_it_can_is_a_table(agent: AgentProcess) -> None:
    """For people, with every figure on a line of its own."""
    shown = simulate(agent, "--runs", "4", "--seconds", "0.5", "--processes", "1")

    assert shown.returncode == 0, shown.stderr
    names = [line.split("  ")[0] for line in shown.stdout.splitlines()]
    assert names[:3] == ["live runs", "decisions", "decisions a second"]
    assert "errors" in names


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_load_leaves_no_controller(agent: AgentProcess, told: int) -> None:
    """Its runs are cancelled, so that its controller can be deleted; no traceback."""
    command = [*command_of("trainer_service"), "simulate", "--agent", agent.address]
    with (
        AgentClient(agent.address) as client,
        start_in_terminal([*command, "--runs", "40", "--seconds", "600"]) as process,
    ):
        wait_for(lambda: len(list(client.list_runs(state=RunState.ACTIVE))) == 40)
        name = next(iter(client.list_controllers())).spec.name
        os.killpg(process.pid, told)
        _shown, errors = process.communicate(timeout=60)

        assert (process.returncode, errors.strip()) == (130, "")
        assert list(client.list_controllers()) == []
        assert pb.OUTCOME_CANCELLED in {run.outcome for run in client.list_runs(controller=name)}


def test_a_load_that_fails_leaves_no_controller(tmp_path: Path) -> None:
    """Here the service has room for fewer runs: those that were started are cancelled."""
    with AgentProcess(tmp_path / "agent.db", "--max-runs", "2") as agent:
        shown = simulate(agent, "--runs", "4", "--seconds", "0.5")

        assert (shown.returncode, shown.stderr.count("\n")) == (1, 1), shown.stderr
        with AgentClient(agent.address) as client:
            assert list(client.list_controllers()) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--runs", "0"], "'--runs': 0"),
        (["--runs", "1000000000"], "'--runs': 1000000000"),
        (["--seconds", "0"], "'--seconds': 0"),
        (["--seconds", "inf"], "'--seconds': inf"),
        (["--rate", "-5"], "'--rate': -5"),
        (["--rate", "nan"], "'--rate': nan is not finite"),
        (["--rate", "1e12"], "'--rate': 1000000000000.0"),
        (["--processes", "1000000"], "'--processes': 1000000"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    agent: AgentProcess, options: list[str], error: str
) -> None:
    """And nothing is driven."""
    shown = simulate(agent, *options)

    assert shown.returncode == 2
    assert error in shown.stderr
    assert shown.stderr.count("\n") == 1
