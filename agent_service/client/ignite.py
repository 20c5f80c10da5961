"""An Ignite handler: a model's regularization follows an agent while an engine trains it.

ReinforcedRegularization(agent, "fer-dropout", model, Validation(loader)).attach(trainer)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ignite.engine import Engine, Events
from torch import nn

from agent_service.client.client import AgentClient
from agent_service.client.model.validation import Validation, predict_pair
from agent_service.client.run import Run
from agent_service.domain.runs import Outcome

__all__ = ["ReinforcedRegularization", "Validation", "predict_pair"]


class ReinforcedRegularization:
    """One run of the agent for each run of the engine."""

    def __init__(
        self,
        agent: AgentClient,
        controller: Any,
        model: nn.Module,
        validation: Validation,
        *,
        output_transform: Callable[[Any], tuple[Any, Any, Any]] = lambda output: output,
        **options: Any,
    ) -> None:
        """Steer a model by a controller.

        Args:
            agent: the client; stays the caller's.
            controller: its name, or its spec.
            model: what the engine trains.
            validation: what a chunk is judged on.
            output_transform: makes loss, logits and labels of what the engine's process function
                returns; that may return the three itself.
            options: of `AgentClient.run`, such as `run_id`, `sites`, `drives`, `when_away`.
        """
        self._agent = agent
        self._controller = controller
        self._model = model
        self._validation = validation
        self._output_transform = output_transform
        self._options = options
        self._run: Run | None = None

    def attach(self, engine: Engine) -> None:
        """Follow an engine that trains; its process function takes one optimizer step."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED, lambda: self._finish(Outcome.TERMINATED))
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def _start(self) -> None:
        self._run = self._agent.run(self._controller, model=self._model, **self._options)

    def _step(self, engine: Engine) -> None:
        assert self._run is not None, "the engine has started"
        loss, logits, labels = self._output_transform(engine.state.output)
        self._run.step(loss, logits, labels)
        if self._run.chunk_full:
            self._run.report(self._validation.of(self._model))

    def _fail(self, error: BaseException) -> None:
        is_user = isinstance(error, KeyboardInterrupt)
        self._finish(Outcome.CANCELLED if is_user else Outcome.TRUNCATED)
        # A handler of this event takes the exception over.
        raise error

    def _finish(self, outcome: Outcome) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(outcome)
