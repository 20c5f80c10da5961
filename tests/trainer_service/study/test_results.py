"""Results on disk, parts that are merged, and flags."""

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from agent_service.domain.errors import AgentError
from tests.trainer_service.study.simulated import STUDY, draw_nothing, simulated_folder
from trainer_service.study.methods.plan import Key, Phase
from trainer_service.study.report.flags import find_flags
from trainer_service.study.report.report import write_report
from trainer_service.study.results.merging import merge
from trainer_service.study.results.results import ResultsFolder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ResultsFolder:
    folder = simulated_folder(tmp_path_factory.mktemp("whole"))
    folder.add_policy("rd", b"policy")
    return folder


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    draw_nothing(monkeypatch)


def copy(source: ResultsFolder, path: Path, *, keep: slice = slice(None)) -> ResultsFolder:
    """Return a folder with some of another's lines."""
    path.mkdir()
    for name in ("study.json", "results.jsonl"):
        (path / name).write_bytes((source.path / name).read_bytes())
    lines = (path / "results.jsonl").read_bytes().splitlines(keepends=True)
    (path / "results.jsonl").write_bytes(b"".join(lines[keep]))
    return ResultsFolder(path)


def test_results_come_back_as_they_went(whole: ResultsFolder, tmp_path: Path) -> None:
    """One line each, every float to the bit, intact."""
    results = whole.results()
    again = ResultsFolder(tmp_path)
    for result in results:
        assert again.add(result) == result

    assert again.results() == results
    assert all(result.is_intact for result in results)


def test_a_line_of_an_earlier_version_stays_as_it_was(whole: ResultsFolder, tmp_path: Path) -> None:
    """Fields that came later are missing in it; it is intact, also after a merge."""
    folder = copy(whole, tmp_path / "older", keep=slice(1))
    older = (folder.path / "results.jsonl").read_bytes().replace(b',"keep":true', b"")
    digest = hashlib.sha256(re.sub(rb'"digest":"\w+"', b'"digest":""', older.rstrip())).hexdigest()
    older = re.sub(rb'"digest":"\w+"', f'"digest":"{digest}"'.encode(), older)
    (folder.path / "results.jsonl").write_bytes(older)
    assert b'"keep"' not in older

    merge([folder.path], tmp_path / "merged")

    assert (tmp_path / "merged" / "results.jsonl").read_bytes() == older
    assert find_flags(folder.study(), ResultsFolder(tmp_path / "merged").results()) == {}


def test_a_line_that_was_cut_is_left_out_and_mended(whole: ResultsFolder, tmp_path: Path) -> None:
    """A crash in the middle of a line loses that run only; the next line stands alone."""
    folder = copy(whole, tmp_path / "cut", keep=slice(3))
    first, second, third = folder.results()
    lines = folder.path / "results.jsonl"
    lines.write_bytes(lines.read_bytes()[:-20])
    assert folder.results() == [first, second]

    folder.add(third)
    assert folder.results() == [first, second, third]
    lines.write_bytes(lines.read_bytes()[:20])
    assert folder.add(third) == third
    assert folder.results() == [third]


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b"\n\n", b"\r\r\n"])
def test_lines_end_as_an_editor_ends_them(whole: ResultsFolder, tmp_path: Path, end: bytes) -> None:
    """Neither a checkout nor mixed ends make a line edited; a change of its content does."""
    folder = copy(whole, tmp_path / "ends", keep=slice(4))
    results, lines = folder.results(), folder.path / "results.jsonl"
    first, rest = lines.read_bytes().split(b"\n", 1)
    lines.write_bytes(b"\xef\xbb\xbf" + first + b"\n" + rest.replace(b"\n", end))

    assert folder.results() == results
    assert find_flags(folder.study(), folder.results()) == {}
    merge([folder.path], tmp_path / "merged")
    ordered = sorted(results, key=lambda r: r.key)
    merged = (tmp_path / "merged" / "results.jsonl").read_bytes()
    assert merged == b"".join(r.line + b"\n" for r in ordered)

    lines.write_bytes(lines.read_bytes().replace(b'"diverged":false', b'"diverged":true '))
    assert [r.is_intact for r in folder.results()] == [False] * 4
    added = folder.add(whole.results()[5])
    assert folder.results()[-1] == added


def test_a_whole_line_without_its_end_counts(whole: ResultsFolder, tmp_path: Path) -> None:
    """Some editors take the last one away; the next result stands on a line of its own."""
    folder = copy(whole, tmp_path / "endless", keep=slice(2))
    lines = folder.path / "results.jsonl"
    lines.write_bytes(lines.read_bytes().rstrip(b"\n"))

    assert folder.results() == whole.results()[:2]
    folder.add(whole.results()[2])
    assert folder.results() == whole.results()[:3]


def test_a_child_counts_once(whole: ResultsFolder, tmp_path: Path) -> None:
    """Where it stands twice, as two commands at once could write, the first that ended counts."""
    folder = copy(whole, tmp_path / "twice", keep=slice(3))
    results = folder.results()
    for ended_at in (results[1].ended_at - 1, results[1].ended_at + 1):
        folder.add(replace(results[1], run_id=f"again-{ended_at}", ended_at=ended_at, digest=""))

    again = folder.results()

    assert [r.key for r in again] == [r.key for r in results]
    assert again[1].run_id == f"again-{results[1].ended_at - 1}"


def test_a_validation_loss_that_is_not_finite_is_read_again(
    whole: ResultsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child may blow up between its last step and its validation; its report is drawn."""
    monkeypatch.undo()
    folder = ResultsFolder(tmp_path / "blown-up")
    folder.open(STUDY)
    for result in whole.results():
        if result.is_judged and result.key.method in ("vanilla", "d"):
            losses = (*result.trace.validation_loss[:-2], math.inf, math.nan)
            trace = replace(result.trace, validation_loss=losses)
            folder.add(replace(result, trace=trace, digest=""))

    assert folder.results()[0].trace.validation_loss[-2] == math.inf
    assert math.isnan(folder.results()[0].trace.validation_loss[-1])
    assert write_report(folder.path).page.exists()


def test_an_invalid_line_is_reported_by_its_number(whole: ResultsFolder, tmp_path: Path) -> None:
    """In one line, with the field."""
    folder = copy(whole, tmp_path / "odd", keep=slice(2))
    with (folder.path / "results.jsonl").open("a") as file:
        file.write('{"key": 3}\n')

    with pytest.raises(AgentError, match=r"results\.jsonl, line 3: key: ") as raised:
        folder.results()
    assert "\n" not in str(raised.value)


def test_a_folder_belongs_to_one_study(tmp_path: Path) -> None:
    """It goes on under its id, also when it grows; another is refused, and nothing is written."""
    study_id = ResultsFolder(tmp_path).open(STUDY)
    assert ResultsFolder(tmp_path).open(replace(STUDY, seeds=5)) == study_id
    before = (tmp_path / "study.json").read_bytes()

    with pytest.raises(AgentError, match="another study"):
        ResultsFolder(tmp_path).open(STUDY)
    assert (tmp_path / "study.json").read_bytes() == before


def test_parts_merge_in_any_order_to_the_same_report(whole: ResultsFolder, tmp_path: Path) -> None:
    """Overlapping or not, twice or once: every file is the whole study's, to the byte."""
    write_report(whole.path)
    lines = [result.line + b"\n" for result in sorted(whole.results(), key=lambda r: r.key)]
    (whole.path / "sorted").write_bytes(b"".join(lines))
    pieces = [slice(0, 30), slice(20, 60), slice(60, None)]
    parts = [copy(whole, tmp_path / f"part{i}", keep=piece) for i, piece in enumerate(pieces)]
    parts[1].add_policy("rd", b"policy")

    for number, order in enumerate((parts, parts[::-1], [*parts[1:], parts[0]])):
        output = tmp_path / f"merged{number}"
        assert merge([part.path for part in order], output) == len(whole.results())
        assert ResultsFolder(output).policy("rd") == b"policy"
        assert (output / "results.jsonl").read_bytes() == (whole.path / "sorted").read_bytes()
        if number == 2:  # of the same lines the others are the same, too
            write_report(output)
            for file in ("report.html", "report.md"):
                assert (output / file).read_bytes() == (whole.path / file).read_bytes()
    again = (tmp_path / "merged0" / "results.jsonl").read_bytes()
    merge([parts[0].path], tmp_path / "merged0")
    assert (tmp_path / "merged0" / "results.jsonl").read_bytes() == again


def test_parts_that_do_not_belong_together_are_refused(
    whole: ResultsFolder, tmp_path: Path
) -> None:
    """Another study, a child made otherwise, a method that learned twice: nothing is written."""
    part = copy(whole, tmp_path / "part")
    other = simulated_folder(tmp_path / "other", replace(STUDY, budget=32))
    changed = copy(whole, tmp_path / "changed", keep=slice(0))
    result = whole.results()[0]
    spec = replace(result.spec, training=replace(result.spec.training, learning_rate=0.1))
    changed.add(replace(result, spec=spec, digest=""))
    relearned = simulated_folder(tmp_path / "relearned")
    policy = copy(whole, tmp_path / "policy", keep=slice(0))
    policy.add_policy("rd", b"another")
    part.add_policy("rd", b"policy")

    for wrong, error in (
        (other, "another study"),
        (changed, "vanilla, judged 0 trained under other things"),
        (relearned, "rd, tuning 0 trained under other things"),
        (policy, "another policy of rd"),
        (ResultsFolder(tmp_path / "nothing"), "no study"),
    ):
        with pytest.raises(AgentError, match=error):
            merge([part.path, wrong.path], tmp_path / "merged")
        assert not (tmp_path / "merged").exists()


def test_what_is_odd_is_flagged(whole: ResultsFolder, tmp_path: Path) -> None:
    """An edited line, another commit, none, another version, another policy, another spec."""
    assert find_flags(whole.study(), whole.results()) == {}
    folder = copy(whole, tmp_path / "odd")
    lines = (folder.path / "results.jsonl").read_text().splitlines()
    edited = json.loads(lines[0])
    edited["finished"]["scores"]["test_score_best"] += 0.05
    lines[0] = json.dumps(edited, separators=(",", ":"))
    (folder.path / "results.jsonl").write_text("\n".join(lines) + "\n")
    results = folder.results()
    judged = next(r for r in results if r.key == Key(method="rd", phase=Phase.JUDGED, index=2))
    training = replace(results[5].spec.training, batch_size=32)
    changes = {
        1: replace(results[1], commit="e" * 40, digest=""),
        2: replace(results[2], commit="", digest=""),
        3: replace(results[3], versions={"torch": "2.12.0"}, digest=""),
        4: replace(results[4], commit=results[4].commit + "+changes", digest=""),
        5: replace(results[5], spec=replace(results[5].spec, training=training), digest=""),
        results.index(judged): replace(judged, policy="0" * 64, digest=""),
    }
    (folder.path / "results.jsonl").unlink()
    for place, result in enumerate(results):
        folder.add(changes.get(place, result))

    words = {
        key: " ".join(flags) for key, flags in find_flags(folder.study(), folder.results()).items()
    }

    assert len(words) == 7
    for place, expected in (
        (0, "was edited"),
        (1, "another commit"),
        (2, "without a commit"),
        (3, "other versions"),
        (4, "changes that are in no commit"),
        (5, "another spec"),
        (results.index(judged), "another policy"),
    ):
        assert expected in words[results[place].key]
    text = write_report(folder.path).text.read_text()
    assert "7 results are not what they should be: see Flags" in text
    assert "7 of 88 results are flagged" in text
    assert "| vanilla | judged 0 | was edited after it was written |" in text
    assert "| Vanilla (flagged) | 4 |" in text
    assert "| linear | 4 |" in text
    assert re.search(
        r"\| rd \| judged 2 \| 2 \| .* another policy than most of its method \|\n", text
    )
