"""Sections of a suite's report: scores, differences over problems and on each, and origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from trainer_service.study.report import forest, pictures
from trainer_service.study.report.evidence import LINES, interval_words
from trainer_service.study.report.origin import AGAIN, commands, made_by
from trainer_service.study.report.page import Picture, Section, Table
from trainer_service.study.results.over_problems import (
    OverProblems,
    ProblemResults,
    mean_scores,
)
from trainer_service.study.results.rows import MOMENTS, Compared
from trainer_service.study.study_file import FILE_NAME, as_toml
from trainer_service.study.study_tables import PER_METHOD
from trainer_service.study.suite import Suite
from trainer_service.training.spec import TrainingSpec

PAIRED = (
    "Differences are paired: on a problem, both methods' children of a seed have the same images, "
    "split, initial weights and order of batches. Of each problem there is one number, the mean of "
    "its differences over seeds. Problems are the unit of what is said over problems, since the "
    "question is what the next problem may bring; that takes these for a sample of its kind."
)
INTERVALS = (
    "The first interval is Student's t over the problems' numbers, with one degree of freedom "
    "fewer than problems; the second holds for all differences of this page together (Bonferroni); "
    "the bootstrap (BCa) draws problems, not seeds. A method is ahead or behind where the second "
    "leaves out zero, and seems so where only the first does. 'Ahead on' and 'behind on' count the "
    "problems whose own 95% interval, Student's over at least three seeds, leaves out zero: of 20 "
    "on which nothing differs, one will."
)
BEST = (
    "The best default is the constant that was fixed beforehand and has the highest mean over all "
    "problems, at that moment. It is chosen by these very test scores, so nobody could have known "
    "it: a reference that is hard to beat."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemState:
    """How far one problem is."""

    name: str
    flagged: int
    """Results that are not what they should be."""
    missing: str
    """Runs that are planned and not finished, in words; empty for none."""


def in_short(
    suite: Suite,
    problems: Sequence[ProblemResults],
    compared: Sequence[OverProblems],
    states: Sequence[ProblemState],
) -> Section:
    """Return what is said over problems of the methods that are shown."""
    text = []
    unfinished = [state.name for state in states if state.missing]
    if unfinished:
        text.append(
            f"Not finished: {len(unfinished)} of {len(states)} problems, see Flags. What is said "
            "may change."
        )
    if any(state.flagged for state in states):
        text.append("Some results are not what they should be: see Flags.")
    for moment in MOMENTS:
        means = mean_scores(problems, suite.methods, moment)
        if means:
            name = max(means, key=lambda name: means[name])
            label = suite.problems[0].study.entry(name).label
            text.append(
                f"Highest mean test F1 over problems, {moment}: {label}, {means[name]:.3f}."
            )
    shown = [[one for one in compared if one.method.name == name] for name in suite.shown]
    tables = tuple(_in_short(own) for own in shown if own)
    return Section(title="In short", text=tuple(text), tables=tables)


def _in_short(own: Sequence[OverProblems]) -> Table:
    """Return a method against each reference at each moment."""
    return Table(
        headings=("against", "moment", "difference", "95%", "verdict", *BEYOND),
        cells=tuple(
            (
                one.reference.label(one.moment),
                one.moment,
                f"{one.difference.mean:+.3f}",
                interval_words(one.difference.student),
                _verdict(one),
                *_beyond(one),
            )
            for one in own
        ),
        caption=f"{own[0].method.label} over problems",
    )


BEYOND = ("ahead on", "behind on", "problems")


def _beyond(one: OverProblems) -> tuple[str, str, str]:
    """Return on how many problems a method is beyond the problem's own interval."""
    return str(one.ahead), str(one.behind), str(one.difference.count)


def _verdict(one: OverProblems) -> str:
    return one.difference.verdict.value.replace("seeds", "problems")


def scores(suite: Suite, problems: Sequence[ProblemResults]) -> Section:
    """Return the test scores of all methods on each problem, and their means."""
    text = (
        f"{len(problems)} problems, {len(suite.methods)} methods. Each is judged on fresh children "
        "of each problem, after searches and controllers have trained others of it; all choices "
        "use validation scores only. The highest mean of each line stands out; it need not be the "
        "best, as the differences below say. Each problem's name leads to its own report."
    )
    tables = tuple(_scores(suite, problems, moment) for moment in MOMENTS)
    return Section(title="Scores", text=(text,), tables=tables)


def _scores(suite: Suite, problems: Sequence[ProblemResults], moment: str) -> Table:
    found = [[p.summary(entry.name, moment) for entry in suite.methods] for p in problems]
    rows = [
        (problem.name, [None if one is None else one.mean for one in row])
        for problem, row in zip(problems, found, strict=True)
    ]
    means = mean_scores(problems, suite.methods, moment)
    if means:
        whole = sum(all(p.judged(name) for name in means) for p in problems)
        rows.append((f"mean of {whole}", [means.get(entry.name) for entry in suite.methods]))
    return Table(
        headings=("problem", *(entry.label for entry in suite.methods)),
        cells=tuple((name, *map(_score, values)) for name, values in rows),
        caption=f"Test macro F1, {moment}, mean over seeds",
        strong=frozenset(
            (place, 1 + values.index(max(one for one in values if one is not None)))
            for place, (_name, values) in enumerate(rows)
        ),
        folders=tuple(problem.name for problem in problems),
    )


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def over_problems(compared: Sequence[OverProblems]) -> list[Section]:
    """Return each method against each reference, the problems as the unit."""
    sections: list[Section] = []
    for name in dict.fromkeys(one.reference.name for one in compared):
        beside = [one for one in compared if one.reference.name == name]
        label = beside[0].reference.label()
        picture = Picture(
            name=f"over-{name}",
            png=pictures.draw_differences(_by_method(beside), over="problems"),
            caption=f"Each method against {label}, over problems. {LINES}",
        )
        how = () if sections else (PAIRED, INTERVALS)
        section = Section(
            title=f"Over problems: against {label}",
            text=(*how, BEST) if beside[0].reference.is_chosen else how,
            tables=tuple(_over(beside, moment) for moment in MOMENTS),
            pictures=(picture,),
        )
        sections.append(section)
    return sections


def _by_method(beside: Sequence[OverProblems]) -> list[tuple[str, list[Compared]]]:
    """Return each method's label and differences, as pictures of a single study take them."""
    found: dict[str, tuple[str, list[Compared]]] = {}
    for one in beside:
        _label, compared = found.setdefault(one.method.name, (one.method.label, []))
        reference = one.reference.entries[one.moment]
        compared.append(
            Compared(moment=one.moment, reference=reference, difference=one.difference, p=None)
        )
    return list(found.values())


def _over(beside: Sequence[OverProblems], moment: str) -> Table:
    shown = [one for one in beside if one.moment == moment]
    return Table(
        headings=(
            *("method", "difference", "95%", "95% together", "bootstrap", "verdict"),
            *BEYOND,
        ),
        cells=tuple(
            (
                one.method.label,
                f"{one.difference.mean:+.3f}",
                interval_words(one.difference.student),
                interval_words(one.difference.joint),
                interval_words(one.difference.bootstrap),
                _verdict(one),
                *_beyond(one),
            )
            for one in shown
        ),
        caption=f"Against {shown[0].reference.label(moment)}, {moment}" if shown else moment,
    )


def by_problem(
    suite: Suite, problems: Sequence[ProblemResults], compared: Sequence[OverProblems]
) -> list[Section]:
    """Return the methods that are shown, problem by problem."""
    names = [problem.name for problem in problems]
    sections = []
    for method in suite.shown:
        own = [one for one in compared if one.method.name == method]
        by_reference = [
            [one for one in own if one.reference.name == reference]
            for reference in dict.fromkeys(one.reference.name for one in own)
        ]
        if not own:
            continue
        label = own[0].method.label
        picture = Picture(
            name=f"forest-{method}",
            png=forest.draw_forest(names, by_reference),
            caption=f"{label} on each problem: mean difference over seeds and its own 95% interval "
            "(Student's); below the line over problems, with the interval of that. Intervals over "
            "very few seeds are cut at the edges.",
        )
        tables = tuple(_each(names, own, moment) for moment in MOMENTS)
        sections.append(
            Section(title=f"{label}, problem by problem", tables=tables, pictures=(picture,))
        )
    return sections


def _each(names: Sequence[str], own: Sequence[OverProblems], moment: str) -> Table:
    shown = [one for one in own if one.moment == moment]
    return Table(
        headings=("problem", *(f"against {one.reference.label(moment)}" for one in shown)),
        cells=tuple((name, *(_difference(one, name) for one in shown)) for name in names),
        caption=f"{own[0].method.label}, {moment}: difference, and its own 95% interval",
        folders=tuple(names),
    )


def _difference(one: OverProblems, problem: str) -> str:
    found = one.each.get(problem)
    if found is None:
        return "-"
    return f"{found.mean:+.3f} ({interval_words(found.student)})"


def setting(suite: Suite, problems: Sequence[ProblemResults]) -> Section:
    """Return what differs between the suite's problems, field by field, and what they share."""
    reported = {problem.name for problem in problems}
    trainings = {problem.name: problem.study.training for problem in suite.problems}
    names = [field.name for field in fields(TrainingSpec) if field.name not in PER_METHOD]
    values = {name: [_value(getattr(t, name)) for t in trainings.values()] for name in names}
    differing = [name for name in names if len(set(values[name])) > 1]
    alike = ", ".join(
        f"{name.replace('_', ' ')} {values[name][0]}"
        for name in names
        if name not in differing and values[name][0]
    )
    table = Table(
        headings=("problem", *(name.replace("_", " ") for name in differing), "seeds"),
        cells=tuple(
            (p.name, *(values[name][place] or "-" for name in differing), str(p.study.seeds))
            for place, p in enumerate(suite.problems)
        ),
        caption="What differs between the problems",
        folders=tuple(name if name in reported else "" for name in suite.names),
    )
    return Section(title="The problems", text=(f"Shared by all: {alike}.",), tables=(table,))


def _value(value: object) -> str:
    """Return a field's value in words; empty for none."""
    match value:
        case None | ():
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case tuple():  # all of them would be no line of a table; the study's file has them
            return f"{len(value)} named"
    return str(value)


def flags(states: Sequence[ProblemState]) -> Section:
    """Return what is missing, and how many results are not what they should be."""
    odd = [state for state in states if state.flagged or state.missing]
    if not odd:
        text = "All problems are finished, and each result is as it was written and planned."
        return Section(title="Flags", text=(text,))
    table = Table(
        headings=("problem", "flagged results", "not finished"),
        cells=tuple((state.name, str(state.flagged), state.missing or "-") for state in odd),
        caption="Problems with flags; their own reports say what is flagged, and why",
    )
    return Section(title="Flags", tables=(table,))


def origin(suite: Suite, problems: Sequence[ProblemResults]) -> list[Section]:
    """Return what made the numbers, and what makes them again."""
    results = [result for problem in problems for result in problem.results]
    return [
        Section(title="Origin", text=(AGAIN,), tables=(made_by(results),), code=commands(results)),
        Section(title=f"The study: {FILE_NAME}", code=as_toml(suite), is_folded=True),
    ]


def times(problems: Sequence[ProblemResults]) -> Section:
    """Return how long it took: the only part that differs between reports of equal results."""
    seconds = {p.name: sum(r.finished.seconds for r in p.results) for p in problems}
    table = Table(
        headings=("problem", "children", "seconds a child", "hours in all"),
        cells=tuple(
            (
                problem.name,
                str(len(problem.results)),
                f"{seconds[problem.name] / len(problem.results):.0f}",
                f"{seconds[problem.name] / 3600:.2f}",
            )
            for problem in problems
        ),
        caption="Training time of children; those that trained beside others count whole",
    )
    count = sum(len(problem.results) for problem in problems)
    text = f"{count} children took {sum(seconds.values()) / 3600:.1f} hours of training."
    return Section(title="Times", text=(text,), tables=(table,))
