"""Messages to values and back: the only place that touches the agent contract's fields.

Pairs stand together. Enum maps are one dictionary each, and its inverse made from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from agent_service.domain.checks import member
from agent_service.domain.errors import invalid, within
from agent_service.domain.hyperparameters import Hyperparameter, Scale
from agent_service.domain.rewards import Feedback, GivenReward, Reward, Scores
from agent_service.domain.runs import (
    ChunkReport,
    Controller,
    Decision,
    FinishRun,
    Mode,
    Outcome,
    Run,
    RunState,
    StartRun,
    Transition,
    Use,
)
from agent_service.domain.specs import (
    Algorithm,
    BayesianSettings,
    ConstantSettings,
    ControllerSpec,
    FrozenStart,
    PPOSettings,
    RandomSettings,
    ReplaySettings,
    ScheduleSettings,
    Shape,
    WarmStart,
)
from agent_service.v1 import agent_pb2 as pb

if TYPE_CHECKING:
    from agent_service.domain.store import PolicyEntry, Usage

E = TypeVar("E", bound=StrEnum)


def by_number(message: Any, kind: type[E]) -> dict[int, E]:
    """Return a contract's enum as the members of ours by their numbers; the names are the same."""
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", message.DESCRIPTOR.name).upper()
    return {message.Value(f"{prefix}_{member.name}"): member for member in kind}


class Numbers:
    """The numbers of members of several enums; those of two enums may be equal as texts."""

    def __init__(self, *enums: Mapping[Any, StrEnum]) -> None:
        """Take the members of each enum by their numbers."""
        self._numbers = {
            (type(member), member): number for enum in enums for number, member in enum.items()
        }

    def __getitem__(self, member: StrEnum) -> Any:
        return self._numbers[type(member), member]


SCALES = by_number(pb.Scale, Scale)
REWARDS = by_number(pb.Reward, Reward)
MODES = by_number(pb.Mode, Mode)
OUTCOMES = by_number(pb.Outcome, Outcome)
STATES = by_number(pb.RunState, RunState)
USES = by_number(pb.Use, Use)
FROZEN_STARTS = by_number(pb.FrozenStart, FrozenStart)
SHAPES = by_number(pb.Shape, Shape)
_NUMBERS = Numbers(SCALES, REWARDS, MODES, OUTCOMES, STATES, USES, FROZEN_STARTS, SHAPES)
_PPO_SCALARS = (
    "rollout_size",
    "batch_size",
    "n_epochs",
    "learning_rate",
    "gamma",
    "gae_lambda",
    "clip_range",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
    "log_std_init",
    "normalize_observations",
    "center_rewards",
    "max_staleness",
    "observe_action",
    "observe_progress",
    "observe_scores",
    "max_change",
)


def enum_value(
    values: Mapping[Any, Any], number: int | str, *, field: str, default: Any = None
) -> Any:
    """Return an enum's value; `default` stands for an unspecified one.

    Raises:
        InvalidArgument: where the number is unknown, or unspecified without a default.
    """
    if number == 0 and default is not None:
        return default
    if number not in values:
        raise invalid(field, f"{number} is none of {sorted(str(v) for v in values.values())}")
    return values[number]


def mode_from_message(number: int, *, field: str) -> Mode | None:
    """Return a mode, None where it is unspecified; raises InvalidArgument."""
    return None if number == 0 else Mode(enum_value(MODES, number, field=field))


def mode_to_message(mode: Mode | None) -> pb.Mode.ValueType:
    """Return the number of a mode, unspecified for None; raises InvalidArgument for no mode."""
    if mode is None:
        return pb.MODE_UNSPECIFIED
    number: pb.Mode.ValueType = _NUMBERS[member(Mode, mode, "mode")]
    return number


def timestamp(seconds: float) -> Timestamp:
    """Return a protobuf time for seconds since 1970."""
    return Timestamp(seconds=int(seconds), nanos=int((seconds % 1) * 1e9))


# Specs


def spec_from_message(message: pb.ControllerSpec) -> ControllerSpec:
    """Return the checked spec; raises InvalidArgument naming each field from `spec.` on."""
    hyperparameters = []
    for place, h in enumerate(message.hyperparameters):
        with within(f"spec.hyperparameters[{place}]."):
            scale = enum_value(SCALES, h.scale, field="scale", default=Scale.LINEAR)
            hyperparameters.append(Hyperparameter(name=h.name, low=h.low, high=h.high, scale=scale))
    with within("spec."):
        return ControllerSpec(
            name=message.name,
            chunk_size=message.chunk_size or 20,
            hyperparameters=tuple(hyperparameters),
            reward=enum_value(REWARDS, message.reward, field="reward", default=Reward.GAP),
            diverged_reward=(
                message.diverged_reward if message.HasField("diverged_reward") else None
            ),
            seed=message.seed,
            algorithm=_algorithm_from_message(message),
        )


def _algorithm_from_message(message: pb.ControllerSpec) -> Algorithm:
    kind = message.WhichOneof("algorithm")
    if kind is None:
        raise invalid(
            "algorithm", "is not set; set one of ppo, constant, schedule, random, bayesian, replay"
        )
    with within(f"{kind}."):
        if kind == "ppo":
            return _ppo_from_message(message.ppo)
        if kind == "constant":
            return ConstantSettings(values=dict(message.constant.values))
        if kind == "schedule":
            return _schedule_from_message(message.schedule)
        if kind == "bayesian":
            return BayesianSettings(**_given(message.bayesian))
        if kind == "replay":
            return ReplaySettings(
                run_id=message.replay.run_id,
                values=tuple(dict(chunk.values) for chunk in message.replay.values),
            )
        return RandomSettings()


def _given(message: Message) -> dict[str, Any]:
    """Return the fields that are set, zeros too where they are `optional`, by name."""
    return {field.name: value for field, value in message.ListFields()}


def _ppo_from_message(message: pb.Ppo) -> PPOSettings:
    given = {name: value for name, value in _given(message).items() if name in _PPO_SCALARS}
    if message.net_arch:
        given["net_arch"] = tuple(message.net_arch)
    start = enum_value(
        FROZEN_STARTS, message.frozen_start, field="frozen_start", default=FrozenStart.MEAN
    )
    if message.HasField("warm_start"):
        with within("warm_start."):
            given["warm_start"] = WarmStart(
                controller=message.warm_start.controller,
                policy_version=message.warm_start.policy_version,
            )
    return PPOSettings(frozen_start=start, **given)


def _schedule_from_message(message: pb.Schedule) -> ScheduleSettings:
    return ScheduleSettings(
        shape=enum_value(SHAPES, message.shape, field="shape"),
        start=dict(message.start),
        end=dict(message.end),
        chunks=message.chunks,
        steps=message.steps or 1,
    )


def spec_to_message(spec: ControllerSpec) -> pb.ControllerSpec:
    """Return the message of a spec, every default filled in."""
    message = pb.ControllerSpec(
        name=spec.name,
        chunk_size=spec.chunk_size,
        hyperparameters=[
            pb.Hyperparameter(name=h.name, low=h.low, high=h.high, scale=_NUMBERS[h.scale])
            for h in spec.hyperparameters
        ],
        reward=_NUMBERS[spec.reward],
        diverged_reward=spec.diverged_reward,
        seed=spec.seed,
    )
    algorithm = spec.algorithm
    match algorithm:
        case PPOSettings():
            message.ppo.CopyFrom(_ppo_to_message(algorithm))
        case ConstantSettings():
            message.constant.values.update(algorithm.values)
        case ScheduleSettings():
            message.schedule.shape = _NUMBERS[algorithm.shape]
            message.schedule.start.update(algorithm.start)
            message.schedule.end.update(algorithm.end)
            message.schedule.chunks = algorithm.chunks
            message.schedule.steps = algorithm.steps
        case RandomSettings():
            message.random.SetInParent()
        case BayesianSettings():
            message.bayesian.n_startup_trials = algorithm.n_startup_trials
            message.bayesian.n_ei_candidates = algorithm.n_ei_candidates
        case ReplaySettings():
            message.replay.run_id = algorithm.run_id
            # A stored run's values are found again by its id.
            for values in () if algorithm.run_id else algorithm.values:
                message.replay.values.add().values.update(values)
    return message


def _ppo_to_message(settings: PPOSettings) -> pb.Ppo:
    scalars = {name: getattr(settings, name) for name in _PPO_SCALARS}
    start = _NUMBERS[settings.frozen_start]
    message = pb.Ppo(net_arch=settings.net_arch, frozen_start=start, **scalars)
    if settings.warm_start is not None:
        message.warm_start.controller = settings.warm_start.controller
        message.warm_start.policy_version = settings.warm_start.policy_version
    return message


def controller_to_message(controller: Controller, usage: Usage) -> pb.Controller:
    """Return the message of a controller and its counts."""
    return pb.Controller(
        spec=spec_to_message(controller.spec),
        mode=_NUMBERS[controller.mode],
        policy_version=controller.policy_version,
        create_time=timestamp(controller.created_at),
        active_runs=usage.runs[RunState.ACTIVE],
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


def start_from_message(message: pb.StartRunRequest) -> StartRun:
    """Return the checked wish to start a run; raises InvalidArgument."""
    return StartRun(
        controller=message.controller,
        run_id=message.run_id,
        mode=mode_from_message(message.mode, field="mode"),
        policy_version=message.policy_version or None,
        labels=dict(message.labels),
        planned_chunks=message.planned_chunks or None,
    )


def report_from_message(message: pb.ReportChunkRequest) -> ChunkReport:
    """Return the checked report; raises InvalidArgument."""
    import numpy as np  # here alone: the client imports this file, and needs none of it for that

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
    return ChunkReport(
        run_id=message.run_id,
        chunk=message.chunk_index,
        losses=np.fromiter(message.losses, np.float64, len(message.losses)),
        feedback=feedback,
        applied=dict(message.applied.values) if message.HasField("applied") else None,
    )


def report_to_message(report: ChunkReport) -> pb.ReportChunkRequest:
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


def finish_from_message(message: pb.FinishRunRequest) -> FinishRun:
    """Return the checked end of a run; raises InvalidArgument."""
    return FinishRun(
        run_id=message.run_id,
        outcome=enum_value(OUTCOMES, message.outcome, field="outcome"),
        final_score=message.final_score if message.HasField("final_score") else None,
    )


def finish_to_message(finish: FinishRun) -> pb.FinishRunRequest:
    """Return the message of a run's end."""
    return pb.FinishRunRequest(
        run_id=finish.run_id, outcome=_NUMBERS[finish.outcome], final_score=finish.final_score
    )


def action_to_message(decision: Decision) -> pb.Action:
    """Return the action of a decision."""
    return pb.Action(
        values=decision.values,
        chunk_index=decision.chunk,
        policy_version=decision.policy_version,
        explored=decision.choice.explored,
    )


def run_to_message(run: Run, decision: Decision) -> pb.Run:
    """Return the message of a run, with its newest decision."""
    message = pb.Run(
        run_id=run.id,
        controller=run.controller.spec.name,
        mode=_NUMBERS[run.mode],
        state=_NUMBERS[run.state],
        labels=run.labels,
        reported_chunks=run.reported_chunks,
        planned_chunks=run.planned_chunks or 0,
        action=action_to_message(decision),
        create_time=timestamp(run.created_at),
        update_time=timestamp(run.updated_at),
        policy_version=run.pinned_version or 0,
    )
    if run.outcome is not None:
        message.outcome = _NUMBERS[run.outcome]
    if run.final_score is not None:
        message.final_score = run.final_score
    return message


def transition_to_message(run: Run, transition: Transition) -> pb.Transition:
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
        use=_NUMBERS[decision.use],
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


def state_from_message(state: int) -> RunState | None:
    """Return the state that ListRuns asks for; None for all; raises InvalidArgument."""
    return None if state == 0 else RunState(enum_value(STATES, state, field="state"))


def state_to_message(state: RunState | None) -> pb.RunState.ValueType:
    """Return the number of a state, unspecified for None; raises InvalidArgument for no state."""
    if state is None:
        return pb.RUN_STATE_UNSPECIFIED
    number: pb.RunState.ValueType = _NUMBERS[member(RunState, state, "state")]
    return number
