"""Sections of a report: each question that a study answers, with its table and pictures."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from trainer_service.study.methods.learning import RECENT
from trainer_service.study.report import courses, pictures
from trainer_service.study.report.page import Picture, Section, Table
from trainer_service.study.results.rows import MOMENTS, Compared, Row
from trainer_service.study.results.statistics import Interval, Summary
from trainer_service.study.spec import StudySpec
from trainer_service.training.spec import TEST_SHARE

INTERVALS = (
    "Differences are of pairs: both methods' children of a seed have the same split, initial "
    "weights and order of batches. The first interval is Student's t for this difference alone; "
    "the second holds for all differences of this report together (Bonferroni): at most one report "
    "in 20 has one that misses its truth. A method is ahead or behind where that one leaves out "
    "zero, and seems so where only its own does, as one of 20 will that differ in nothing; fewer "
    "than three seeds, or differences that are all the same, are too few to say. The bootstrap's "
    "(BCa) is too narrow for few seeds: on simulated studies, whose truth is known, it held it in "
    "85% of the cases with 5 seeds and in 89% with 10, Student's in 95%. What is not told apart "
    "need not be equal: these seeds do not tell."
)


def number(summary: Summary) -> str:
    """Return mean and deviation over seeds."""
    mean = f"{summary.mean:.3f}"
    return mean if summary.deviation is None else f"{mean} ± {summary.deviation:.3f}"


def at_the_end(spec: StudySpec, rows: Sequence[Row], flagged: Container[str]) -> list[Section]:
    """Question 1: test scores, and each method against each reference."""
    table = Table(
        headings=("method", "seeds", *MOMENTS, "children before", "mean value"),
        cells=tuple(
            (
                row.entry.label + (" (flagged)" if row.entry.name in flagged else ""),
                str(len(row.judged)),
                *(number(row.scores[moment]) for moment in MOMENTS),
                row.entry.children_before(spec, len(row.tuning)),
                _values(row),
            )
            for row in rows
        ),
        caption="Test macro F1, mean ± deviation over seeds (Table 1)",
    )
    scores = Picture(name="scores", png=pictures.draw_scores(rows), caption=_SCORES)
    first = Section(
        title="At the end", text=(_protocol(spec), INTERVALS), tables=(table,), pictures=(scores,)
    )
    return [first, *_against(spec, rows)]


LINES = "Thick lines: 95% for each alone. Thin lines: 95% for all together, cut at the edges."


def _against(spec: StudySpec, rows: Sequence[Row]) -> list[Section]:
    sections = []
    for name in spec.references:
        label = spec.entry(name).label
        beside = [(row.entry.label, row.beside(name)) for row in rows if row.beside(name)]
        if beside:
            title, caption = f"Against {label}", f"Each method against {label}."
            sections.append(_compared_section(title, f"against-{name}", beside, caption))
    return sections


_SCORES = "Test macro F1 of each seed, and the mean, at the best validation epoch and at the last."


def _protocol(spec: StudySpec) -> str:
    training = spec.training
    size = f"{training.training_size} of the others" if training.training_size else "All others"
    wrong = f", {training.label_noise:.0%} of them with a wrong label"
    noise = wrong if training.label_noise else ""
    depth = f" of depth {training.depth}" if training.depth else ""
    length = f"{training.chunks} chunks" if training.chunks else f"{training.epochs} epochs"
    return (
        f"Where {training.dataset} has no test split, {TEST_SHARE:.0%} of its training images are "
        f"drawn for it; where it has no validation split, {training.validation_share:.0%} of the "
        f"rest. {size} train{noise}; {training.model}{depth} with "
        f"{training.width:g} of its channels, from {training.start}; {length} of "
        f"{training.chunk_size} steps of {training.batch_size} images. Each method is judged on "
        f"{spec.seeds} fresh children; searches and controllers have trained {spec.budget} others "
        "before, if not said otherwise. All choices use validation scores only. "
        "The test set is read at the end of each training."
    )


def _values(row: Row) -> str:
    """Return the mean of what it trained under; of several sites one after another."""
    means = " / ".join(f"{value:.2f}" for value in row.values.values())
    return f"{row.strength} {means}" if means else "-"


def _compared_table(
    beside: Sequence[tuple[str, Sequence[Compared]]], moment: str, title: str
) -> Table:
    shown = [(label, one) for label, compared in beside for one in compared if one.moment == moment]
    is_tested = any(one.p is not None for _label, one in shown)
    p = ("p",) if is_tested else ()
    return Table(
        headings=("method", "difference", "95%", "95% together", "bootstrap", "verdict", *p),
        cells=tuple((label, *_compared_cells(one)[: 5 + is_tested]) for label, one in shown),
        caption=f"{title}, {moment}"
        + ("; p by Wilcoxon's test with Holm's correction" if is_tested else ""),
    )


def _compared_cells(compared: Compared) -> tuple[str, ...]:
    found = compared.difference
    return (
        f"{found.mean:+.3f}",
        *(interval_words(interval) for interval in (found.student, found.joint, found.bootstrap)),
        found.verdict.value,
        "-" if compared.p is None else f"{compared.p:.3f}",
    )


def interval_words(interval: Interval | None) -> str:
    """Return an interval's ends."""
    return "-" if interval is None else f"{interval.low:+.3f} to {interval.high:+.3f}"


def budget(rows: Sequence[Row]) -> list[Section]:
    """Question 2: test scores against children trained."""
    if not any(row.tuning for row in rows):
        return []
    table = Table(
        headings=("method", "children", "after a quarter", "after half", "after all", "judged"),
        cells=tuple((row.entry.label, *_spending(row)) for row in rows if row.tuning),
        caption="Test macro F1 at the best epoch, against children trained before judging",
    )
    caption = (
        "What each method has to show after each child that it trained (blue; the others' in "
        f"grey): a search the test score of its best child so far, by validation score; a "
        f"controller the mean of its last {RECENT} children, which it steered while it explored. "
        "The dot is the judged mean."
    )
    picture = Picture(name="budget", png=pictures.draw_budget(rows), caption=caption)
    return [Section(title="For the budget", tables=(table,), pictures=(picture,))]


def _spending(row: Row) -> tuple[str, ...]:
    curve = row.entry.spent(row.tuning)
    places = [max(0, round(len(curve) * share) - 1) for share in (0.25, 0.5, 1.0)]
    return (
        str(len(curve)),
        *(f"{curve[place]:.3f}" for place in places),
        number(row.scores["best epoch"]),
    )


def next_problem(rows: Sequence[Row]) -> list[Section]:
    """Question 3: what another study learned or chose, beside this study's own."""
    carried = [row for row in rows if row.entry.origin]
    if not carried:
        return []
    own = [row for row in rows if not row.entry.origin and row.tuning]
    table = Table(
        headings=("method", "from", *MOMENTS, "mean value"),
        cells=tuple(
            (
                row.entry.label,
                row.entry.origin or "here",
                *(number(row.scores[moment]) for moment in MOMENTS),
                _values(row),
            )
            for row in (*carried, *own)
        ),
        caption="Carried over from another study, frozen, beside what was tuned here",
    )
    beside = [
        (f"{row.entry.label} against {compared[0].reference.label}", compared)
        for row in carried
        for compared in (row.beside(other.entry.name) for other in own)
        if compared
    ]
    return [_compared_section("On the next problem", "next", beside, _NEXT, tables=(table,))]


_NEXT = (
    "What was carried over against each constant that was searched for on this study's children."
)


def _compared_section(
    title: str,
    name: str,
    beside: Sequence[tuple[str, Sequence[Compared]]],
    caption: str,
    *,
    tables: tuple[Table, ...] = (),
) -> Section:
    """Return a section with differences as tables and as a picture, if there are any."""
    if not beside:
        return Section(title=title, tables=tables)
    drawn = pictures.draw_differences(beside)
    picture = Picture(name=name, png=drawn, caption=f"{caption} {LINES}")
    compared = tuple(_compared_table(beside, moment, title) for moment in MOMENTS)
    return Section(title=title, tables=(*tables, *compared), pictures=(picture,))


def why(rows: Sequence[Row]) -> list[Section]:
    """Question 4: the schedule, the order, or the mean alone, against the policy itself."""
    sections = []
    for source in [row.entry for row in rows]:
        beside = [
            (row.entry.label, row.beside(source.name))
            for row in rows
            if row.entry.source == source.name
        ]
        if beside:
            caption = (
                f"Against {source.label} itself. Its schedule played back on other children knows "
                "the time, but not the child; its values shuffled know neither; its mean is one "
                "constant. What is behind lacks something that the policy's scores come from."
            )
            title, name = f"Why: {source.label}", f"why-{source.name}"
            sections.append(_compared_section(title, name, beside, caption))
    return sections


def course(rows: Sequence[Row]) -> list[Section]:
    """Losses of all methods, and the values of those that change them."""
    losses = (
        "Training and validation loss of each method, median and range of seeds (the paper's "
        "Figure 9). Axes end alike, but where a method's losses are far above the others'."
    )
    values = (
        "What each method that changes its values set, chunk by chunk, mean and range of seeds, "
        "beside reward and scores of the chunks. DNI's strength is trained by the loss."
    )
    return _drawn(
        "The course of training",
        ("losses", courses.draw_losses, courses.with_chunks(rows), losses),
        ("values", courses.draw_values, courses.changing(rows), values),
    )


def policies(rows: Sequence[Row]) -> list[Section]:
    """The policies that controllers learned, and their learning."""
    learned = [row for row in courses.with_chunks(rows) if row.entry.learned]
    learning = [row for row in rows if row.entry.learned and row.tuning]
    acting = (
        "What frozen policies answer to the mean loss of the chunk before, by progress; of several "
        "values their mean."
    )
    coming = (
        "Each child that a controller learned on: mean reward and mean value of its chunks, and "
        f"their means over {RECENT} children."
    )
    return _drawn(
        "What the controllers learned",
        ("policies", courses.draw_policies, learned, acting),
        ("learning", courses.draw_learning, learning, coming),
    )


def _drawn(
    title: str, *pictures_of: tuple[str, Callable[[Sequence[Row]], bytes], Sequence[Row], str]
) -> list[Section]:
    """Return a section of the pictures, by name, function, rows and caption, that have rows."""
    drawn = tuple(
        Picture(name=name, png=draw(rows), caption=caption)
        for name, draw, rows, caption in pictures_of
        if rows
    )
    return [Section(title=title, pictures=drawn)] if drawn else []
