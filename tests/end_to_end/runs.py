"""Runs as a client of the trainer service sees them."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from agent_service.client import ControllerSpec, PPOSettings
from tests.end_to_end.processes import wait_for
from tests.trainer_service.specs import run_spec
from trainer_service.client import TrainerClient
from trainer_service.runs.run import ChunkTrained, EventContent, Finished, RunState, StateChanged
from trainer_service.training.chunk import Chunk
from trainer_service.training.spec import Method, hyperparameters


def controller(name: str, method: Method = Method.RD, **settings: Any) -> ControllerSpec:
    """Return the spec of one that decides for runs of `run_spec`, with settings of PPO."""
    training = run_spec(method, controller=name).training
    return ControllerSpec(
        name=name,
        chunk_size=training.chunk_size,
        hyperparameters=hyperparameters(training),
        algorithm=PPOSettings(**settings),
    )


def followed(client: TrainerClient, run_id: str) -> list[EventContent]:
    """Follow a run to its end; return all that happened, without times."""
    return [_timeless(event.what) for event in client.watch(run_id)]


def _timeless(what: EventContent) -> EventContent:
    if isinstance(what, ChunkTrained):
        return replace(what, chunk=replace(what.chunk, seconds=0.0), agent_seconds=0.0)
    return replace(what, seconds=0.0) if isinstance(what, Finished) else what


def chunks_of(happened: Iterable[EventContent]) -> list[Chunk]:
    return [what.chunk for what in happened if isinstance(what, ChunkTrained)]


def causes(happened: Iterable[EventContent], state: RunState) -> list[str]:
    """Return the cause of each change to a state."""
    return [w.cause for w in happened if isinstance(w, StateChanged) and w.state is state]


def wait_for_chunks(client: TrainerClient, run_ids: Sequence[str], count: int = 1) -> None:
    wait_for(lambda: all(client.get(run_id).trained_chunks >= count for run_id in run_ids))
