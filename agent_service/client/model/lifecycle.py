"""Runs of an agent along the trainings of a framework's loop, shared by all callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from agent_service.client.client import AgentClient
from agent_service.client.model.scores import scoring_of
from agent_service.client.model.validation import Validation
from agent_service.client.run import Run
from agent_service.domain.runs import Outcome
from agent_service.domain.specs import ControllerSpec

Pass = tuple[Tensor, Tensor, Tensor]
"""Loss, logits and labels of one forward pass."""
Align = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Aligns a model's logits and labels, for example by shifting labels of a language model."""


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
        self, model: nn.Module, *, align: Align = lambda logits, labels: (logits, labels)
    ) -> None:
        """Start a run at the start of a training.

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
        self._run = self._agent.run(self._controller, model=model, **self._options)

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
