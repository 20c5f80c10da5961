"""Trains children of one process in lockstep: stacked where there are several, else as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainer_service.training.chunk import Chunk
from trainer_service.training.loop import ChildTraining, Diverged
from trainer_service.training.stacked import StackedTraining


class Lockstep:
    """Trains one chunk of each child that it is given; which these are may change between two."""

    def __init__(self) -> None:
        """Stack nothing yet."""
        self._children: tuple[ChildTraining, ...] = ()
        self._stack: StackedTraining | None = None

    def train_chunk(
        self, children: Sequence[ChildTraining], values: Sequence[Mapping[str, float]]
    ) -> Sequence[Chunk | Diverged]:
        """Train a chunk of each child; see `StackedTraining.train_chunk`.

        Args:
            children: that stand at the same step. Those that were stacked and are both given again
                must have been given together ever since: they share Adam's count of steps.
            values: one mapping a child.
        """
        if len(children) == 1:
            self._children, self._stack = (), None
            return [_alone(children[0], values[0])]
        if self._stack is None or self._children != tuple(children):
            self._children, self._stack = tuple(children), StackedTraining(children)
        return self._stack.train_chunk(values)


def _alone(child: ChildTraining, values: Mapping[str, float]) -> Chunk | Diverged:
    try:
        return child.train_chunk(values)
    except Diverged as diverged:
        return diverged
