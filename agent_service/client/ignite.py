"""An Ignite handler: an agent controls a model's regularization while an engine trains it.

ReinforcedRegularization(agent, "fer-dropout", model, Validation(loader)).attach(trainer)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from agent_service.client.client import AgentClient
from agent_service.client.model.lifecycle import Fitting, Pass, RunLifecycle
from agent_service.client.model.validation import Validation, predict_pair
from agent_service.domain.runs import Outcome
from agent_service.domain.specs import ControllerSpec

__all__ = ["ReinforcedRegularization", "Validation", "predict_pair"]


class ReinforcedRegularization:
    """Makes one run of the agent for each run of the engine."""

    def __init__(
        self,
        agent: AgentClient,
        controller: str | ControllerSpec,
        model: nn.Module,
        validation: Validation,
        *,
        output_transform: Callable[[Any], Pass | None] = lambda output: output,
        **options: Any,
    ) -> None:
        """Control a model by a controller.

        Args:
            agent: the client, which the caller closes.
            controller: the controller's name, or its spec.
            model: the model that the engine trains.
            validation: computes a chunk's validation score.
            output_transform: converts the output of the engine's process function to loss, logits
                and labels; by default that returns all three itself.
            options: further arguments of `AgentClient.run`, such as `run_id`, `sites`, `drives`.
        """
        self._lifecycle = RunLifecycle(agent, controller, validation, options)
        self._model = model
        self._output_transform = output_transform

    def attach(self, engine: Engine) -> None:
        """Attach to an engine whose process function makes one optimizer step.

        The function may return None if it made no step.
        """
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED, lambda: self._lifecycle.end())
        engine.add_event_handler(Events.TERMINATE, self._terminate)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _begin(self, engine: Engine) -> None:
        self._lifecycle.begin(self._model, fitting=lambda: _fitting(engine))

    def _step(self, engine: Engine) -> None:
        output = self._output_transform(engine.state.output)
        if output is None:
            return
        if not isinstance(output, tuple | list) or len(output) != 3:
            raise TypeError(
                "return loss, logits and labels from the engine's process function, or give "
                "output_transform=, which converts its output to them"
            )
        loss, logits, labels = output
        self._lifecycle.add_pass(logits, labels)
        self._lifecycle.step([torch.as_tensor(loss).detach()])

    def _terminate(self, engine: Engine) -> None:
        if engine.should_terminate == "skip_completed":  # else COMPLETED follows
            self._lifecycle.end(Outcome.TRUNCATED)

    def _fail(self, engine: Engine, error: BaseException) -> None:
        handlers = [handler for handler, *_ in engine._event_handlers[Events.EXCEPTION_RAISED]]
        owners = [getattr(handler, "__self__", None) for handler in handlers]
        ours = [owner for owner in owners if isinstance(owner, ReinforcedRegularization)]
        # Handlers of this event decide whether the exception is raised: the script's, if any.
        is_scripts = len(ours) < len(handlers)
        # Within an epoch, whose data iterator is still open, the engine continues unless one of
        # them raises; if so, this is called again outside of the epoch.
        if is_scripts and engine._dataloader_iter is not None:
            return
        self._lifecycle.fail(error)
        if not is_scripts and ours[-1] is self:  # once the others have ended their runs
            raise error


def _fitting(engine: Engine) -> Fitting:
    """Return what the engine knows; its optimizer is the script's own, which `optimizer=` names."""
    state = engine.state
    steps = None
    if state.max_epochs is not None and state.epoch_length is not None:
        steps = state.max_epochs * state.epoch_length - state.iteration
    return Fitting(loader=state.dataloader, steps=steps)
