"""The log of a service, and the runs that were pruned from it, read as one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from agent_service.analysis.archive.folder import Archive, ArchivedRun
from agent_service.store.rows.rows import transition
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

if TYPE_CHECKING:
    from agent_service.client import AgentClient


class ArchivedLog:
    """See the protocol `LogReader`: what was pruned comes first, run by run."""

    def __init__(self, client: AgentClient, archive: Archive) -> None:
        """Read the archive, and by `client` what the service has; the client stays the caller's."""
        self._client = client
        self._archive = archive
        self.get_controller = client.get_controller
        self.export_policy = client.export_policy

    def get_run(self, run_id: str) -> pb.Run:
        """See the protocol."""
        for archived in self._archive.runs(run_id=run_id):
            return _run_message(archived)
        return self._client.get_run(run_id)

    def list_runs(self, *, controller: str = "") -> Iterator[pb.Run]:
        """See the protocol."""
        yield from map(_run_message, self._archive.runs(controller=controller))
        yield from self._client.list_runs(controller=controller)

    def transitions(
        self, *, controller: str = "", run_id: str = "", after: int = 0
    ) -> Iterator[pb.Transition]:
        """See the protocol."""
        was_archived = False
        for archived in self._archive.runs(controller=controller, run_id=run_id):
            was_archived = True
            for message in _transition_messages(archived):
                if message.position > after:
                    yield message
        if run_id and was_archived:
            return
        yield from self._client.transitions(controller=controller, run_id=run_id, after=after)


def _run_message(archived: ArchivedRun) -> pb.Run:
    run = archived.run
    (newest,) = (d for d in archived.decisions if d.chunk == run.reported_chunks + 1)
    return convert.run_to_message(run, newest)


def _transition_messages(archived: ArchivedRun) -> Iterator[pb.Transition]:
    for decision, following in pairwise(archived.decisions):
        yield convert.transition_to_message(archived.run, transition(decision, following))
