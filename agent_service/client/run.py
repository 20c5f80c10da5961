"""A run in the training script: values to train under, steps to record, chunks to report."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsFloat

from agent_service.client.delivery import Delivery, RankMissing, RunLost, named
from agent_service.client.description import Description
from agent_service.client.limits import Limits, RunLimiter
from agent_service.domain.checks import by_name, check_number, member, quoted
from agent_service.domain.errors import AgentError, invalid
from agent_service.domain.hyperparameters import Hyperparameter
from agent_service.domain.rewards import GivenReward, Scores
from agent_service.domain.runs import ChunkReport, FinishRun, Outcome
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert

if TYPE_CHECKING:
    from torch import Tensor

    from agent_service.client.model.scores import Tally
    from agent_service.client.model.shadowed import ShadowedModel
    from agent_service.client.model.steered import SteeredModel
log = logging.getLogger("agent_service.client")

ROUNDING = 1e-3
"""Tolerance for scores outside [0, 1], which a mean in half precision can be."""


class Run:
    """One training under a controller; created by `AgentClient.run`.

    Leaving it as a context manager finishes it: terminated at its end, cancelled on Ctrl-C,
    truncated by any other exception. A non-finite loss ends it as diverged. After any end its model
    is restored, and further steps and reports do nothing. Not thread-safe: it belongs to one
    training loop.
    """

    def __init__(
        self,
        delivery: Delivery,
        *,
        run_id: str,
        chunk_size: int,
        action: pb.Action,
        is_held: bool = False,
        model: SteeredModel | ShadowedModel | None = None,
        limits: Limits | None = None,
        hyperparameters: Sequence[Hyperparameter] = (),
        first_action: pb.Action | None = None,
    ) -> None:
        """Take a run that was started, or will be, and apply its next action.

        Args:
            delivery: sends its calls.
            run_id: the run's id.
            chunk_size: N; 0 if it has not begun.
            action: the action for its next chunk.
            is_held: whether the action was not decided by the agent, which is away.
            model: applies actions to a model.
            limits: of the script.
            hyperparameters: the controller's, whose ranges are enforced.
            first_action: the action for chunk 1; `action` by default.
        """
        self._delivery = delivery
        self.run_id = run_id
        self.chunk_size = chunk_size
        """N, training steps in a chunk."""
        self._first_action = action if first_action is None else first_action
        self.action: pb.Action
        """The current chunk's action: as decided, within the limits."""
        self._losses: list[SupportsFloat] = []
        self._scores: list[SupportsFloat] = []
        self._tally: Tally | None = None
        """The chunk's score from its logits; None before the first, or if the script scores."""
        self._has_pass = False
        self._has_reported = False
        self._fault: Exception | None = None
        """Why the chunk cannot be scored; always None until a chunk was reported."""
        self._last_chunk = 0
        """Index of the last chunk that has an action."""
        self.is_finished = False
        """Whether the run has ended in any way: it records and controls nothing more."""
        self._model = model
        self._limiter = RunLimiter(limits, hyperparameters)
        self._is_own: bool
        """Whether the current values differ from the decided ones."""
        try:
            self.take(action)
        except BaseException:
            if model is not None:
                model.remove()
            raise
        self._is_own = self._is_own or is_held
        self._begins_held = is_held
        if model is not None:
            # A run that is lost, as when a notebook's cell raises, restores its model.
            weakref.finalize(self, model.remove).atexit = False

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The values to train the current chunk under, by name.

        After the run's end, those of its last chunk; a model then has its own rates again.
        """
        return dict(self.action.values)

    @property
    def interventions(self) -> Mapping[str, int]:
        """How often each of the run's limits changed an action."""
        return self._limiter.interventions

    @property
    def chunk_full(self) -> bool:
        """Whether N steps are recorded and `report` is due."""
        return 0 < self.chunk_size == len(self._losses)

    @property
    def _is_idle(self) -> bool:
        """Whether the run records nothing: it has ended, or not begun."""
        return self.is_finished or not self.chunk_size

    def describe(self) -> Description:
        """Return which rates the run drives, their own values, and which it leaves alone."""
        return Description() if self._model is None else self._model.description

    def step(
        self,
        loss: SupportsFloat,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        score: SupportsFloat | None = None,
    ) -> None:
        """Record one training step; nothing is copied off the device until the chunk is reported.

        A step is an optimizer step. If it has several forward passes, as with gradient
        accumulation, record each by `add_pass`, and then only their mean loss here.

        Args:
            loss: the step's training loss, a number or a scalar tensor.
            logits: float[b, classes, ...] or float[b, ..., classes], of the same forward pass as
                the loss; for a run with a model.
            labels: int[b, ...].
            score: instead of both, the step's training score in [0, 1], larger is better.

        Raises:
            RuntimeError: the chunk is already full.
            TypeError: neither logits and labels nor a score, both kinds in one chunk, or logits for
                a run without a model.
            InvalidArgument: the loss or score is not a single number, or the score cannot be
                computed from these logits and labels. After the first report that drops the chunk
                instead, as does an error of the script's own score; see `report`.
        """
        if self._is_idle:
            return
        self._check_not_full()
        loss = _one(loss, "loss")
        if score is not None and logits is None:
            score = _one(score, "score")
            self._check_one_way(self._tally is None)
            self._scores.append(_detached(score))
        elif score is None and logits is not None and labels is not None:
            self.add_pass(logits, labels)
        elif not self._has_pass or score is not None or logits is not None:
            raise TypeError("give run.step(loss, logits, labels), or run.step(loss, score=...)")
        self._has_pass = False
        self._losses.append(_detached(loss))

    def add_pass(self, logits: Tensor, labels: Tensor) -> None:
        """Score one of several forward passes of a step, which `step(loss)` completes."""
        if self._is_idle:
            return
        self._check_not_full()
        self._check_one_way(not self._scores)
        if self._tally is None:
            self._tally = self._new_tally()
        self._score(self._tally.add, logits, labels)
        self._has_pass = True

    def _score(self, score: Callable[..., Any], *of: Any) -> Any:
        """Return a score; NaN, which drops the chunk, if that fails after the first report.

        Before, it raises, since the script's author is still watching.
        """
        if self._fault is None:
            try:
                return score(*of)
            except Exception as error:
                if not self._has_reported:
                    raise
                self._fault = error
        return math.nan

    def _check_not_full(self) -> None:
        if self.chunk_full:
            raise RuntimeError("the chunk is full: call run.report(...) first")

    def _check_one_way(self, is_one: bool) -> None:
        if not is_one:
            raise TypeError("score all steps of a chunk in one way, by logits or by score=")

    def _new_tally(self) -> Tally:
        if self._model is None:
            raise TypeError("logits are only scored for agent.run(..., model=model)")
        return self._model.scoring()

    def report(
        self,
        validation: SupportsFloat | Iterable[tuple[Tensor, Tensor]],
        *,
        applied: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Report the full chunk, apply the next action, and return its values.

        While the agent is away the report is queued, and the values stay. A chunk is dropped with a
        warning if its score is not finite or, after the first report, cannot be computed. A
        non-finite loss ends the run as diverged. After its end nothing is reported.

        Args:
            validation: mean score of the chunk's validation batches, in [0, 1]; or, for a run with
                a model, these batches' logits and labels.
            applied: the values that the chunk ran under, if they were not the decided ones. A
                shadow run must always give them, unless it has a model, whose own rates are read.

        If it raises, the chunk is kept: report it again, or drop it by `drop_chunk`.

        Raises:
            RuntimeError: the chunk is not full yet.
            TypeError: the validation is neither a number nor pairs.
            InvalidArgument: a score is outside [0, 1] by more than rounding, or cannot be computed;
                `applied` has wrong names; or the controller's reward is `given`.
            AgentError: the service's error, with `when_away=None`; or the process was forked.
            Exception: of the validation batches; until the first report, also of the score.
        """
        if self._is_idle:
            return self.hyperparameters
        if not self.chunk_full:
            raise RuntimeError(f"the chunk has {len(self._losses)} of {self.chunk_size} steps")
        values = self._report(
            [float(loss) for loss in self._losses],
            lambda: (self._training_score(), self._validation_score(validation)),
            applied=applied,
        )
        self._has_reported = True
        self.drop_chunk()
        return values

    def drop_chunk(self) -> None:
        """Discard the steps recorded since the last report.

        The next N steps make up the chunk, under the same values.
        """
        self._losses.clear()
        self._scores.clear()
        self._tally, self._has_pass, self._fault = None, False, None

    def _training_score(self) -> float:
        if self._tally is None:
            return sum(map(float, self._scores)) / len(self._scores)
        return float(self._score(_value_of, self._tally))

    def _validation_score(self, validation: Any) -> float:
        if isinstance(validation, SupportsFloat):
            return float(_one(validation, "validation"))
        if isinstance(validation, str) or not isinstance(validation, Iterable):
            raise _no_validation(validation)
        tally = self._new_tally()
        try:
            for batch in validation:
                if not isinstance(batch, tuple | list) or len(batch) != 2:
                    raise _no_validation(batch)
                self._score(tally.add, *batch)
        finally:
            # A generator, such as `Validation.of`, restores the model's modes when closed.
            getattr(validation, "close", lambda: None)()
        return float(self._score(_value_of, tally))

    @by_name
    def report_chunk(
        self,
        losses: Sequence[float],
        *,
        training_score: float,
        validation_score: float,
        applied: Mapping[str, float] | None = None,
        chunk: int | None = None,
    ) -> dict[str, float]:
        """Report a chunk that was recorded elsewhere, and return the values for the next one.

        Args:
            losses: the N training losses, in order.
            training_score: mean training score, in [0, 1].
            validation_score: mean validation score, in [0, 1].
            applied: the values that the chunk ran under, if they were not the decided ones.
            chunk: its index, from 1; by default the next one's. A training that resumes from a
                checkpoint may report its last chunk again, and gets the same answer.
        """
        return self._report(
            losses, lambda: (training_score, validation_score), applied=applied, chunk=chunk
        )

    def report_reward(self, losses: Sequence[float], reward: float) -> dict[str, float]:
        """Report a chunk with its reward, for controllers whose reward is `given`."""
        values = self._report(losses, lambda: (reward,), count=1)
        self.drop_chunk()
        return values

    def _report(
        self,
        losses: Sequence[float],
        feedback: Callable[[], Sequence[float]],
        *,
        count: int = 2,
        applied: Mapping[str, float] | None = None,
        chunk: int | None = None,
    ) -> dict[str, float]:
        """Report a chunk; `feedback` computes its two scores or its reward, if losses are finite.

        In a distributed training all processes continue from the same means: each sends all its
        numbers at once, so one whose feedback raises has sent nothing.
        """
        if self._is_idle:
            return self.hyperparameters
        if chunk is not None and not 1 <= chunk <= self._last_chunk:
            raise invalid("chunk", f"{chunk} given; it is at most {self._last_chunk} now")
        try:
            own = [math.nan] * count if self._limiter.ends(losses) else feedback()
            numbers = self._delivery.joined([*losses, *own])
            losses, joint = numbers[:-count], numbers[-count:]
            if not self._diverges(losses):
                request = self._request(losses, joint, applied=applied, chunk=chunk)
                if request is not None:
                    self.send(request)
        except RankMissing as error:
            self._stop()
            log.warning(
                "%s ends: %s; the training continues without the agent", named(self.run_id), error
            )
            self._delivery.finish(self._end(Outcome.TRUNCATED, None), is_best_effort=True)
        return self.hyperparameters

    def _diverges(self, losses: Sequence[float]) -> bool:
        """End the run as diverged if a loss is not finite; return whether it did."""
        if not self._limiter.ends(losses):
            return False
        # First: if it raises, the run must keep the chunk, and end as diverged later.
        self._delivery.send(self._end(Outcome.DIVERGED, None))
        self._stop()
        log.warning(
            "%s ends as diverged, since a loss is not finite; the training continues without the "
            "agent",
            named(self.run_id),
        )
        return True

    def request(
        self, losses: Sequence[float], feedback: Scores | GivenReward
    ) -> pb.ReportChunkRequest | None:
        """Return the report of the current chunk; None if there is nothing to report.

        So for a run that has ended or not begun, and for a loss or score that is not finite.

        Raises:
            InvalidArgument: a loss or score is out of range.
        """
        if self._is_idle or self._diverges(losses):
            return None
        if isinstance(feedback, GivenReward):
            return self._request(losses, (feedback.value,))
        return self._request(losses, (feedback.training, feedback.validation))

    def _request(
        self,
        losses: Sequence[float],
        feedback: Sequence[float],
        *,
        applied: Mapping[str, float] | None = None,
        chunk: int | None = None,
    ) -> pb.ReportChunkRequest | None:
        import numpy as np  # here, since it takes as long to import as gRPC

        if len(losses) != self.chunk_size:
            raise invalid(
                "losses", f"{len(losses)} given; the controller has chunks of {self.chunk_size}"
            )
        if not all(map(math.isfinite, feedback)):
            log.warning(
                "%s: %s; the chunk is not reported, and the next one runs under the same values",
                named(self.run_id),
                f"scoring failed: {self._fault!r}" if self._fault else "a score is not finite",
            )
            return None
        report = ChunkReport(
            run_id=self.run_id,
            chunk=self.action.chunk_index if chunk is None else chunk,
            losses=np.array(self._limiter.judge(losses), dtype=np.float64),
            feedback=GivenReward(*feedback)
            if len(feedback) == 1
            else Scores(training=_rounded(feedback[0]), validation=_rounded(feedback[1])),
            applied=self._own_values() if applied is None else applied,
        )
        return convert.report_to_message(report)

    def _own_values(self) -> Mapping[str, float] | None:
        """Return the values that the chunk ran under, if they differ from the decided ones."""
        own = None if self._model is None else self._model.own_values()
        return self.hyperparameters if own is None and self._is_own else own

    def send(self, request: pb.ReportChunkRequest) -> None:
        """Send a report and take the next action; or queue it and keep the current values."""
        answer = self._delivery.send(request)
        if isinstance(answer, RunLost):
            self._stop()
        elif answer is not None:
            self.take(answer.action)
        else:
            self.take(pb.Action(values=self.action.values, chunk_index=request.chunk_index + 1))
            self._is_own = True

    def _stop(self) -> None:
        """End the control of the training, and restore the model."""
        self.is_finished = True
        if self._model is not None:
            self._model.remove()

    def take(self, action: pb.Action) -> None:
        """Apply the next action, within the limits."""
        values = self._limiter.limited(action.values)
        self._is_own = values != dict(action.values)
        self.action = pb.Action()
        self.action.CopyFrom(action)
        self._last_chunk = max(self._last_chunk, action.chunk_index)
        self.action.values.update(values)
        if self._model is not None:
            self._model.apply(values)

    def start_again(self) -> None:
        """Go back to the first chunk, for a training that starts over.

        Equal reports of chunks that were already reported get the same answers again.
        """
        self.drop_chunk()
        self.take(self._first_action)
        self._is_own = self._is_own or self._begins_held

    @by_name
    def finish(
        self, outcome: Outcome = Outcome.TERMINATED, *, final_score: float | None = None
    ) -> None:
        """End the run and restore its model, as leaving the context manager does.

        If the agent is away this takes a few seconds at most, and undelivered reports are logged.
        With `when_away=None` it raises, and may be called again.

        Args:
            outcome: how the training ended; becomes diverged if a loss recorded since the last
                report is not finite.
            final_score: the child's final result, larger is better; dropped if it is not finite.

        Raises:
            InvalidArgument: the outcome or the score is of the wrong kind; the run goes on.
            AgentError: the service's error, with `when_away=None`.
        """
        outcome = member(Outcome, outcome, "outcome")  # refused before anything changes
        if final_score is not None:
            final_score = float(_one(final_score, "final_score"))
        self._finish(outcome, final_score, is_best_effort=False)

    def _finish(self, outcome: Outcome, final_score: float | None, *, is_best_effort: bool) -> None:
        if self._is_idle:
            self._delivery.flush()
            return
        self._stop()
        is_diverged = self._has_diverged(is_best_effort=is_best_effort)
        end = self._end(Outcome.DIVERGED if is_diverged else outcome, final_score)
        try:
            self._delivery.finish(end, is_best_effort=is_best_effort)
        except AgentError:
            self.is_finished = False
            raise

    def _has_diverged(self, *, is_best_effort: bool) -> bool:
        """Whether a step recorded since the last report has a non-finite loss."""
        if is_best_effort and self._delivery.is_shared:
            return False  # reading a loss may hang, if the device waits for a failed process
        try:
            return self._limiter.ends([float(loss) for loss in self._losses])
        except Exception:  # a device error, which the script has seen
            return False

    def _end(self, outcome: Outcome, final_score: float | None) -> pb.FinishRunRequest:
        if final_score is not None and not math.isfinite(final_score):
            log.warning("%s: its final score is not finite and is dropped", named(self.run_id))
            final_score = None
        finish = FinishRun(run_id=self.run_id, outcome=outcome, final_score=final_score)
        return convert.finish_to_message(finish)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a run cannot be pickled or copied; pass its values, run.hyperparameters, or continue "
            "it in another process by AgentClient(...).run(..., run_id=...)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: object, _trace: object) -> None:
        if kind is None:
            self.finish()
            return
        is_user = issubclass(kind, KeyboardInterrupt)
        try:
            self._finish(
                Outcome.CANCELLED if is_user else Outcome.TRUNCATED, None, is_best_effort=True
            )
        except BaseException as failed:
            # The script's own exception must not be replaced, not even by Ctrl-C.
            log.warning("%s: its end was not delivered: %r", named(self.run_id), failed)


def _one(number: Any, field: str) -> Any:
    """Return a single number, if need be without its dimensions of 1; it is not read.

    Its shape is checked, since reading the number would wait for the device.

    Raises:
        InvalidArgument: naming `field`.
    """
    check_number(number, field)
    shape = getattr(number, "shape", ())
    if math.prod(shape) != 1:
        raise invalid(field, f"has the shape {[*shape]}; give one number, such as its mean()")
    return number.reshape(()) if shape and hasattr(number, "reshape") else number


def _rounded(score: float) -> float:
    """Return a score that is outside [0, 1] by rounding only clipped to it; others unchanged."""
    nearest = min(max(score, 0.0), 1.0)
    return nearest if abs(score - nearest) <= ROUNDING else score


def _value_of(tally: Tally) -> float:
    """Return the score; raises InvalidArgument if it is outside [0, 1]."""
    score = tally.value()
    if not 0 <= _rounded(score) <= 1 and math.isfinite(score):
        raise invalid("score", f"returned {score}; it must be in [0, 1], larger is better")
    return score


def _no_validation(given: object) -> TypeError:
    return TypeError(
        f"validation: {quoted(given)} given; run.report needs a number, or pairs of logits and "
        "labels"
    )


def _detached(number: SupportsFloat) -> Any:
    """Return a detached tensor, so that a chunk keeps no activations alive; others unchanged.

    A copy, since a CUDA graph overwrites its outputs in the next step.
    """
    detach = getattr(number, "detach", None)
    return number if detach is None else detach().clone()
