"""Results on disk, and what the report makes of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from agent_service.domain.errors import AgentError
from tests.trainer_service.specs import run_spec
from tests.trainer_service.test_store import CHUNK, FINISHED
from trainer_service.run import ChunkTrained
from trainer_service.study.report import spread, write_report
from trainer_service.study.results import Result, ResultsFolder, make_result
from trainer_service.study.spec import StudySpec
from trainer_service.training.spec import Augment, Method

STUDY = StudySpec(training=run_spec().training, seeds=2, learning_runs=100)


def result(
    method: Method, seed: int, *, score: float = 0.5, is_learning: bool = False, chunks: int = 4
) -> Result:
    trained = [
        ChunkTrained(
            chunk=replace(
                CHUNK.chunk, index=index, values={"dropout": 0.1 * index} if method else {}
            ),
            policy_version=1,
            agent_seconds=0.0,
        )
        for index in range(1, chunks + 1)
    ]
    controller = "c" if method.is_reinforced else ""
    scores = replace(FINISHED.scores, test_score_best=score, test_score_last=score / 2)
    return make_result(
        f"s-{method}-{seed}",
        run_spec(method, controller=controller, seed=seed),
        replace(FINISHED, scores=scores),
        trained,
        is_learning=is_learning,
    )


def test_results_come_back_as_they_went(tmp_path: Path) -> None:
    """One line each, every float to the bit, with what they were made by."""
    folder = ResultsFolder(tmp_path)
    folder.open(STUDY)
    added = [result(Method.RD, seed, score=0.1 * seed + 1e-17) for seed in range(3)]
    for one in added:
        folder.add(one)

    assert folder.results() == added
    assert (tmp_path / "results.jsonl").read_bytes().count(b"\n") == 3
    assert added[0].versions["torch"].startswith("2.")
    assert len(added[0].commit) in (0, 40)


def test_a_line_that_was_cut_is_left_out_and_mended(tmp_path: Path) -> None:
    """A crash in the middle of a line loses that run only; the next line stands alone."""
    folder = ResultsFolder(tmp_path)
    first, second, third = (result(Method.D, seed) for seed in range(3))
    folder.add(first)
    folder.add(second)
    lines = tmp_path / "results.jsonl"
    lines.write_bytes(lines.read_bytes()[:-20])
    assert folder.results() == [first]

    folder.add(third)
    assert folder.results() == [first, third]


def test_a_folder_belongs_to_one_study(tmp_path: Path) -> None:
    """The same study goes on under its id; another is refused, and nothing is written."""
    study_id = ResultsFolder(tmp_path).open(STUDY)
    before = (tmp_path / "study.json").read_bytes()

    assert ResultsFolder(tmp_path).open(STUDY) == study_id
    with pytest.raises(AgentError, match="another study"):
        ResultsFolder(tmp_path).open(replace(STUDY, seeds=3))
    assert (tmp_path / "study.json").read_bytes() == before


def test_a_spread_is_mean_and_sample_deviation() -> None:
    """Over seeds, with n - 1; one seed has no deviation."""
    assert spread([0.5, 0.7]) == "0.600 ± 0.141"
    assert spread([0.5]) == "0.500"


def test_the_report_is_of_what_was_judged(tmp_path: Path) -> None:
    """Table and pictures leave the children out that a controller learned on."""
    folder = ResultsFolder(tmp_path)
    folder.open(STUDY)
    for method in (Method.VANILLA, Method.DNI, Method.RD):
        for seed, score in ((1, 0.75), (0, 0.25)):
            folder.add(result(method, seed, score=score))
    folder.add(result(Method.RD, 1000, score=0.99, is_learning=True))

    report = write_report(folder)

    assert [(row.method, row.best) for row in report.rows] == [
        (method, (0.25, 0.75)) for method in (Method.VANILLA, Method.DNI, Method.RD)
    ]
    table = report.table.read_text()
    assert "| weights | Vanilla | DNI | RD |" in table
    assert "| best validation epoch | 0.500 ± 0.354 | 0.500 ± 0.354 | 0.500 ± 0.354 |" in table
    assert "reward `gap`" in table
    for picture in report.pictures:
        pixels = imread(picture)
        assert pixels.shape[1] > 1000
        assert np.ptp(pixels) > 0.5, "the picture is empty"


def test_a_report_needs_something_judged(tmp_path: Path) -> None:
    """The error says what is missing."""
    folder = ResultsFolder(tmp_path)
    with pytest.raises(AgentError, match=r"no study: there is no study\.json"):
        write_report(folder)

    folder.open(STUDY)
    with pytest.raises(AgentError, match="no judged run yet"):
        write_report(folder)


def test_runs_of_unequal_length_are_drawn_together(tmp_path: Path) -> None:
    """One that diverged early ends early, and the report is written."""
    folder = ResultsFolder(tmp_path)
    folder.open(STUDY)
    folder.add(result(Method.RD, 0, chunks=9))
    folder.add(result(Method.RD, 1, chunks=2))

    assert len(write_report(folder).pictures) == 2


def test_a_run_that_diverged_at_once_is_reported(tmp_path: Path) -> None:
    """Without a single whole chunk there is a score, and no curve."""
    folder = ResultsFolder(tmp_path)
    folder.open(STUDY)
    folder.add(result(Method.RD, 0, chunks=0))
    folder.add(result(Method.D, 0))

    assert [row.method for row in write_report(folder).rows] == [Method.D, Method.RD]


def test_a_study_where_all_diverged_at_once_is_reported(tmp_path: Path) -> None:
    """The table is there, the pictures are empty."""
    folder = ResultsFolder(tmp_path)
    folder.open(STUDY)
    folder.add(result(Method.RD, 0, chunks=0))

    assert [row.method for row in write_report(folder).rows] == [Method.RD]


def test_the_report_says_what_was_done_to_the_data(tmp_path: Path) -> None:
    """Whether duplicates were taken out, how many classes are left, and how it was augmented."""
    training = replace(STUDY.training, classes=3, deduplicate=True, augment=Augment.CROP_FLIP)
    folder = ResultsFolder(tmp_path)
    folder.open(replace(STUDY, training=training))
    folder.add(result(Method.VANILLA, 0))

    text = write_report(folder).table.read_text()

    assert "64 training images of `digits`, 3 of its classes, without those that stand in" in text
    assert "augmented by `crop-flip`" in text
