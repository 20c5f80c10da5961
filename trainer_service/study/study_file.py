"""Studies as TOML: read from a file or a preset, with errors by line and field, and written."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import tomlkit
from pydantic import TypeAdapter, ValidationError

from agent_service.domain.errors import AgentError, InvalidArgument
from agent_service.text import read_text
from trainer_service.study.methods.entry import Entry
from trainer_service.study.methods.registry import KINDS
from trainer_service.study.spec import StudySpec
from trainer_service.training.spec import TrainingSpec

T = TypeVar("T")

Place = tuple[str | int, ...]
"""Path of a field: names of tables and keys, and places in arrays from 0."""


PER_METHOD = {"method", "values", "sites", "seed"}
"""Fields that differ between children of a study."""


class WrongStudy(AgentError):
    """An invalid study file; the message names file, line and field."""


def read_study(name: str) -> StudySpec:
    """Return the study of a file, or the preset of that name.

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


def parse_study(text: str, name: str) -> StudySpec:
    """Return the study that a TOML text describes.

    Args:
        text: top-level keys are StudySpec's; `[training]` has TrainingSpec's; each `[[methods]]`
            has a `kind`, and the keys of that kind (methods/).
        name: of the file, for errors.

    Raises:
        WrongStudy: naming line and field.
    """
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise WrongStudy(f"{name}: {error}") from None
    try:
        return _study(content)
    except _Wrong as wrong:
        line, field = _line(text, wrong.place), _words(wrong.place)
        raise WrongStudy(f"{name}, line {line}: {field}: {wrong.message}") from None


class _Wrong(Exception):
    """Something is wrong at a place."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


def _study(content: dict[str, Any]) -> StudySpec:
    _check_names(StudySpec, content, ())
    for name, kind in (("training", dict), ("methods", list)):
        if not isinstance(content.get(name), kind):
            table = "[training]" if kind is dict else "[[methods]]"
            raise _Wrong((name,), f"is missing; write it as {table}")
    for name in PER_METHOD.intersection(content["training"]):
        raise _Wrong(("training", name), "is set for each child by its method; leave it out")
    training = _made(TrainingSpec, content["training"], ("training",))
    methods = tuple(_entry(table, ("methods", i)) for i, table in enumerate(content["methods"]))
    return _made(StudySpec, {**content, "training": training, "methods": methods}, ())


def _entry(table: Any, place: Place) -> Entry:
    kind = table.get("kind") if isinstance(table, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise _Wrong((*place, "kind"), f"{kind!r} is not one of {', '.join(KINDS)}")
    types = get_type_hints(KINDS[kind])
    made = {
        name: _made(types[name], value, (*place, name))
        for name, value in table.items()
        if isinstance(value, dict) and is_dataclass(types.get(name))
    }
    entry: Entry = _made(KINDS[kind], {**table, **made}, place)
    return entry


def _check_names(kind: type[Any], table: Mapping[str, Any], place: Place) -> None:
    """Check that a dataclass has all names of a table; raises _Wrong."""
    names = [field.name for field in fields(kind)]
    for name in table:
        if name not in names:
            raise _Wrong((*place, name), f"is not known here; known are {', '.join(names)}")


def _made(kind: type[T], table: Mapping[str, Any], place: Place) -> T:
    """Return a table as a dataclass; raises _Wrong."""
    _check_names(kind, table, place)
    try:
        return TypeAdapter(kind).validate_python(table)
    except ValidationError as error:
        first = error.errors()[0]
        raise _Wrong((*place, *first["loc"]), first["msg"].lower()) from None
    except InvalidArgument as error:
        violation = error.violations[0]
        raise _Wrong((*place, *_place(violation.field)), violation.description) from None


def _place(field: str) -> Place:
    """Return the place of a field that is written as in errors: `methods[3].values[dropout]`."""
    return tuple(int(p) if p.isdigit() else p for p in re.findall(r"[^.\[\]]+", field))


def _words(place: Sequence[str | int]) -> str:
    """Return a place in words."""
    text = "".join(f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")


_TABLE = re.compile(r"\s*(\[\[?)\s*([\w.\-]+)\s*\]")
_KEY = re.compile(r"\s*([\w.\-]+)\s*=")


def _line(text: str, place: Place) -> int:
    """Return the line of a field, from 1; where it is missing, that of the table that lacks it.

    tomllib reports no lines, so tables and keys are looked for at the beginnings of lines.
    """
    found: dict[Place, int] = {(): 1}
    table: Place = ()
    counts: dict[Place, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if head := _TABLE.match(line):
            names: Place = tuple(head[2].split("."))
            # A table below an array of tables belongs to the last one of these.
            for cut in range(1, len(names)):
                if names[:cut] in counts:
                    names = (*names[:cut], counts[names[:cut]], *names[cut:])
            if head[1] == "[[":
                counts[names] = counts.get(names, -1) + 1
                names = (*names, counts[names])
            table = names
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, *key[1].split(".")), number)
    return next(found[place[:cut]] for cut in range(len(place), -1, -1) if place[:cut] in found)


# And back

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
