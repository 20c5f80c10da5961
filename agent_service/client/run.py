"""A run as the training script sees it: values to train under, steps to tell, chunks to report."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsFloat

from agent_service.client.delivery import Apart, Delivery, Lost, named
from agent_service.client.description import Description
from agent_service.client.limits import Guard, Limits
from agent_service.domain.checks import by_name, check_number, quoted
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
"""How far outside [0, 1] rounding may put a score, as half precision does a mean."""


class Run:
    """One training under a controller; made by `AgentClient.run`.

    Leaving it as a context manager finishes it: terminated at its end, cancelled on Ctrl-C,
    truncated by any other exception. A loss that is not finite ends it as diverged; then, as after
    every end, its model is as it was, and more steps and reports change nothing.
    Not thread-safe: it belongs to one training loop.
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
        """Take a run that was started, or will be, with what it begins under.

        Args:
            delivery: of its calls.
            run_id: the run's.
            chunk_size: N; 0 where it has not begun.
            action: for its next chunk; a model has it from now on.
            is_held: whether nobody decided that action, since the agent is away.
            model: what to apply actions to.
            limits: how far to follow them.
            hyperparameters: the controller's, whose ranges are kept to.
            first_action: what it began under, once; `action` by default.
        """
        self._delivery = delivery
        self.run_id = run_id
        self.chunk_size = chunk_size
        """N, training steps in a chunk."""
        self._first_action = action if first_action is None else first_action
        self.action: pb.Action
        """What the chunk that trains now runs under: what was decided, within the limits."""
        self._losses: list[SupportsFloat] = []
        self._scores: list[SupportsFloat] = []
        self._tally: Tally | None = None
        """The score of the chunk by its logits; none yet, or the script gives scores."""
        self._has_pass = False
        self._has_reported = False
        self._fault: Exception | None = None
        """Why the chunk cannot be scored; None where it can, or no chunk was reported before."""
        self.is_finished = False
        """Whether the run has ended, by whatever: no more of the training is told or steered."""
        self._model = model
        self._guard = Guard(limits, hyperparameters)
        self._is_own: bool
        """Whether what runs is not what was decided."""
        try:
            self.take(action)
        except BaseException:
            if model is not None:
                model.remove()
            raise
        self._is_own = self._is_own or is_held
        self._begins_held = is_held
        if model is not None:
            # A run that is lost, as when a notebook's cell raises, leaves its model as it was.
            weakref.finalize(self, model.remove).atexit = False

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The values to train the current chunk under, by name.

        After the run's end, those of its last chunk; a model then has its own rates again.
        """
        return dict(self.action.values)

    @property
    def interventions(self) -> Mapping[str, int]:
        """How often the run's limits acted, by what they changed."""
        return self._guard.interventions

    @property
    def chunk_full(self) -> bool:
        """Whether N steps were told and `report` is due."""
        return 0 < self.chunk_size == len(self._losses)

    @property
    def _is_idle(self) -> bool:
        """Whether nothing is told: the run has ended, or not begun."""
        return self.is_finished or not self.chunk_size

    def describe(self) -> Description:
        """Return what the run drives, from which values, and what it leaves alone; print it."""
        return Description() if self._model is None else self._model.description

    def step(
        self,
        loss: SupportsFloat,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        score: SupportsFloat | None = None,
    ) -> None:
        """Tell one training step; all stays where it is until the chunk is reported.

        A step is one of the optimizer. Where it takes several passes, as with accumulated
        gradients, tell each by `add_pass`, and then here their mean loss alone.

        Args:
            loss: the step's training loss, a number or a scalar tensor.
            logits: float[b, classes, ...] or float[b, ..., classes], of the very pass that gave the
                loss; of a run with a model.
            labels: int[b, ...].
            score: in place of the two, the step's training score in [0, 1], larger is better.

        Raises:
            RuntimeError: where the chunk is full already.
            TypeError: neither logits and labels nor a score, both kinds in one chunk, or logits for
                a run without a model.
            InvalidArgument: the loss or score is no single number, or the score cannot be made of
                such logits and labels. After the first report that drops the chunk instead, as does
                an error of the script's own score; see `report`.
        """
        if self._is_idle:
            return
        self._check_not_full()
        _check_one(loss, "loss")
        if score is not None and logits is None:
            _check_one(score, "score")
            self._check_one_way(self._tally is None)
            self._scores.append(_detached(score))
        elif score is None and logits is not None and labels is not None:
            self.add_pass(logits, labels)
        elif not self._has_pass or score is not None or logits is not None:
            raise TypeError("give run.step(loss, logits, labels), or run.step(loss, score=...)")
        self._has_pass = False
        self._losses.append(_detached(loss))

    def add_pass(self, logits: Tensor, labels: Tensor) -> None:
        """Score one of several passes of a step, which `step(loss)` ends; arguments as there."""
        if self._is_idle:
            return
        self._check_not_full()
        self._check_one_way(not self._scores)
        if self._tally is None:
            self._tally = self._new_tally()
        self._score(self._tally.add, logits, labels)
        self._has_pass = True

    def _score(self, score: Callable[..., Any], *of: Any) -> Any:
        """Score; NaN, which drops the chunk, where that fails in the middle of a training.

        Up to the first report it raises: the script's author is there, and is to see it.
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
            raise TypeError("the steps of one chunk are scored in one way, by logits or by score=")

    def _new_tally(self) -> Tally:
        if self._model is None:
            raise TypeError("logits are scored where agent.run(..., model=model) was given")
        return self._model.scoring()

    def report(
        self,
        validation: SupportsFloat | Iterable[tuple[Tensor, Tensor]],
        *,
        applied: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """Report the full chunk and return the values for the next one, which a model then has.

        While the agent is away the report is held, and the values stay. A chunk whose score is not
        finite or, once another was reported, cannot be made is dropped with a warning. A loss that
        is not finite ends the run as diverged. After its end nothing is reported.

        Args:
            validation: mean score of the chunk's validation batches, in [0, 1]; or, of a run with a
                model, these batches' logits and labels.
            applied: what the chunk ran under, where that was not what was decided; a shadow run
                says it always, save where it has a model, whose own rates are read then.

        Whatever it raises, the chunk is kept, to be reported again, or dropped by `drop_chunk`.

        Raises:
            RuntimeError: the chunk is not full yet.
            TypeError: the validation is neither a number nor pairs.
            InvalidArgument: a score is outside [0, 1], by more than rounding, or cannot be made;
                wrong names are in `applied`; or the controller's reward is `given`.
            AgentError: what the service answered a run with `when_away=None`; or this is a forked
                process.
            Exception: the validation batches' own; up to the first report, also the score's.
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
        """Forget the steps that were told since the last report.

        The next N steps make the chunk, under the same values.
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
            _check_one(validation, "validation")
            return float(validation)
        if isinstance(validation, str) or not isinstance(validation, Iterable):
            raise _no_validation(validation)
        tally = self._new_tally()
        try:
            for batch in validation:
                if not isinstance(batch, tuple | list) or len(batch) != 2:
                    raise _no_validation(batch)
                self._score(tally.add, *batch)
        finally:
            # A generator, such as `Validation.of`, gives the model its modes back at its end.
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
        """Report a chunk that was collected elsewhere and return the values for the next one.

        Args:
            losses: the N training losses, in order.
            training_score: mean training score, in [0, 1].
            validation_score: mean validation score, in [0, 1].
            applied: what the chunk ran under, where that was not what was decided.
            chunk: its index, from 1; the next one's by default. A training that goes on from a
                checkpoint reports its last chunk again, and is answered as it was then.
        """
        return self._report(
            losses, lambda: (training_score, validation_score), applied=applied, chunk=chunk
        )

    def report_reward(self, losses: Sequence[float], reward: float) -> dict[str, float]:
        """Report a chunk with a ready reward, for controllers whose reward is `given`."""
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
        """Report a chunk; `feedback` makes its two scores or its reward, where the losses are well.

        Where several processes train, all of them decide from the same means: each tells all its
        numbers at once, so that one whose feedback fails has told nothing.
        """
        if self._is_idle:
            return self.hyperparameters
        try:
            own = [math.nan] * count if self._guard.ends(losses) else feedback()
            numbers = self._delivery.joined([*losses, *own])
            losses, told = numbers[:-count], numbers[-count:]
            if not self._diverges(losses):
                request = self._request(losses, told, applied=applied, chunk=chunk)
                if request is not None:
                    self.send(request)
        except Apart as error:
            self._stop()
            log.warning(
                "%s ends: %s; the training goes on without the agent", named(self.run_id), error
            )
            self._delivery.finish(self._end(Outcome.TRUNCATED, None), is_best_effort=True)
        return self.hyperparameters

    def _diverges(self, losses: Sequence[float]) -> bool:
        """Whether a loss that is not finite ends the run; then it has ended."""
        if not self._guard.ends(losses):
            return False
        # First, since a run that raises is to keep the chunk, and to end as diverged later.
        self._delivery.send(self._end(Outcome.DIVERGED, None))
        self._stop()
        log.warning(
            "%s: a loss is not finite; it ends as diverged, and the training goes on without "
            "the agent",
            named(self.run_id),
        )
        return True

    def request(
        self, losses: Sequence[float], feedback: Scores | GivenReward
    ) -> pb.ReportChunkRequest | None:
        """Return the report of the current chunk, to be sent; None where none is to be sent.

        That is of a run that has ended, or has not begun, and where a loss or score is not finite.

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
        told: Sequence[float],
        *,
        applied: Mapping[str, float] | None = None,
        chunk: int | None = None,
    ) -> pb.ReportChunkRequest | None:
        import numpy as np  # takes as long as gRPC: not when a script starts

        if len(losses) != self.chunk_size:
            raise invalid(
                "losses", f"{len(losses)} given; the controller has chunks of {self.chunk_size}"
            )
        if not all(map(math.isfinite, told)):
            log.warning(
                "%s: %s; the chunk is not reported, and the next one runs under the same values",
                named(self.run_id),
                f"scoring failed: {self._fault!r}" if self._fault else "a score is not finite",
            )
            return None
        report = ChunkReport(
            run_id=self.run_id,
            chunk=self.action.chunk_index if chunk is None else chunk,
            losses=np.array(self._guard.judge(losses), dtype=np.float64),
            feedback=GivenReward(*told)
            if len(told) == 1
            else Scores(training=_rounded(told[0]), validation=_rounded(told[1])),
            applied=self._own_values() if applied is None else applied,
        )
        return convert.report_to_message(report)

    def _own_values(self) -> Mapping[str, float] | None:
        """Return what the chunk ran under where that was not decided: a shadowed model's rates."""
        own = None if self._model is None else self._model.own_values()
        return self.hyperparameters if own is None and self._is_own else own

    def send(self, request: pb.ReportChunkRequest) -> None:
        """Send a report by a call of its own, and take the next action; or hold this one."""
        answer = self._delivery.send(request)
        if isinstance(answer, Lost):
            self._stop()
        elif answer is not None:
            self.take(answer.action)
        else:
            self.take(pb.Action(values=self.action.values, chunk_index=request.chunk_index + 1))
            self._is_own = True

    def _stop(self) -> None:
        """Steer no more, and leave the model as it was."""
        self.is_finished = True
        if self._model is not None:
            self._model.remove()

    def take(self, action: pb.Action) -> None:
        """Go on under the next action, as far as the limits allow."""
        values = self._guard.limited(action.values)
        self._is_own = values != dict(action.values)
        self.action = pb.Action()
        self.action.CopyFrom(action)
        self.action.values.update(values)
        if self._model is not None:
            self._model.apply(values)

    def start_again(self) -> None:
        """Go back to the first chunk, as a training does that has lost all that it had trained.

        Reports of chunks that were told before, if they are the same, are answered as they were.
        """
        self.drop_chunk()
        self.take(self._first_action)
        self._is_own = self._is_own or self._begins_held

    @by_name
    def finish(
        self, outcome: Outcome = Outcome.TERMINATED, *, final_score: float | None = None
    ) -> None:
        """End the run, and leave its model as it was; the context manager does it, too.

        Where the agent is away this takes a few seconds at most, and what was held and cannot be
        delivered is said in the log. With `when_away=None` it raises, and may be called again.

        Args:
            outcome: how the training ended; diverged where a loss that was told since the last
                report is not finite.
            final_score: the child's own final result, larger is better; left out where it is not
                finite.

        Raises:
            AgentError: what the service answered a run with `when_away=None`.
        """
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
        """Whether a step that was told since the last report has a loss that is not finite."""
        if is_best_effort and self._delivery.is_shared:
            return False  # a device that waits for a process that failed would never answer
        try:
            return self._guard.ends([float(loss) for loss in self._losses])
        except Exception:  # of the device, whose own error the script has seen
            return False

    def _end(self, outcome: Outcome, final_score: float | None) -> pb.FinishRunRequest:
        if final_score is not None and not math.isfinite(final_score):
            log.warning("%s: its final score is not finite, and is left out", named(self.run_id))
            final_score = None
        finish = FinishRun(run_id=self.run_id, outcome=outcome, final_score=final_score)
        return convert.finish_to_message(finish)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a run stays with the training that started it, and is not pickled or copied; pass its "
            "values, run.hyperparameters, or in another process go on with it by "
            "AgentClient(...).run(..., run_id=...)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
            return
        is_user = issubclass(kind, KeyboardInterrupt)
        try:
            self._finish(
                Outcome.CANCELLED if is_user else Outcome.TRUNCATED, None, is_best_effort=True
            )
        except BaseException as failed:
            # The script ends with its own exception: nothing takes its place, not even Ctrl-C.
            log.warning("%s: its end was not told: %r", named(self.run_id), failed)


def _check_one(number: Any, field: str) -> None:
    """Check that it is one number, by its shape: its value is on a device that would be waited for.

    Raises:
        InvalidArgument: naming `field`.
    """
    check_number(number, field)
    shape = getattr(number, "shape", ())
    if math.prod(shape) != 1:
        raise invalid(field, f"has the shape {[*shape]}; give one number, such as its mean()")


def _rounded(score: float) -> float:
    """Return the nearest score in [0, 1] where only rounding left that; others as they are."""
    nearest = min(max(score, 0.0), 1.0)
    return nearest if abs(score - nearest) <= ROUNDING else score


def _value_of(tally: Tally) -> float:
    """Return the score that was made; raises InvalidArgument where it is outside [0, 1]."""
    score = tally.value()
    if not 0 <= _rounded(score) <= 1 and math.isfinite(score):
        raise invalid("score", f"gave {score}; let it give one in [0, 1], larger is better")
    return score


def _no_validation(given: object) -> TypeError:
    return TypeError(
        f"validation: {quoted(given)} given; run.report needs a number, or pairs of logits and "
        "labels"
    )


def _detached(number: SupportsFloat) -> Any:
    """Return a tensor without its graph, so that a chunk holds no activations; others as is.

    A copy, since what a CUDA graph gave is overwritten by the next step.
    """
    detach = getattr(number, "detach", None)
    return number if detach is None else detach().clone()
