"""The call that starts a run: what the script says of its training, and what can be seen of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_service.client.problem import seen_problem
from agent_service.domain.problem import Problem
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

if TYPE_CHECKING:
    from agent_service.client.model.shadowed import ShadowedModel
    from agent_service.client.model.steered import SteeredModel
    from agent_service.client.starting import RunOptions


def start_request(
    options: RunOptions,
    *,
    run_id: str,
    controller: str,
    chunk_size: int,
    model: SteeredModel | ShadowedModel | None,
) -> pb.StartRunRequest:
    """Return the call that starts a run.

    Args:
        options: the script's arguments.
        run_id: the run's id.
        controller: its name.
        chunk_size: of the controller.
        model: what the run drives; None without a model.
    """
    seen = seen_problem(
        model=options.model,
        sites=None if model is None else len(model.description.driven),
        score=options.score,
        optimizer=options.optimizer,
        loader=options.loader,
    )
    request = pb.StartRunRequest(
        controller=controller,
        run_id=run_id,
        mode=convert.mode_to_message(options.mode),
        policy_version=options.policy_version,
        labels=options.labels,
        planned_chunks=_planned_chunks(options, chunk_size),
    )
    _set_problem(request, _stated(options).filled_from(seen))
    return request


def as_begun(request: pb.StartRunRequest, options: RunOptions, run: pb.Run) -> pb.StartRunRequest:
    """Return a start with what an existing run began with, save for what the script states."""
    again = pb.StartRunRequest()
    again.CopyFrom(request)
    again.planned_chunks = options.planned_chunks or run.planned_chunks
    _set_problem(again, _stated(options).filled_from(convert.problem_from_message(run.problem)))
    return again


def _planned_chunks(options: RunOptions, chunk_size: int) -> int:
    if options.planned_steps is None:
        return options.planned_chunks or 0
    return max(options.planned_steps // chunk_size, 1)  # only full chunks are reported


def _stated(options: RunOptions) -> Problem:
    return options.problem or Problem()


def _set_problem(request: pb.StartRunRequest, problem: Problem) -> None:
    """Set what is known; a training of which nothing is known has no problem."""
    request.ClearField("problem")
    if problem.known():
        request.problem.CopyFrom(convert.problem_to_message(problem))
