"""An Ignite handler: a model's regularization follows an agent while an engine trains it.

ReinforcedRegularization(agent, "fer-dropout", model, Validation(loader)).attach(trainer)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from agent_service.client.client import AgentClient
from agent_service.client.model.follower import Follower, Pass
from agent_service.client.model.validation import Validation, predict_pair
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
        output_transform: Callable[[Any], Pass] = lambda output: output,
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
        """Follow an engine that trains; its process function takes one optimizer step."""
        engine.add_event_handler(Events.STARTED, lambda: self._follower.begin(self._model))
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED, lambda: self._follower.end())
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _step(self, engine: Engine) -> None:
        told = self._output_transform(engine.state.output)
        self._follower.step(told[0], [told])

    def _fail(self, error: BaseException) -> None:
        self._follower.fail(error)
        # A handler of this event takes the exception over.
        raise error
