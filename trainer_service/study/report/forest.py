"""The picture of a method problem by problem, as reviews of many trials draw them.

PNG bytes that depend on what it is given and on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainer_service.study.report import drawing
from trainer_service.study.report.pictures import limits, lines
from trainer_service.study.results.over_problems import OverProblems

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from trainer_service.study.results.statistics import Difference

OVER = "over problems"
"""Label of the line below the problems'."""
LINE = 0.36
"""Height of a problem's line in inches."""


def draw_forest(problems: Sequence[str], compared: Sequence[Sequence[OverProblems]]) -> bytes:
    """Draw a method's difference and 95% interval on each problem, and over all of them.

    Args:
        problems: names, the first on top.
        compared: for each reference, beside one another, the method at each moment.
    """
    labels = [*problems, OVER]
    figure = drawing.new_figure(2.2 + 3.1 * len(compared), 1.3 + LINE * len(labels))
    made = list(figure.subplots(1, len(compared), sharey=True, squeeze=False).flat)
    for axes, moments in zip(made, compared, strict=True):
        _draw_reference(axes, problems, moments)
        drawing.name_lines(axes, labels)
        axes.axhline(len(problems) - 0.5, color="black", lw=0.8)
    handles, names = made[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
    return drawing.png(figure)


def _draw_reference(axes: Axes, problems: Sequence[str], moments: Sequence[OverProblems]) -> None:
    axes.axvline(0, color="black", lw=0.8)
    shown: list[Difference] = []
    for one in moments:
        rows = [*((problems.index(name), each) for name, each in one.each.items())]
        shown += [each for _, each in rows] + [one.difference]
        for place, found in rows:
            _draw_line(axes, place, one.moment, found, marker="o", width=2)
        _draw_line(axes, len(problems), one.moment, one.difference, marker="D", width=3.5)
    axes.set_xlim(*limits(shown))
    drawing.few_ticks(axes)
    axes.set_title(f"against {moments[0].reference.label()}", fontsize="medium")
    axes.set_xlabel("difference in test macro F1", fontsize="small")
    axes.tick_params(labelsize="small")


def _draw_line(
    axes: Axes, place: int, moment: str, found: Difference, *, marker: str, width: float
) -> None:
    _, height, colour = next(line for line in lines(place) if line[0] == moment)
    label = moment if marker == "D" else None
    axes.plot([found.mean], [height], marker, ms=4.5, color=colour, label=label)
    own = found.student
    if own is not None:
        axes.plot([own.low, own.high], [height] * 2, color=colour, lw=width, alpha=0.85)
