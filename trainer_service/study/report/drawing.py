"""Drawing shared by a report's pictures: axes, bands over seeds, and bytes of PNG."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np


@contextmanager
def _any_backend() -> Iterator[None]:
    """Hide MPLBACKEND, as of a notebook: importing matplotlib fails where it names no module."""
    chosen = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if chosen is not None:
            os.environ["MPLBACKEND"] = chosen


with _any_backend():  # figures are saved as PNG, which Agg draws whatever the backend is
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.ticker import MaxNLocator

# Okabe and Ito's, which all eyes tell apart.
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#777777"
SITES = (ORANGE, BLUE, GREEN, "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of hyperparameters, one per site."""
COLUMNS = 4
"""Small axes beside one another."""


def png(figure: Figure) -> bytes:
    """Return a figure as PNG: texts as they are, `$` too; without date and version."""
    buffer = io.BytesIO()
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with rc_context({"text.parse_math": False}):  # for the ticks that are made as it is drawn
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, whose parts make room for one another."""
    return Figure(figsize=(width, height), layout="constrained")


def listed(labels: Sequence[str], *, height: float) -> tuple[Figure, Axes]:
    """Return axes with a line for each label, the first on top, each `height` inches high."""
    figure = new_figure(9, 1 + height * len(labels))
    axes = figure.subplots()
    name_lines(axes, labels)
    return figure, axes


def name_lines(axes: Axes, labels: Sequence[str]) -> None:
    """Give axes a line for each label, the first on top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    for place in range(1, len(labels), 2):  # the eye stays in its line
        axes.axhspan(place - 0.5, place + 0.5, color=GREY, alpha=0.06, lw=0)


def few_ticks(axes: Axes) -> None:
    """Leave room between the numbers of small axes."""
    axes.xaxis.set_major_locator(MaxNLocator(5))


def legend_above(axes: Axes) -> None:
    """Put the legend where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize="small", frameon=False)


def cells(count: int, *, columns: int = COLUMNS, height: float = 2.3) -> tuple[Figure, list[Axes]]:
    """Return `count` small axes, at least one, in as many rows as are needed."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    width = max(3 * columns, 6)
    figure = new_figure(width, height * rows + 0.4)
    made = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in made:
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.tick_params(labelsize="small")
        axes.title.set_size("medium")
    for axes in made[count:]:
        axes.axis("off")
    return figure, made[:count]


def from_zero(axes: Axes) -> None:
    """Let the axis begin at 0, with lines and dots at either end within the frame."""
    top = axes.get_ylim()[1]
    axes.set_ylim(-0.04 * top, 1.06 * top)


def masked(curves: Sequence[Sequence[float]]) -> np.ma.MaskedArray:
    """Return curves as float[curve, place], masked where one has ended or is not finite."""
    values = np.full((len(curves), max(map(len, curves))), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[: len(curve)] = curve
    return np.ma.masked_invalid(values)


def draw_band(
    axes: Axes,
    curves: Sequence[Sequence[float]],
    colour: str,
    label: str,
    *,
    step: int = 1,
    middle: Callable[..., np.ma.MaskedArray] = np.ma.mean,
) -> None:
    """Draw the middle of curves, and their range; one counts as far as it goes and is finite."""
    finite = masked(curves)
    steps = np.arange(1, finite.shape[1] + 1) * step
    axes.plot(steps, middle(finite, axis=0), color=colour, label=label)
    axes.fill_between(steps, finite.min(axis=0), finite.max(axis=0), color=colour, alpha=0.2, lw=0)
