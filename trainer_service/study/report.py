"""The report of a study: Table 1 for its data, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent_service.domain.errors import AgentError
from trainer_service.study.pictures import TITLES, draw_hyperparameters, draw_losses
from trainer_service.study.results import Result, ResultsFolder
from trainer_service.study.spec import StudySpec
from trainer_service.training.spec import Augment, Method, TrainingSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method's test scores over seeds."""

    method: Method
    best: tuple[float, ...]
    """Test macro F1 with the weights of the best validation epoch, by seed."""
    last: tuple[float, ...]
    """Test macro F1 with the last weights, by seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a report wrote."""

    rows: tuple[Row, ...]
    table: Path
    pictures: tuple[Path, ...]


def write_report(folder: ResultsFolder) -> Report:
    """Write table and pictures into a study's folder, from what is finished there.

    Raises:
        AgentError: where there is no study, or nothing of it is finished.
    """
    spec = folder.spec()
    judged = sorted(
        (result for result in folder.results() if not result.is_learning),
        key=lambda result: result.spec.training.seed,
    )
    if not judged:
        raise AgentError(f"{folder.path} has no judged run yet; let compare go on")
    rows = tuple(_row(method, judged) for method in spec.methods if _of(method, judged))
    table = folder.path / "table.md"
    table.write_text(_table(spec, rows, judged))
    losses, values = folder.path / "losses.png", folder.path / "hyperparameters.png"
    draw_losses(judged, losses)
    draw_hyperparameters(judged, values)
    return Report(rows=rows, table=table, pictures=(losses, values))


def _of(method: Method, results: Sequence[Result]) -> list[Result]:
    return [r for r in results if r.spec.training.method is method]


def _row(method: Method, results: Sequence[Result]) -> Row:
    scores = [r.finished.scores for r in _of(method, results)]
    return Row(
        method=method,
        best=tuple(s.test_score_best for s in scores),
        last=tuple(s.test_score_last for s in scores),
    )


def spread(scores: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds; the deviation needs two."""
    mean = f"{np.mean(scores):.3f}"
    return mean if len(scores) < 2 else f"{mean} ± {np.std(scores, ddof=1):.3f}"


def _words(training: TrainingSpec) -> str:
    """Return a data set in words, with what was done to it."""
    words = [f"`{training.dataset}`"]
    if training.classes is not None:
        words.append(f"{training.classes} of its classes")
    if training.deduplicate:
        words.append("without those that stand in validation or test")
    if training.augment is not Augment.NONE:
        words.append(f"augmented by `{training.augment}`")
    return ", ".join(words)


def _table(spec: StudySpec, rows: Sequence[Row], results: Sequence[Result]) -> str:
    training = spec.training
    seeds = max(len(row.best) for row in rows)
    images = f"{training.training_size or 'all'} training images of {_words(training)}"
    lines = [
        f"# Test macro F1: {training.model} on {training.dataset}",
        "",
        f"{images}, {training.label_noise:.0%} of them with a wrong label; {training.model} with "
        f"{training.width:g} of its channels, from {training.start}; {seeds} seeds, mean ± "
        f"standard deviation. The agents learned on {spec.learning_runs} other children, from the "
        f"reward `{spec.reward}`, and were frozen.",
        "",
        "| weights | " + " | ".join(TITLES[row.method] for row in rows) + " |",
        "| --- |" + " --- |" * len(rows),
        "| best validation epoch | " + " | ".join(spread(row.best) for row in rows) + " |",
        "| last | " + " | ".join(spread(row.last) for row in rows) + " |",
        "",
        f"Commit {results[0].commit or 'unknown'}; device {results[0].finished.device}; "
        + ", ".join(f"{name} {version}" for name, version in results[0].versions.items())
        + ". DNI is our reading of that method: see the README.",
    ]
    return "\n".join(lines) + "\n"
