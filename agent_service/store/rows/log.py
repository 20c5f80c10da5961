"""The decision log, and what learning reads from it, in SQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import sqlalchemy as sa

from agent_service.domain.runs import Appended, Decision, Run, Transition, Use
from agent_service.store.rows import rows
from agent_service.store.rows.checksums import checksum_delta
from agent_service.store.rows.transaction import Transaction
from agent_service.store.sql import queries
from agent_service.store.sql.schema import decisions, runs

_use_delta = cache(
    lambda was, use: checksum_delta(decisions, {"use": was.value}, {"use": use.value})
)
"""The change of a decision's checksum when its use changes."""


class Log(Transaction):
    """The session's methods for decisions and transitions."""

    def next_position(self) -> int:
        """Return the log position of the next decision to be appended."""
        if self._cache.next_position is None:
            self._cache.next_position = self.last_position() + 1
        return self._cache.next_position

    def append(self, run: Run, decision: Decision) -> None:
        """Append a decision to the log, at its position, which is the next one."""
        self.sender.send(queries.APPEND, rows.decision_to_row(run, decision))
        self._cache.next_position = decision.position + 1
        # A decision that ends a run finds no cache entry, as the run is finished.
        if (cached := self._cache.runs.get(run.id)) is not None:
            cached.newest = decision

    def find_decision(self, run: Run, chunk: int) -> Decision | None:
        """Return the decision for one chunk of a run."""
        cached = self._cache.runs.get(run.id)
        if cached is not None and cached.newest is not None and cached.newest.chunk == chunk:
            return cached.newest
        names = {"run_id": run.id, "chunk": chunk}
        row = self._row(queries.FIND_DECISION, names)
        return None if row is None else rows.decision_from_row(row)

    def applied_values(self, run: Run) -> Sequence[Mapping[str, float]]:
        """Return the values that a run's chunks actually ran under, where reports gave them."""
        query = sa.select(decisions.c.applied).where(
            decisions.c.run_key == run.key, decisions.c.applied.is_not(None)
        )
        return self._execute(query).scalars().all()

    def set_use(self, run: Run, chunk: int, *, was: Use, use: Use) -> None:
        """Change the use of a run's decision for `chunk`, if it is `was`."""
        self.sender.send(
            queries.SET_USE, (use.value, _use_delta(was, use), run.key, chunk, was.value)
        )

    def transitions(
        self, *, controller: str, run_id: str, after: int, limit: int
    ) -> Iterator[tuple[Run, Transition]]:
        """Yield complete transitions by position, of one controller or run, or (empty) of all.

        SQLite reads each when it is yielded.
        """
        query = queries.TRANSITIONS.where(after < queries.FOLLOWING_POSITION, queries.KEPT)
        query = query.limit(limit)
        if controller:
            query = query.where(queries.OF_CONTROLLER).params(of_name=controller)
        if run_id:
            query = query.where(runs.c.id == run_id).order_by(queries.FOLLOWING_CHUNK)
        else:
            query = query.order_by(queries.FOLLOWING_POSITION)
        for row in self._each_row(query):
            yield rows.run_from_row(row), rows.transition_from_row(row)

    def appended(self, *, after: int, limit: int) -> Sequence[Appended]:
        """Return the controller and run of each decision after a position, by position."""
        query = queries.APPENDED.where(decisions.c.position > after).limit(limit)
        return [Appended(**row) for row in self._rows(query)]

    def last_position(self) -> int:
        """Return the log's last position; 0 if it is empty."""
        query = sa.select(sa.func.coalesce(sa.func.max(decisions.c.position), 0))
        position: int = self._execute(query).scalar_one()
        return position

    def decisions(self, *, after: int, limit: int) -> Sequence[tuple[Run, Decision]]:
        """Return the whole log by position."""
        query = queries.DECISIONS.where(decisions.c.position > after, queries.KEPT)
        query = query.order_by(decisions.c.position).limit(limit)
        return [(rows.run_from_row(r), rows.decision_from_row(r)) for r in self._rows(query)]
