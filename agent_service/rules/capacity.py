"""How much one service takes on, so that none of its callers can fill it up for the others."""

from __future__ import annotations

from dataclasses import dataclass

from agent_service.domain.errors import ResourceExhausted, invalid, within
from agent_service.domain.specs import MAX_CHUNK_SIZE, MAX_HYPERPARAMETERS, ControllerSpec
from agent_service.domain.store import Session


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Limits of what is new; what is there stays and goes on, also above a limit lowered since."""

    controllers: int = 10_000
    """Controllers that are not deleted."""
    runs: int = 100_000
    """Active runs."""
    hyperparameters: int = MAX_HYPERPARAMETERS
    """Of one controller; the contract's own bound at the most."""
    chunk_size: int = MAX_CHUNK_SIZE
    """Losses in a chunk of a controller; the contract's own bound at the most."""

    def __post_init__(self) -> None:
        """Check ranges; raises InvalidArgument naming the field."""
        for name in ("controllers", "runs", "hyperparameters", "chunk_size"):
            if getattr(self, name) < 1:
                raise invalid(f"max_{name}", f"{getattr(self, name)} must be at least 1")

    def check_new_controller(self, session: Session, spec: ControllerSpec) -> None:
        """Check that a new controller is not one too many, nor too large.

        Raises:
            ResourceExhausted: it is over a limit of this service.
            InvalidArgument: its parts are too large together, whatever the service.
        """
        with within(f"spec.{spec.algorithm.kind}."):
            spec.algorithm.check_size(spec)
        count = len(spec.hyperparameters)
        if count > self.hyperparameters:
            raise _exhausted("hyperparameters", self.hyperparameters, f"the spec has {count}")
        if spec.chunk_size > self.chunk_size:
            raise _exhausted("chunk_size", self.chunk_size, f"the spec has {spec.chunk_size}")
        if session.has_controllers(count=self.controllers):
            raise _exhausted("controllers", self.controllers, "they are there; delete one")

    def check_new_run(self, session: Session) -> None:
        """Raise ResourceExhausted where a new run is one too many."""
        if session.has_active_runs(count=self.runs):
            raise _exhausted("runs", self.runs, "they are active; finish one")


DEFAULT = Capacity()


def _exhausted(limit: str, size: int, why: str) -> ResourceExhausted:
    option = f"--max-{limit.replace('_', '-')}"
    return ResourceExhausted(f"at most {size} {limit} ({option}), and {why}", limit=limit)
