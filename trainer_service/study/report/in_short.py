"""Summary of a report: highest means, verdicts, flags and missing runs."""

from __future__ import annotations

from collections.abc import Sequence

from trainer_service.study.report.evidence import number
from trainer_service.study.report.page import Section
from trainer_service.study.results.rows import MOMENTS, Row
from trainer_service.study.results.statistics import Verdict
from trainer_service.study.spec import StudySpec


def in_short(spec: StudySpec, rows: Sequence[Row], *, flagged: int, missing: str) -> Section:
    """Return the verdicts in words; `missing` is empty for a finished study."""
    text = []
    if missing:
        text.append("This study is not finished: see Flags. What it says may change.")
    if flagged:
        text.append(f"{flagged} results are not what they should be: see Flags.")
    for moment in MOMENTS:
        best = max(rows, key=lambda row: row.scores[moment].mean)
        text.append(
            f"Highest mean test F1, {moment}: {best.entry.label}, {number(best.scores[moment])}."
        )
        for name in spec.references:
            words = _verdicts(rows, name, moment)
            if words:
                text.append(f"Against {spec.entry(name).label}, {moment}: {words}.")
    return Section(title="In short", text=tuple(text))


def _verdicts(rows: Sequence[Row], reference: str, moment: str) -> str:
    """Return who does better by name, and how many are level or worse, where any are."""
    by_verdict: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    for row in rows:
        for compared in row.beside(reference):
            if compared.moment == moment:
                by_verdict[compared.difference.verdict].append(row.entry.label)
    if not any(by_verdict.values()):
        return ""
    better = (Verdict.AHEAD, Verdict.SEEMS_AHEAD)
    found = {verdict: names for verdict, names in by_verdict.items() if names}
    named = [f"{v}: {', '.join(names)}" for v, names in found.items() if v in better]
    counted = [f"{v}: {len(names)}" for v, names in found.items() if v not in better]
    return "; ".join((*(named or ["none is ahead"]), *counted))
