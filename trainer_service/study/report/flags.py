"""Flags that a reader of results must know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.plan import Key, Phase, Plan
from trainer_service.study.results.provenance import COMMIT
from trainer_service.study.results.results import Result, Study


def find_flags(study: Study, results: Sequence[Result]) -> dict[Key, list[str]]:
    """Return the flags of suspicious results, in words, by key."""
    commit = _most(result.commit for result in results)
    versions = _most(tuple(sorted(result.versions.items())) for result in results)
    policies = {
        method: _most(r.policy for r in results if r.is_judged and r.key.method == method)
        for method in {r.key.method for r in results if r.is_judged}
    }
    plan = Plan(id=study.id, spec=study.spec, results=results)
    found: dict[Key, list[str]] = {}
    for result in sorted(results, key=lambda result: result.key):
        words = []
        if not result.is_intact:
            words.append("was edited after it was written")
        if departs(result, plan):
            words.append("was trained under another spec than the study plans")
        if not result.commit:
            words.append("was made by code without a commit")
        elif not COMMIT.fullmatch(result.commit):
            words.append("was made by what is no commit")
        elif result.commit.endswith("+changes"):
            words.append("was made by code with changes that are in no commit")
        if result.commit != commit:
            words.append("was made by another commit than most")
        if tuple(sorted(result.versions.items())) != versions:
            words.append("was made by other versions than most")
        if result.key.phase is Phase.JUDGED and result.policy != policies[result.key.method]:
            words.append("was decided by another policy than most of its method")
        if words:
            found[result.key] = words
    return found


def departs(result: Result, plan: Plan) -> bool:
    """Return whether a result's run was of another spec than follows from the plan's results."""
    planned = _planned(result, plan)
    return planned is not None and _named_alike(planned) != _named_alike(result.spec)


def _planned(result: Result, plan: Plan) -> RunSpec | None:
    """Return the planned run; None if it does not follow from the study's own results."""
    key = result.key
    entry = plan.spec.find(key.method)
    if entry is None:
        return None
    if key.phase is Phase.JUDGED:
        return entry.planned(plan, result)
    tuned = entry.tuning(plan)
    return tuned[key.index] if key.index < len(tuned) else None


def _named_alike(spec: RunSpec) -> RunSpec:
    # Controllers are named after a part's id, up to the first hyphen; merged parts have several.
    # What a child leaves behind changes nothing of it.
    return replace(spec, controller=spec.controller.partition("-")[2], keep=False)


def _most(things) -> object:  # type: ignore[no-untyped-def]
    """Return the most frequent thing; of several, the first in order."""
    counts = Counter(things)
    return min(counts, key=lambda thing: (-counts[thing], thing))
