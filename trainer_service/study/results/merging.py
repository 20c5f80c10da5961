"""Merges parts of one study that were made in several folders, on one machine or on many."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from agent_service.domain.errors import AgentError
from trainer_service.runs.run import RunSpec
from trainer_service.study.methods.plan import Key, Phase
from trainer_service.study.results.results import Result, ResultsFolder, Study, earlier
from trainer_service.study.results.suite_folder import SuiteFolder
from trainer_service.study.spec import names_of
from trainer_service.training.child_file import read_manifest


def merge(parts: Sequence[Path], output: Path) -> int:
    """Bring the results and policies of parts together in a folder; return how many results.

    The order of the parts does not matter. A result that several have counts once. Parts of a suite
    are merged problem by problem.

    Args:
        parts: folders of the same study or suite, at least one.
        output: a folder that is new, or a part, too.

    Raises:
        AgentError: they are of different studies, or have a child that was trained under different
            things, or a method that learned twice; or another process is at work in the output.
            Nothing is written then.
    """
    target = ResultsFolder(output)
    with target.held() if output.exists() else nullcontext():
        if any(SuiteFolder(path).has_suite for path in (*parts, output)):
            return _merge_suites(parts, SuiteFolder(output))
        merged = _merged(parts, target)
        merged.write(target)
        return len(merged.results)


def _merge_suites(parts: Sequence[Path], target: SuiteFolder) -> int:
    folders = [SuiteFolder(path) for path in parts]
    suites = [folder.suite() for folder in folders]
    if target.has_suite:
        suites.append(target.suite())
    for folder, suite in zip([*folders, target], suites, strict=False):
        if suite != suites[0]:
            raise AgentError(f"{folder.path} is another study than {folders[0].path}")
    begun = [(problem.name, found.path) for folder in folders for problem, found in folder.begun()]
    found = {name: [path for other, path in begun if other == name] for name, _path in begun}
    merged = {name: _merged(paths, target.folder(name)) for name, paths in found.items()}
    target.write_suite(suites[0])
    for name, one in merged.items():
        one.write(target.folder(name))
    return sum(len(one.results) for one in merged.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merged:
    """What parts of a study have together."""

    study: Study
    results: Mapping[Key, Result]
    policies: Mapping[str, bytes]
    weights: Mapping[str, bytes]

    def write(self, target: ResultsFolder) -> None:
        """Write all of it into a folder."""
        target.write_study(self.study)
        for method, data in self.policies.items():
            target.add_policy(method, data)
        for method, data in self.weights.items():
            target.add_weights(method, data)
        target.replace_results([self.results[key] for key in sorted(self.results)])


def _merged(parts: Sequence[Path], target: ResultsFolder) -> _Merged:
    """Return what parts, and the target, have together; nothing is written."""
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
    return _Merged(
        study=Study(id=min(study.id for study in studies), spec=studies[0].spec),
        results=results,
        policies=_policies(folders, methods),
        weights=_weights(folders, results, methods),
    )


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
