"""A study as the TOML file that it could have been read from."""

from __future__ import annotations

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
    return tomlkit.dumps(content)
