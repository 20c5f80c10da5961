"""A Lightning callback: the module's regularization follows an agent while it is fitted.

trainer = Trainer(callbacks=[ReinforcedRegularization(agent, "fer-dropout", Validation(loader))])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from agent_service.client.client import AgentClient
from agent_service.client.model.follower import Follower, Pass
from agent_service.client.model.validation import Validation, predict_pair
from agent_service.domain.specs import ControllerSpec

__all__ = ["ReinforcedRegularization", "Validation", "predict_pair"]


class ReinforcedRegularization(Callback):
    """One run of the agent for each `fit`.

    `training_step` returns a dictionary with `loss`, `logits` and `labels`. With accumulated
    gradients a step is all batches of one optimizer step.
    """

    def __init__(
        self,
        agent: AgentClient,
        controller: str | ControllerSpec,
        validation: Validation,
        **options: Any,
    ) -> None:
        """Steer by a controller; see `Follower` for the arguments."""
        self._follower = Follower(agent, controller, validation, options)
        self._steps = 0
        self._passes: list[Pass] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the run."""
        self._follower.begin(pl_module)
        self._steps = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Tell a step once the optimizer has taken it."""
        self._passes.append(_parts(outputs))
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        # Lightning has divided each loss by the number of passes.
        loss = torch.stack([loss for loss, _logits, _labels in self._passes]).sum()
        self._follower.step(loss, self._passes)
        self._passes.clear()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the run."""
        self._follower.end()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Finish the run, cut."""
        self._follower.fail(exception)


def _parts(outputs: Any) -> Pass:
    if not isinstance(outputs, Mapping) or not {"loss", "logits", "labels"} <= set(outputs):
        raise TypeError(
            "return {'loss': loss, 'logits': logits, 'labels': labels} from training_step"
        )
    return outputs["loss"].detach(), outputs["logits"].detach(), outputs["labels"]
