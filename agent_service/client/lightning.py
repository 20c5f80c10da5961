"""A Lightning callback: an agent controls the module's regularization during `fit`.

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
from agent_service.client.model.lifecycle import Fitting, RunLifecycle
from agent_service.client.model.validation import Validation, predict_pair
from agent_service.domain.specs import ControllerSpec

__all__ = ["ReinforcedRegularization", "Validation", "predict_pair"]


class ReinforcedRegularization(Callback):
    """Makes one run of the agent for each `fit`.

    `training_step` returns a dictionary with `loss`, `logits` and `labels`, or None to skip a
    batch. A step consists of all batches since the last optimizer step: several with gradient
    accumulation; with manual optimization those until any optimizer has stepped, whose loss is the
    one that is returned.
    """

    def __init__(
        self,
        agent: AgentClient,
        controller: str | ControllerSpec,
        validation: Validation,
        **options: Any,
    ) -> None:
        """Control the fitted module by a controller.

        Args:
            agent: the client, which the caller closes.
            controller: the controller's name, or its spec.
            validation: computes a chunk's validation score.
            options: further arguments of `AgentClient.run`, such as `run_id`, `sites`, `drives`.
        """
        self._lifecycle = RunLifecycle(agent, controller, validation, options)
        self._steps = 0
        self._losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the run."""
        self._losses.clear()
        self._lifecycle.begin(pl_module, fitting=lambda: _fitting(trainer))
        self._steps = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record a step once the optimizer has made it."""
        if not _is_skipped(pl_module, outputs):
            self._add(outputs, trainer.accumulate_grad_batches)
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        losses, self._losses = self._losses, []
        if losses:
            self._lifecycle.step(losses)

    def _add(self, outputs: Any, divisor: int) -> None:
        if not isinstance(outputs, Mapping) or not {"loss", "logits", "labels"} <= set(outputs):
            raise TypeError(
                "return {'loss': loss, 'logits': logits, 'labels': labels} from training_step"
            )
        # Undoes Lightning's division by the number of passes of a full step.
        self._losses.append(outputs["loss"].detach() * divisor)
        self._lifecycle.add_pass(outputs["logits"], outputs["labels"])

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the run."""
        self._lifecycle.end()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Finish the run: cancelled on Ctrl-C, else truncated."""
        self._lifecycle.fail(exception)


def _fitting(trainer: Trainer) -> Fitting:
    optimizers = trainer.optimizers
    return Fitting(
        optimizer=optimizers[0] if len(optimizers) == 1 else None,
        loader=trainer.train_dataloader,
        # Infinite, so of no type int, without a limit.
        steps=trainer.estimated_stepping_batches - trainer.global_step,
        passes=trainer.accumulate_grad_batches,
    )


def _is_skipped(module: LightningModule, outputs: Any) -> bool:
    """Return whether training_step returned None, which skips only in automatic optimization."""
    is_none = outputs is None or (isinstance(outputs, Mapping) and outputs.get("loss") is None)
    return is_none and module.automatic_optimization
