"""A run's schedule: saved to a file, and replayed in trainings without an agent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_service.client.run import Run
from agent_service.client.sites import Drives, Site
from agent_service.domain.errors import InvalidArgument, invalid
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.v1 import agent_pb2 as pb

if TYPE_CHECKING:
    from torch import nn

    from agent_service.client.model.scores import Score

FORMAT = 1
"""Version of the JSON format; files with another version are refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The values of each chunk; created by `AgentClient.schedule` or `load`."""

    chunk_size: int
    """N, training steps in a chunk."""
    values: tuple[Mapping[str, float], ...]
    """Values by hyperparameter name, one entry per chunk; later chunks use the last one."""

    def __post_init__(self) -> None:
        """Check that all chunks have the same names and finite values; raises InvalidArgument."""
        if self.chunk_size < 1:
            raise invalid("chunk_size", f"{self.chunk_size} must be at least 1")
        if not self.values or not self.values[0]:
            raise invalid("values", "is empty; give at least one chunk and one hyperparameter")
        for chunk, values in enumerate(self.values, start=1):
            if set(values) != set(self.values[0]):
                raise invalid(
                    f"values[{chunk}]", f"has {sorted(values)}, others {sorted(self.values[0])}"
                )
            for name, value in values.items():
                if not math.isfinite(value):
                    raise invalid(f"values[{chunk}][{name}]", f"{value} is not finite")

    def of(self, chunk: int) -> Mapping[str, float]:
        """Return the values of a chunk, counted from 1."""
        return self.values[min(chunk, len(self.values)) - 1]

    def save(self, path: str | Path) -> None:
        """Write a .json file, or .csv with the columns chunk, steps and one per hyperparameter.

        Raises:
            InvalidArgument: the suffix is another one, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in (".csv", ".json"):
            raise invalid(str(path), "has no known suffix; name it .json or .csv")
        try:
            self._write(path)
        except OSError as error:
            fix = "" if path.parent.is_dir() else f"; create the folder {path.parent} first"
            raise invalid(str(path), f"cannot be written: {error.strerror}{fix}") from error

    def _write(self, path: Path) -> None:
        if _is_csv(path):
            import csv  # slow to import

            names = list(self.values[0])
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["chunk", "steps", *names])
                for chunk, values in enumerate(self.values, start=1):
                    writer.writerow([chunk, self.chunk_size, *(values[name] for name in names)])
            return
        import json

        content = {"format": FORMAT, "chunk_size": self.chunk_size, "values": self.values}
        path.write_text(json.dumps(content, indent=1, default=dict) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> Schedule:
        """Read a file of `save`; raises InvalidArgument, naming the file and the fault."""
        from agent_service.text import csv_rows, read_text

        path = Path(path)
        try:
            if _is_csv(path):
                rows = [row for _, row in csv_rows(path, ("chunk", "steps"))]
                made = partial(_csv_schedule, rows)
            else:
                made = partial(_json_schedule, read_text(path))
        except OSError as error:
            raise invalid(
                str(path), f"cannot be read: {error.strerror}; give a file of `Schedule.save`"
            ) from error
        try:
            return made()
        except InvalidArgument as error:
            raise invalid(str(path), f"{error}") from error
        except _WRONG as error:
            raise invalid(
                str(path), f"is not a schedule; give a file of `Schedule.save` ({error!r})"
            ) from error

    def run(
        self,
        *,
        model: nn.Module | None = None,
        sites: Mapping[str, Site] | None = None,
        drives: Drives | None = None,
        score: Score | None = None,
    ) -> Run:
        """Return a run that follows this schedule, without an agent.

        The arguments are those of `AgentClient.run`.
        """
        steered = None
        if model is not None:
            from agent_service.client.model.steered import SteeredModel

            steered = SteeredModel(
                model, self._hyperparameters(), sites=sites, drives=drives, score=score
            )
        return Run(
            _ScheduleDelivery(self),
            run_id="schedule",
            chunk_size=self.chunk_size,
            action=self._action(1),
            model=steered,
        )

    def _action(self, chunk: int) -> pb.Action:
        return pb.Action(values=self.of(chunk), chunk_index=chunk)

    def _hyperparameters(self) -> list[Hyperparameter]:
        """Return hyperparameters whose ranges cover the schedule's values."""
        return [
            Hyperparameter(
                name=name,
                low=min(0.0, *(v[name] for v in self.values)),
                high=max(v[name] for v in self.values) or 0.5,
            )
            for name in self.values[0]
        ]


class _ScheduleDelivery:
    """A delivery without an agent: answers each report with the schedule's next entry."""

    is_shared = False

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule

    def joined(self, numbers: Sequence[float]) -> Sequence[float]:
        return numbers

    def send(self, request: Any) -> pb.ReportChunkResponse | None:
        if isinstance(request, pb.FinishRunRequest):
            return None
        return pb.ReportChunkResponse(action=self._schedule._action(request.chunk_index + 1))

    def finish(self, request: pb.FinishRunRequest, *, is_best_effort: bool) -> None:
        """Do nothing: there is no agent."""

    def flush(self) -> None:
        """Do nothing: no call is ever queued."""


_WRONG = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
"""The errors that parsing a malformed file can raise."""


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _json_schedule(text: str) -> Schedule:
    import json

    content = json.loads(text)
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']}, but this release reads {FORMAT}")
    values = [{str(k): float(v) for k, v in entry.items()} for entry in content["values"]]
    return Schedule(chunk_size=int(content["chunk_size"]), values=tuple(values))


def _csv_schedule(rows: Sequence[dict[str, str]]) -> Schedule:
    if [int(row.pop("chunk")) for row in rows] != list(range(1, len(rows) + 1)):
        raise ValueError("column chunk must count from 1")
    (chunk_size,) = {int(row.pop("steps")) for row in rows}
    values = [{name: float(value) for name, value in row.items()} for row in rows]
    return Schedule(chunk_size=chunk_size, values=tuple(values))
