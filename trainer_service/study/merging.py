"""Merges parts of one study that were made in several folders, on one machine or on many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent_service.domain.errors import AgentError
from trainer_service.study.results import Key, Result, ResultsFolder, Study


def merge(parts: Sequence[Path], output: Path) -> int:
    """Bring the results and policies of parts together in a folder; return how many results.

    The order of the parts does not matter. A result that several have counts once.

    Args:
        parts: folders of the same study, at least one.
        output: a folder that is new, or a part, too.

    Raises:
        AgentError: they are of different studies, or have two results of one child or two policies
            of one method. Nothing is written then.
    """
    folders = [ResultsFolder(path) for path in parts]
    target = ResultsFolder(output)
    if (output / "study.json").exists():
        folders.append(target)
    studies = [folder.study() for folder in folders]
    for folder, study in zip(folders, studies, strict=True):
        if study.spec != studies[0].spec:
            raise AgentError(f"{folder.path} is another study than {folders[0].path}")
    results = _united(folders)
    policies = _policies(folders, [entry.name for entry in studies[0].spec.methods])
    target.write_study(Study(id=min(study.id for study in studies), spec=studies[0].spec))
    for method, data in policies.items():
        target.add_policy(method, data)
    target.replace_results([results[key] for key in sorted(results)])
    return len(results)


def _united(folders: Sequence[ResultsFolder]) -> dict[Key, Result]:
    """Return all results by key; raises AgentError where two of one key differ."""
    united: dict[Key, Result] = {}
    for folder in folders:
        for result in folder.results():
            other = united.setdefault(result.key, result)
            if _timeless(other) != _timeless(result):
                key = result.key
                raise AgentError(
                    f"{folder.path} has another result of {key.method}, {key.phase} {key.index} "
                    "than a part before; leave one of the two out"
                )
            united[result.key] = min(other, result, key=lambda r: (r.ended_at, r.run_id))
    return united


def _timeless(result: Result) -> Result:
    """Return a result without what differs between two makings of the same."""
    # Runs and controllers are named after the part's id, up to the first hyphen.
    spec = replace(result.spec, controller=result.spec.controller.partition("-")[2])
    finished = replace(result.finished, seconds=0.0)
    return replace(
        result, run_id="", spec=spec, finished=finished, ended_at=0.0, digest="", commit=""
    )


def _policies(folders: Sequence[ResultsFolder], methods: Sequence[str]) -> dict[str, bytes]:
    """Return all policies; raises AgentError where two of one method differ."""
    policies: dict[str, bytes] = {}
    for folder in folders:
        for method in methods:
            data = folder.policy(method)
            if data is not None and policies.setdefault(method, data) != data:
                raise AgentError(
                    f"{folder.path} has another policy of {method} than a part before: it was "
                    "learned twice; leave one of the two parts out"
                )
    return policies
