"""Text from any editor is read, or told by file and encoding; strangers' text is only shown."""

import logging
from pathlib import Path

import click
import pytest

from agent_service.domain.errors import InvalidArgument, NotFound
from agent_service.serving.command import echo, run_command
from agent_service.serving.logs import LogFormat, start_logging
from agent_service.text import csv_rows, printable, read_text
from agent_service.wire.tokens import read_tokens

TEXT = "a,b\n1,é\n2,ü\n"
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_and_line_ends_of_editors_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    """As the same text and the same rows."""
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT.replace("\n", end).encode(encoding))

    assert read_text(path) == TEXT
    assert [row for _, row in csv_rows(path, ("a",))] == [
        {"a": "1", "b": "é"},
        {"a": "2", "b": "ü"},
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("latin-1"), r"is not in UTF-8 \(a byte 0xe9 after .*; save it as UTF-8"),
        (TEXT.encode("cp437"), "is not in UTF-8"),
        (TEXT.encode("utf-16-le"), "is binary, or UTF-16 without a mark"),
        (b"\xff\xfea\x00,\x00b", "is not in UTF-16"),
        (b"\xff\xfea\x00\x00\xd8a\x00", "is not in UTF-16"),
        (b"\xef\xbb\xbfa,b\n\xe9", "is not in UTF-8 "),
    ],
)
def test_other_encodings_are_told_with_the_file(
    tmp_path: Path, content: bytes, message: str
) -> None:
    """In one line, read whole or row by row."""
    path = tmp_path / "a.csv"
    path.write_bytes(content)

    for read in (read_text, lambda path: list(csv_rows(path, ("a",)))):
        with pytest.raises(InvalidArgument, match=rf"a\.csv: {message}") as told:
            read(path)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "text",
    ["a,b\n1,2\n\n\n", "a,b\n\n1,2", "A , b\n1,2\n , \n,\n", '"a","b"\n"1","2"\n', "a,b,\n1,2,\n"],
)
def test_blank_rows_quotes_and_spaces_are_no_fault(tmp_path: Path, text: str) -> None:
    """As spreadsheets write them."""
    (tmp_path / "a.csv").write_text(text)

    assert [row for _, row in csv_rows(tmp_path / "a.csv", ("a", "b"))] == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a\.csv: has the columns \[\]"),
        ("a;b\n1;2\n", r"has the columns \['a;b'\]; \['a', 'b'\] are required"),
        ("a,b\n\n1\n", r"line 3: has 1 columns, not 2"),
        ("a,b\n1,2,3\n", r"line 2: has 3 columns, not 2"),
        ('a,b\n"' + "1" * 200_000, r"is not CSV"),
    ],
)
def test_a_wrong_row_is_told_by_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    """Lines count as an editor counts them."""
    (tmp_path / "a.csv").write_text(text)

    with pytest.raises(InvalidArgument, match=message):
        list(csv_rows(tmp_path / "a.csv", ("a", "b")))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_token_that_any_editor_saved_is_read(tmp_path: Path, encoding: str) -> None:
    """PowerShell writes UTF-16, Notepad a mark; what is in no encoding is not quoted."""
    path = tmp_path / "token"
    path.write_bytes("0123456789abcdef\r\n".encode(encoding))
    assert read_tokens(path, "token") == ["0123456789abcdef"]

    path.write_bytes(b"secret-secret-secret-\xe9")
    with pytest.raises(InvalidArgument, match="has an unknown encoding") as told:
        read_tokens(path, "token")
    assert "secret-" not in str(told.value)


def test_escape_sequences_are_written_out() -> None:
    """As are bells, line feeds, characters that turn the line round, and undecodable file names."""
    assert printable("\x1b[31mred\x07\n\x9b1m\u202e\udcff") == (
        r"\x1b[31mred\x07\n\x9b1m\u202e\udcff"
    )
    assert printable("größe 日本 \\x1b") == "größe 日本 \\x1b"
    assert printable("a\tb\n", kept="\n") == "a\\tb\n"


def test_a_command_prints_no_escape_sequence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in a line of its table nor in the one that it fails with."""

    @click.group(invoke_without_command=True)
    def cli() -> None:
        echo("run\t\x1b[31mred")
        raise NotFound("no class \x1b]0;owned\x07\nin sight")

    monkeypatch.setattr("sys.argv", ["cli"])
    with pytest.raises(SystemExit):
        run_command(cli)

    shown = capsys.readouterr()
    assert shown.out == "run\t\\x1b[31mred\n"
    assert shown.err == "cli: no class \\x1b]0;owned\\x07\\nin sight\n"


def test_the_log_obeys_no_escape_sequence(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in words nor in the trace of an error."""
    start_logging("agent", LogFormat.TEXT)
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        logging.getLogger("agent_service").exception("class \x1b[31m is odd")
    shown = capsys.readouterr().err

    assert r"class \x1b[31m is odd" in shown
    assert r"ValueError: \x1b[2J" in shown
    assert "\x1b" not in shown
