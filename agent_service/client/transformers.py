"""A callback of Hugging Face's Trainer: the model's regularization follows an agent.

Trainer(..., callbacks=[ReinforcedRegularization(agent, "glue-dropout", Validation(loader))])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

from agent_service import torchvision_operators  # noqa: F401

# isort: split

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.loss.loss_utils import LOSS_MAPPING, ForCausalLMLoss
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from agent_service.client.client import AgentClient
from agent_service.client.model.follower import Follower
from agent_service.client.model.validation import Validation as _Validation
from agent_service.client.model.validation import needs_predict, placed
from agent_service.domain.runs import Outcome
from agent_service.domain.specs import ControllerSpec

__all__ = ["ReinforcedRegularization", "Validation", "predict_labelled"]


def predict_labelled(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return logits and labels of a batch as the Trainer's collator makes it.

    Raises:
        TypeError: the batch has no labels, or the model's output no logits.
    """
    if not isinstance(batch, Mapping) or "labels" not in batch:
        raise needs_predict("a validation batch", batch, "a dictionary with 'labels'")
    output = model(**{name: placed(tensor, model) for name, tensor in batch.items()})
    if not hasattr(output, "logits"):
        raise needs_predict("the model's output", output, "one with 'logits'")
    return output.logits, batch["labels"].to(output.logits.device)


class Validation(_Validation):
    """Takes m batches after m batches of a loader of dictionaries."""

    def __init__(self, loader: Any, *, predict: Any = predict_labelled, batches: int = 20) -> None:
        """Evaluate on a loader; see the base class."""
        super().__init__(loader, predict=predict, batches=batches)


class ReinforcedRegularization(TrainerCallback):
    """One run of the agent for each `train`.

    Loss, logits and labels are those of the model's own forward passes, so the model gets its
    labels and returns a loss, as models with a head do. With accumulated gradients a step is all
    passes of one optimizer step. The next word's labels are moved to the logits that are about
    them, save for a `score` that is a function: it gets both as the model has them.
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
        self._has_own_score = callable(options.get("score"))
        self._losses: list[Tensor] = []
        self._shares: list[Tensor] = []
        """Of the labels that the Trainer counted for the step, how many are the pass's."""
        self._is_divided: bool | None = None
        """Whether the model divides a pass's loss by the labels of all; None: not seen yet."""
        self._has_seen = False
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the run, and listen to the model's passes.

        Raises:
            TypeError: the Trainer computes the loss itself.
        """
        if args.label_smoothing_factor:
            raise _unseen(f"label_smoothing_factor={args.label_smoothing_factor}")
        model: nn.Module = kwargs["model"]
        self._stop_listening()
        self._losses, self._shares, self._is_divided, self._has_seen = [], [], None, False
        self._shift = _shifted if _is_of_next_words(model) else _as_is
        self._follower.begin(model, align=_as_is if self._has_own_score else self._scored)
        self._hook = model.register_forward_hook(_Listener(self._keep), with_kwargs=True)

    def _keep(self, model: nn.Module, _args: Any, kwargs: Any, output: Any) -> None:
        loss, logits = getattr(output, "loss", None), getattr(output, "logits", None)
        labels = kwargs.get("labels")
        if not model.training or loss is None or logits is None or labels is None:
            return
        loss, logits, labels = loss.detach().mean(), logits.detach(), labels.to(logits.device)
        self._losses.append(loss)
        self._count(loss, *self._shift(logits, labels), kwargs.get("num_items_in_batch"))
        self._has_seen = True
        self._follower.add_pass(logits, labels)

    def _scored(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return _flat_if_square(*self._shift(logits, labels))

    def _count(self, loss: Tensor, logits: Tensor, labels: Tensor, items: Any) -> None:
        """Count the pass's labels, where its loss may be divided by those of all passes."""
        if items is not None:
            share = (labels != -100).sum() / items
            self._shares.append(share)
            if self._is_divided is None:
                self._is_divided = _is_divided(loss, logits, labels, share)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Say that no pass was seen, before anything is trained.

        Raises:
            TypeError: the model had no labels, or gave no loss or no logits.
        """
        if not self._has_seen:
            self.finish()
            raise _unseen("compute_loss_func, or a model whose output has no loss and no logits")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell a step, and report a full chunk."""
        losses, shares, self._losses, self._shares = self._losses, self._shares, [], []
        if losses and self._is_divided:
            losses = [torch.stack(losses).sum() / torch.stack(shares).sum()]
        if losses:
            self._follower.step(losses)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finish the run."""
        self.finish(Outcome.TERMINATED)

    def finish(self, outcome: Outcome = Outcome.TRUNCATED) -> None:
        """End the run; call it where `train` raised, which no callback is told."""
        self._stop_listening()
        self._follower.end(outcome)

    def _stop_listening(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


class _Listener:
    """Hears a model's passes; in copies of the model it is a function that does nothing."""

    def __init__(self, hear: Callable[..., None]) -> None:
        self._hear = hear

    def __call__(self, *told: Any) -> None:
        self._hear(*told)

    def __reduce__(self) -> Any:
        return getattr, (nullcontext(), "__exit__")


def _unseen(setting: str) -> TypeError:
    return TypeError(
        f"{setting}: the callback sees no loss of the model's own. Let the model compute it from "
        "its 'labels' and return it with its logits, without label_smoothing_factor or "
        "compute_loss_func"
    )


def _is_of_next_words(model: Any) -> bool:
    """Return whether a model's loss is of the next words: at each place, of the label after it."""
    if hasattr(model, "get_base_model"):  # of peft
        model = model.get_base_model()
    if type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        return True
    is_causal = LOSS_MAPPING.get(getattr(model, "loss_type", None) or "") is ForCausalLMLoss
    return is_causal and not getattr(model.config, "is_encoder_decoder", False)


def _as_is(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits, labels


def _shifted(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits[:, :-1], labels[:, 1:]


def _flat_if_square(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return those of as many words as classes one below the other: their classes are last."""
    is_square = logits.ndim == 3 and logits.shape[1] == logits.shape[2]
    if is_square and labels.shape == logits.shape[:2] and not labels.is_floating_point():
        return logits.flatten(0, 1), labels.flatten()
    return logits, labels


def _is_divided(loss: Tensor, logits: Tensor, labels: Tensor, share: Tensor) -> bool | None:
    """Return whether a model divided a pass's loss by `num_items_in_batch`, the labels of all.

    Some accept that number and leave it, as BERT does, so the loss is compared with the mean over
    the pass's own labels. This waits for the device, once a run. None where both are the same.

    Args:
        loss: of the pass.
        logits: likewise.
        labels: likewise.
        share: of all labels, how many are the pass's.
    """
    if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        return False  # no classes: the library's losses of numbers leave it
    if share > 0.99:
        return None
    own = nn.functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())
    return bool(loss < own * share.sqrt())
