"""Long checks: their progress and figures, and a page of all.

`make test-long` runs them one after another and writes tests/data/long.md.
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

OUTPUT = Path("bench-results")
PAGE = Path(__file__).parents[1] / "data" / "long.md"
TARGETS = (
    "test-learning",
    "test-kills",
    "test-trainer-kills",
    "test-ray",
    "test-postgresql",
    "test-traffic",
)
OF_ROOT = ("test-soak",)
"""They make networks of their own."""
LAST_LINES = 4
"""That the page has of a target's output, where no figures end it."""


def measure(
    name: str,
    work: Callable[[Path, Callable[[str], None]], Mapping[str, Any]],
) -> dict[str, Any]:
    """Do something long; return its figures, which are printed and written to a file, too.

    Args:
        name: of the file.
        work: returns figures; given a folder of its own and what is told its progress.
    """
    started = time.monotonic()

    def progress(text: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s  {text}", flush=True)

    OUTPUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, (OUTPUT / f"{name}.log").open("w") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())  # what services say would hide the progress
        Path(folder).chmod(0o755)  # a database's own user enters it
        figures = {**work(Path(folder), progress), "seconds": round(time.monotonic() - started)}
    text = json.dumps(figures, indent=2)
    (OUTPUT / f"{name}.json").write_text(f"{text}\n")
    print(text)
    return figures


def run_target(target: str) -> tuple[str, float, Sequence[str]]:
    """Run a target of make; return how it ended, its seconds and what it said last."""
    began = time.monotonic()
    lines = []
    with subprocess.Popen(
        ["make", "--no-print-directory", target], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    end = "passed" if process.returncode == 0 else "FAILED"
    return end, time.monotonic() - began, said_last(lines)


def said_last(lines: Sequence[str]) -> Sequence[str]:
    """Return the figures that end an output, or its last lines."""
    if lines and lines[-1] == "}" and "{" in lines:
        return lines[len(lines) - 1 - lines[::-1].index("{") :]
    return lines[-LAST_LINES:]


def section(end: str, seconds: float, lines: Sequence[str], *, commit: str) -> str:
    """Return what the page says of one target: how it ended, when, of which commit, its figures."""
    today = datetime.datetime.now(datetime.UTC).date()
    of = f"commit {commit}, {today}, Python {platform.python_version()}, {os.cpu_count()} cores"
    return "\n".join([f"{end} in {seconds:.0f} s: {of}", "", *(f"    {line}" for line in lines)])


def sections(page: str) -> dict[str, str]:
    """Return the sections of a page by target."""
    parts = [part.split("\n", 1) for part in page.split("\n## ")[1:]]
    return {name: text.strip("\n") for name, text in parts}


def joined(parts: Mapping[str, str]) -> str:
    """Return the page of all sections."""
    heads = [f"- `{name}` {text.splitlines()[0]}" for name, text in parts.items()]
    told = [f"## {name}\n\n{text}\n" for name, text in parts.items()]
    return "\n".join(["# What takes long\n", "Written by `make test-long`.\n", *heads, "", *told])


def main(targets: Sequence[str]) -> None:
    """Run targets of make, or all of them, and write the page; ends with 1 where one failed.

    What the page has of other targets stays.
    """
    chosen = targets or (*TARGETS, *(OF_ROOT if os.geteuid() == 0 else ()))
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    ends = []
    for target in chosen:
        end, seconds, lines = run_target(target)
        ends.append(end)
        parts = sections(PAGE.read_text()) if PAGE.exists() else {}
        parts[target] = section(end, seconds, lines, commit=commit)
        PAGE.write_text(joined(parts))
    print(PAGE.read_text())
    sys.exit("FAILED" in ends)


if __name__ == "__main__":
    main(sys.argv[1:])
