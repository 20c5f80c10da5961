"""The report of a suite: what it says over problems, its links, and how a browser shows it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from agent_service.domain.errors import AgentError
from tests.trainer_service.study.simulated import STUDY, simulated_suite
from tests.trainer_service.study.test_report import browse
from trainer_service.study.report.report import write_report
from trainer_service.study.report.suite_report import SuiteReport, write_suite_report
from trainer_service.study.results.suite_folder import SuiteFolder
from trainer_service.study.study_file import read_study
from trainer_service.study.suite import Suite, SuiteProblem

METHODS = tuple(e for e in STUDY.methods if e.name in ("rd", "vanilla", "d", "grid"))
SHORT = replace(STUDY, methods=METHODS, references=("grid",))
NOISY = replace(SHORT, seeds=3, training=replace(SHORT.training, label_noise=0.25))
PROBLEMS = {"clean": SHORT, "noisy": NOISY, "more": replace(SHORT, seeds=5)}
SUITE = Suite(
    title="Three",
    problems=tuple(
        SuiteProblem(name=name, study=replace(study, title=f"Three: {name}"))
        for name, study in PROBLEMS.items()
    ),
)
PICTURES = {"over-grid", "over-best-default", "forest-vanilla"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> SuiteFolder:
    return simulated_suite(tmp_path_factory.mktemp("suite"), SUITE)


@pytest.fixture(scope="module")
def report(folder: SuiteFolder) -> SuiteReport:
    return write_suite_report(folder.path)


def test_the_tables_say_what_the_results_say(folder: SuiteFolder, report: SuiteReport) -> None:
    """A line for each problem, with a link, the highest mean standing out; and differences."""
    text = report.text.read_text()
    tuned = {
        name: np.mean(
            [
                r.finished.scores.test_score_best
                for r in folder.folder(name).results()
                if r.is_judged and r.key.method == "rd"
            ]
        )
        for name in PROBLEMS
    }

    for name, mean in tuned.items():
        assert re.search(rf"\| \[{name}\]\({name}/report\.md\) \|.*\| \*\*{mean:.3f}\*\* \|", text)
    assert f"| **{np.mean(list(tuned.values())):.3f}** |" in text.split("| mean of 3 |")[1]
    assert re.search(r"^\| RD \| \+0\.\d+ \| .* \| ahead \| 3 \| 0 \| 3 \|$", text, re.MULTILINE)
    assert re.search(
        r"\| best default \(D\) \| best epoch \| -0\.\d+ \|.*\| behind \| 0 \| 3 \| 3", text
    )
    assert "Student's t over the problems' numbers" in text
    assert "| noisy | 0.25 | 3 |".replace("noisy", "[noisy](noisy/report.md)") in text
    assert "Shared by all: dataset digits" in text
    assert "All problems are finished" in text


def test_a_suites_report_is_made_again_from_its_file(folder: SuiteFolder) -> None:
    """The file beside it reads as the very suite; equal results give equal files."""
    text = write_suite_report(folder.path).text.read_text()

    assert read_study(str(folder.path / "report.toml")) == SUITE
    assert "trainer-service compare report.toml --output again" in text
    assert write_suite_report(folder.path).text.read_text() == text
    assert {file.stem for file in (folder.path / "pictures").iterdir()} == PICTURES
    for name in PICTURES:
        assert np.ptp(imread(folder.path / "pictures" / f"{name}.png")) > 0.5, "it is empty"


def test_a_browser_shows_a_suite(folder: SuiteFolder, report: SuiteReport, tmp_path: Path) -> None:
    """No error, each picture decoded, and links that lead to the problems' own reports."""
    found = browse(report.page, tmp_path)

    assert found["errors"] == []
    assert set(found["images"]) == PICTURES
    assert found["wide"] <= 900, "wide tables scroll in themselves"
    targets = set(re.findall(r'<a href="([^"#]+)">', report.page.read_text()))
    assert targets == {f"{name}/report.html" for name in PROBLEMS}
    write_report(folder.path / "noisy")
    assert (folder.path / "noisy/report.html").read_text().count("Three: noisy") > 0


def test_an_unfinished_suite_says_what_is_missing(folder: SuiteFolder, tmp_path: Path) -> None:
    """By problem; means over problems are of those that all methods have."""
    part = SuiteFolder(tmp_path)
    part.open(SUITE)
    with pytest.raises(AgentError, match="no judged run yet"):
        write_suite_report(tmp_path)
    for name in ("clean", "noisy"):
        part.folder(name).open(folder.folder(name).study().spec)
        for result in folder.folder(name).results():
            if (name, result.key.method) != ("noisy", "rd"):
                part.folder(name).add(result)

    text = write_suite_report(tmp_path).text.read_text()

    assert "Not finished: 2 of 3 problems" in text
    assert "| noisy | 0 | rd tuning 0 of 16, rd judged 0 of 3 |" in text
    assert "| more | 0 | vanilla judged 0 of 5" in text
    assert "| mean of 1 | 0." in text
    assert "| more | 0 | 5 |" in text, "there is no report yet that a link could lead to"
    assert "too few problems to say" in text
