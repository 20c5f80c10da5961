"""One run after another, each along one training of somebody else's loop."""

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
"""What one forward pass gave: its loss, logits and labels."""
Align = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Makes logits and the labels that they are about of a model's logits and labels."""


class Follower:
    """What the callbacks of all libraries have in common."""

    def __init__(
        self,
        agent: AgentClient,
        controller: str | ControllerSpec,
        validation: Validation,
        options: dict[str, Any],
    ) -> None:
        """Steer by a controller.

        Args:
            agent: the client; stays the caller's.
            controller: its name, or its spec.
            validation: what a chunk is judged on.
            options: of `AgentClient.run`, such as `run_id`, `sites`, `drives`, `when_away`.
        """
        self._agent = agent
        self._controller = controller
        self._validation = validation
        self._options = options
        self._model: nn.Module
        self._align: Align
        self._run: Run | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Keep what was given: a copy follows no training yet."""
        state = {k: v for k, v in vars(self).items() if k not in ("_model", "_align")}
        return state | {"_run": None}

    def begin(
        self, model: nn.Module, *, align: Align = lambda logits, labels: (logits, labels)
    ) -> None:
        """Start a run as a training begins.

        One before that was left in the middle, by an exception that no callback is told of, goes on
        where the script named it; else it is ended, or begun again where it has reported nothing.

        Raises:
            TypeError: what validates does not fit; before anything is trained.
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
        """Score a forward pass; a step takes one or, with accumulated gradients, several.

        Nothing where no run is open, as in a training that goes on after an exception.
        """
        if self._run is not None:
            self._run.add_pass(*self._align(logits, labels))

    def step(self, losses: list[Tensor]) -> None:
        """Tell one optimizer step, whose passes had these losses, and report a full chunk.

        Likewise. A chunk whose report fails is dropped, for a training that goes on all the same.
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
        """Finish the run, if there is one."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(outcome)

    def fail(self, error: BaseException) -> None:
        """Finish the run: cancelled on Ctrl-C, else truncated."""
        run, self._run = self._run, None
        if run is not None:
            run.__exit__(type(error), error, error.__traceback__)
