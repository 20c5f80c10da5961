"""Where a report's numbers come from: flags, spec, runs, commits, machines, and what it took."""

from __future__ import annotations

from collections.abc import Sequence

from trainer_service.study.flags import find_flags
from trainer_service.study.page import Section, Table
from trainer_service.study.results import Phase, Result, Study, spec_as_json
from trainer_service.study.rows import Row
from trainer_service.study.spec import StudySpec


def flags(study: Study, results: Sequence[Result]) -> Section:
    """Say which results are not what they should be, and what is missing."""
    found = find_flags(study, results)
    text = []
    missing = _missing(study.spec, results)
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
        caption=f"{len(found)} of {len(results)} results are flagged",
    )
    return Section(
        title="Flags",
        text=tuple(text),
        tables=(table,) if found else (),
        is_folded=len(found) > 20,  # a screenful
    )


def _missing(spec: StudySpec, results: Sequence[Result]) -> str:
    words = []
    for entry in spec.methods:
        for phase, planned in (
            (Phase.TUNING, spec.budget_of(entry)),
            (Phase.JUDGED, spec.seeds),
        ):
            done = sum(r.key.method == entry.name and r.key.phase is phase for r in results)
            if done < planned:
                words.append(f"{entry.name} {phase} {done} of {planned}")
    return ", ".join(words)


def origin(study: Study, results: Sequence[Result]) -> list[Section]:
    """Say what was run, and what each number was made by."""
    ordered = sorted(results, key=lambda result: result.key)
    made = sorted(
        {
            (r.commit or "unknown", r.finished.device, *(f"{k} {v}" for k, v in r.versions.items()))
            for r in ordered
        }
    )
    by = tuple(" · ".join(words) for words in made)
    runs = Table(
        headings=("method", "child", "run", "under", "best", "last", "validation", "result"),
        cells=tuple(
            (
                r.key.method,
                f"{r.key.phase} {r.key.index}",
                r.run_id,
                _under(r),
                f"{r.finished.scores.test_score_best:.4f}",
                f"{r.finished.scores.test_score_last:.4f}",
                f"{r.finished.scores.validation_score_best:.4f}",
                r.digest[:12],
            )
            for r in ordered
        ),
        caption="Each run: what it trained under (values, or the SHA-256 of the policy's file), "
        "test and best validation macro F1, and the SHA-256 of its line in results.jsonl",
    )
    command = "trainer-service compare STUDY.toml --output DIR    # the study as JSON is below"
    return [
        Section(title="Origin", text=("Made by:", *by, "Made again by:"), code=command),
        Section(title="Every run", tables=(runs,), is_folded=True),
        Section(title="The study", code=spec_as_json(study.spec), is_folded=True),
    ]


def _under(result: Result) -> str:
    values = result.spec.training.values
    if values:
        return ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    if result.policy:
        return f"policy {result.policy[:12]}"
    return result.spec.controller or result.spec.training.method.value


def times(spec: StudySpec, rows: Sequence[Row], results: Sequence[Result]) -> Section:
    """Say how long it took: the one part that differs between two makings of the same results."""
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
