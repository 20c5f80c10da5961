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
from agent_service.client.model.validation import Validation as _Validation
from agent_service.client.run import Run
from agent_service.domain.runs import Outcome

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
        self, agent: AgentClient, controller: Any, validation: _Validation, **options: Any
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
        self._passes: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the run, and listen to the model's passes."""
        self._model: nn.Module = kwargs["model"]
        self._run = self._agent.run(self._controller, model=self._model, **self._options)
        self._hook = self._model.register_forward_hook(self._keep, with_kwargs=True)

    def _keep(self, model: nn.Module, _args: Any, kwargs: Any, output: Any) -> None:
        if model.training and getattr(output, "loss", None) is not None:
            parts = output.loss.detach(), output.logits.detach(), kwargs["labels"]
            self._passes.append(parts)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell a step, and report a full chunk."""
        assert self._run is not None, "training has begun"
        if not self._passes:
            raise TypeError("the model returned no loss; give it its labels")
        losses, logits, labels = zip(*self._passes, strict=True)
        self._passes.clear()
        self._run.step(torch.stack(losses).mean(), torch.cat(logits), torch.cat(labels))
        if self._run.chunk_full:
            self._run.report(self._validation.of(self._model))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finish the run."""
        self.finish(Outcome.TERMINATED)

    def finish(self, outcome: Outcome = Outcome.TRUNCATED) -> None:
        """End the run; call it where `train` raised, which no callback is told."""
        run, self._run = self._run, None
        if run is not None:
            self._hook.remove()
            run.finish(outcome)
