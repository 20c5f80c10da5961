"""The pictures of how trainings went, and of what controllers learned.

Each is PNG bytes that depend on the rows it is given and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer_service.study.methods.learning import running_mean
from trainer_service.study.report import drawing
from trainer_service.study.results.rows import Row


def with_chunks(rows: Sequence[Row]) -> list[Row]:
    """Return rows of which every run has a curve: one that diverged in its first chunk has none."""
    return [row for row in rows if all(r.trace.training_loss for r in row.judged)]


def changing(rows: Sequence[Row]) -> list[Row]:
    """Return rows of which what children train under changes with the chunks."""
    return [
        row
        for row in with_chunks(rows)
        if any(len(set(values)) > 1 for r in row.judged for values in r.trace.values.values())
    ]


def draw_losses(rows: Sequence[Row]) -> bytes:
    """Draw training and validation loss of each method over steps (the paper's Figure 9)."""
    figure, made = drawing.cells(len(rows))
    for axes, row, limit in zip(made, rows, _loss_limits(rows), strict=True):
        size = row.judged[0].spec.training.chunk_size
        for curves, colour, label in (
            ([r.trace.training_loss for r in row.judged], drawing.BLUE, "training"),
            ([r.trace.validation_loss for r in row.judged], drawing.ORANGE, "validation"),
        ):
            drawing.draw_band(axes, curves, colour, label, step=size, middle=np.ma.median)
        axes.set(title=row.entry.label, ylim=(0, limit))
        axes.set_xlabel("training step", fontsize="small")
    made[0].set_ylabel("loss", fontsize="small")
    made[0].legend(fontsize="small")
    return drawing.png(figure)


FAR = 3
"""A method whose losses are this many times as high as most methods' has axes of its own."""


def _loss_limits(rows: Sequence[Row]) -> list[float]:
    """Return where each method's axis of losses ends: one end for all but those far above."""
    highs = [
        max(
            _high([r.trace.training_loss for r in row.judged]),
            _high([r.trace.validation_loss for r in row.judged]),
        )
        for row in rows
    ]
    usual = float(np.quantile(highs, 0.5, method="lower"))
    shared = max(high for high in highs if high <= FAR * usual)
    return [1.05 * max(high, shared) or 1.0 for high in highs]


def _high(curves: Sequence[Sequence[float]]) -> float:
    """Return up to where curves go, but for fewer than half of them; their median is below."""
    tops = drawing.masked(curves).max(axis=1).compressed()
    return float(np.median(tops)) if len(tops) else 0.0


def draw_values(rows: Sequence[Row]) -> bytes:
    """Draw what methods that are `changing` set over chunks, beside reward and scores."""
    figure, made = drawing.cells(3 * len(rows), columns=3, height=2.0)
    for place, row in enumerate(rows):
        value, reward, scores = made[3 * place : 3 * place + 3]
        for name, colour in zip(row.judged[0].trace.values, drawing.SITES, strict=False):
            short = name.removeprefix(f"{row.strength}-")
            drawing.draw_band(value, [r.trace.values[name] for r in row.judged], colour, short)
        value.set(title=f"{row.entry.label}: values")
        drawing.from_zero(value)
        value.legend(fontsize="x-small")
        drawing.draw_band(reward, [row.rewards(r) for r in row.judged], drawing.GREEN, "reward")
        reward.set(title=f"reward: {row.entry.reward}")
        drawing.draw_band(
            scores, [r.trace.training_score for r in row.judged], drawing.BLUE, "training"
        )
        drawing.draw_band(
            scores, [r.trace.validation_score for r in row.judged], drawing.ORANGE, "validation"
        )
        scores.set(title="scores (macro F1)", ylim=(-0.04, 1.06))
        scores.legend(fontsize="x-small")
    for axes in made[-3:]:
        axes.set_xlabel("chunk")
    return drawing.png(figure)


def draw_policies(rows: Sequence[Row]) -> bytes:
    """Draw what frozen policies do: the mean action against the mean loss that it answers."""
    figure, made = drawing.cells(len(rows))
    points = None
    for axes, row in zip(made, rows, strict=True):
        for result in row.judged:
            actions = np.mean([values[1:] for values in result.trace.values.values()], axis=0)
            losses = result.trace.training_loss[:-1]
            progress = np.arange(1, len(losses) + 1) / (len(losses) + 1)
            points = axes.scatter(losses, actions, c=progress, s=6, cmap="viridis", vmin=0, vmax=1)
        axes.set(title=row.entry.label)
        drawing.from_zero(axes)
        axes.set_xlabel("mean loss of the chunk before", fontsize="small")
        axes.set_ylabel("mean value", fontsize="small")
    if points is not None:
        figure.colorbar(points, ax=made, label="progress", shrink=0.9, aspect=40)
    return drawing.png(figure)


def draw_learning(rows: Sequence[Row]) -> bytes:
    """Draw how controllers came along: mean reward and mean value of each child they learned on."""
    figure, made = drawing.cells(len(rows))
    for axes, row in zip(made, rows, strict=True):
        trained = [r for r in row.tuning if r.trace.training_loss]
        children = np.arange(1, len(trained) + 1)
        earned = [float(np.mean(row.rewards(r))) for r in trained]
        chosen = [float(np.mean(list(r.trace.values.values()))) for r in trained]
        axes.set_title(row.entry.label)
        axes.set_xlabel("child", fontsize="small")
        other = axes.twinx()
        for side, values, colour, label in (
            (axes, earned, drawing.BLUE, f"reward: {row.entry.reward}"),
            (other, chosen, drawing.ORANGE, "mean value"),
        ):
            side.plot(children, values, ".", color=colour, ms=3, alpha=0.5)
            side.plot(children, running_mean(values), color=colour)
            side.set_ylabel(label, color=colour, fontsize="small")
            side.tick_params(labelsize="small")
    return drawing.png(figure)
