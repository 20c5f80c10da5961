"""Limits on what callers can create, so that none can exhaust the service for the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent_service.domain.errors import ResourceExhausted, invalid, within
from agent_service.domain.specs import MAX_CHUNK_SIZE, MAX_HYPERPARAMETERS, ControllerSpec

if TYPE_CHECKING:
    from agent_service.store.rows.session import Session  # imports SQLAlchemy


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Limits for new controllers and runs; existing ones keep working if a limit is lowered."""

    controllers: int = 10_000
    """Maximum number of controllers that are not deleted."""
    runs: int = 100_000
    """Maximum number of active runs."""
    hyperparameters: int = MAX_HYPERPARAMETERS
    """Maximum number of hyperparameters of a controller; the contract's limit applies, too."""
    chunk_size: int = MAX_CHUNK_SIZE
    """Maximum number of losses in a chunk; the contract's limit applies, too."""

    def __post_init__(self) -> None:
        """Check ranges; raises InvalidArgument naming the field."""
        for name in ("controllers", "runs", "hyperparameters", "chunk_size"):
            if getattr(self, name) < 1:
                raise invalid(f"max_{name}", f"{getattr(self, name)} must be at least 1")

    def check_new_controller(self, session: Session, spec: ControllerSpec) -> None:
        """Check that a new controller is within the limits.

        Raises:
            ResourceExhausted: it exceeds a limit of this service.
            InvalidArgument: its parts together are too large for any service.
        """
        with within(f"spec.{spec.algorithm.kind}."):
            spec.algorithm.check_size(spec)
        count = len(spec.hyperparameters)
        if count > self.hyperparameters:
            raise _exhausted("hyperparameters", self.hyperparameters, f"the spec has {count}")
        if spec.chunk_size > self.chunk_size:
            raise _exhausted("chunk_size", self.chunk_size, f"the spec has {spec.chunk_size}")
        if session.has_controllers(count=self.controllers):
            raise _exhausted("controllers", self.controllers, "they exist; delete one")

    def check_new_run(self, session: Session) -> None:
        """Raise ResourceExhausted if the limit of active runs is reached."""
        if session.has_active_runs(count=self.runs):
            raise _exhausted("runs", self.runs, "they are active; finish one")


DEFAULT = Capacity()


def _exhausted(limit: str, size: int, why: str) -> ResourceExhausted:
    option = f"--max-{limit.replace('_', '-')}"
    return ResourceExhausted(f"at most {size} {limit} ({option}), and {why}", limit=limit)
