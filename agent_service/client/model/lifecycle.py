"""Runs of an agent along the trainings of a framework's loop, shared by all callbacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agent_service.client.client import AgentClient
from agent_service.client.model.scores import scoring_of
from agent_service.client.model.validation import Validation
from agent_service.client.problem import seen_problem
from agent_service.client.run import Run
from agent_service.domain.problem import Problem
from agent_service.domain.runs import Outcome
from agent_service.domain.specs import ControllerSpec

log = logging.getLogger("agent_service.client")

Pass = tuple[Tensor, Tensor, Tensor]
"""Loss, logits and labels of one forward pass."""
Align = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Aligns a model's logits and labels, for example by shifting labels of a language model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """What a framework knows of a training, as far as it tells."""

    optimizer: Any = None
    loader: Any = None
    """Of its training batches."""
    steps: object = None
    """Optimizer steps that are still to come; anything but a count above 0 is unknown."""
    passes: int = 1
    """Batches whose gradients a step accumulates."""


class RunLifecycle:
    """Starts, feeds and ends a run along each training."""

    def __init__(
        self,
        agent: AgentClient,
        controller: str | ControllerSpec,
        validation: Validation,
        options: dict[str, Any],
    ) -> None:
        """Control trainings by a controller; `options` are those of `AgentClient.run`."""
        self._agent = agent
        self._controller = controller
        self._validation = validation
        self._options = options
        self._model: nn.Module
        self._align: Align
        self._run: Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Keep the arguments only: a copy starts without a training."""
        state = {k: v for k, v in vars(self).items() if k not in ("_model", "_align")}
        return state | {"_run": None}

    def begin(
        self,
        model: nn.Module,
        *,
        align: Align = lambda logits, labels: (logits, labels),
        fitting: Callable[[], Fitting] = Fitting,
    ) -> None:
        """Start a run at the start of a training.

        What `fitting` returns fills in what the script's options leave out; it may raise.

        A previous run that is still open, after an exception that the framework did not pass to
        callbacks, is restarted if it has not reported, or resumed if the script gave its id; else
        it is ended.

        Raises:
            TypeError: the validation does not fit the model; raised before anything is trained.
        """
        run = self._run
        is_open = run is not None and not run.is_finished and self._model is model
        if run is not None and is_open and run.action.chunk_index == 1:
            run.start_again()
            return
        if run is not None and is_open and self._options.get("run_id") is not None:
            run.drop_chunk()
            return
        self.end(Outcome.TRUNCATED)
        self._model, self._align = model, align
        scoring_of(self._options.get("score"))().add(*align(*self._validation.first(model)))
        options = self._options_for(_told(fitting))
        self._run = self._agent.run(self._controller, model=model, **options)

    def _options_for(self, fitting: Fitting) -> dict[str, Any]:
        """Return the run's options, with what the framework knows where the script says nothing."""
        options = {"optimizer": fitting.optimizer, "loader": fitting.loader} | self._options
        if options.get("planned_chunks") is None and _is_count(fitting.steps):
            options.setdefault("planned_steps", fitting.steps)
        batch, own = seen_problem(loader=options["loader"]).batch_size, options.get("problem")
        if batch is not None and isinstance(own, Problem | None) and fitting.passes > 1:
            step = Problem(batch_size=batch * fitting.passes)
            options["problem"] = (own or Problem()).filled_from(step)
        return options

    def add_pass(self, logits: Tensor, labels: Tensor) -> None:
        """Score a forward pass; a step has one or, with gradient accumulation, several.

        Does nothing without an open run, as in a training that continues after an exception.
        """
        if self._run is not None:
            self._run.add_pass(*self._align(logits, labels))

    def step(self, losses: list[Tensor]) -> None:
        """Record an optimizer step, given its passes' losses, and report a full chunk.

        Does nothing without an open run. If the report raises, the chunk is dropped, in case the
        training continues.
        """
        run = self._run
        if run is None:
            return
        run.step(torch.stack(losses).mean())
        if run.chunk_full:
            try:
                run.report(self._validated())
            except BaseException:
                run.drop_chunk()
                raise

    def _validated(self) -> Iterator[tuple[Tensor, Tensor]]:
        with closing(self._validation.of(self._model)) as batches:
            for batch in batches:
                yield self._align(*batch)

    def end(self, outcome: Outcome = Outcome.TERMINATED) -> None:
        """Finish the run, if one is open."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(outcome)

    def fail(self, error: BaseException) -> None:
        """Finish the run: cancelled on Ctrl-C, else truncated."""
        run, self._run = self._run, None
        if run is not None:
            run.__exit__(type(error), error, error.__traceback__)


def _told(fitting: Callable[[], Fitting]) -> Fitting:
    try:
        return fitting()
    except Exception as error:  # of any kind: no training may fail for a description of it
        log.debug("the training is unknown: %s: %s", type(error).__name__, error)
        return Fitting()


def _is_count(steps: object) -> bool:
    return isinstance(steps, int) and steps > 0
