"""Results on disk: what a folder's study is, a line for each finished run, policies, weights."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Annotated

from pydantic import Field, TypeAdapter

from agent_service.domain.errors import AgentError, invalid
from agent_service.domain.runs import RUN_ID
from trainer_service.locks import lock
from trainer_service.runs.run import Finished, RunSpec
from trainer_service.study.methods.plan import Key, Phase, Plan
from trainer_service.study.results.inside import open_inside, read_inside, write_inside
from trainer_service.study.results.stored_json import BOM, read_json
from trainer_service.study.results.trace import Trace
from trainer_service.study.spec import StudySpec
from trainer_service.study.study_file import inert

log = logging.getLogger(__name__)

_STUDY_FILE, _LINES, _LOCK = "study.json", "results.jsonl", "study.lock"


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
    """Versions of Python and of the packages that decide the result."""
    commit: str
    """Commit of this code, with `+changes` if files differed; empty outside a checkout."""
    ended_at: float
    """Seconds since 1970."""
    digest: str = ""
    """SHA-256 of this line with the digest left empty: whether it is as it was written."""
    line: Annotated[bytes, Field(exclude=True)] = field(default=b"", compare=False, repr=False)
    """As it stands in the file, without its end. Later versions may write the same otherwise."""

    def __post_init__(self) -> None:
        """Check the run's id and scores; raises InvalidArgument."""
        if not RUN_ID.fullmatch(self.run_id):
            raise invalid("run_id", f"{self.run_id[:80]!r} does not match {RUN_ID.pattern}")
        scores = asdict(self.finished.scores)
        for name in (name for name in scores if name != "best_epoch"):
            if not 0 <= scores[name] <= 1:
                raise invalid(f"finished.scores.{name}", f"{scores[name]} is not in [0, 1]")

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
    """Content of `study.json`."""

    id: str
    """Prefix of the names of its runs and controllers."""
    spec: StudySpec


_RESULT = TypeAdapter(Result)
_STUDY = TypeAdapter(Study)


class ResultsFolder:
    """A study's folder: `study.json`, `results.jsonl`, `policies/`, `weights/`, and reports.

    It may be a stranger's: no link in it is followed, and what is wrong in it is an AgentError of
    one line that names the file.
    """

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is written yet."""
        self.path = path

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the folder, made where there is none, for this process: nobody else adds results.

        Raises:
            AgentError: another process has it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open_inside(self.path, _LOCK, os.O_RDWR | os.O_CREAT) as file:
            try:
                is_ours = lock(file)
            except OSError as error:
                log.warning("%s: %s; let no other compare work there", self.path, error.strerror)
                is_ours = True
            if not is_ours:
                raise AgentError(
                    f"another compare or merge is at work in {self.path}; wait for its end, or "
                    "give another --output"
                )
            yield

    def open(self, spec: StudySpec) -> str:
        """Begin a study here, or go on with the one that is here; return its id.

        Seeds and methods may have been added to it, and words and comparisons changed.

        Raises:
            AgentError: the folder holds another study.
        """
        study = self._study()
        if study is None:
            study = Study(id=f"s{secrets.token_hex(3)}", spec=spec)
            self.write_study(study)
        if not spec.goes_on_with(study.spec):
            raise AgentError(
                f"{self.path / _STUDY_FILE} is another study; give a new folder, or the same "
                "study, to which methods and seeds may be added"
            )
        if study.spec != spec:
            self.write_study(Study(id=study.id, spec=spec))
        return study.id

    def write_study(self, study: Study) -> None:
        """Write the folder's study."""
        write_inside(self.path, _STUDY_FILE, _STUDY.dump_json(study, indent=1) + b"\n")

    def remove_study(self) -> None:
        """Remove the folder's study, which has not begun."""
        (self.path / _STUDY_FILE).unlink(missing_ok=True)

    def study(self) -> Study:
        """Return the folder's study; raises AgentError if there is none."""
        study = self._study()
        if study is None:
            raise AgentError(f"{self.path} holds no study: there is no {_STUDY_FILE}")
        return study

    def plan(self) -> Plan:
        """Return the study with its results so far; raises AgentError if there is none."""
        study = self.study()
        return Plan(id=study.id, spec=study.spec, results=self.results(), policy=self.policy)

    @property
    def has_study(self) -> bool:
        """Whether there is one."""
        return self._study() is not None

    def _study(self) -> Study | None:
        data = read_inside(self.path, _STUDY_FILE)
        if data is None:
            return None
        place = f"{self.path / _STUDY_FILE} is no study of this version"
        study: Study = read_json(_STUDY, data, place)
        return study

    def results(self) -> list[Result]:
        """Return all finished runs as they were added; a line that a crash cut is left out.

        Lines may end as any editor or checkout ends them. Of several of one child the one that
        ended first counts, as where parts are merged.

        Raises:
            AgentError: a line is no result; the message names it.
        """
        data = read_inside(self.path, _LINES) or b""
        found: dict[Key, Result] = {}
        for number, line in enumerate(data.removeprefix(BOM).splitlines(keepends=True), 1):
            content = line.rstrip(b"\r\n")
            if content and (content != line or _is_whole(content)):
                place = f"{self.path / _LINES}, line {number}"
                result: Result = replace(read_json(_RESULT, content, place), line=content)
                other = found.setdefault(result.key, result)
                found[result.key] = earlier(other, result)
        return list(found.values())

    def add(self, result: Result) -> Result:
        """Append a finished run, with its digest if it has none yet; return it as it stands."""
        stored = result if result.digest else _signed(result)
        self.path.mkdir(parents=True, exist_ok=True)
        with open_inside(self.path, _LINES, os.O_RDWR | os.O_CREAT) as file:
            _mend_cut_line(file)
            file.write(stored.line + b"\n")
        return stored

    def replace_results(self, results: Sequence[Result]) -> None:
        """Replace all results at once, or none."""
        write_inside(self.path, _LINES, b"".join(result.line + b"\n" for result in results))

    def policy(self, method: str) -> bytes | None:
        """Return the frozen policy of a method; None where it has none, yet."""
        return read_inside(self.path, f"policies/{method}.policy")

    def add_policy(self, method: str, data: bytes) -> None:
        """Keep a method's frozen policy, in the form of `agent-service export`."""
        write_inside(self.path, f"policies/{method}.policy", data)

    def weights(self, method: str) -> bytes | None:
        """Return the weights of a method's judged child of seed 0; None where they are not here."""
        return read_inside(self.path, f"weights/{method}.safetensors")

    def add_weights(self, method: str, data: bytes) -> None:
        """Keep the weights of a method's judged child of seed 0, as a child file."""
        write_inside(self.path, f"weights/{method}.safetensors", data)


def earlier(one: Result, other: Result) -> Result:
    """Return which of two results of a child counts: the one that was there first."""
    return min(one, other, key=lambda result: (result.ended_at, result.run_id))


def _mend_cut_line(file: IO[bytes]) -> None:
    """Go to the end, and cut what follows the last whole line: half a line that a crash left."""
    end = file.seek(0, os.SEEK_END)
    if end == 0 or (file.seek(end - 1) and file.read(1) in b"\r\n"):
        return
    file.seek(0)
    last = file.read().splitlines()[-1]
    if _is_whole(last):
        file.write(b"\n")  # an editor took it away
    else:
        file.truncate(file.seek(end - len(last)))


def _is_whole(line: bytes) -> bool:
    """Whether a line without an end is as it was written."""
    return f'"digest":"{_digest(line)}"'.encode() in line


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
    return inert(TypeAdapter(StudySpec).dump_json(spec, indent=1).decode())
