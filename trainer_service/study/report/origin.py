"""Origin of a report's numbers: flags, spec, runs, commits, machines, and times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from trainer_service.study.methods.plan import Key, Phase
from trainer_service.study.report.page import Section, Table
from trainer_service.study.results.provenance import COMMIT
from trainer_service.study.results.results import Result, Study, spec_as_json
from trainer_service.study.results.rows import Row
from trainer_service.study.spec import StudySpec
from trainer_service.study.study_file import FILE_NAME, as_toml

Flags = Mapping[Key, Sequence[str]]
"""Flags of suspicious results, in words."""


def flags(found: Flags, missing: str, *, count: int) -> Section:
    """Return which of `count` results are not what they should be, and what is missing."""
    text = []
    if missing:
        text.append(f"Not finished: {missing}. What is told of these methods may change.")
    if not found:
        text.append("Each result is as it was written, by one commit, under the spec planned.")
    table = Table(
        headings=("method", "child", "what"),
        cells=tuple(
            (key.method, f"{key.phase} {key.index}", "; ".join(words))
            for key, words in found.items()
        ),
        caption=f"{len(found)} of {count} results are flagged",
    )
    return Section(
        title="Flags",
        text=tuple(text),
        tables=(table,) if found else (),
        is_folded=len(found) > 20,  # a screenful
    )


def find_missing(spec: StudySpec, results: Sequence[Result]) -> str:
    """Return the planned and unfinished runs in words; empty if all are finished."""
    words = []
    for entry in spec.methods:
        for phase, planned in (
            (Phase.TUNING, entry.tuned_children(spec)),
            (Phase.JUDGED, spec.seeds),
        ):
            done = sum(r.key.method == entry.name and r.key.phase is phase for r in results)
            if done < planned:
                words.append(f"{entry.name} {phase} {done} of {planned}")
    return ", ".join(words)


def origin(study: Study, results: Sequence[Result], found: Flags) -> list[Section]:
    """Return the runs, the makers of each number, and the commands that reproduce it."""
    ordered = sorted(results, key=lambda result: result.key)
    makers = _makers(ordered)
    runs = Table(
        headings=(
            *("method", "child", "seed", "run", "under", "best", "last", "validation"),
            *("made by", "result", "flags"),
        ),
        cells=tuple(
            (
                r.key.method,
                f"{r.key.phase} {r.key.index}",
                str(r.spec.training.seed),
                r.run_id,
                _under(r),
                f"{r.finished.scores.test_score_best:.4f}",
                f"{r.finished.scores.test_score_last:.4f}",
                f"{r.finished.scores.validation_score_best:.4f}",
                str(1 + makers.index(_maker(r))),
                r.digest[:12],
                "; ".join(found.get(r.key, ())),
            )
            for r in ordered
        ),
        caption="Each run: what it trained under (values, or the SHA-256 of the policy's file), "
        "test and best validation macro F1, and the SHA-256 of its line in results.jsonl",
    )
    return [
        Section(title="Origin", text=(AGAIN,), tables=(made_by(ordered),), code=commands(ordered)),
        Section(title="Every run", tables=(runs,), is_folded=True),
        Section(title=f"The study: {FILE_NAME}", code=as_toml(study.spec), is_folded=True),
        Section(title="The study as JSON", code=spec_as_json(study.spec), is_folded=True),
    ]


def made_by(results: Sequence[Result]) -> Table:
    """Return commit, device and versions that results were made by, and how many of them."""
    return Table(
        headings=("", "commit", "device", "versions", "results"),
        cells=tuple(
            (str(number), *maker, str(sum(_maker(r) == maker for r in results)))
            for number, maker in enumerate(_makers(results), 1)
        ),
        caption="Made by",
    )


def _makers(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    return sorted({_maker(result) for result in results})


AGAIN = (
    f"Every number here is of {FILE_NAME}, which stands beside this page and below, and is made "
    "again by the commands. On a CPU fixed methods give the same numbers; controllers learn from "
    "runs in the order in which they report, so theirs differ."
)


def _maker(result: Result) -> tuple[str, str, str]:
    """Return commit, device and versions."""
    versions = " · ".join(f"{name} {number}" for name, number in sorted(result.versions.items()))
    return result.commit or "none", result.finished.device, versions


def commands(results: Sequence[Result]) -> str:
    """Return what makes results again, of a checkout and the report's file."""
    commits = Counter(result.commit for result in results if COMMIT.fullmatch(result.commit))
    ordered = sorted(commits, key=lambda commit: (-commits[commit], commit))
    # Readers run this, so only a hexadecimal commit is shown.
    checkout = [f"git checkout {commit.removesuffix('+changes')}" for commit in ordered[:1]]
    return "\n".join([*checkout, f"trainer-service compare {FILE_NAME} --output again"])


def _under(result: Result) -> str:
    values = result.spec.training.values
    if values:
        return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    if result.policy:
        return f"policy {result.policy[:12]}"
    return result.spec.controller or result.spec.training.method


def times(spec: StudySpec, rows: Sequence[Row], results: Sequence[Result]) -> Section:
    """Return how long it took, the only part that differs between two reports of equal results."""
    seconds = sum(r.finished.seconds for r in results)
    first = min(r.ended_at - r.finished.seconds for r in results)
    span = max(r.ended_at for r in results) - first
    table = Table(
        headings=("method", "children", "seconds a child", "hours in all"),
        cells=tuple(
            (
                row.entry.label,
                str(len(row.judged) + len(row.tuning)),
                f"{_seconds(row) / (len(row.judged) + len(row.tuning)):.0f}",
                f"{_seconds(row) / 3600:.2f}",
            )
            for row in rows
        ),
        caption="Training time of children; those that trained beside others count whole",
    )
    text = (
        f"{len(results)} children of {spec.training.model} took {seconds / 3600:.1f} hours of "
        f"training, {span / 3600:.1f} from the first's beginning to the last's end."
    )
    return Section(title="Times", text=(text,), tables=(table,))


def _seconds(row: Row) -> float:
    return sum(result.finished.seconds for result in (*row.judged, *row.tuning))
