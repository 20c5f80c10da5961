"""Merges parts of one study that were made in several folders, on one machine or on many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from agent_service.domain.errors import AgentError
from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.plan import Key, Phase
from trainer_service.study.results.results import Result, ResultsFolder, Study, earlier
from trainer_service.study.spec import names_of
from trainer_service.training.child_file import read_manifest


def merge(parts: Sequence[Path], output: Path) -> int:
    """Bring the results and policies of parts together in a folder; return how many results.

    The order of the parts does not matter. A result that several have counts once.

    Args:
        parts: folders of the same study, at least one.
        output: a folder that is new, or a part, too.

    Raises:
        AgentError: they are of different studies, or have a child that was trained under different
            things, or a method that learned twice; or another process is at work in the output.
            Nothing is written then.
    """
    target = ResultsFolder(output)
    with target.held() if output.exists() else nullcontext():
        return _merge(parts, target)


def _merge(parts: Sequence[Path], target: ResultsFolder) -> int:
    folders = [ResultsFolder(path) for path in parts]
    if target.has_study:
        folders.append(target)
    studies = [folder.study() for folder in folders]
    for folder, study in zip(folders, studies, strict=True):
        if study.spec != studies[0].spec:
            raise AgentError(f"{folder.path} is another study than {folders[0].path}")
    results = _united(folders)
    _check_learned_once(results.values())
    methods = names_of(studies[0].spec)
    policies, weights = _policies(folders, methods), _weights(folders, results, methods)
    target.write_study(Study(id=min(study.id for study in studies), spec=studies[0].spec))
    for method, data in policies.items():
        target.add_policy(method, data)
    for method, data in weights.items():
        target.add_weights(method, data)
    target.replace_results([results[key] for key in sorted(results)])
    return len(results)


def _united(folders: Sequence[ResultsFolder]) -> dict[Key, Result]:
    """Return all results by key, of several of one key the one that was there first.

    Raises:
        AgentError: two of one key were trained under different things, or a controller learned in
            two parts.
    """
    united: dict[Key, Result] = {}
    for folder in folders:
        for result in folder.results():
            key = result.key
            other = united.setdefault(key, result)
            if _conditions(other) != _conditions(result):
                raise AgentError(
                    f"{folder.path} has {key.method}, {key.phase} {key.index} trained under other "
                    "things than a part before; leave one of the two out"
                )
            united[key] = earlier(other, result)
    return united


def _conditions(result: Result) -> tuple[RunSpec, str]:
    """Return what a child was trained under; its last bits may differ between two makings."""
    spec = replace(result.spec, keep=False)
    if result.is_judged:
        # Controllers are named after the part, up to the first hyphen. A frozen one is known by its
        # policy; one that learned is not that of another part.
        spec = replace(spec, controller=spec.controller.partition("-")[2])
    return spec, result.policy


def _weights(
    folders: Sequence[ResultsFolder], results: Mapping[Key, Result], methods: Sequence[str]
) -> dict[str, bytes]:
    """Return the weights of those children of seed 0 whose results are taken."""
    first = {key.method: r.run_id for key, r in results.items() if r.is_judged and key.index == 0}
    runs = {method: first[method] for method in methods if method in first}
    return {
        method: data
        for folder in folders
        for method, run_id in runs.items()
        if (data := folder.weights(method)) and read_manifest(data).run_id == run_id
    }


def _check_learned_once(results: Iterable[Result]) -> None:
    """Check that no method's children are of two controllers; raises AgentError."""
    learned: dict[str, str] = {}
    for result in results:
        method, controller = result.key.method, result.spec.controller
        if (
            result.key.phase is Phase.TUNING
            and learned.setdefault(method, controller) != controller
        ):
            raise AgentError(f"{method} learned in two parts; leave it out of one of them")


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
