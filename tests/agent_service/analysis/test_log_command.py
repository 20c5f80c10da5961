"""The command `transitions`: what it writes is the log, whole and in one form."""

import csv
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent_service.cli.main import cli
from agent_service.client import AgentClient, Outcome, RandomSettings
from agent_service.domain.errors import NotFound
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import DROPOUT, NOISE, spec
from tests.end_to_end.processes import AgentProcess, command_of, start_in_terminal
from tests.given import ServedAgent

LOSSES = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedAgent]:
    """A log of two controllers that have neither hyperparameters nor chunk size in common."""
    with ServedAgent(tmp_path_factory.mktemp("log") / "agent.db") as served:
        with AgentClient(served.address) as client:
            client.create_controller(spec("one"))
            two = spec("two", RandomSettings(), hyperparameters=(NOISE, DROPOUT), chunk_size=2)
            client.create_controller(two)
            one, two_run = client.run("one", run_id="r1"), client.run("two", run_id="r2")
            for chunk in range(3):
                score = (chunk + 1) / 3
                one.report_chunk(LOSSES, training_score=0.5, validation_score=score)
                two_run.report_chunk(LOSSES[:2], training_score=0, validation_score=score)
            one.finish(Outcome.DIVERGED)
        yield served


def write(served: ServedAgent, *words: str) -> Result:
    return CliRunner().invoke(cli, ["transitions", "--agent", served.address, *words])


def expected(served: ServedAgent, **which: str) -> list[dict[str, object]]:
    """Return the log as the client has it, by the columns of a table."""
    with AgentClient(served.address) as client:
        return [columns(t) for t in client.transitions(**which)]  # type: ignore[arg-type]


def columns(t: pb.Transition) -> dict[str, object]:
    row: dict[str, object] = {
        "position": t.position,
        "run_id": t.run_id,
        "reward": t.reward,
        "log_probability": t.log_probability,
        "validation_score": t.scores.validation if t.HasField("scores") else None,
    }
    for name, numbers in (("state", t.state), ("next_state", t.next_state), ("sample", t.sample)):
        row |= {f"{name}.{place}": number for place, number in enumerate(numbers)}
    return row | {f"value.{name}": number for name, number in t.action.values.items()}


def test_csv_has_the_log_of_all_to_the_bit(served: ServedAgent) -> None:
    """One header for both controllers; each row's own columns full, the others empty."""
    rows = list(csv.DictReader(io.StringIO(write(served, "--format", "csv").stdout)))

    log = expected(served)
    assert len(rows) == len(log) == 7
    for row, transition in zip(rows, log, strict=True):
        read = {name: row[name] for name in transition}
        assert read == {n: "" if v is None else str(v) for n, v in transition.items()}
    assert {row["state.3"] for row in rows if row["controller"] == "two"} == {""}
    assert {row["value.noise"] for row in rows if row["controller"] == "one"} == {""}


def test_json_has_one_object_for_each_transition(served: ServedAgent) -> None:
    """It is the default; numbers are numbers, zeros are there, and times are in UTC."""
    records = [json.loads(line) for line in write(served, "--run", "r2").stdout.splitlines()]

    assert [record["chunk_index"] for record in records] == [1, 2, 3]
    first = records[0]
    assert first["state"] == [0.0, 0.0]
    assert first["next_state"] == LOSSES[:2]
    assert first["training_score"] == 0.0
    assert sorted(first["value"]) == ["dropout", "noise"]
    assert first["applied"] == {"dropout": None, "noise": None}
    assert (first["use"], first["learned_in"]) == ("recorded", None)
    assert first["report_time"].endswith("Z")


def test_it_starts_after_a_position(served: ServedAgent) -> None:
    """Of one controller, in CSV: the columns are its own."""
    after = int(str(expected(served, controller="two")[0]["position"]))
    text = write(served, "--controller", "two", "--after", str(after), "--format", "csv").stdout

    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["chunk_index"] for row in rows] == ["2", "3"]
    assert "state.2" not in rows[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "parquet"], "--output"),
        (["--follow", "--format", "csv"], "follow one --controller or --run"),
        (["--follow", "--output", "log"], "--follow never ends"),
        (["--after", "-1"], "-1"),
        (["--format", "xml"], "'xml'"),
        (["--output", "/dev/null"], "not a regular file"),
    ],
)
def test_wrong_words_are_refused(served: ServedAgent, words: list[str], said: str) -> None:
    """Exit code 2, with what to write instead."""
    result = write(served, *words)

    assert result.exit_code == 2
    assert said in result.stderr


def test_an_unknown_name_is_said_and_no_file_is_made(served: ServedAgent, tmp_path: Path) -> None:
    """NOT_FOUND; the file that was there stays."""
    path = tmp_path / "log.csv"
    path.write_text("old")

    for option in ("--run", "--controller"):
        result = write(served, option, "nobody", "--format", "csv", "--output", str(path))
        assert isinstance(result.exception, NotFound)

    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_without_pyarrow_one_line_says_what_to_install(tmp_path: Path) -> None:
    """Before anything is read; the other formats need none."""
    code = (
        "import sys; sys.modules['pyarrow'] = None; from agent_service.cli.main import main; main()"
    )
    words = ["transitions", "--format", "parquet", "--output", str(tmp_path / "log")]

    shown = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)

    assert shown.returncode == 1
    assert shown.stderr == (
        "agent-service: parquet needs pyarrow: pip install 'reinforced-regularization[parquet]'\n"
    )


def test_a_follower_outlives_the_service(tmp_path: Path) -> None:
    """Though the service is killed, each transition comes once, in order; Ctrl-C ends it."""
    with AgentProcess(tmp_path / "agent.db") as agent:
        with AgentClient(agent.address) as client:
            client.create_controller(spec())
            run = client.run("c", run_id="r")
            command = [*command_of("agent_service"), "transitions", "--agent", agent.address]
            follower = start_in_terminal([*command, "--follow", "--run", "r", "--format", "csv"])
            assert follower.stdout is not None
            seen: list[int] = []
            for kills in range(2):
                for chunk in range(5):
                    run.report_chunk([1.0] * 4, training_score=0, validation_score=chunk / 5)
                if kills == 0:
                    assert follower.stdout.readline().startswith("position,")
                # At the kill some of them have been written and some have not.
                for _ in range(3 if kills < 1 else 7):
                    seen.append(int(follower.stdout.readline().split(",")[0]))
                if kills < 1:
                    agent.kill()
                    agent.start()
            log = [t.position for t in client.transitions()]
        follower.send_signal(signal.SIGINT)
        rest, errors = follower.communicate(timeout=30)

    assert seen == log
    assert (rest, errors.strip(), follower.returncode) == ("", "", 130)
