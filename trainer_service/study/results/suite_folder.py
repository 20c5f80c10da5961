"""A suite on disk: what it is, and a folder for the study of each problem."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import TypeAdapter

from agent_service.domain.errors import AgentError
from trainer_service.study.results.inside import read_inside, write_inside
from trainer_service.study.results.results import ResultsFolder
from trainer_service.study.results.stored_json import read_json
from trainer_service.study.suite import Suite, SuiteProblem

_SUITE_FILE = "suite.json"
_SUITE = TypeAdapter(Suite)


class SuiteFolder:
    """A suite's folder: `suite.json`, a results folder for each problem begun, and reports.

    It may be a stranger's, as a results folder.
    """

    def __init__(self, path: Path) -> None:
        """Name the folder; nothing is written yet."""
        self.path = path

    def held(self) -> AbstractContextManager[None]:
        """Keep the folder for this process; raises AgentError, as that of a single study."""
        return ResultsFolder(self.path).held()

    def open(self, suite: Suite) -> None:
        """Begin a suite here, or go on with the one that is here.

        Problems, methods and seeds may have been added to it.

        Raises:
            AgentError: the folder holds something else.
        """
        stored = self._suite()
        if ResultsFolder(self.path).has_study:
            raise AgentError(f"{self.path} holds a study of one problem; give a new folder")
        if stored is not None and not suite.goes_on_with(stored):
            raise AgentError(
                f"{self.path / _SUITE_FILE} is another study; give a new folder, or the same "
                "study, to which problems, methods and seeds may be added"
            )
        if stored != suite:
            self.write_suite(suite)

    def write_suite(self, suite: Suite) -> None:
        """Write what the folder holds."""
        write_inside(self.path, _SUITE_FILE, _SUITE.dump_json(suite, indent=1) + b"\n")

    def remove_unbegun(self) -> None:
        """Remove the suite if no problem has begun, so that a mended one may begin here."""
        if not any(self.begun()):
            (self.path / _SUITE_FILE).unlink(missing_ok=True)

    @property
    def has_suite(self) -> bool:
        """Whether there is one."""
        return self._suite() is not None

    def suite(self) -> Suite:
        """Return the folder's suite; raises AgentError if there is none."""
        suite = self._suite()
        if suite is None:
            raise AgentError(f"{self.path} holds no suite of problems: there is no {_SUITE_FILE}")
        return suite

    def _suite(self) -> Suite | None:
        data = read_inside(self.path, _SUITE_FILE)
        if data is None:
            return None
        suite: Suite = read_json(_SUITE, data, f"{self.path / _SUITE_FILE} is no suite")
        return suite

    def folder(self, name: str) -> ResultsFolder:
        """Return the folder of a problem's study; raises AgentError if it is a link."""
        path = self.path / name
        if path.is_symlink():
            raise AgentError(f"{path} is a link, which is not followed; put there what it names")
        return ResultsFolder(path)

    def begun(self) -> Iterator[tuple[SuiteProblem, ResultsFolder]]:
        """Yield the problems that have begun, in order, with their folders.

        Raises:
            AgentError: a folder holds another study than the suite's.
        """
        for problem in self.suite().problems:
            folder = self.folder(problem.name)
            if not folder.has_study:
                continue
            if not problem.study.goes_on_with(folder.study().spec):
                raise AgentError(f"{folder.path} is another study than {_SUITE_FILE} says")
            yield problem, folder
