"""Pictures of a study: losses in the form of the paper's Figure 9, hyperparameters over chunks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer_service.study.results import Result
from trainer_service.training.spec import Method

COLOURS = {
    Method.VANILLA: "#777777",
    Method.NI: "#1f77b4",
    Method.D: "#2ca02c",
    Method.DNI: "#9467bd",
    Method.RNI: "#ff7f0e",
    Method.RD: "#d62728",
}
TITLES = {
    Method.VANILLA: "Vanilla",
    Method.NI: "NI",
    Method.D: "D",
    Method.DNI: "DNI",
    Method.RNI: "RNI",
    Method.RD: "RD",
}


def draw_losses(results: Sequence[Result], path: Path) -> None:
    """Write the training and validation loss of each method over steps, mean and range of seeds."""
    results = _with_chunks(results)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    training, validation = figure.subplots(1, 2)
    for method in _methods(results):
        runs = [r for r in results if r.spec.training.method is method]
        size = runs[0].spec.training.chunk_size
        for axes, curves in (
            (training, [r.trace.training_loss for r in runs]),
            (validation, [r.trace.validation_loss for r in runs]),
        ):
            _draw_band(axes, curves, method, step=size)
    for axes, title in ((training, "Training loss"), (validation, "Validation loss")):
        axes.set(title=title, xlabel="training step", ylabel="cross-entropy, mean of the chunk")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    if results:
        validation.legend()
    figure.savefig(path, dpi=120)


def _draw_band(
    axes: Axes, curves: Sequence[Sequence[float]], method: Method, *, step: int = 1
) -> None:
    """Draw the mean of curves, and their range; one that ends early counts as far as it goes."""
    length = max(len(curve) for curve in curves)
    values = np.full((len(curves), length), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[: len(curve)] = curve
    steps = np.arange(1, length + 1) * step
    colour = COLOURS[method]
    axes.plot(steps, np.nanmean(values, axis=0), color=colour, label=TITLES[method])
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    axes.fill_between(steps, low, high, color=colour, alpha=0.12, lw=0)


def draw_hyperparameters(results: Sequence[Result], path: Path) -> None:
    """Write what each method's values were over chunks: the agents', and DNI's strength."""
    results = _with_chunks(results)
    shown = [m for m in _methods(results) if m.is_reinforced or m is Method.DNI]
    figure = Figure(figsize=(5.5 * max(1, len(shown)), 4), layout="constrained")
    for axes, method in zip(
        np.atleast_1d(figure.subplots(1, max(1, len(shown)))), shown, strict=False
    ):
        _draw_values(axes, [r for r in results if r.spec.training.method is method], method)
    figure.savefig(path, dpi=120)


def _draw_values(axes: Axes, runs: Sequence[Result], method: Method) -> None:
    for name in runs[0].trace.values:
        curves = [r.trace.values[name] for r in runs]
        for run, curve in zip(runs, curves, strict=True):
            chunks = np.arange(1, len(curve) + 1)
            axes.plot(chunks, curve, lw=0.8, alpha=0.6, label=f"seed {run.spec.training.seed}")
        _draw_band(axes, curves, method)
        axes.set_ylabel(name)
    decided = "decided by the agent" if method.is_reinforced else "trained by the loss"
    axes.set(title=f"{TITLES[method]}: {decided}", xlabel="chunk")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _with_chunks(results: Sequence[Result]) -> list[Result]:
    """Return the runs that have a curve: one that diverged in its first chunk has none."""
    return [r for r in results if r.trace.training_loss]


def _methods(results: Sequence[Result]) -> list[Method]:
    present = {r.spec.training.method for r in results}
    return [method for method in Method if method in present]
