"""Results on disk: what a folder's study is, and one line for each finished run."""

from __future__ import annotations

import platform
import secrets
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from pydantic import TypeAdapter

from agent_service.domain.errors import AgentError
from trainer_service.run import ChunkTrained, Finished, RunSpec
from trainer_service.study.spec import StudySpec

PACKAGES = ("reinforced-regularization", "torch", "torchvision", "stable-baselines3", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a run's chunks brought, in order: one value a chunk."""

    training_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    training_score: tuple[float, ...]
    validation_score: tuple[float, ...]
    values: dict[str, tuple[float, ...]]
    """By hyperparameter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One finished run: a line of `results.jsonl`."""

    run_id: str
    is_learning: bool
    """Whether a controller learned on it; such runs are not judged."""
    spec: RunSpec
    finished: Finished
    trace: Trace
    versions: dict[str, str]
    """Of Python and the packages that decide the result."""
    commit: str
    """Of this code; empty where it does not run from a checkout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Study:
    id: str
    spec: StudySpec


_RESULT = TypeAdapter(Result)
_STUDY = TypeAdapter(_Study)


class ResultsFolder:
    """A study's folder: `study.json`, `results.jsonl`, and what the report makes of them."""

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is written yet."""
        self.path = path
        self._lines = path / "results.jsonl"

    def open(self, spec: StudySpec) -> str:
        """Begin a study here, or go on with the one that is here; return its id.

        Raises:
            AgentError: the folder holds another study.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / "study.json"
        if not file.exists():
            study = _Study(id=f"s{secrets.token_hex(3)}", spec=spec)
            file.write_bytes(_STUDY.dump_json(study, indent=2))
            return study.id
        study = _STUDY.validate_json(file.read_bytes())
        if study.spec != spec:
            raise AgentError(f"{file} is another study; give a new folder, or the same options")
        return study.id

    def spec(self) -> StudySpec:
        """Return the study's spec; raises AgentError where no study is."""
        file = self.path / "study.json"
        if not file.exists():
            raise AgentError(f"{self.path} holds no study: there is no study.json")
        return _STUDY.validate_json(file.read_bytes()).spec

    def results(self) -> Sequence[Result]:
        """Return all finished runs; a line that was cut by a crash is left out."""
        if not self._lines.exists():
            return []
        lines = self._lines.read_bytes().splitlines(keepends=True)
        return [_RESULT.validate_json(line) for line in lines if line.endswith(b"\n")]

    def add(self, result: Result) -> None:
        """Append a finished run."""
        if self._lines.exists() and not self._lines.read_bytes().endswith(b"\n"):
            whole = self._lines.read_bytes().rpartition(b"\n")[0]
            self._lines.write_bytes(whole + b"\n" if whole else b"")
        with self._lines.open("ab") as file:
            file.write(_RESULT.dump_json(result) + b"\n")


def make_result(
    run_id: str,
    spec: RunSpec,
    finished: Finished,
    chunks: Sequence[ChunkTrained],
    *,
    is_learning: bool,
) -> Result:
    """Return a run's result with its origin."""
    trained = [c.chunk for c in chunks]
    names = trained[0].values if trained else {}
    trace = Trace(
        training_loss=tuple(sum(c.losses) / len(c.losses) for c in trained),
        validation_loss=tuple(c.validation_loss for c in trained),
        training_score=tuple(c.training_score for c in trained),
        validation_score=tuple(c.validation_score for c in trained),
        values={name: tuple(c.values[name] for c in trained) for name in names},
    )
    versions = {package: metadata.version(package) for package in PACKAGES}
    return Result(
        run_id=run_id,
        is_learning=is_learning,
        spec=spec,
        finished=finished,
        trace=trace,
        versions={"python": platform.python_version(), **versions},
        commit=_commit(),
    )


def _commit() -> str:
    """Return the commit of the checkout that this code lies in."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        shown = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return shown.stdout.strip()
