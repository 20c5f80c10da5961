"""Studies through two real services: interrupted, continued, reported."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent_service.client import AgentClient
from agent_service.v1 import agent_pb2
from tests.end_to_end.processes import (
    AgentProcess,
    children,
    command_of,
    is_alive,
    start_in_terminal,
    wait_for,
)
from tests.given import ServedTrainer, run_command
from tests.trainer_service.specs import ENDLESS, run_spec
from tests.trainer_service.study.simulated import draw_nothing
from trainer_service.client import TrainerClient
from trainer_service.study.methods.plan import Key, Phase
from trainer_service.study.report.flags import departs, find_flags
from trainer_service.study.results.results import ResultsFolder
from trainer_service.training.child_file import read_manifest

TINY = "--subset 64 --model resnet18 --width 0.0625 --batch-size 16 --chunk-size 4"
SHORT = "--validation-batches 3 --chunks 4 --seeds 2 --learning-runs 4 --rollout-size 8"
OPTIONS = f"{TINY} {SHORT} --methods vanilla,dni,rd --reward validation".split(" ")


@dataclass(frozen=True)
class Services:
    agent: AgentProcess
    trainer: ServedTrainer

    def compare(self, output: Path, *options: str) -> list[str]:
        """Return the words of a study's command; `options` may begin with a study file."""
        words = ["compare", *options, "--output", str(output)]
        return [*words, "--agent", self.agent.address, "--trainer", self.trainer.address]

    def tiny(self, output: Path, *options: str) -> list[str]:
        """Return the words of the usual study, with changes."""
        return self.compare(output, *OPTIONS, *options)


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    folder = tmp_path_factory.mktemp("services")
    with (
        AgentProcess(folder / "agent.db") as agent,
        ServedTrainer(folder, agent=agent.address, parallel=2) as trainer,
    ):
        yield Services(agent, trainer)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


def succeed(words: list[str]) -> str:
    shown = run_command("trainer_service", *words)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def begin(words: list[str], **options: Any) -> subprocess.Popen[str]:
    return start_in_terminal([*command_of("trainer_service"), *words], **options)


@dataclass(frozen=True)
class Finished:
    folder: Path
    shown: str


@pytest.fixture(scope="module")
def finished(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    return Finished(folder, succeed(services.tiny(folder)))


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


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_finished_study_stays_as_it_is(services: Services, finished: Finished) -> None:
    """Compared once more, it trains nothing; another study in its folder is refused.

    The report is written again from the results, without a service.
    """
    before = content(finished.folder)
    with TrainerClient(services.trainer.address) as trainer:
        runs = len(list(trainer.list()))
        again = succeed(services.tiny(finished.folder))
        refused = run_command(
            "trainer_service", *services.tiny(finished.folder, "--methods", "dni")
        )

        assert len(list(trainer.list())) == runs
    check_failure(refused, "another study")
    assert again[again.index("method") :] == finished.shown[finished.shown.index("method") :]
    assert content(finished.folder) == before
    shutil.rmtree(finished.folder / "pictures")
    (finished.folder / "report.html").unlink()

    succeed(["report", str(finished.folder)])

    assert content(finished.folder) == before
    assert (finished.folder / "pictures" / "losses.png").exists()


def check_failure(shown: subprocess.CompletedProcess[str], says: str) -> None:
    assert (shown.returncode, shown.stderr.count("\n")) == (1, 1), shown.stderr
    assert says in shown.stderr


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_study_goes_on(services: Services, tmp_path: Path) -> None:
    """Ctrl-C or SIGTERM cancels what trains; continued, what was finished stands as it was.

    Meanwhile a second study in the folder, or a merge into it, is refused.
    """
    command = services.tiny(tmp_path)
    merge = ["merge", str(tmp_path), "--output", str(tmp_path)]
    lines = tmp_path / "results.jsonl"
    done = b""
    with TrainerClient(services.trainer.address) as trainer:
        for number in (signal.SIGINT, signal.SIGTERM):
            with begin(command) as process:
                wait_for(lambda: lines.exists() and len(lines.read_bytes()) > len(done))  # noqa: B023
                for words in (command, merge):
                    refused = run_command("trainer_service", *words)
                    check_failure(refused, f"at work in {tmp_path}")
                process.send_signal(number)
                _shown, errors = process.communicate(timeout=60)
                assert (process.returncode, "Traceback" in errors) == (130, False)
            done = lines.read_bytes()
            wait_for_idle(trainer)

    succeed(command)

    assert lines.read_bytes().startswith(done)
    results = ResultsFolder(tmp_path).results()
    assert len({r.run_id for r in results}) == len(results) == 4 + 3 * 2


def wait_for_idle(trainer: TrainerClient) -> None:
    wait_for(lambda: trainer.device().running + trainer.device().queued == 0)


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

        with begin(services.tiny(tmp_path, "--methods", "vanilla")) as process:
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
        wait_for_idle(trainer)


def test_a_run_that_fails_ends_the_study_with_its_cause(services: Services, tmp_path: Path) -> None:
    """The services are left without runs, the folder without a study: it may begin there again."""
    failed = run_command("trainer_service", *services.tiny(tmp_path, "--dataset", "npz:missing"))

    check_failure(failed, "missing.npz")
    assert not (tmp_path / "study.json").exists()
    with TrainerClient(services.trainer.address) as trainer:
        wait_for_idle(trainer)


def test_the_agent_is_asked_before_anything_is_trained(services: Services, tmp_path: Path) -> None:
    """Its error is one line, and nothing is written; a study without controllers needs no agent."""
    wrong = replace(services, agent=services.trainer)  # type: ignore[arg-type]
    with TrainerClient(services.trainer.address) as trainer:
        runs = len(list(trainer.list()))

        refused = run_command("trainer_service", *wrong.tiny(tmp_path / "new"))

        check_failure(refused, "give the agent service's own address")
        assert not (tmp_path / "new").exists()
        assert len(list(trainer.list())) == runs
    succeed(wrong.tiny(tmp_path / "new", "--methods", "vanilla"))


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


@pytest.mark.usefixtures("undrawn")
def test_each_kind_of_method_is_compared(services: Services, tmp_path: Path) -> None:
    """From a file, first a part of it; another study carries on with its policies and values."""
    file, output = tmp_path / "study.toml", tmp_path / "results"
    file.write_text(STUDY)
    succeed(services.compare(output, str(file), "--only", "rd,late", "--only-seeds", "1"))
    succeed(services.compare(output, str(file)))
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
    shuffled, replayed = (values[name]["dropout-layer1"] for name in ("shuffled", "replay"))
    assert sorted(shuffled) == sorted(replayed)
    assert set(values["mean"]) == set(values["rd"])

    for entry in study.spec.methods:
        data = folder.weights(entry.name)
        assert data is not None
        judged = Key(method=entry.name, phase=Phase.JUDGED, index=0)
        assert read_manifest(data).run_id == next(r.run_id for r in results if r.key == judged)

    head = STUDY.split("[[methods]]")[0].replace('"grid"', "")
    for of in ("grid", "tpe"):
        file.write_text(head + CARRIED.format(folder=output, of=of))
        succeed(services.compare(tmp_path / of, str(file), "--only-seeds", "0"))
        (carried,) = ResultsFolder(tmp_path / of).results()
        assert carried.trace.values == values[of]


@pytest.mark.usefixtures("undrawn")
def test_a_part_whose_time_is_up_goes_on(services: Services, tmp_path: Path) -> None:
    """It says so and succeeds; what trained is cancelled, and trained again later."""
    command = services.tiny(tmp_path, "--methods", "vanilla", "--chunks", "80")
    stopped = succeed([*command, "--minutes", "0.01"])
    assert "the time is up" in stopped
    assert ResultsFolder(tmp_path).results() == []
    with TrainerClient(services.trainer.address) as trainer:
        wait_for_idle(trainer)

    succeed([*command, "--only-seeds", "1"])

    (result,) = ResultsFolder(tmp_path).results()
    assert result.key.index == 1
    assert result.run_id.endswith("-try2"), "a cancelled one is trained anew"


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
    refused = run_command("trainer_service", *services.tiny(tmp_path / "new", *options))

    assert (refused.returncode, error in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "new").exists()


def test_a_controller_that_learned_nothing_is_not_judged(
    services: Services, tmp_path: Path
) -> None:
    """Where the length shows with the data only, the study ends before a table could mislead."""
    command = services.tiny(tmp_path, "--methods", "rd", "--epochs", "1")
    place = command.index("--chunks")
    del command[place : place + 2]

    failed = run_command("trainer_service", *command, "--rollout-size", "1000")

    check_failure(failed, "learned nothing")


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
    below = children(pid)
    return below + [deep for child in below for deep in _descendants(child)]


SUITE = """
title = "Two problems"
seeds = 2
budget = 2
references = ["d"]
[training]
training_size = 64
model = "resnet18"
width = 0.0625
batch_size = 16
chunk_size = 4
validation_batches = 3
chunks = 4
[[problems]]
name = "clean"
[[problems]]
name = "wrong"
label_noise = 0.3
chunks = 6
seeds = 3
[[methods]]
name = "d"
kind = "fixed"
method = "d"
[[methods]]
name = "vanilla"
kind = "fixed"
method = "vanilla"
[[methods]]
name = "rd"
kind = "ppo"
ppo = { rollout_size = 8, batch_size = 8 }
"""


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "suite.toml"
    path.write_text(SUITE)
    return str(path)


def lines_of(output: Path, problem: str) -> bytes:
    path = output / problem / "results.jsonl"
    return path.read_bytes() if path.exists() else b""


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_suite_goes_on(services: Services, suite: str, tmp_path: Path) -> None:
    """Within the problem that Ctrl-C found it at; what was finished stands as it was."""
    output = tmp_path / "results"
    command = services.compare(output, suite)
    with begin(command) as process, TrainerClient(services.trainer.address) as trainer:
        wait_for(lambda: lines_of(output, "wrong") != b"")
        check_failure(run_command("trainer_service", *command), f"at work in {output}")
        process.send_signal(signal.SIGINT)
        shown, errors = process.communicate(timeout=60)
        assert (process.returncode, "Traceback" in errors) == (130, False)
        wait_for_idle(trainer)
    assert "problem 1 of 2: clean\n" in shown
    assert "problem 2 of 2: wrong, about 1 min left\n" in shown
    done = [lines_of(output, "clean"), lines_of(output, "wrong")]

    shown = succeed(command)

    assert lines_of(output, "clean") == done[0]
    assert lines_of(output, "wrong").startswith(done[1])
    folders = [ResultsFolder(output / name) for name in ("clean", "wrong")]
    assert [len(folder.results()) for folder in folders] == [2 + 3 * 2, 2 + 3 * 3]
    assert {r.spec.training.label_noise for r in folders[1].results()} == {0.3}
    assert not [r.key for f in folders for r in f.results() if departs(r, f.plan())]
    assert (output / "clean" / "report.html").exists()
    assert f"{output / 'report.html'}\n" in shown
    text = (output / "report.md").read_text()
    assert "[wrong](wrong/report.md) | 0." in text
    assert "Not finished" not in text


@pytest.mark.usefixtures("undrawn")
def test_a_problem_that_fails_does_not_stop_the_others(
    services: Services, suite: str, tmp_path: Path
) -> None:
    """Its error is told at the end; mended, the same command finishes it."""
    output, file = tmp_path / "results", Path(suite)
    file.write_text(SUITE.replace('name = "clean"', 'name = "clean"\ndataset = "npz:missing"'))
    command = services.compare(output, suite, "--only", "d,vanilla")

    failed = run_command("trainer_service", *command)

    check_failure(failed, "not all problems are finished; clean: nothing was begun, since")
    assert "missing.npz" in failed.stderr
    assert len(ResultsFolder(output / "wrong").results()) == 2 * 3
    text = (output / "report.md").read_text()
    assert "Not finished: 2 of 2 problems" in text
    assert "| clean | 0 | d judged 0 of 2, vanilla judged 0 of 2" in text
    alone = run_command("trainer_service", *services.tiny(output, "--methods", "vanilla"))
    check_failure(alone, "holds a study of several problems; give a new folder")

    file.write_text(SUITE.replace("[training]", '[training]\ndataset = "npz:missing"'))
    new = services.compare(tmp_path / "new", suite, "--only", "d,vanilla")
    check_failure(run_command("trainer_service", *new), "; wrong: nothing was begun, since")
    assert not (tmp_path / "new" / "suite.json").exists(), "another may begin there"


@pytest.mark.usefixtures("undrawn")
def test_parts_of_a_suite_are_merged(services: Services, suite: str, tmp_path: Path) -> None:
    """By problems and by seeds; a seed that a problem does not have is left out of it."""
    for part, options in (("a", "--only-problems clean"), ("b", "--only-seeds 1,2")):
        words = f"{options} --only d,vanilla".split()
        succeed(services.compare(tmp_path / part, suite, *words))
    keys = {
        (part, name): [
            (r.key.method, r.key.index) for r in ResultsFolder(tmp_path / part / name).results()
        ]
        for part, name in (("a", "clean"), ("b", "clean"), ("b", "wrong"))
    }
    assert not (tmp_path / "a" / "wrong").exists()
    assert sorted(keys["b", "clean"]) == [("d", 1), ("vanilla", 1)]
    assert sorted(keys["b", "wrong"]) == [("d", 1), ("d", 2), ("vanilla", 1), ("vanilla", 2)]

    parts = [str(tmp_path / part) for part in ("a", "b")]
    shown = succeed(["merge", *parts, "--output", str(tmp_path / "all")])
    succeed(["report", str(tmp_path / "all")])

    assert shown.startswith(f"{2 * 2 + 4} results are in")
    assert "3 of 3" not in (tmp_path / "all" / "report.md").read_text()
    assert sorted(
        (r.key.method, r.key.index) for r in ResultsFolder(tmp_path / "all" / "clean").results()
    ) == sorted(keys["a", "clean"])
    refused = run_command(
        "trainer_service", *services.compare(tmp_path, suite, "--only-problems", "none")
    )
    assert refused.returncode == 2
    assert "'none' is not one of the problems: clean, wrong" in refused.stderr


@pytest.mark.usefixtures("undrawn")
def test_a_suites_time_is_that_of_all_its_problems(
    services: Services, suite: str, tmp_path: Path
) -> None:
    """The one that trains when it is up is cancelled, and none begins after it."""
    file = Path(suite)
    file.write_text(SUITE.replace("chunks = 4\n", "chunks = 80\n").replace("chunks = 6", ""))
    command = services.compare(tmp_path / "r", suite, "--only", "vanilla", "--minutes", "0.02")

    shown = succeed(command)

    assert "the time is up" in shown
    assert "problem 2 of 2" not in shown
