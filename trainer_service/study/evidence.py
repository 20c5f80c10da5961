"""What a report says: each question that a study answers, with its table and pictures."""

from __future__ import annotations

from collections.abc import Sequence

from trainer_service.study import pictures
from trainer_service.study.entries import Carried, Learned, MeanOf, Replayed
from trainer_service.study.page import Picture, Section, Table
from trainer_service.study.rows import MOMENTS, Compared, Row
from trainer_service.study.spec import StudySpec
from trainer_service.study.statistics import Interval, Summary

VERDICTS = (
    "Differences are of pairs: both methods' children of a seed have the same split, initial "
    "weights and order of batches. The first interval is Student's t; the one by "
    "bootstrap (BCa) is too narrow for few seeds: on simulated studies it held the "
    "truth in 85% of the cases with 5 seeds and 88% with 7. So a method is called ahead or behind "
    "where Student's interval leaves out zero. Each is one comparison: of 20 that differ in "
    "nothing, one will be called so."
)


def number(summary: Summary) -> str:
    """Return mean and deviation over seeds."""
    mean = f"{summary.mean:.3f}"
    return mean if summary.deviation is None else f"{mean} ± {summary.deviation:.3f}"


def at_the_end(spec: StudySpec, rows: Sequence[Row]) -> Section:
    """Question 1: test scores, and each method against each reference."""
    table = Table(
        headings=("method", "seeds", *MOMENTS, "tuning children", "mean value"),
        cells=tuple(
            (
                row.entry.label,
                str(len(row.judged)),
                *(number(row.scores[moment]) for moment in MOMENTS),
                str(len(row.tuning)),
                _values(row),
            )
            for row in rows
        ),
        caption="Test macro F1, mean ± deviation over seeds",
    )
    beside = [_beside_table(spec, rows, name, m) for name in spec.references for m in MOMENTS]
    shown = [Picture(name="scores", png=pictures.draw_scores(rows), caption=_SCORES)]
    for name in spec.references:
        if any(c.reference.name == name for row in rows for c in row.compared):
            label = spec.entry(name).label
            shown.append(
                Picture(
                    name=f"against-{name}",
                    png=pictures.draw_differences(rows, name),
                    caption=f"Each method against {label}, at the best epoch and at the last.",
                )
            )
    return Section(
        title="At the end",
        text=(_protocol(spec), VERDICTS),
        tables=(table, *beside),
        pictures=tuple(shown),
    )


_SCORES = "Test macro F1 of each seed, and the mean, at the best validation epoch and at the last."


def _protocol(spec: StudySpec) -> str:
    training = spec.training
    size = training.training_size or "all"
    length = f"{training.chunks} chunks" if training.chunks else f"{training.epochs} epochs"
    return (
        f"{size} training images of {training.dataset}, {training.label_noise:.0%} of them with a "
        f"wrong label; {training.model} with {training.width:g} of its channels, from "
        f"{training.start}; {length} of {training.chunk_size} steps of {training.batch_size} "
        f"images. Each method is judged on {spec.seeds} fresh children; searches and controllers "
        f"have trained {spec.budget} others before, if not said otherwise. All choices use "
        "validation scores only. The test set is read at the end of each training."
    )


def _values(row: Row) -> str:
    return ", ".join(f"{name} {value:.2f}" for name, value in row.values.items()) or "-"


def _beside_table(spec: StudySpec, rows: Sequence[Row], reference: str, moment: str) -> Table:
    beside = [
        (row.entry.label, *_compared_cells(compared))
        for row in rows
        for compared in row.compared
        if (compared.reference.name, compared.moment) == (reference, moment)
    ]
    return Table(
        headings=("method", "difference", "95%", "95% (bootstrap)", "verdict", "p"),
        cells=tuple(beside),
        caption=f"Against {spec.entry(reference).label}, {moment}; p by Wilcoxon with Holm's "
        "correction, where the study tests it",
    )


def _compared_cells(compared: Compared) -> tuple[str, ...]:
    found = compared.difference
    p = "-" if compared.p is None else f"{compared.p:.3f}"
    intervals = (_interval(found.student), _interval(found.bootstrap))
    return (f"{found.mean:+.3f}", *intervals, found.verdict, p)


def _interval(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.low:+.3f} to {interval.high:+.3f}"


def budget(spec: StudySpec, rows: Sequence[Row]) -> list[Section]:
    """Question 2: test scores against children trained."""
    if not any(row.tuning for row in rows):
        return []
    table = Table(
        headings=("method", "children", "after a quarter", "after half", "after all", "judged"),
        cells=tuple((row.entry.label, *_spending(row)) for row in rows if row.tuning),
        caption="Test macro F1 at the best epoch, against children trained before judging",
    )
    caption = (
        "What each method has to show after each child that it trained: a search the test score of "
        "its best child so far (by validation score), a controller the mean of its last 8 "
        "children, which it steered while it explored. Dots: the judged mean. Grey, at 0: methods "
        "that train none before."
    )
    picture = Picture(name="budget", png=pictures.draw_budget(rows), caption=caption)
    return [Section(title="For the budget", tables=(table,), pictures=(picture,))]


def _spending(row: Row) -> tuple[str, ...]:
    curve = pictures.spent(row)
    places = [max(0, round(len(curve) * share) - 1) for share in (0.25, 0.5, 1.0)]
    return (
        str(len(curve)),
        *(f"{curve[place]:.3f}" for place in places),
        number(row.scores["best epoch"]),
    )


def next_problem(rows: Sequence[Row]) -> list[Section]:
    """Question 3: what another study learned or chose, beside this study's own."""
    carried = [row for row in rows if isinstance(row.entry, Carried)]
    if not carried:
        return []
    own = [row for row in rows if not isinstance(row.entry, Carried) and row.tuning]
    table = Table(
        headings=("method", "from", *MOMENTS, "mean value"),
        cells=tuple(
            (
                row.entry.label,
                f"{row.entry.study}: {row.entry.of}" if isinstance(row.entry, Carried) else "here",
                *(number(row.scores[moment]) for moment in MOMENTS),
                _values(row),
            )
            for row in (*carried, *own)
        ),
        caption="Carried over from another study, frozen, beside what was tuned here",
    )
    return [Section(title="On the next problem", tables=(table,))]


def why(spec: StudySpec, rows: Sequence[Row]) -> list[Section]:
    """Question 4: the schedule, the order, or the mean alone, against the policy itself."""
    sections = []
    by_name = {row.entry.name: row for row in rows}
    for source in [row for row in rows if isinstance(row.entry, Learned)]:
        parts = [
            row
            for row in rows
            if isinstance(row.entry, Replayed | MeanOf) and row.entry.of == source.entry.name
        ]
        if parts:
            picture = Picture(
                name=f"why-{source.entry.name}",
                png=pictures.draw_against(parts, by_name[source.entry.name]),
                caption=f"Against {source.entry.label} itself. Its schedule played back on other "
                "children knows the time, but not the child; its values shuffled know neither; "
                "its mean is one constant. What is not behind does as well without.",
            )
            sections.append(Section(title=f"Why: {source.entry.label}", pictures=(picture,)))
    return sections


def course(rows: Sequence[Row]) -> list[Section]:
    """Losses of all methods, and the values of those that change them."""
    losses = Picture(
        name="losses",
        png=pictures.draw_losses(rows),
        caption="Training and validation loss of each method, mean and range of seeds (the "
        "paper's Figure 9).",
    )
    values = Picture(
        name="values",
        png=pictures.draw_values(rows),
        caption="What each method that changes its values set, chunk by chunk, mean and range of "
        "seeds, beside reward and scores of the chunks. DNI's strength is trained by the loss.",
    )
    return [Section(title="The course of training", pictures=(losses, values))]


def policies(rows: Sequence[Row]) -> list[Section]:
    """What controllers learned, and how they came to it."""
    if not any(isinstance(row.entry, Learned) for row in rows):
        return []
    learned = Picture(
        name="policies",
        png=pictures.draw_policies(rows),
        caption="What frozen policies answer to the mean loss of the chunk before, by progress.",
    )
    learning = Picture(
        name="learning",
        png=pictures.draw_learning(rows),
        caption="Each child that a controller learned on: mean reward (green) and mean value (red) "
        "of its chunks, and their means over 8 children.",
    )
    return [Section(title="What the controllers learned", pictures=(learned, learning))]
