"""How commands read the log: from a running service, and where asked also from an archive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from agent_service.serving.access import Target, connect

if TYPE_CHECKING:
    from agent_service.v1 import agent_pb2 as pb


class LogReader(Protocol):
    """What has a log: a client of a service, alone or with an archive."""

    def get_controller(self, name: str) -> pb.Controller:
        """Return a controller."""
        ...

    def export_policy(self, controller: str, version: int = 0) -> bytes:
        """Return a policy version as a file, the newest for 0."""
        ...

    def get_run(self, run_id: str) -> pb.Run:
        """Return a run as it stands, or as it was when it was pruned."""
        ...

    def transitions(
        self, *, controller: str = "", run_id: str = "", after: int = 0
    ) -> Iterator[pb.Transition]:
        """Return the log after a position, of one controller or run or of all."""
        ...


def archive_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the option that names an archive, passed on as `archive`."""
    return click.option(
        "--archive",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Read the runs that were pruned into this folder, too; they come first, run by run.",
    )(command)


@contextmanager
def reading(agent: Target, archive: Path | None) -> Iterator[LogReader]:
    """Give the log of a service, with (not None) what was pruned from it."""
    with connect(agent) as client:
        if archive is None:
            yield client
        else:
            from agent_service.analysis.archive.folder import Archive
            from agent_service.analysis.archive.log import ArchivedLog

            yield ArchivedLog(client, Archive(archive))
