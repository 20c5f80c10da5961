"""The pictures of what a study answers: scores, differences, and what a budget buys.

Each is PNG bytes that depend on the rows it is given and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainer_service.study.report import drawing
from trainer_service.study.results.rows import MOMENTS, Compared, Row
from trainer_service.study.results.statistics import Difference

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = dict(zip(MOMENTS, (drawing.BLUE, drawing.ORANGE), strict=True))


def lines(place: int) -> Iterator[tuple[str, float, str]]:
    """Return each moment with its place in a method's line and its colour."""
    for offset, (moment, colour) in zip((-0.16, 0.16), COLOURS.items(), strict=True):
        yield moment, place + offset, colour


def draw_scores(rows: Sequence[Row]) -> bytes:
    """Draw the test score of every seed of each method, at the best epoch and at the last."""
    figure, axes = drawing.listed([row.entry.label for row in rows], height=0.34)
    for place, row in enumerate(rows):
        for moment, height, colour in lines(place):
            scores = [MOMENTS[moment](result.finished.scores) for result in row.judged]
            axes.plot(scores, [height] * len(scores), "o", ms=3, alpha=0.4, color=colour)
            label = f"{moment}: seeds, and their mean" if place == 0 else None
            mean = row.scores[moment].mean
            axes.plot([mean], [height], "|", ms=11, mew=2.5, color=colour, label=label)
    axes.set(xlabel="test macro F1")
    drawing.legend_above(axes)
    return drawing.png(figure)


def draw_differences(
    shown: Sequence[tuple[str, Sequence[Compared]]], *, over: str = "paired seeds"
) -> bytes:
    """Draw differences with their intervals: thick one's own, thin that of all together.

    `over` says what they are means of.
    """
    figure, axes = drawing.listed([label for label, _ in shown], height=0.4)
    axes.axvline(0, color="black", lw=0.8)
    for place, (_label, compared) in enumerate(shown):
        for moment, height, colour in lines(place):
            for one in (c for c in compared if c.moment == moment):
                _draw_interval(axes, height, one, colour, moment if place == 0 else None)
    axes.set_xlim(*limits([one.difference for _, compared in shown for one in compared]))
    axes.set(xlabel=f"difference in test macro F1 over {over}")
    drawing.legend_above(axes)
    return drawing.png(figure)


def _draw_interval(
    axes: Axes, height: float, compared: Compared, colour: str, label: str | None
) -> None:
    found = compared.difference
    axes.plot([found.mean], [height], "o", ms=5, color=colour, label=label)
    for interval, width in ((found.joint, 1), (found.student, 3)):
        if interval is not None:
            axes.plot([interval.low, interval.high], [height] * 2, color=colour, lw=width)


def limits(found: Sequence[Difference]) -> tuple[float, float]:
    """Return where the axes end: intervals over very few seeds are cut, or nothing else is seen."""
    own = [difference.student for difference in found if difference.student is not None]
    usual = float(np.median([interval.high - interval.low for interval in own])) if own else 0.0
    ends = [0.0, *(difference.mean for difference in found)]
    for interval in own:
        if interval.high - interval.low <= 4 * usual:
            ends += [interval.low, interval.high]
    margin = 0.25 * (max(ends) - min(ends)) or 0.01
    return min(ends) - margin, max(ends) + margin


def draw_budget(rows: Sequence[Row]) -> bytes:
    """Draw test score against children trained, a method an axes, before the others in grey."""
    tuned = [row for row in rows if row.tuning]
    simple = [r for r in rows if not (r.tuning or r.entry.source or r.entry.origin)]
    untuned = max((row.scores["best epoch"].mean for row in simple), default=None)
    curves = [row.entry.spent(row.tuning) for row in tuned]
    seen = [score for curve in curves for score in curve]
    seen += [row.scores["best epoch"].mean for row in rows if row.tuning]
    margin = 0.05 * (max(seen) - min(seen)) or 0.01
    figure, made = drawing.cells(len(tuned))
    for axes, row, own in zip(made, tuned, curves, strict=True):
        for curve in curves:
            axes.plot(np.arange(1, len(curve) + 1), curve, color=drawing.GREY, lw=0.7, alpha=0.35)
        if untuned is not None:
            axes.axhline(untuned, color="black", lw=0.8, ls=":", label="best that trains none")
        axes.plot(np.arange(1, len(own) + 1), own, color=drawing.BLUE, lw=1.8, label="so far")
        judged = row.scores["best epoch"].mean
        axes.plot(
            [len(own)], [judged], "o", color=drawing.ORANGE, ms=6, label="judged", clip_on=False
        )
        axes.set(title=row.entry.label, xlim=(0, len(own)))
        axes.set_ylim(min(seen) - margin, max(seen) + margin)
        axes.set_xlabel("children", fontsize="small")
    made[0].set_ylabel("test macro F1", fontsize="small")
    made[0].legend(fontsize="x-small")
    return drawing.png(figure)
