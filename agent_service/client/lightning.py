"""A Lightning callback: the module's regularization follows an agent while it is fitted.

trainer = Trainer(callbacks=[ReinforcedRegularization(agent, "fer-dropout", Validation(loader))])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_service import torchvision_operators  # noqa: F401

# isort: split

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from agent_service.client.client import AgentClient
from agent_service.client.model.follower import Follower
from agent_service.client.model.validation import Validation, predict_pair
from agent_service.domain.specs import ControllerSpec

__all__ = ["ReinforcedRegularization", "Validation", "predict_pair"]


class ReinforcedRegularization(Callback):
    """One run of the agent for each `fit`.

    `training_step` returns a dictionary with `loss`, `logits` and `labels`, or None to skip a
    batch. A step is all batches since the optimizer stepped last: with accumulated gradients
    several, and with manual optimization those until any of the optimizers has stepped, whose
    loss is the one that is returned.
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
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the run."""
        self._losses.clear()
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
        if not _is_skipped(pl_module, outputs):
            self._add(outputs, trainer.accumulate_grad_batches)
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        losses, self._losses = self._losses, []
        if losses:
            self._follower.step(losses)

    def _add(self, outputs: Any, divisor: int) -> None:
        if not isinstance(outputs, Mapping) or not {"loss", "logits", "labels"} <= set(outputs):
            raise TypeError(
                "return {'loss': loss, 'logits': logits, 'labels': labels} from training_step"
            )
        # Lightning has divided it, as many passes as a step takes, though the last may take fewer.
        self._losses.append(outputs["loss"].detach() * divisor)
        self._follower.add_pass(outputs["logits"], outputs["labels"])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the run."""
        self._follower.end()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Finish the run, cut."""
        self._follower.fail(exception)


def _is_skipped(module: LightningModule, outputs: Any) -> bool:
    """Return whether training_step gave None, by which only automatic optimization skips."""
    is_none = outputs is None or (isinstance(outputs, Mapping) and outputs.get("loss") is None)
    return is_none and module.automatic_optimization
