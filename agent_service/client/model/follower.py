"""One run after another, each along one training of somebody else's loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agent_service.client.client import AgentClient
from agent_service.client.model.validation import Validation
from agent_service.client.run import Run
from agent_service.domain.runs import Outcome
from agent_service.domain.specs import ControllerSpec

Pass = tuple[Tensor, Tensor, Tensor]
"""What one forward pass gave: its loss, logits and labels."""


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
        self._run: Run | None = None

    def begin(self, model: nn.Module) -> None:
        """Start a run as a training begins."""
        self._model = model
        self._run = self._agent.run(self._controller, model=model, **self._options)

    def step(self, loss: Tensor, passes: Sequence[Pass]) -> None:
        """Tell one optimizer step, and report a full chunk.

        Args:
            loss: of the step.
            passes: all that it took, with accumulated gradients several.
        """
        assert self._run is not None, "the training has begun"
        _losses, logits, labels = zip(*passes, strict=True)
        self._run.step(loss, torch.cat(logits), torch.cat(labels))
        if self._run.chunk_full:
            self._run.report(self._validation.of(self._model))

    def end(self, outcome: Outcome = Outcome.TERMINATED) -> None:
        """Finish the run, if there is one."""
        run, self._run = self._run, None
        if run is not None:
            run.finish(outcome)

    def fail(self, error: BaseException) -> None:
        """Finish the run: cancelled on Ctrl-C, else truncated."""
        is_user = isinstance(error, KeyboardInterrupt)
        self.end(Outcome.CANCELLED if is_user else Outcome.TRUNCATED)
