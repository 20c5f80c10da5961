"""`agent-service runs`: which runs it lists, and how they stand."""

import pytest
from click.testing import CliRunner, _NamedTextIOWrapper

from agent_service.cli.main import cli
from agent_service.client import AgentClient, Mode, Outcome
from tests.agent_service.rules.test_leases import let_leases_pass
from tests.agent_service.specs import spec
from tests.given import ServedAgent


@pytest.fixture
def runs(served: ServedAgent, client: AgentClient) -> ServedAgent:
    """One run of each state, of two seeds."""
    client.create_controller(spec())
    client.run("c", run_id="silent", labels={"seed": "1", "set": "fer"})
    client.run("c", run_id="done", labels={"seed": "2", "set": "fer"}).finish(Outcome.CANCELLED)
    let_leases_pass(served)
    client.run("c", run_id="live", labels={"seed": "2"})
    return served


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        ([], ["live\tc\tactive", "done\tc\tcancelled", "silent\tc\tabandoned"]),
        (["--state", "abandoned"], ["silent\tc\tabandoned"]),
        (["--state", "finished"], ["done\tc\tcancelled"]),
        (["--label", "seed=2"], ["live\tc\tactive", "done\tc\tcancelled"]),
        (["--label", "seed=2", "--state", "active"], ["live\tc\tactive"]),
        (["--label", "seed=2", "--label", "set=fer"], ["done\tc\tcancelled"]),
        (["--label", "seed=3"], []),
    ],
)
def test_runs_are_listed_by_state_and_labels(
    runs: ServedAgent, options: list[str], listed: list[str]
) -> None:
    """Newest first, each with where it stands, an abandoned one too."""
    shown = CliRunner().invoke(cli, ["runs", "--agent", runs.address, *options])

    assert [line.rsplit("\t", 2)[0] for line in shown.output.splitlines()] == listed


def test_a_run_shows_its_chunks_and_its_mode(served: ServedAgent, client: AgentClient) -> None:
    """So that a run that only listens is seen as one."""
    client.create_controller(spec())
    for mode in Mode:
        client.run("c", run_id=mode, mode=mode)
    shown = CliRunner().invoke(cli, ["runs", "--agent", served.address])

    assert shown.output.splitlines() == [
        f"{mode}\tc\tactive\t0 chunks\t{mode}" for mode in ("shadow", "frozen", "learning")
    ]


@pytest.mark.parametrize(("name", "code"), [("c", 0), ("d", 1)])
def test_no_runs_of_a_controller_that_is_not_there_is_an_error(
    served: ServedAgent, client: AgentClient, name: str, code: int
) -> None:
    """One that is there has none."""
    client.create_controller(spec())
    shown = CliRunner().invoke(cli, ["runs", "--agent", served.address, "--controller", name])

    assert (shown.output, shown.exit_code) == ("", code)
    assert str(shown.exception or "") == ("" if code == 0 else "no controller 'd'")


def test_columns_are_named_on_a_terminal(
    runs: ServedAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lines of scripts stay as they are."""
    monkeypatch.setattr(_NamedTextIOWrapper, "isatty", lambda _: True)
    for command, named in ((["runs"], "run\tcontroller"), (["policies", "c"], "version\torigin")):
        shown = CliRunner().invoke(cli, [*command, "--agent", runs.address])
        assert shown.output.startswith(named)
        assert shown.output.count(named) == 1


def test_a_label_without_a_value_is_bad_usage(runs: ServedAgent) -> None:
    """Exit code 2, and what it should look like."""
    shown = CliRunner().invoke(cli, ["runs", "--agent", runs.address, "--label", "seed"])

    assert shown.exit_code == 2
    assert "KEY=VALUE" in shown.output
