"""Results on disk: what a folder's study is, a line for each finished run, policies, weights."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Annotated

from pydantic import Field, TypeAdapter, ValidationError

from agent_service.domain.errors import AgentError
from trainer_service.run import ChunkTrained, Finished, RunSpec
from trainer_service.study.spec import StudySpec


class Phase(StrEnum):
    """What a child was trained for."""

    TUNING = "tuning"
    """A search chose by it, or a controller learned on it; it is not judged."""
    JUDGED = "judged"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a run's chunks brought, in order: one value a chunk."""

    training_loss: tuple[float, ...]
    """Mean of the chunk."""
    validation_loss: tuple[float, ...]
    training_score: tuple[float, ...]
    validation_score: tuple[float, ...]
    values: Mapping[str, tuple[float, ...]]
    """What it ran under, by hyperparameter."""
    policy_version: tuple[int, ...] = ()
    """That decided it; 0 without a policy."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Key:
    """Which child of a study a result is of."""

    method: str
    """The method's name in the study."""
    phase: Phase
    index: int
    """From 0: a judged child's seed, a tuning child's place in the budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One finished run: a line of `results.jsonl`."""

    key: Key
    run_id: str
    """At the trainer service, and at the agent service."""
    spec: RunSpec
    finished: Finished
    trace: Trace
    policy: str = ""
    """SHA-256 of the frozen policy's file that decided; empty without one."""
    versions: Mapping[str, str]
    """Of Python and the packages that decide the result."""
    commit: str
    """Of this code, with `+changes` where files differed; empty where it is no checkout."""
    ended_at: float
    """Seconds since 1970."""
    digest: str = ""
    """SHA-256 of this line with the digest left empty: whether it is as it was written."""
    line: Annotated[bytes, Field(exclude=True)] = field(default=b"", compare=False, repr=False)
    """As it stands in the file, without its end. Later versions may write the same otherwise."""

    @property
    def is_judged(self) -> bool:
        """Whether it counts in tables."""
        return self.key.phase is Phase.JUDGED

    @property
    def is_intact(self) -> bool:
        """Whether it is as it was written."""
        return self.digest == _digest(self.line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What `study.json` holds."""

    id: str
    """Prefix of the names of its runs and controllers."""
    spec: StudySpec


_RESULT = TypeAdapter(Result)
_STUDY = TypeAdapter(Study)


class ResultsFolder:
    """A study's folder: `study.json`, `results.jsonl`, `policies/`, `weights/`, and reports."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is written yet."""
        self.path = path
        self._lines = path / "results.jsonl"
        self._file = path / "study.json"

    def open(self, spec: StudySpec) -> str:
        """Begin a study here, or go on with the one that is here; return its id.

        Seeds and methods may have been added to it, and words and comparisons changed.

        Raises:
            AgentError: the folder holds another study.
        """
        if not self._file.exists():
            self.write_study(Study(id=f"s{secrets.token_hex(3)}", spec=spec))
        study = self.study()
        if not spec.goes_on_with(study.spec):
            raise AgentError(
                f"{self._file} is another study; give a new folder, or the same study, to which "
                "methods and seeds may be added"
            )
        if study.spec != spec:
            self.write_study(Study(id=study.id, spec=spec))
        return study.id

    def write_study(self, study: Study) -> None:
        """Say what the folder's study is."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._file.write_bytes(_STUDY.dump_json(study, indent=1) + b"\n")

    def study(self) -> Study:
        """Return the folder's study; raises AgentError where there is none."""
        if not self._file.exists():
            raise AgentError(f"{self.path} holds no study: there is no study.json")
        try:
            return _STUDY.validate_json(self._file.read_bytes())
        except ValidationError as error:
            raise AgentError(f"{self._file} is no study of this version: {_first(error)}") from None

    def results(self) -> list[Result]:
        """Return all finished runs as they were added; a line that a crash cut is left out.

        Raises:
            AgentError: a line is no result; the message names it.
        """
        if not self._lines.exists():
            return []
        lines = self._lines.read_bytes().splitlines(keepends=True)
        return [
            self._result(number, line)
            for number, line in enumerate(lines, 1)
            if line.endswith(b"\n")
        ]

    def _result(self, number: int, line: bytes) -> Result:
        try:
            return replace(_RESULT.validate_json(line), line=line.rstrip(b"\n"))
        except ValidationError as error:
            raise AgentError(f"{self._lines}, line {number}: {_first(error)}") from None

    def add(self, result: Result) -> Result:
        """Append a finished run, with its digest if it has none yet; return it as it stands."""
        stored = result if result.digest else _signed(result)
        self.path.mkdir(parents=True, exist_ok=True)
        with self._lines.open("a+b") as file:
            _mend_cut_line(file)
            file.write(stored.line + b"\n")
        return stored

    def replace_results(self, results: Sequence[Result]) -> None:
        """Have these results and no others; whole, or as it was before."""
        written = self._lines.with_suffix(".new")
        written.write_bytes(b"".join(result.line + b"\n" for result in results))
        written.replace(self._lines)

    def policy(self, method: str) -> bytes | None:
        """Return the frozen policy of a method; None where it has none, yet."""
        file = self._policy_file(method)
        return file.read_bytes() if file.exists() else None

    def add_policy(self, method: str, data: bytes) -> None:
        """Keep a method's frozen policy, in the form of `agent-service export`."""
        _write_whole(self._policy_file(method), data)

    def _policy_file(self, method: str) -> Path:
        return self.path / "policies" / f"{method}.policy"

    def weights(self, method: str) -> bytes | None:
        """Return the weights of a method's judged child of seed 0; None where they are not here."""
        file = self._weights_file(method)
        return file.read_bytes() if file.exists() else None

    def add_weights(self, method: str, data: bytes) -> None:
        """Keep the weights of a method's judged child of seed 0, as a child file."""
        _write_whole(self._weights_file(method), data)

    def _weights_file(self, method: str) -> Path:
        return self.path / "weights" / f"{method}.safetensors"


def _mend_cut_line(file: IO[bytes]) -> None:
    """Cut what follows the last whole line: half a line that a crash left."""
    end = file.seek(0, os.SEEK_END)
    if end == 0 or (file.seek(end - 1) and file.read(1) == b"\n"):
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def _write_whole(file: Path, data: bytes) -> None:
    """Write a file whole or not at all: a study that goes on takes what is there as it is."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = file.with_suffix(".new")
    written.write_bytes(data)
    written.replace(file)


def _signed(result: Result) -> Result:
    """Return a result with its line and the digest of that."""
    blank = _RESULT.dump_json(replace(result, digest=""))
    signed = replace(result, digest=_digest(blank))
    return replace(signed, line=_RESULT.dump_json(signed))


def _digest(line: bytes) -> str:
    """Return the SHA-256 of a line, whatever digest stands in it."""
    return hashlib.sha256(re.sub(rb'"digest":"[0-9a-f]*"', b'"digest":""', line)).hexdigest()


def spec_as_json(spec: StudySpec) -> str:
    """Return a study's spec as JSON, every default filled in."""
    return TypeAdapter(StudySpec).dump_json(spec, indent=1).decode()


def make_trace(chunks: Sequence[ChunkTrained]) -> Trace:
    """Return what a result keeps of its chunks."""
    trained = [c.chunk for c in chunks]
    names = trained[0].values if trained else {}
    return Trace(
        training_loss=tuple(sum(c.losses) / len(c.losses) for c in trained),
        validation_loss=tuple(c.validation_loss for c in trained),
        training_score=tuple(c.training_score for c in trained),
        validation_score=tuple(c.validation_score for c in trained),
        values={name: tuple(c.values[name] for c in trained) for name in names},
        policy_version=tuple(c.policy_version for c in chunks),
    )


def _first(error: ValidationError) -> str:
    """Return the first thing that is wrong, in one line."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
