"""A whole study through two real services, interrupted, continued and reported."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent_service.client import AgentClient
from agent_service.v1 import agent_pb2
from tests.end_to_end.processes import (
    AgentProcess,
    TrainerProcess,
    children,
    command_of,
    is_alive,
    start_in_terminal,
    wait_for,
)
from tests.given import run_command
from tests.trainer_service.specs import ENDLESS, run_spec
from trainer_service.client import TrainerClient
from trainer_service.study.methods.plan import Key, Phase
from trainer_service.study.report.flags import departs, find_flags
from trainer_service.study.results.results import ResultsFolder
from trainer_service.training.child_file import read_manifest
from trainer_service.v1 import trainer_pb2

TINY = "--subset 64 --model resnet18 --width 0.0625 --batch-size 16 --chunk-size 4"
SHORT = "--validation-batches 3 --chunks 4 --seeds 2 --learning-runs 4 --rollout-size 8"
OPTIONS = f"{TINY} {SHORT} --methods vanilla,dni,rd --reward validation".split(" ")


class Services:
    """An agent and a trainer that asks it."""

    def __init__(self, agent: AgentProcess, trainer: TrainerProcess) -> None:
        self.agent = agent
        self.trainer = trainer

    def compare(self, output: Path, *options: str) -> list[str]:
        """Return the words of a study's command."""
        words = ["compare", "--output", str(output), *OPTIONS]
        words += ["--agent", self.agent.address, "--trainer", self.trainer.address]
        return [*words, *options]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("services")
    with (
        AgentProcess(folder / "agent.db") as agent,
        TrainerProcess(folder, agent=agent.address, parallel=2) as trainer,
    ):
        yield Services(agent, trainer)


def succeed(words: list[str]) -> str:
    """Run a command, which must succeed; return what it shows."""
    shown = run_command("trainer_service", *words)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def begin(words: list[str], **options: Any) -> subprocess.Popen[str]:
    """Start a command that will be interrupted."""
    return start_in_terminal([*command_of("trainer_service"), *words], **options)


@dataclass(frozen=True)
class Finished:
    """A study that is done."""

    folder: Path
    shown: str

    def copy(self, folder: Path) -> None:
        """Put another one of it into a folder."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)


@pytest.fixture(scope="module")
def finished(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    return Finished(folder, succeed(services.compare(folder)))


def test_a_study_learns_freezes_judges_and_reports(services: Services, finished: Finished) -> None:
    """The controller learns from the learning children only; the table is of the judged ones."""
    results = ResultsFolder(finished.folder).results()
    study = json.loads((finished.folder / "study.json").read_text())["id"]

    with AgentClient(services.agent.address) as client:
        controller = client.get_controller(f"{study}-rd")
        judged = client.get_run(f"{study}-rd-judged-0")
        uses = {t.use for t in client.transitions(run_id=judged.run_id)}
    assert controller.mode == agent_pb2.MODE_FROZEN
    assert controller.policy_version == 3, "4 children of 4 chunks fill two rollouts of 8"
    assert controller.learned_transitions == 16
    assert (judged.mode, uses) == (agent_pb2.MODE_FROZEN, {agent_pb2.USE_RECORDED})

    assert [r.is_judged for r in results].count(False) == 4
    assert len(results) == 4 + 3 * 2
    assert all(len(r.trace.training_loss) == 4 for r in results)
    assert {r.policy for r in results if r.key.method == "rd" and r.is_judged} != {""}
    for name in ("report.html", "report.md", "results.jsonl"):
        assert str(finished.folder / name) in finished.shown
        assert (finished.folder / name).stat().st_size > 0
    assert "Vanilla" in finished.shown
    assert "best epoch" in finished.shown


def test_a_finished_study_is_not_done_again(
    services: Services, finished: Finished, tmp_path: Path
) -> None:
    """Compare once more: the same results to the byte, no run more, the same table."""
    finished.copy(tmp_path)
    first = finished.shown.replace(str(finished.folder), str(tmp_path))
    lines = (tmp_path / "results.jsonl").read_bytes()
    with TrainerClient(services.trainer.address) as trainer:
        runs = len(list(trainer.list()))

        again = succeed(services.compare(tmp_path))

        assert len(list(trainer.list())) == runs
    assert (tmp_path / "results.jsonl").read_bytes() == lines
    assert again[again.index("method") :] == first[first.index("method") :]


def test_an_interrupted_study_goes_on(services: Services, tmp_path: Path) -> None:
    """Ctrl-C or SIGTERM cancels what trains; continued, what was finished stands as it was."""
    command = services.compare(tmp_path, "--seeds", "4")
    lines = tmp_path / "results.jsonl"
    done = b""
    for told in (signal.SIGINT, signal.SIGTERM):
        with begin(command) as process:
            wait_for(lambda: lines.exists() and len(lines.read_bytes()) > len(done))  # noqa: B023
            process.send_signal(told)
            process.wait(60)
            assert process.returncode == 130
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        done = lines.read_bytes()
        with TrainerClient(services.trainer.address) as trainer:
            wait_for(lambda: trainer.device().running + trainer.device().queued == 0)

    succeed(command)

    after = (tmp_path / "results.jsonl").read_bytes()
    assert after.startswith(done)
    results = ResultsFolder(tmp_path).results()
    assert len({r.run_id for r in results}) == len(results) == 4 + 3 * 4


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM])
def test_a_check_that_waits_is_told_and_cancelled(
    services: Services, tmp_path: Path, told: signal.Signals
) -> None:
    """Into a pipe, too: where it waits, behind how many runs; and it does not outlive the study."""
    with TrainerClient(services.trainer.address) as trainer:
        others = [f"other-{told.name}-{place}" for place in range(2)]
        for other in others:
            trainer.submit(other, run_spec(chunks=ENDLESS))
        wait_for(lambda: trainer.device().running == 2)

        with begin(services.compare(tmp_path, "--methods", "vanilla")) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.send_signal(told)
            process.communicate()

        where = services.trainer.address
        assert line == f"checking on {where}, behind 2 runs that wait or train there\n"
        assert process.returncode == 130
        assert trainer.device().queued == 0
        for other in others:
            trainer.cancel(other)
        wait_for(lambda: trainer.device().running == 0)


def test_another_study_in_the_same_folder_is_refused(
    services: Services, finished: Finished, tmp_path: Path
) -> None:
    """In one line, and nothing of the first is lost."""
    finished.copy(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}

    refused = run_command("trainer_service", *services.compare(tmp_path, "--methods", "dni"))

    assert refused.returncode == 1
    assert "another study" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_a_second_study_in_a_folder_at_work_is_refused(services: Services, tmp_path: Path) -> None:
    """At once and in a line; the first's runs are not cancelled."""
    command = services.compare(tmp_path, "--methods", "vanilla", "--chunks", "100000")
    merged = ["merge", str(tmp_path), "--output", str(tmp_path)]
    with (
        TrainerClient(services.trainer.address) as trainer,
        begin(command) as process,
    ):
        wait_for(lambda: trainer.device().running == 2)

        for refused in (command, merged):
            shown = run_command("trainer_service", *refused)

            assert (shown.returncode, shown.stderr.count("\n")) == (1, 1), shown.stderr
            assert f"at work in {tmp_path}" in shown.stderr
        assert trainer.device().running == 2
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        wait_for(lambda: trainer.device().running + trainer.device().queued == 0)

    assert process.returncode == 130


def test_a_run_that_fails_ends_the_study_with_its_cause(services: Services, tmp_path: Path) -> None:
    """What is missing is named; the services are left without runs, the folder without a study."""
    failed = run_command("trainer_service", *services.compare(tmp_path, "--dataset", "npz:missing"))

    assert failed.returncode == 1
    assert "missing.npz" in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert not (tmp_path / "study.json").exists(), "the mended study may begin here"
    with TrainerClient(services.trainer.address) as trainer:
        wait_for(lambda: trainer.device().running + trainer.device().queued == 0)
        states = {run.state for run in trainer.list()}
    assert trainer_pb2.RUN_STATE_RUNNING not in states


def test_the_agent_is_asked_before_anything_is_trained(services: Services, tmp_path: Path) -> None:
    """Where a method needs it; its error is one line, and nothing is written."""
    wrong = ["--agent", services.trainer.address]
    with TrainerClient(services.trainer.address) as trainer:
        runs = len(list(trainer.list()))

        refused = run_command("trainer_service", *services.compare(tmp_path / "new", *wrong))

        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
        assert "give the agent service's own address" in refused.stderr
        assert not (tmp_path / "new").exists()
        assert len(list(trainer.list())) == runs
    succeed(services.compare(tmp_path / "new", "--methods", "vanilla", *wrong))


STUDY = """
seeds = 2
budget = 2
references = ["grid"]
[training]
dataset = "digits"
training_size = 64
model = "resnet18"
width = 0.0625
batch_size = 16
chunk_size = 4
validation_batches = 3
chunks = 4
[[methods]]
name = "grid"
kind = "grid"
values = [0.1, 0.5]
[[methods]]
name = "search"
kind = "random-search"
regularizer = "noise"
[[methods]]
name = "tpe"
kind = "bayesian"
[[methods]]
name = "late"
kind = "schedule"
course = "step"
start = 0.0
end = 0.3
until = 0.5
[[methods]]
name = "random"
kind = "random"
[[methods]]
name = "rd"
kind = "ppo"
sites = "each"
ppo = { rollout_size = 8, batch_size = 8 }
[[methods]]
name = "replay"
kind = "replay"
of = "rd"
[[methods]]
name = "shuffled"
kind = "replay"
of = "rd"
shuffled = true
[[methods]]
name = "mean"
kind = "mean"
of = "rd"
[[methods]]
name = "pbt"
kind = "pbt"
members = 2
round_chunks = 2
"""
CARRIED = """
[[methods]]
name = "carried"
kind = "carried"
study = "{folder}"
of = "{of}"
"""


def studied(services: Services, file: Path, output: Path, *options: str) -> list[str]:
    """Return the command that runs a study file."""
    command = ["compare", str(file), "--output", str(output)]
    command += ["--agent", services.agent.address, "--trainer", services.trainer.address]
    return [*command, *options]


def test_each_kind_of_method_is_compared(services: Services, tmp_path: Path) -> None:
    """From a file, first a part of it; at another agent service the frozen policies go on."""
    file, output = tmp_path / "study.toml", tmp_path / "results"
    file.write_text(STUDY)
    part = studied(services, file, output, "--only", "rd,late", "--only-seeds", "1")
    succeed(part)
    succeed(studied(services, file, output))
    folder = ResultsFolder(output)
    study, results = folder.study(), folder.results()

    assert len(results) == 4 * 2 + 10 * 2 + 2, "each population has a member that is not judged"
    assert all(len(r.trace.training_loss) == 4 for r in results)
    odd = {word for words in find_flags(study, results).values() for word in words}
    assert not [word for word in odd if "commit" not in word], odd
    assert not [r.key for r in results if departs(r, folder.plan())]
    values = {r.key.method: r.trace.values for r in results if r.is_judged and r.key.index == 0}
    assert set(values["late"]["dropout"]) == {0.0, 0.3}
    assert len(set(values["tpe"]["dropout"])) == 1
    assert len(set(values["random"]["dropout"])) == 4
    assert sorted(values["shuffled"]["dropout-layer1"]) == sorted(
        values["replay"]["dropout-layer1"]
    )
    assert set(values["mean"]) == set(values["rd"])

    for entry in study.spec.methods:
        data = folder.weights(entry.name)
        assert data is not None
        judged = Key(method=entry.name, phase=Phase.JUDGED, index=0)
        assert read_manifest(data).run_id == next(r.run_id for r in results if r.key == judged)

    for of in ("grid", "tpe"):
        carried = tmp_path / f"{of}.toml"
        carried.write_text(
            STUDY.split("[[methods]]")[0].replace('"grid"', "")
            + CARRIED.format(folder=output, of=of)
        )
        succeed(studied(services, carried, tmp_path / of))
        (first, _second) = ResultsFolder(tmp_path / of).results()
        assert first.trace.values == values[of]


def test_a_part_whose_time_is_up_goes_on(services: Services, tmp_path: Path) -> None:
    """It says so and succeeds; what trained is cancelled, and trained again later."""
    command = services.compare(tmp_path, "--methods", "vanilla", "--chunks", "80")
    stopped = succeed([*command, "--minutes", "0.01"])
    assert "the time is up" in stopped
    assert ResultsFolder(tmp_path).results() == []
    with TrainerClient(services.trainer.address) as trainer:
        wait_for(lambda: trainer.device().running + trainer.device().queued == 0)

    succeed(command)

    results = ResultsFolder(tmp_path).results()
    assert [r.key.index for r in sorted(results, key=lambda r: r.key)] == [0, 1]
    assert any(r.run_id.endswith("-try2") for r in results), "a cancelled one is trained anew"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--only", "vanila"], "'--only': 'vanila' is not one of the methods"),
        (["--only-seeds", "2"], "'--only-seeds': 2 is not in [0, 1]"),
        (["--minutes", "0"], "'--minutes': 0"),
    ],
)
def test_a_wrong_part_is_refused(
    services: Services, tmp_path: Path, options: list[str], error: str
) -> None:
    """By its option, before a folder is made."""
    refused = run_command("trainer_service", *services.compare(tmp_path / "new", *options))

    assert (refused.returncode, error in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "new").exists()


def test_a_controller_that_learned_nothing_is_not_judged(
    services: Services, tmp_path: Path
) -> None:
    """Where the length shows with the data only, the study ends before a table could mislead."""
    command = services.compare(tmp_path, "--methods", "rd", "--epochs", "1")
    place = command.index("--chunks")
    del command[place : place + 2]
    command += ["--rollout-size", "1000"]

    failed = run_command("trainer_service", *command)

    assert failed.returncode == 1
    assert "learned nothing" in failed.stderr
    assert failed.stderr.count("\n") == 1


def test_the_report_command_writes_it_again(finished: Finished, tmp_path: Path) -> None:
    """From results.jsonl alone, without any service."""
    finished.copy(tmp_path)
    page = (tmp_path / "report.html").read_bytes()
    shutil.rmtree(tmp_path / "pictures")
    (tmp_path / "report.html").unlink()

    succeed(["report", str(tmp_path)])

    assert (tmp_path / "report.html").read_bytes() == page
    assert (tmp_path / "pictures" / "losses.png").exists()


def test_ctrl_c_ends_the_demonstration_and_all_that_it_started(tmp_path: Path) -> None:
    """Exit code 130, one line, no process left, no folder left but its results."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "trainer_service.cli.demo"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with start_in_terminal(command, cwd=tmp_path, env=environment) as process:
        log = tmp_path / "demo-results" / "trainer.log"
        wait_for(lambda: log.exists() and ": running" in log.read_text())
        started = _descendants(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        shown, errors = process.communicate(timeout=60)

    assert process.returncode == 130
    assert "both services have ended" in shown
    assert "Traceback" not in errors
    assert len(started) >= 4, "agent, learner, trainer and a child"
    wait_for(lambda: not any(is_alive(pid) for pid in started))
    assert list(temporary.glob("reinforced-*")) == []


def _descendants(pid: int) -> list[int]:
    """Return all processes below one."""
    below = children(pid)
    return below + [deep for child in below for deep in _descendants(child)]
