"""A Lightning callback: the module's regularization follows an agent while it is fitted.

trainer = Trainer(callbacks=[ReinforcedRegularization(agent, "fer-dropout", Validation(loader))])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from agent_service.client.client import AgentClient
from agent_service.client.model.validation import Validation, predict_pair
from agent_service.client.run import Run
from agent_service.domain.runs import Outcome

__all__ = ["ReinforcedRegularization", "Validation", "predict_pair"]


class ReinforcedRegularization(Callback):
    """One run of the agent for each `fit`.

    `training_step` returns a dictionary with `loss`, `logits` and `labels`. With accumulated
    gradients a step is all batches of one optimizer step.
    """

    def __init__(
        self, agent: AgentClient, controller: Any, validation: Validation, **options: Any
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
        self._steps = 0
        self._passes: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the run."""
        self._run = self._agent.run(self._controller, model=pl_module, **self._options)
        self._steps = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Tell a step, and report a full chunk."""
        assert self._run is not None, "training has begun"
        self._passes.append(_parts(outputs))
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        losses, logits, labels = zip(*self._passes, strict=True)
        self._passes.clear()
        # Lightning has divided each by their number.
        self._run.step(torch.stack(losses).sum(), torch.cat(logits), torch.cat(labels))
        if self._run.chunk_full:
            self._run.report(self._validation.of(pl_module))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Finish the run."""
        self._finish(Outcome.TERMINATED)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Finish the run as cancelled, on Ctrl-C, or truncated."""
        is_user = isinstance(exception, KeyboardInterrupt)
        self._finish(Outcome.CANCELLED if is_user else Outcome.TRUNCATED)

    def _finish(self, outcome: Outcome) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish(outcome)


def _parts(outputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    if not isinstance(outputs, Mapping) or not {"loss", "logits", "labels"} <= set(outputs):
        raise TypeError(
            "return {'loss': loss, 'logits': logits, 'labels': labels} from training_step"
        )
    return outputs["loss"].detach(), outputs["logits"].detach(), outputs["labels"]
