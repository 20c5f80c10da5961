"""Messages to values and back: the only place that touches the agent contract's fields.

Pairs stand together. Settings of algorithms and hyperparameters go by the names of their fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from agent_service.controllers.registry import settings_class
from agent_service.domain import runs
from agent_service.domain.checks import member
from agent_service.domain.errors import invalid, within
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.problem import Problem
from agent_service.domain.rewards import Feedback, GivenReward, Reward, Scores
from agent_service.domain.specs import ControllerSpec, Settings
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire.fields import arguments, contents, plain

if TYPE_CHECKING:
    from agent_service.domain.store import PolicyEntry, Usage

E = TypeVar("E", bound=StrEnum)


def _by_number(enum: Any, kind: type[E]) -> dict[int, E]:
    """Return the members of our enum by their numbers in the contract's, which has their names."""
    prefix = enum.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return {enum.Value(prefix + member.name): member for member in kind}


def _numbers(members: Mapping[int, E]) -> dict[E, Any]:
    return {member: number for number, member in members.items()}


MODES = _by_number(pb.Mode, runs.Mode)
OUTCOMES = _by_number(pb.Outcome, runs.Outcome)
STATES = _by_number(pb.RunState, runs.RunState)
_MODE_NUMBERS, _OUTCOME_NUMBERS = _numbers(MODES), _numbers(OUTCOMES)
_STATE_NUMBERS, _USE_NUMBERS = _numbers(STATES), _numbers(_by_number(pb.Use, runs.Use))


def _member(members: Mapping[int, E], number: int, field: str) -> E:
    """Return an enum's member; raises InvalidArgument if the number is unknown or unspecified."""
    if number not in members:
        raise invalid(field, f"{number} is not one of {sorted(map(str, members.values()))}")
    return members[number]


def mode_from_message(number: int) -> runs.Mode | None:
    """Return the mode of the field `mode`; None if it is unspecified; raises InvalidArgument."""
    return None if number == 0 else _member(MODES, number, "mode")


def mode_to_message(mode: runs.Mode | None) -> Any:
    """Return a mode's number; unspecified for None; raises InvalidArgument for an unknown name."""
    return pb.MODE_UNSPECIFIED if mode is None else _MODE_NUMBERS[member(runs.Mode, mode, "mode")]


def timestamp(seconds: float) -> Timestamp:
    """Return a protobuf time for seconds since 1970."""
    return Timestamp(seconds=int(seconds), nanos=int((seconds % 1) * 1e9))


# Specs


def hyperparameters_from_message(message: pb.ControllerSpec) -> tuple[Hyperparameter, ...]:
    """Return the hyperparameters of a spec of any algorithm; raises InvalidArgument."""
    hyperparameters = []
    for place, one in enumerate(message.hyperparameters):
        with within(f"spec.hyperparameters[{place}]."):
            hyperparameters.append(Hyperparameter(**contents(one, Hyperparameter)))
    return tuple(hyperparameters)


def spec_from_message(message: pb.ControllerSpec) -> ControllerSpec:
    """Return the checked spec; raises InvalidArgument naming each field from `spec.` on."""
    hyperparameters = hyperparameters_from_message(message)
    with within("spec."):
        return ControllerSpec(
            name=message.name,
            chunk_size=message.chunk_size or 20,
            hyperparameters=hyperparameters,
            reward=plain(_REWARD, message.reward) if message.reward else Reward.GAP,
            diverged_reward=(
                message.diverged_reward if message.HasField("diverged_reward") else None
            ),
            seed=message.seed,
            algorithm=_algorithm_from_message(message),
        )


def _algorithm_from_message(message: pb.ControllerSpec) -> Settings:
    kind = message.WhichOneof("algorithm")
    if kind is None:
        raise invalid("algorithm", f"is not set; set one of {', '.join(_ALGORITHMS)}")
    settings = settings_class(kind)
    with within(f"{kind}."):
        return settings(**contents(getattr(message, kind), settings))


def spec_to_message(spec: ControllerSpec) -> pb.ControllerSpec:
    """Return the message of a spec, every default filled in.

    Raises:
        InvalidArgument: the contract lacks its algorithm or its reward.
    """
    for field, name, is_there in (
        ("algorithm", spec.algorithm.kind, spec.algorithm.kind in _ALGORITHMS),
        ("reward", spec.reward, _reward_number(spec.reward) != _UNKNOWN),
    ):
        if not is_there:
            raise invalid(
                f"spec.{field}",
                f"{str(name)!r} is not in the contract; add it to agent.proto and run `make proto`",
            )
    return _spec_message(spec)


def _spec_message(spec: ControllerSpec) -> pb.ControllerSpec:
    """Return the message of a spec, without an algorithm that the contract lacks."""
    message = pb.ControllerSpec(
        name=spec.name,
        chunk_size=spec.chunk_size,
        hyperparameters=[
            pb.Hyperparameter(**arguments(h, pb.Hyperparameter.DESCRIPTOR))
            for h in spec.hyperparameters
        ],
        reward=_reward_number(spec.reward),
        diverged_reward=spec.diverged_reward,
        seed=spec.seed,
    )
    settings = spec.algorithm.as_asked()
    if settings.kind in _ALGORITHMS:
        algorithm = getattr(message, settings.kind)
        algorithm.MergeFrom(type(algorithm)(**arguments(settings, algorithm.DESCRIPTOR)))
        algorithm.SetInParent()
    return message


_ALGORITHMS = [f.name for f in pb.ControllerSpec.DESCRIPTOR.oneofs_by_name["algorithm"].fields]
"""The kinds of algorithms in the contract."""
_REWARD: Any = pb.ControllerSpec.DESCRIPTOR.fields_by_name["reward"]
_UNKNOWN = -1
"""The number of a reward that the contract lacks, unlike that of any other."""


def _reward_number(reward: str) -> Any:
    found = _REWARD.enum_type.values_by_name.get(f"REWARD_{reward.upper()}")
    return _UNKNOWN if found is None else found.number


def controller_to_message(controller: runs.Controller, usage: Usage) -> pb.Controller:
    """Return the message of a controller and its counts."""
    return pb.Controller(
        spec=_spec_message(controller.spec),
        mode=_MODE_NUMBERS[controller.mode],
        policy_version=controller.policy_version,
        create_time=timestamp(controller.created_at),
        active_runs=usage.runs[runs.RunState.ACTIVE],
        learned_transitions=usage.learned,
        ready_transitions=usage.ready,
    )


def policy_entry_to_message(entry: PolicyEntry) -> pb.PolicyVersion:
    """Return the message of a policy version, without its data."""
    return pb.PolicyVersion(
        version=entry.version,
        create_time=timestamp(entry.created_at),
        origin=pb.Origin.Value(f"ORIGIN_{entry.origin.name}"),
        statistics=entry.statistics,
        learned_transitions=entry.learned_transitions,
        size_bytes=entry.size,
    )


# Runs


def problem_from_message(message: pb.Problem) -> Problem:
    """Return the checked problem; raises InvalidArgument naming each field from `problem.` on."""
    with within("problem."):
        return Problem(**contents(message, Problem))


def problem_to_message(problem: Problem) -> pb.Problem:
    """Return the message of a problem; what is unknown stays unset."""
    return pb.Problem(**problem.known())


def start_from_message(message: pb.StartRunRequest) -> runs.StartRun:
    """Return the checked request to start a run; raises InvalidArgument."""
    return runs.StartRun(
        controller=message.controller,
        run_id=message.run_id,
        mode=mode_from_message(message.mode),
        policy_version=message.policy_version or None,
        labels=dict(message.labels),
        planned_chunks=message.planned_chunks or None,
        problem=problem_from_message(message.problem) if message.HasField("problem") else None,
    )


def report_from_message(message: pb.ReportChunkRequest) -> runs.ChunkReport:
    """Return the checked report; raises InvalidArgument."""
    import numpy as np  # only here, since clients import this module

    feedback: Feedback
    match message.WhichOneof("feedback"):
        case "scores":
            scores = message.scores
            feedback = Scores(training=scores.training, validation=scores.validation)
        case "reward":
            feedback = GivenReward(message.reward)
        case _:
            raise invalid(
                "feedback", "is not set; set scores, or reward where the reward is `given`"
            )
    return runs.ChunkReport(
        run_id=message.run_id,
        chunk=message.chunk_index,
        losses=np.fromiter(message.losses, np.float64, len(message.losses)),
        feedback=feedback,
        applied=dict(message.applied.values) if message.HasField("applied") else None,
    )


def report_to_message(report: runs.ChunkReport) -> pb.ReportChunkRequest:
    """Return the message of a report."""
    message = pb.ReportChunkRequest(
        run_id=report.run_id, chunk_index=report.chunk, losses=report.losses.tolist()
    )
    if isinstance(report.feedback, GivenReward):
        message.reward = report.feedback.value
    else:
        message.scores.CopyFrom(_scores_to_message(report.feedback))
    if report.applied is not None:
        message.applied.SetInParent()
        message.applied.values.update(report.applied)
    return message


def finish_from_message(message: pb.FinishRunRequest) -> runs.FinishRun:
    """Return the checked end of a run; raises InvalidArgument."""
    return runs.FinishRun(
        run_id=message.run_id,
        outcome=_member(OUTCOMES, message.outcome, "outcome"),
        final_score=message.final_score if message.HasField("final_score") else None,
    )


def finish_to_message(finish: runs.FinishRun) -> pb.FinishRunRequest:
    """Return the message of a run's end."""
    return pb.FinishRunRequest(
        run_id=finish.run_id,
        outcome=_OUTCOME_NUMBERS[finish.outcome],
        final_score=finish.final_score,
    )


def action_to_message(decision: runs.Decision) -> pb.Action:
    """Return the action of a decision."""
    return pb.Action(
        values=decision.values,
        chunk_index=decision.chunk,
        policy_version=decision.policy_version,
        explored=decision.choice.explored,
    )


def run_to_message(run: runs.Run, decision: runs.Decision) -> pb.Run:
    """Return the message of a run, with its newest decision."""
    message = pb.Run(
        run_id=run.id,
        controller=run.controller.spec.name,
        mode=_MODE_NUMBERS[run.mode],
        state=_STATE_NUMBERS[run.state],
        labels=run.labels,
        reported_chunks=run.reported_chunks,
        planned_chunks=run.planned_chunks or 0,
        action=action_to_message(decision),
        create_time=timestamp(run.created_at),
        update_time=timestamp(run.updated_at),
        policy_version=run.pinned_version or 0,
        problem=None if run.problem is None else problem_to_message(run.problem),
    )
    if run.outcome is not None:
        message.outcome = _OUTCOME_NUMBERS[run.outcome]
    if run.final_score is not None:
        message.final_score = run.final_score
    return message


def transition_to_message(run: runs.Run, transition: runs.Transition) -> pb.Transition:
    """Return the message of one step of the log."""
    decision = transition.decision
    message = pb.Transition(
        position=transition.position,
        controller=run.controller.spec.name,
        run_id=run.id,
        chunk_index=decision.chunk,
        state=decision.state.tolist(),
        context=decision.context.tolist(),
        action=action_to_message(decision),
        sample=decision.choice.sample,
        log_probability=decision.choice.log_probability,
        reward=transition.reward,
        next_state=transition.next_state.tolist(),
        use=_USE_NUMBERS[decision.use],
        learned_in=decision.learned_in or 0,
        report_time=timestamp(transition.reported_at),
    )
    if isinstance(transition.feedback, Scores):
        message.scores.CopyFrom(_scores_to_message(transition.feedback))
    if transition.applied is not None:
        message.applied.SetInParent()
        message.applied.values.update(transition.applied)
    return message


def _scores_to_message(scores: Scores) -> pb.Scores:
    return pb.Scores(training=scores.training, validation=scores.validation)


def state_from_message(state: int) -> runs.RunState | None:
    """Return the state that ListRuns asks for; None for all; raises InvalidArgument."""
    return None if state == 0 else _member(STATES, state, "state")


def state_to_message(state: runs.RunState | None) -> Any:
    """Return a state's number; unspecified for None; raises InvalidArgument for an unknown name."""
    if state is None:
        return pb.RUN_STATE_UNSPECIFIED
    return _STATE_NUMBERS[member(runs.RunState, state, "state")]
