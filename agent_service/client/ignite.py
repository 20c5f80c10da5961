"""An Ignite handler: a model's regularization follows an agent while an engine trains it.

ReinforcedRegularization(agent, "fer-dropout", model, Validation(loader)).attach(trainer)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from agent_service.client.client import AgentClient
from agent_service.client.model.follower import Follower, Pass
from agent_service.client.model.validation import Validation, predict_pair
from agent_service.domain.runs import Outcome
from agent_service.domain.specs import ControllerSpec

__all__ = ["ReinforcedRegularization", "Validation", "predict_pair"]


class ReinforcedRegularization:
    """One run of the agent for each run of the engine."""

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
        """Steer a model by a controller; see `Follower` for the other arguments.

        Args:
            agent: see there.
            controller: see there.
            model: what the engine trains.
            validation: see there.
            output_transform: makes loss, logits and labels of what the engine's process function
                returns; that may return the three itself.
            options: see there.
        """
        self._follower = Follower(agent, controller, validation, options)
        self._model = model
        self._output_transform = output_transform

    def attach(self, engine: Engine) -> None:
        """Follow an engine that trains; its process function takes one optimizer step.

        It may return None where it took none.
        """
        engine.add_event_handler(Events.STARTED, lambda: self._follower.begin(self._model))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED, lambda: self._follower.end())
        engine.add_event_handler(Events.TERMINATE, self._terminate)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _step(self, engine: Engine) -> None:
        told = self._output_transform(engine.state.output)
        if told is None:
            return
        if not isinstance(told, tuple | list) or len(told) != 3:
            raise TypeError(
                "return loss, logits and labels from the engine's process function, or give "
                "output_transform=, which makes them of what it returns"
            )
        loss, logits, labels = told
        self._follower.add_pass(logits, labels)
        self._follower.step([torch.as_tensor(loss).detach()])

    def _terminate(self, engine: Engine) -> None:
        if engine.should_terminate == "skip_completed":  # else COMPLETED follows
            self._follower.end(Outcome.TRUNCATED)

    def _fail(self, engine: Engine, error: BaseException) -> None:
        handlers = [handler for handler, *_ in engine._event_handlers[Events.EXCEPTION_RAISED]]
        ours = [handler for handler in handlers if _is_ours(handler)]
        # A handler of this event takes the exception over: the script's decide, if it has any.
        is_scripts = len(ours) < len(handlers)
        # In an epoch, whose data are still open, the engine goes on if they do not raise it; where
        # they do, it is told of once more, outside.
        if is_scripts and engine._dataloader_iter is not None:
            return
        self._follower.fail(error)
        if not is_scripts and ours[-1].__self__ is self:  # after all others have ended their runs
            raise error


def _is_ours(handler: Any) -> bool:
    return isinstance(getattr(handler, "__self__", None), ReinforcedRegularization)
