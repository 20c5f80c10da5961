"""A callback of Hugging Face's Trainer: the model's regularization follows an agent.

Trainer(..., callbacks=[ReinforcedRegularization(agent, "glue-dropout", Validation(loader))])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from agent_service.client.client import AgentClient
from agent_service.client.model.follower import Follower, Pass
from agent_service.client.model.validation import Validation as _Validation
from agent_service.domain.runs import Outcome
from agent_service.domain.specs import ControllerSpec

__all__ = ["ReinforcedRegularization", "Validation", "predict_labelled"]


def predict_labelled(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return logits and labels of a batch as the Trainer's collator makes it."""
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    return model(**inputs).logits, inputs["labels"]


class Validation(_Validation):
    """Takes m batches after m batches of a loader of dictionaries."""

    def __init__(self, loader: Any, *, predict: Any = predict_labelled, batches: int = 20) -> None:
        """Evaluate on a loader; see the base class."""
        super().__init__(loader, predict=predict, batches=batches)


class ReinforcedRegularization(TrainerCallback):
    """One run of the agent for each `train`.

    Loss, logits and labels are those of the model's own forward passes, so the model gets its
    labels and returns a loss, as models with a head do. With accumulated gradients a step is all
    passes of one optimizer step.
    """

    def __init__(
        self,
        agent: AgentClient,
        controller: str | ControllerSpec,
        validation: _Validation,
        **options: Any,
    ) -> None:
        """Steer by a controller; see `Follower` for the arguments."""
        self._follower = Follower(agent, controller, validation, options)
        self._passes: list[Pass] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the run, and listen to the model's passes."""
        model: nn.Module = kwargs["model"]
        self._follower.begin(model)
        self._hook = model.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, model: nn.Module, _args: Any, kwargs: Any, output: Any) -> None:
        if model.training and getattr(output, "loss", None) is not None:
            parts = output.loss.detach(), output.logits.detach(), kwargs["labels"]
            self._passes.append(parts)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell a step, and report a full chunk."""
        if not self._passes:
            raise TypeError("the model returned no loss; give it its labels")
        loss = torch.stack([loss for loss, _logits, _labels in self._passes]).mean()
        self._follower.step(loss, self._passes)
        self._passes.clear()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finish the run."""
        self.finish(Outcome.TERMINATED)

    def finish(self, outcome: Outcome = Outcome.TRUNCATED) -> None:
        """End the run; call it where `train` raised, which no callback is told."""
        self._hook.remove()
        self._follower.end(outcome)
