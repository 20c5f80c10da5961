"""The report of a study: what it says, and how a browser shows it."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import imread

from agent_service.domain.errors import AgentError
from agent_service.domain.rewards import REWARDS, Definition, Reward
from tests.trainer_service.runs.test_store import FINISHED
from tests.trainer_service.study.simulated import COMMIT, STUDY, simulated_folder
from trainer_service.study.methods.plan import Phase
from trainer_service.study.report import courses, drawing
from trainer_service.study.report.courses import _loss_limits, draw_losses
from trainer_service.study.report.drawing import BLUE, ORANGE, legend_above, listed, png
from trainer_service.study.report.report import Report, write_report
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.results.rows import Row, comparisons, make_rows
from trainer_service.study.results.trace import Trace
from trainer_service.study.study_file import as_toml, parse_study, presets, read_study

PICTURES = (
    *("scores", "against-grid", "against-d", "budget", "next", "why-rd"),
    *("losses", "values", "policies", "learning"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ResultsFolder:
    return simulated_folder(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def report(folder: ResultsFolder) -> Report:
    return write_report(folder.path)


@pytest.fixture(scope="module")
def rows(folder: ResultsFolder) -> dict[str, Row]:
    return {row.entry.name: row for row in make_rows(STUDY, folder.results())}


def test_the_table_says_what_the_results_say(folder: ResultsFolder, report: Report) -> None:
    """Mean, deviation, children, values and the paired difference, of judged runs alone."""
    results = folder.results()
    grid, rd = (
        [
            r.finished.scores.test_score_best
            for r in results
            if r.key.method == name and r.key.phase is Phase.JUDGED
        ]
        for name in ("grid", "rd")
    )
    text = report.text.read_text()

    spread = f"{np.mean(rd):.3f} ± {np.std(rd, ddof=1):.3f}"
    assert f"| RD | 4 | {spread} |" in text
    assert "| Best constant | 4 |" in text
    assert "| 16 | dropout 0.40 |" in text, "the grid's children, and what it chose"
    assert f"| RD | {np.mean(np.subtract(rd, grid)):+.3f} |" in text
    # Of the simulated child the truth is known: a rise is better than the best constant.
    row = next(line for line in text.splitlines() if line.startswith("| RD | +"))
    assert "| ahead |" in row
    assert "| mean | 4 |" in text
    assert "| those of RD | dropout" in text, "its mean is not for nothing"
    assert "| carried against Best constant | -" in text, "0.3 is behind 0.4"
    assert "| carried against search | " in text
    assert "20% of its training images are drawn for it" in text


def test_the_page_begins_with_what_is_known(report: Report) -> None:
    """The highest mean, and verdicts against each reference at each moment."""
    short = report.text.read_text().split("## ")[1]

    assert "Highest mean test F1, best epoch: " in short
    for moment in ("best epoch", "last epoch"):
        for reference in ("Best constant", "D"):
            assert re.search(rf"Against {reference}, {moment}: ahead: .*RD.*; behind: \d+\.", short)
    assert "see Flags" not in short
    assert not re.search(r"none|: 0\b", short), "what nobody is goes unsaid"
    assert "wrong label" not in report.text.read_text(), "no label of this study is wrong"


def test_the_summary_says_if_no_method_is_ahead(folder: ResultsFolder, tmp_path: Path) -> None:
    """And counts only methods that are judged."""
    part = ResultsFolder(tmp_path)
    part.open(STUDY)
    for result in folder.results():
        if result.is_judged and result.key.method in ("vanilla", "d"):
            part.add(result)

    short = write_report(tmp_path).text.read_text().split("## ")[1]

    assert re.search(r"Against D, best epoch: none is ahead; [a-z ]+: 1\.", short)


def drawn(rows: Sequence[Row], colour: str, tmp_path: Path) -> list[int]:
    """Return by column how many of the losses' pixels have a line's colour, a column a method."""
    (tmp_path / "losses.png").write_bytes(draw_losses(rows))
    pixels = imread(tmp_path / "losses.png")[..., :3]
    wanted = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    columns = np.array_split(np.abs(pixels - wanted).max(axis=2) < 0.01, len(rows), axis=1)
    return [int(column.any(axis=0).sum()) for column in columns]


@pytest.mark.parametrize("factor", [1.0, 2.5, 30.0])
def test_both_losses_of_each_method_are_seen(
    rows: dict[str, Row], tmp_path: Path, factor: float
) -> None:
    """Where training losses are above validation losses, and where a method's children diverge."""
    shown = [with_losses(rows["d"], 2.5), with_losses(rows["rd"], 2.5 * factor)]

    for colour in (BLUE, ORANGE):
        widths = drawn(shown, colour, tmp_path)
        assert min(widths) > 150, f"{colour} is drawn over the whole length of each: {widths}"


def test_one_child_that_diverges_hides_no_others(rows: dict[str, Row]) -> None:
    """The losses of all others are drawn as high as without it."""
    d, rd = rows["d"], rows["rd"]
    diverged = with_losses(replace(d, judged=d.judged[:1]), 1e4).judged

    limits = _loss_limits([replace(d, judged=(*diverged, *d.judged[1:])), rd])
    assert limits == pytest.approx(_loss_limits([d, rd]), rel=0.05)


def test_lines_and_dots_lie_within_the_frame(
    rows: dict[str, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a policy that is nearly a constant, and of scores of 0 and 1."""
    figures: list[Figure] = []
    monkeypatch.setattr(drawing, "png", figures.append)
    count = len(rows["rd"].judged[0].trace.training_loss)
    flat: dict[str, Any] = {
        "training_score": (1.0,) * count,
        "validation_score": (0.0,) * count,
        "values": {"dropout": tuple(np.linspace(0.399, 0.4, count))},
    }
    row = with_traces(rows["rd"], lambda trace: replace(trace, **flat))

    courses.draw_values([row])
    courses.draw_policies([row])

    shown = []
    for axes in (axes for figure in figures for axes in figure.axes):
        dots = [c for c in axes.collections if isinstance(c, PathCollection)]
        heights = [np.asarray(line.get_ydata()) for line in axes.lines]
        heights += [np.asarray(c.get_offsets())[:, 1] for c in dots]
        low, high = axes.get_ylim()
        for height in heights:
            shown.append(axes.get_title())
            assert low + 0.02 * (high - low) < height.min()
            assert height.max() < high - 0.02 * (high - low)
    assert shown == ["RD: values", "reward: gap", *["scores (macro F1)"] * 2, *["RD"] * 4]


def test_a_report_shows_rewards_as_they_are_defined(
    rows: dict[str, Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the definitions that controllers learn from, whatever these are."""
    whole = Definition(worst=0.0, formula=lambda training, validation, _before: training)
    monkeypatch.setitem(REWARDS, Reward.GAP, whole)
    judged = rows["rd"].judged[0]

    assert rows["rd"].rewards(judged) == list(judged.trace.training_score)


def with_traces(row: Row, change: Callable[[Trace], Trace]) -> Row:
    return replace(
        row, judged=tuple(replace(result, trace=change(result.trace)) for result in row.judged)
    )


def with_losses(row: Row, factor: float) -> Row:
    """Return a method whose training losses are those times a factor."""

    def multiplied(trace: Trace) -> Trace:
        return replace(trace, training_loss=tuple(factor * loss for loss in trace.training_loss))

    return with_traces(row, multiplied)


def test_a_report_says_how_it_is_made_again(folder: ResultsFolder, report: Report) -> None:
    """The commit, and a file that is read as the very same study."""
    text = report.text.read_text()

    assert f"git checkout {COMMIT}\ntrainer-service compare report.toml --output again" in text
    assert read_study(str(folder.path / "report.toml")) == STUDY
    assert (folder.path / "report.toml").read_text() in text
    for name in presets():
        assert parse_study(as_toml(read_study(name)), name) == read_study(name)


def test_every_number_has_its_origin(folder: ResultsFolder, report: Report) -> None:
    """Each run's line: seed, values or policy, scores, maker, and digest."""
    text = report.text.read_text()

    assert f"| 1 | {COMMIT} | {FINISHED.device} | torch 2.13.0 | 88 |" in text
    for result in folder.results():
        score = result.finished.scores.test_score_best
        assert re.search(
            rf"\| {result.key.method} \| {result.key.phase} {result.key.index} "
            rf"\| {result.spec.training.seed} \| {result.run_id} \| .* \| {score:.4f} \| .* "
            rf"\| 1 \| {result.digest[:12]} \|  \|",
            text,
        )


def test_every_picture_is_drawn(folder: ResultsFolder, report: Report) -> None:
    """As a file, and not empty."""
    files = {file.stem for file in (folder.path / "pictures").iterdir()}
    assert files == set(PICTURES)
    for name in PICTURES:
        pixels = imread(folder.path / "pictures" / f"{name}.png")
        assert pixels.shape[1] > 600
        assert np.ptp(pixels) > 0.5, "the picture is empty"


SCRIPT = """<script>
const errors = [];
window.addEventListener('error', event => errors.push(String(event.message)), true);
window.addEventListener('load', () => {
  const found = {errors, images: {}, tables: {}, wide: document.documentElement.scrollWidth};
  for (const image of document.images) found.images[image.id] = image.naturalWidth;
  for (const table of document.querySelectorAll('table'))
    found.tables[table.caption.textContent] = table.tBodies[0].rows.length;
  document.title = JSON.stringify(found);
});
</script>"""


def browse(report: Path, tmp_path: Path) -> dict[str, Any]:
    """Return what Chromium finds on a page; skips the test where it is not installed."""
    browser = shutil.which("chromium")
    if browser is None and os.environ.get("REQUIRE_CHROMIUM") != "1":
        pytest.skip("chromium is not installed")
    page = tmp_path / "page.html"
    page.write_text(report.read_text().replace("<head>", f"<head>{SCRIPT}"))
    command = [browser or "chromium", "--headless", "--no-sandbox", "--disable-gpu"]
    command += [
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0"]
    command += ["--window-size=900,900", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120)

    title = re.search(r"<title>(\{.*?\})</title>", shown.stdout)
    assert title is not None, shown.stderr[-2000:]
    assert "CONSOLE" not in shown.stderr
    found: dict[str, Any] = json.loads(title[1].replace("&amp;", "&"))
    return found


def test_a_browser_shows_every_picture_and_table(report: Report, tmp_path: Path) -> None:
    """In Chromium: no error in the console, each image decoded, each table with its rows."""
    found = browse(report.page, tmp_path)

    assert found["errors"] == []
    assert set(found["images"]) == set(PICTURES)
    assert min(found["images"].values()) > 600
    rows = {
        caption.split(",")[0].split(":")[0]: count for caption, count in found["tables"].items()
    }
    assert rows["Test macro F1"] == len(STUDY.methods)
    assert rows["Against Best constant"] == len(STUDY.methods) - 1
    assert rows["On the next problem"] == 2, "beside each search"
    assert rows["Why"] == 3
    assert rows["Each run"] == 88
    assert found["wide"] <= 900, "wide tables scroll in themselves"


def test_a_report_is_drawn_whatever_mplbackend_says() -> None:
    """As in a notebook's shell, whose backend is not installed here; the variable stays."""
    backend = "module://no_such_module"
    script = """
import os
from trainer_service.study.report import grad_cam, report
from trainer_service.study.report.drawing import listed, png
assert png(listed(["a"], height=1.0)[0])
print(os.environ["MPLBACKEND"], end="")
"""
    shown = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"MPLBACKEND": backend},
        capture_output=True,
        text=True,
    )

    assert (shown.returncode, shown.stdout) == (0, backend), shown.stderr


def test_titles_are_drawn_as_they_are() -> None:
    """Dollars are no mathematics, in titles, lines and legends: nothing is parsed."""
    text = r"$_$ \frac{1}{$ 50% \$"
    figure, axes = listed([text, text], height=0.4)
    axes.plot([0], [0], label=text)
    axes.set(title=text, xlabel=text)
    legend_above(axes)
    plain = png(figure)

    axes.set_title(text.replace("$", ""))
    assert png(figure) != plain, "the dollars are drawn"


def test_a_report_needs_something_judged(tmp_path: Path) -> None:
    """The error says what is missing."""
    with pytest.raises(AgentError, match=r"no study: there is no study\.json"):
        write_report(tmp_path)

    ResultsFolder(tmp_path).open(STUDY)
    with pytest.raises(AgentError, match="no judged run yet"):
        write_report(tmp_path)


def test_an_unfinished_study_is_reported_with_what_is_missing(
    folder: ResultsFolder, tmp_path: Path
) -> None:
    """Some methods are there, one with fewer seeds, one that diverged at once and has no curve."""
    part = ResultsFolder(tmp_path)
    part.open(STUDY)
    kept = [r for r in folder.results() if r.key.method in ("vanilla", "d", "rd") and r.is_judged]
    for result in kept[:-1]:
        empty = Trace(
            training_loss=(), validation_loss=(), training_score=(), validation_score=(), values={}
        )
        is_lost = (result.key.method, result.key.index) == ("d", 1)
        part.add(replace(result, trace=empty, digest="") if is_lost else result)

    text = write_report(tmp_path).text.read_text()

    assert [row.entry.name for row in make_rows(STUDY, part.results())] == ["vanilla", "d", "rd"]
    assert "Not finished: grid tuning 0 of 16, grid judged 0 of 4" in text
    assert "rd judged 3 of 4" in text


def test_tests_wait_for_all_their_seeds_and_are_corrected(
    tmp_path: Path,
) -> None:
    """Seven seeds that all agree: the smallest p, 2^-6, times the number of tests."""
    spec = replace(STUDY, seeds=7, tests=("rd",))
    results = simulated_folder(tmp_path, spec).results()

    rd = next(row for row in make_rows(spec, results) if row.entry.name == "rd")
    assert [c.p for c in rd.compared] == pytest.approx([2 * 2**-6] * 4)
    rd = next(row for row in make_rows(spec, results[:-1]) if row.entry.name == "rd")
    assert rd.compared[0].p is not None, "the last result is another method's"
    without = [r for r in results if (r.key.method, r.key.index) != ("grid", 6)]
    rd = next(row for row in make_rows(spec, without) if row.entry.name == "rd")
    assert {c.p for c in rd.compared} == {None}


def test_a_report_compares_each_pair_once() -> None:
    """Of the joint intervals' family all are planned, whatever is finished."""
    pairs = comparisons(STUDY)

    assert len(set(pairs)) == len(pairs)
    assert {(name, other) for name, other in pairs if other in ("grid", "d")} >= {
        (entry.name, other)
        for entry in STUDY.methods
        for other in STUDY.references
        if entry.name != other
    }
    assert set(pairs) >= {("replay", "rd"), ("shuffled", "rd"), ("mean", "rd")}
    assert set(pairs) >= {("carried", "grid"), ("carried", "search")}
    assert len(pairs) == 2 * 9 + 3 + 1, "the carried one against the grid is there already"
