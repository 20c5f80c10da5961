"""Studies as TOML: read from a file or a preset, with errors by line and field, and written."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import TypeAdapter

from agent_service.domain.errors import AgentError, InvalidArgument
from agent_service.text import read_text
from trainer_service.study.spec import StudySpec
from trainer_service.study.study_tables import PER_METHOD, study_of, suite_of
from trainer_service.study.suite import Suite
from trainer_service.study.toml_places import WrongField, in_words, line_of


class WrongStudy(AgentError):
    """An invalid study file; the message names file, line and field."""


def read_study(name: str) -> StudySpec | Suite:
    """Return the study, or the suite, of a file or of the preset of that name.

    Raises:
        WrongStudy: it is neither, or something in it is wrong.
    """
    path = Path(name)
    preset = resources.files("trainer_service.study") / "presets" / f"{name}.toml"
    if path.is_file():
        try:
            text = read_text(path)
        except InvalidArgument as error:
            raise WrongStudy(str(error)) from None
        return parse_study(text, name)
    if "/" not in name and preset.is_file():
        return parse_study(preset.read_text("utf-8"), f"preset {name}")
    raise WrongStudy(f"{name} is no file, and none of the presets {', '.join(presets())}")


def presets() -> list[str]:
    """Return the names of all presets."""
    folder = resources.files("trainer_service.study") / "presets"
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir())


def parse_study(text: str, name: str) -> StudySpec | Suite:
    """Return the study that a TOML text describes, or the suite if it has problems.

    Args:
        text: top-level keys are StudySpec's; `[training]` has TrainingSpec's; each `[[methods]]`
            has a `kind`, and the keys of that kind (methods/); each `[[problems]]` has a `name`,
            and keys of TrainingSpec, or `seeds`, that differ there.
        name: of the file, for errors.

    Raises:
        WrongStudy: naming line and field.
    """
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise WrongStudy(f"{name}: {error}") from None
    try:
        return suite_of(content) if "problems" in content else study_of(content)
    except WrongField as wrong:
        line, field = line_of(text, wrong.place), in_words(wrong.place)
        raise WrongStudy(f"{name}, line {line}: {field}: {wrong.message}") from None


# And back

FILE_NAME = "report.toml"
"""Beside a report; not a name that people give a study's file of their own."""

_SPEC = TypeAdapter(StudySpec)


def as_toml(spec: StudySpec | Suite) -> str:
    """Return a study with every default written out; `parse_study` reads the same study from it."""
    content = _suite_content(spec) if isinstance(spec, Suite) else _content(spec)
    return inert(tomlkit.dumps(content))


def _content(spec: StudySpec) -> dict[str, Any]:
    content: dict[str, Any] = _SPEC.dump_python(spec, mode="json", exclude_none=True)
    for name in PER_METHOD:
        content["training"].pop(name, None)
    return content


def _suite_content(suite: Suite) -> dict[str, Any]:
    """Return what all problems share once, and the rest with each problem."""
    contents = [_content(problem.study) for problem in suite.problems]
    trainings = [content["training"] for content in contents]
    seeds = [{"seeds": content["seeds"]} for content in contents]
    problems = [
        {"name": name, **_unlike(seeds, own), **_unlike(trainings, training)}
        for name, own, training in zip(suite.names, seeds, trainings, strict=True)
    ]
    first = contents[0]
    methods = first.pop("methods")
    return {
        **{name: value for name, value in first.items() if name not in ("seeds", "training")},
        "title": suite.title,
        **_alike(seeds),
        "training": _alike(trainings),
        "problems": problems,
        "methods": methods,
    }


def _alike(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the keys that all tables have with one value."""
    return {
        key: value
        for key, value in tables[0].items()
        if all(key in table and table[key] == value for table in tables)
    }


def _unlike(tables: Sequence[Mapping[str, Any]], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the other keys of one of the tables."""
    alike = _alike(tables)
    return {key: value for key, value in table.items() if key not in alike}


def inert(text: str) -> str:
    """Return TOML or JSON that reads the same and holds no HTML, link or fence for Markdown."""
    return _STRING.sub(lambda string: _MARK.sub(_as_escape, string[0]), text)


def _as_escape(mark: re.Match[str]) -> str:
    return f"\\u{ord(mark[0]):04x}"


_STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_MARK = re.compile(r"[<>\[\]`]")
