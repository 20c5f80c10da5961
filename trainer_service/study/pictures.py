"""The pictures of a study's report, each from its rows; PNG bytes that depend on nothing else."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer_service.study.entries import Learned
from trainer_service.study.results import Result
from trainer_service.study.rows import MOMENTS, Compared, Row, paired
from trainer_service.study.statistics import difference

BLUE, ORANGE, GREEN, GREY = "#1f77b4", "#e1701a", "#2a8a3e", "#777777"
COLUMNS = 4
"""Small axes beside one another."""


def png(figure: Figure) -> bytes:
    """Return a figure as PNG, without the date and the version that are usually in there."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def draw_scores(rows: Sequence[Row]) -> bytes:
    """Draw the test score of every seed of each method, at the best epoch and at the last."""
    figure = Figure(figsize=(9, 1 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        for offset, (moment, score), colour in zip(
            (-0.16, 0.16), MOMENTS.items(), (BLUE, ORANGE), strict=True
        ):
            scores = [score(result.finished.scores) for result in row.judged]
            axes.plot(scores, [place + offset] * len(scores), "o", ms=3, alpha=0.4, color=colour)
            label = f"{moment}: seeds, and their mean" if place == 0 else None
            axes.plot(
                [row.scores[moment].mean], [place + offset], "|", ms=11, mew=2.5, color=colour,
                label=label,
            )  # fmt: skip
    _name_rows(axes, [row.entry.label for row in rows])
    axes.set(xlabel="test macro F1")
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.0), fontsize="small")
    return png(figure)


def _name_rows(axes: Axes, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)


def draw_differences(rows: Sequence[Row], reference: str) -> bytes:
    """Draw how far each method is above a reference, with the 95% intervals of Student's t."""
    shown = [(row, _beside(row, reference)) for row in rows if _beside(row, reference)]
    figure = Figure(figsize=(9, 1 + 0.34 * len(shown)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", lw=0.8)
    for place, (_row, beside) in enumerate(shown):
        for offset, compared, colour in zip((-0.16, 0.16), beside, (BLUE, ORANGE), strict=True):
            label = f"test F1, {compared.moment}" if place == 0 else None
            _draw_interval(axes, place + offset, compared, colour, label)
    _name_rows(axes, [row.entry.label for row, _beside in shown])
    axes.set(xlabel="difference, mean and 95% interval over paired seeds")
    axes.legend(loc="best", fontsize="small")
    return png(figure)


def _beside(row: Row, reference: str) -> list[Compared]:
    return [compared for compared in row.compared if compared.reference.name == reference]


def _draw_interval(
    axes: Axes, place: float, compared: Compared, colour: str, label: str | None
) -> None:
    found = compared.difference
    if found.student is not None:
        axes.plot([found.student.low, found.student.high], [place, place], color=colour, lw=2)
    axes.plot([found.mean], [place], "o", ms=5, color=colour, label=label)


def draw_losses(rows: Sequence[Row]) -> bytes:
    """Draw training and validation loss of each method over steps (the paper's Figure 9)."""
    rows = _with_chunks(rows)
    figure, cells = _cells(len(rows))
    limit = _highest_loss(rows)
    for axes, row in zip(cells, rows, strict=False):
        size = row.judged[0].spec.training.chunk_size
        for curves, colour, label in (
            ([r.trace.training_loss for r in row.judged], BLUE, "training"),
            ([r.trace.validation_loss for r in row.judged], ORANGE, "validation"),
        ):
            _draw_band(axes, curves, colour, label, step=size)
        axes.set(title=row.entry.label, ylim=(0, limit), xlabel="training step")
    _legend(cells, rows)
    return png(figure)


def _highest_loss(rows: Sequence[Row]) -> float:
    """Return where the losses' axes end: above most, so that one that blows up hides none."""
    tops = [max(r.trace.validation_loss) for row in rows for r in row.judged]
    return 1.05 * float(np.quantile(tops, 0.9)) if tops else 1.0


def _with_chunks(rows: Sequence[Row]) -> list[Row]:
    """Return rows of which every run has a curve: one that diverged in its first chunk has none."""
    return [row for row in rows if all(r.trace.training_loss for r in row.judged)]


def _cells(count: int, *, columns: int = COLUMNS, height: float = 2.3) -> tuple[Figure, list[Axes]]:
    """Return small axes, in as many rows as are needed; those at the end that are not, are off."""
    rows = max(1, math.ceil(count / columns))
    figure = Figure(figsize=(3 * columns, height * rows + 0.4), layout="constrained")
    cells = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in cells:
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.tick_params(labelsize="small")
        axes.title.set_size("medium")
    for axes in cells[count:]:
        axes.axis("off")
    return figure, cells


def _legend(cells: Sequence[Axes], rows: Sequence[Row]) -> None:
    if rows:
        cells[0].legend(fontsize="small")


def _draw_band(
    axes: Axes, curves: Sequence[Sequence[float]], colour: str, label: str, *, step: int = 1
) -> None:
    """Draw the mean of curves, and their range; one that ends early counts as far as it goes."""
    length = max(len(curve) for curve in curves)
    values = np.full((len(curves), length), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[: len(curve)] = curve
    steps = np.arange(1, length + 1) * step
    axes.plot(steps, np.nanmean(values, axis=0), color=colour, label=label)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)


def _changes(row: Row) -> bool:
    """Whether what a method's children train under changes with the chunks."""
    return any(len(set(values)) > 1 for r in row.judged for values in r.trace.values.values())


def draw_values(rows: Sequence[Row]) -> bytes:
    """Draw what each method that changes its values set over chunks, beside reward and scores."""
    rows = [row for row in _with_chunks(rows) if _changes(row)]
    figure, cells = _cells(3 * len(rows), columns=3, height=2.0)
    for place, row in enumerate(rows):
        value, reward, scores = cells[3 * place : 3 * place + 3]
        for name, colour in zip(row.judged[0].trace.values, _colours(), strict=False):
            short = name.partition("-")[2] or name
            _draw_band(value, [r.trace.values[name] for r in row.judged], colour, short)
        value.set(title=f"{row.entry.label}: values", ylim=(0, None))
        value.legend(fontsize="x-small")
        _draw_band(reward, [rewards(row, r) for r in row.judged], GREEN, "reward")
        reward.set(title=f"reward: {reward_name(row)}")
        _draw_band(scores, [r.trace.training_score for r in row.judged], BLUE, "training")
        _draw_band(scores, [r.trace.validation_score for r in row.judged], ORANGE, "validation")
        scores.set(title="scores (macro F1)", ylim=(0, 1))
        scores.legend(fontsize="x-small")
    for axes in cells[-3:]:
        axes.set_xlabel("chunk")
    return png(figure)


def _colours() -> Iterator[str]:
    yield from ("#d62728", "#9467bd", "#8c564b", "#17becf", "#bcbd22")


def reward_name(row: Row) -> str:
    """Return which reward a method's chunks earn: its own, the paper's for those that learn not."""
    return row.entry.reward.value if isinstance(row.entry, Learned) else "gap"


def rewards(row: Row, result: Result) -> list[float]:
    """Return what each chunk of a run earned."""
    trained, validated = result.trace.training_score, result.trace.validation_score
    match reward_name(row):
        case "validation":
            return list(validated)
        case "improvement":
            return [float(change) for change in np.diff(validated, prepend=0.0)]
        case _:
            return [float(gap) for gap in np.subtract(validated, trained)]


def draw_policies(rows: Sequence[Row]) -> bytes:
    """Draw what frozen policies do: the mean action against the mean loss that it answers."""
    rows = [row for row in _with_chunks(rows) if isinstance(row.entry, Learned)]
    figure, cells = _cells(len(rows))
    for axes, row in zip(cells, rows, strict=False):
        points = None
        for result in row.judged:
            actions = np.mean([values[1:] for values in result.trace.values.values()], axis=0)
            losses = result.trace.training_loss[:-1]
            progress = np.arange(1, len(losses) + 1) / (len(losses) + 1)
            points = axes.scatter(losses, actions, c=progress, s=8, cmap="viridis", vmin=0, vmax=1)
        axes.set(title=row.entry.label, xlabel="mean loss of the chunk before", ylim=(0, None))
        if points is not None:
            figure.colorbar(points, ax=axes, label="progress")
    return png(figure)


def draw_learning(rows: Sequence[Row]) -> bytes:
    """Draw how controllers came along: mean reward and mean value of each child they learned on."""
    rows = [row for row in rows if isinstance(row.entry, Learned) and row.tuning]
    figure, cells = _cells(len(rows))
    for axes, row in zip(cells, rows, strict=False):
        trained = [r for r in row.tuning if r.trace.training_loss]
        children = np.arange(1, len(trained) + 1)
        earned = [float(np.mean(rewards(row, r))) for r in trained]
        chosen = [float(np.mean(list(r.trace.values.values()))) for r in trained]
        axes.plot(children, earned, ".", color=GREEN, ms=3)
        axes.plot(children, _rolling(earned), color=GREEN)
        axes.set_title(f"{row.entry.label} ({reward_name(row)})")
        axes.set_xlabel("child")
        axes.set_ylabel("mean reward", color=GREEN)
        other = axes.twinx()
        other.plot(children, chosen, ".", color="#d62728", ms=3)
        other.plot(children, _rolling(chosen), color="#d62728")
        other.set_ylabel("mean value", color="#d62728")
        other.tick_params(labelsize="small")
    return png(figure)


def _rolling(values: Sequence[float], width: int = 8) -> list[float]:
    """Return the mean of each value and those before it, `width` at the most."""
    return [float(np.mean(values[max(0, i - width + 1) : i + 1])) for i in range(len(values))]


def draw_budget(rows: Sequence[Row]) -> bytes:
    """Draw test score against children trained, tuning included; judged means stand at the end."""
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots()
    for row, colour in zip([r for r in rows if r.tuning], _many_colours(), strict=False):
        curve = spent(row)
        children = np.arange(1, len(curve) + 1)
        axes.plot(children, curve, color=colour, lw=1.3, label=row.entry.label)
        axes.plot([len(curve)], [row.scores["best epoch"].mean], "o", color=colour, ms=7)
    for row in (r for r in rows if not r.tuning):
        axes.plot([0], [row.scores["best epoch"].mean], "_", color=GREY, ms=12)
    axes.set(xlabel="children trained before judging", ylabel="test macro F1, best epoch")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return png(figure)


def _many_colours() -> Iterator[str]:
    for place in range(1_000):
        yield colormaps["tab20"](place % 20)  # type: ignore[misc]


def spent(row: Row) -> list[float]:
    """Return what a method has to show after each child of its budget, as a test score.

    A search: the test score of the child with the best validation score so far. A controller: the
    mean test score of its last 8 children, which it steered while it explored.
    """
    tests = [r.finished.scores.test_score_best for r in row.tuning]
    if isinstance(row.entry, Learned):
        return _rolling(tests)
    valid = [r.finished.scores.validation_score_best for r in row.tuning]
    return [tests[int(np.argmax(valid[: i + 1]))] for i in range(len(tests))]


def draw_against(rows: Sequence[Row], source: Row) -> bytes:
    """Draw how far methods are above one of them, `source`, with 95% intervals over seeds."""
    figure = Figure(figsize=(9, 1.3 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", lw=0.8)
    for place, row in enumerate(rows):
        for offset, (moment, score), colour in zip(
            (-0.16, 0.16), MOMENTS.items(), (BLUE, ORANGE), strict=True
        ):
            ours, theirs = paired(row.judged, source.judged, score)
            if not ours:
                continue
            compared = Compared(
                moment=moment, reference=source.entry, difference=difference(ours, theirs), p=None
            )
            _draw_interval(axes, place + offset, compared, colour, moment if place == 0 else None)
    _name_rows(axes, [row.entry.label for row in rows])
    axes.set(xlabel="difference in test F1, mean and 95% interval over paired seeds")
    axes.legend(fontsize="small")
    return png(figure)
