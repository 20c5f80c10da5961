"""A results folder that comes from a stranger: its links, names, titles and commits."""

import errno
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent_service.domain.errors import AgentError, InvalidArgument
from tests.trainer_service.study.simulated import (
    STUDY,
    draw_nothing,
    simulated_folder,
    simulated_suite,
)
from trainer_service.study import command
from trainer_service.study.methods.fixed import Fixed
from trainer_service.study.methods.plan import Key
from trainer_service.study.report.flags import find_flags
from trainer_service.study.report.report import write_report
from trainer_service.study.results.inside import write_inside
from trainer_service.study.results.merging import merge
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.results.suite_folder import SuiteFolder
from trainer_service.study.study_file import read_study
from trainer_service.study.suite import Suite, SuiteProblem
from trainer_service.training.spec import Method

HTML = (
    "<script>1</script>\n\n# injected\n\n[l](javascript:1) | `c` \x1b[31m\x00 $_$ *x* &lt; [/red]"
)
SMALL = replace(
    STUDY,
    seeds=2,
    methods=(
        Fixed(name="vanilla", method=Method.VANILLA),
        Fixed(name="d", title=HTML, method=Method.D),
    ),
    references=("d",),
    title=HTML,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResultsFolder:
    draw_nothing(monkeypatch)
    return simulated_folder(tmp_path / "theirs", SMALL)


def changed(folder: ResultsFolder, **changes: object) -> None:
    """Have results with other fields, signed as their author would."""
    results = [replace(r, digest="", **changes) for r in folder.results()]  # type: ignore[arg-type]
    (folder.path / "results.jsonl").unlink()
    for result in results:
        folder.add(result)


def edited(folder: ResultsFolder, name: str, change: Callable[[Any], object]) -> None:
    """Change the first line of a file as JSON."""
    path = folder.path / name
    first, *others = path.read_text().split("\n") if name.endswith("l") else [path.read_text()]
    content = json.loads(first)
    change(content)
    path.write_text("\n".join([json.dumps(content), *others]))


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.toml"])
def test_a_report_replaces_a_link_and_not_what_it_names(
    folder: ResultsFolder, tmp_path: Path, name: str
) -> None:
    """Also one that leads nowhere, yet."""
    own = tmp_path / "own"
    own.write_text("precious")
    (folder.path / name).symlink_to(own if name != "report.md" else tmp_path / "new")

    write_report(folder.path)

    assert own.read_text() == "precious"
    assert not (tmp_path / "new").exists()
    assert (folder.path / name).is_file()
    assert not (folder.path / name).is_symlink()


@pytest.mark.parametrize("name", ["study.json", "results.jsonl"])
def test_what_is_read_is_no_link(folder: ResultsFolder, tmp_path: Path, name: str) -> None:
    """Nor a pipe, which would block; the error names the path, and nothing is written."""
    moved = (folder.path / name).rename(tmp_path / "elsewhere")
    (folder.path / name).symlink_to(moved)
    before = sorted(folder.path.iterdir())

    for _ in range(2):
        with pytest.raises(AgentError, match=rf"{name} is (a link|no file)"):
            write_report(folder.path)
        assert sorted(folder.path.iterdir()) == before
        (folder.path / name).unlink()
        os.mkfifo(folder.path / name)


@pytest.mark.parametrize("linked", ["policies", "policies/d.policy", "weights/d.safetensors"])
def test_a_merge_copies_nothing_that_a_link_names(
    folder: ResultsFolder, tmp_path: Path, linked: str
) -> None:
    """A file or its folder; nothing is written then."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "d.policy").write_text("SECRET")
    target = tmp_path / "own" if linked == "policies" else tmp_path / "own" / "d.policy"
    (folder.path / linked).parent.mkdir(exist_ok=True)
    (folder.path / linked).symlink_to(target)

    with pytest.raises(AgentError, match=rf"{linked} is a link"):
        merge([folder.path], tmp_path / "all")
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("linked", ["pictures", "policies", "weights"])
def test_nothing_is_written_into_a_linked_folder(
    folder: ResultsFolder, tmp_path: Path, linked: str
) -> None:
    """The error names it; the folder's own path may be a link, since it is the reader's."""
    own = tmp_path / "own"
    own.mkdir()
    (folder.path / linked).symlink_to(own)
    (tmp_path / "latest").symlink_to(folder.path)

    with pytest.raises(AgentError, match=rf"{linked} is a link"):
        write_report(folder.path) if linked == "pictures" else merge([folder.path], folder.path)
    with pytest.raises(AgentError, match=rf"latest/{linked} is a link"):
        write_inside(tmp_path / "latest", f"{linked}/new", b"")
    assert list(own.iterdir()) == []


@pytest.mark.parametrize("name", ["results.jsonl", "study.lock"])
def test_no_link_is_opened_for_writing(folder: ResultsFolder, tmp_path: Path, name: str) -> None:
    """As where a study goes on in a stranger's folder: it could make a file anywhere."""
    result = folder.results()[0]
    (folder.path / name).unlink(missing_ok=True)
    (folder.path / name).symlink_to(tmp_path / "new")

    with pytest.raises(AgentError, match=f"{name} is a link"), folder.held():
        folder.add(result)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("way", "error"),
    [("report.html", "is a folder, where a file is written"), ("pictures", "is a file, where a")],
)
def test_a_folder_or_file_in_the_way_is_named(folder: ResultsFolder, way: str, error: str) -> None:
    """By its own name, not a temporary one's."""
    if way == "pictures":
        (folder.path / way).touch()
    else:
        (folder.path / way).mkdir()

    with pytest.raises(AgentError, match=rf"{way} {error}.*move it away"):
        write_report(folder.path)


@pytest.mark.parametrize("name", ["../d", "/tmp/d", "d/e", "..", "", "D", "x" * 41])
def test_a_results_method_names_no_other_file(folder: ResultsFolder, name: str) -> None:
    """Policies and weights are named after methods: other names are no results."""
    with pytest.raises(InvalidArgument, match=r"key\.method"):
        Key(method=name, phase=folder.results()[0].key.phase, index=0)

    edited(folder, "results.jsonl", lambda line: line["key"].update(method=name))
    with pytest.raises(AgentError, match=r"results\.jsonl, line 1: key\.method: "):
        folder.results()


LINES = "results.jsonl"
WRONG: list[tuple[str, Callable[[Any], object], str]] = [
    (LINES, lambda r: r["trace"]["training_loss"].pop(), "line 1: trace: has columns"),
    (LINES, lambda r: r.update(run_id="a\x1b[31m"), r"line 1: run_id: 'a\\x1b"),
    (LINES, lambda r: r["finished"]["scores"].update(test_score_last=math.nan), r"nan is not in"),
    (LINES, lambda r: r.update(spec=3), "line 1: spec: "),
    (LINES, lambda r: r["trace"]["values"].update({"\x1b": 1}), "line 1: trace"),
    ("study.json", lambda s: s["spec"].update(seeds=0), r"study\.json is no study.*seeds: 0"),
    ("study.json", lambda s: s["spec"]["methods"][0].update(name="../x"), "study.json"),
    ("study.json", lambda s: s["spec"]["methods"][0].update(kind="later"), "'later' is not one of"),
]


@pytest.mark.parametrize(("name", "change", "error"), WRONG)
def test_an_error_names_file_and_line(
    folder: ResultsFolder, name: str, change: Callable[[Any], object], error: str
) -> None:
    """In one line that a terminal prints as it is."""
    edited(folder, name, change)

    with pytest.raises(AgentError, match=error) as raised:
        write_report(folder.path)
    assert str(raised.value).isprintable()
    assert name in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        *(b"[" * 100_000, b'{"key": ' + b"9" * 5000 + b"}", b"\xff\xfe{", b'"\xf0"'),
        *('{"é": 1}'.encode(encoding) for encoding in ("utf-16", "utf-16-le", "latin-1")),
    ],
)
def test_a_line_that_no_compare_wrote_is_refused_shortly(
    folder: ResultsFolder, text: bytes
) -> None:
    """Deep, huge, or in another encoding."""
    (folder.path / "results.jsonl").write_bytes(text + b"\n")

    is_text = text[:1] in b"[{" and b"\0" not in text and text.isascii()
    fix = "" if is_text else ".*save it as UTF-8"
    with pytest.raises(AgentError, match=rf"results\.jsonl, line 1: .*JSON{fix}") as raised:
        write_report(folder.path)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("commit", ["HEAD; touch pwned #", "--help", "A" * 40, "c" * 40 + "\nx"])
def test_a_report_checks_out_commits_only(folder: ResultsFolder, commit: str) -> None:
    """Readers run what a report says; another is flagged."""
    changed(folder, commit=commit)

    text = write_report(folder.path).text.read_text()

    blocks = re.findall(r"```\n(.*?)```", text, re.S)
    assert blocks[0] == "trainer-service compare report.toml --output again\n"
    flags = find_flags(folder.study(), folder.results())
    assert all("was made by what is no commit" in words for words in flags.values())


def test_titles_stay_text_in_every_form(folder: ResultsFolder) -> None:
    """No tag, heading, link, code or escape sequence; report.toml is the same study."""
    changed(
        folder,
        versions={HTML: HTML},
        finished=replace(folder.results()[0].finished, device=HTML),
    )
    report = write_report(folder.path)
    text, page = report.text.read_text(), report.page.read_text()

    for written in (text, page):
        assert not {"\x1b", "\x00"} & set(written)
        assert not re.search(r"(?<!\\)<script>", written)
    assert "\n# injected" not in text
    assert not re.search(r"(?<!\\)\]\(javascript", text)
    marks = r"\| \`c\` \[31m \$\_\$ \*x\* \&lt; \[/red\]"
    assert rf"\<script\>1\</script\> # injected \[l\](javascript:1) {marks}" in text
    assert read_study(str(folder.path / "report.toml")) == SMALL


def test_a_terminal_shows_titles_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rich's own markup in a title would end the table with a traceback."""
    titled = Fixed(name="d", title="[/red] [b]\x1b[31m", method=Method.D)
    folder = simulated_folder(tmp_path, replace(SMALL, methods=(titled,)))

    command.show_report(folder.path)

    shown = capsys.readouterr().out
    assert "[/red] [b] [31m" in shown
    assert "\x1b" not in shown


def test_a_folder_is_held_by_one(folder: ResultsFolder, tmp_path: Path) -> None:
    """Another compare or merge is refused in a line, and nothing changes; a report is written."""
    lines = (folder.path / "results.jsonl").read_bytes()
    with folder.held():
        for refused in (
            lambda: ResultsFolder(folder.path).held().__enter__(),
            lambda: merge([folder.path], folder.path),
        ):
            with pytest.raises(AgentError, match="another compare or merge is at work in"):
                refused()
        merge([folder.path], tmp_path / "all")
        write_report(folder.path)

    assert (folder.path / "results.jsonl").read_bytes() == lines
    with folder.held():
        pass


def test_a_file_system_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A study goes on there, since it may be alone."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)

    with ResultsFolder(tmp_path).held():
        assert "let no other compare work there" in caplog.text


@pytest.fixture
def suite_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SuiteFolder:
    draw_nothing(monkeypatch)
    suite = Suite(title=HTML, problems=(SuiteProblem(name="one", study=SMALL),))
    return simulated_suite(tmp_path / "theirs", suite)


def test_no_link_of_a_suite_is_followed(suite_folder: SuiteFolder, tmp_path: Path) -> None:
    """Of a problem's folder: nothing outside is read or written."""
    theirs = suite_folder.path / "one"
    theirs.rename(tmp_path / "elsewhere")
    theirs.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(AgentError, match="one is a link, which is not followed"):
        command.show_report(suite_folder.path)
    assert not (tmp_path / "elsewhere" / "report.html").exists()


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('"one"', '"../one"', r"suite\.json is no suite: name: '\.\./one' does not"),
        ('"seeds": 2', '"seeds": 0', r"suite\.json is no suite: .*seeds"),
        ('"chunks": 20', '"chunks": 21', r"one is another study than suite\.json says"),
    ],
)
def test_a_wrong_suite_is_told_in_one_line(
    suite_folder: SuiteFolder, old: str, new: str, error: str
) -> None:
    """With the file, and what is wrong in it."""
    file = suite_folder.path / "suite.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))

    with pytest.raises(AgentError, match=error) as raised:
        command.show_report(suite_folder.path)
    assert "\n" not in str(raised.value)


def test_a_suites_titles_are_text(suite_folder: SuiteFolder) -> None:
    """In its page and its Markdown."""
    command.show_report(suite_folder.path)

    page = (suite_folder.path / "report.html").read_text()
    assert "<script>1" not in page
    assert page.count("<script") == 0
    text = (suite_folder.path / "report.md").read_text()
    assert "\n# injected" not in text
    assert "[l](javascript:1)" not in text


def test_a_folder_holds_one_kind_of_study(suite_folder: SuiteFolder, tmp_path: Path) -> None:
    """What is begun for one problem is not gone on with for several, nor the other way round."""
    suite = suite_folder.suite()
    with pytest.raises(AgentError, match="holds a study of one problem"):
        SuiteFolder(suite_folder.path / "one").open(suite)
    with pytest.raises(AgentError, match=r"no suite of problems: there is no suite\.json"):
        merge([suite_folder.path, suite_folder.path / "one"], tmp_path / "all")
    other = replace(suite, problems=(SuiteProblem(name="two", study=SMALL),))
    with pytest.raises(AgentError, match="is another study; give a new folder"):
        suite_folder.open(other)
