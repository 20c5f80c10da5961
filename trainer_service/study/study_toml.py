"""A study as the TOML file that it could have been read from."""

from __future__ import annotations

import re

import tomlkit
from pydantic import TypeAdapter

from trainer_service.study.spec import StudySpec
from trainer_service.study.study_file import PER_METHOD

FILE_NAME = "report.toml"
"""Beside a report; not a name that people give a study's file of their own."""

_SPEC = TypeAdapter(StudySpec)


def as_toml(spec: StudySpec) -> str:
    """Return a study with every default written out; `parse_study` reads the same study from it."""
    content = _SPEC.dump_python(spec, mode="json", exclude_none=True)
    for name in PER_METHOD:
        content["training"].pop(name, None)
    return inert(tomlkit.dumps(content))


def inert(text: str) -> str:
    """Return TOML or JSON that reads the same and holds no HTML, link or fence for Markdown."""
    return _STRING.sub(lambda string: _MARK.sub(_as_escape, string[0]), text)


def _as_escape(mark: re.Match[str]) -> str:
    return f"\\u{ord(mark[0]):04x}"


_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_MARK = re.compile(r"[<>\[\]`]")
