"""A callback for Hugging Face's Trainer: an agent controls the model's regularization.

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
from agent_service.client.model.lifecycle import Fitting, RunLifecycle
from agent_service.client.model.validation import Validation as _Validation
from agent_service.client.model.validation import needs_predict, placed
from agent_service.domain.runs import Outcome
from agent_service.domain.specs import ControllerSpec

__all__ = ["ReinforcedRegularization", "Validation", "predict_labelled"]


def predict_labelled(model: Any, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return logits and labels of a batch from the Trainer's collator.

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
    """Draws m batches at a time from a loader of dictionaries."""

    def __init__(self, loader: Any, *, predict: Any = predict_labelled, batches: int = 20) -> None:
        """Evaluate on a loader; see the base class."""
        super().__init__(loader, predict=predict, batches=batches)


class ReinforcedRegularization(TrainerCallback):
    """Makes one run of the agent for each `train`.

    Loss, logits and labels are read from the model's forward passes, so the model must get its
    labels and return a loss, as models with a head do. With gradient accumulation a step consists
    of all passes of one optimizer step. For causal language models, labels are shifted to align
    with the logits, except for a `score` that is a function: it gets both unshifted.
    """

    def __init__(
        self,
        agent: AgentClient,
        controller: str | ControllerSpec,
        validation: _Validation,
        **options: Any,
    ) -> None:
        """Control the trained model by a controller.

        Args:
            agent: the client, which the caller closes.
            controller: the controller's name, or its spec.
            validation: computes a chunk's validation score.
            options: further arguments of `AgentClient.run`, such as `run_id`, `sites`, `drives`.
        """
        self._lifecycle = RunLifecycle(agent, controller, validation, options)
        self._has_own_score = callable(options.get("score"))
        self._losses: list[Tensor] = []
        self._shares: list[Tensor] = []
        """Each pass's share of the step's labels, as the Trainer counted them."""
        self._is_divided: bool | None = None
        """Whether the model divides a pass's loss by all labels of the step; None if unknown."""
        self._has_seen = False
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the run, and hook the model's forward passes.

        Raises:
            TypeError: the Trainer computes the loss itself.
        """
        if args.label_smoothing_factor:
            raise _unseen(f"label_smoothing_factor={args.label_smoothing_factor}")
        model: nn.Module = kwargs["model"]
        self._remove_hook()
        self._losses, self._shares, self._is_divided, self._has_seen = [], [], None, False
        self._shift = _shifted if _is_of_next_words(model) else _as_is
        self._lifecycle.begin(
            model,
            align=_as_is if self._has_own_score else self._scored,
            fitting=lambda: Fitting(
                optimizer=kwargs["optimizer"],
                loader=kwargs["train_dataloader"],
                steps=state.max_steps - state.global_step,
                passes=args.gradient_accumulation_steps,
            ),
        )
        self._hook = model.register_forward_hook(_ForwardHook(self._keep), with_kwargs=True)

    def _keep(self, model: nn.Module, _args: Any, kwargs: Any, output: Any) -> None:
        loss, logits = getattr(output, "loss", None), getattr(output, "logits", None)
        labels = kwargs.get("labels")
        if not model.training or loss is None or logits is None or labels is None:
            return
        loss, logits, labels = loss.detach().mean(), logits.detach(), labels.to(logits.device)
        self._losses.append(loss)
        self._count(loss, *self._shift(logits, labels), kwargs.get("num_items_in_batch"))
        self._has_seen = True
        self._lifecycle.add_pass(logits, labels)

    def _scored(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return _flat_if_square(*self._shift(logits, labels))

    def _count(self, loss: Tensor, logits: Tensor, labels: Tensor, items: Any) -> None:
        """Count the pass's labels, if its loss may be divided by those of all passes."""
        if items is not None:
            share = (labels != -100).sum() / items
            self._shares.append(share)
            if self._is_divided is None:
                self._is_divided = _is_divided(loss, logits, labels, share)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check, before anything is trained, that a forward pass was recorded.

        Raises:
            TypeError: the model got no labels, or returned no loss or no logits.
        """
        if not self._has_seen:
            self.finish()
            raise _unseen("compute_loss_func, or a model whose output has no loss and no logits")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record a step, and report a full chunk."""
        losses, shares, self._losses, self._shares = self._losses, self._shares, [], []
        if losses and self._is_divided:
            losses = [torch.stack(losses).sum() / torch.stack(shares).sum()]
        if losses:
            self._lifecycle.step(losses)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Finish the run."""
        self.finish(Outcome.TERMINATED)

    def finish(self, outcome: Outcome = Outcome.TRUNCATED) -> None:
        """End the run; call it if `train` raised, since the Trainer does not notify callbacks."""
        self._remove_hook()
        self._lifecycle.end(outcome)

    def _remove_hook(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


class _ForwardHook:
    """A model's forward hook; in copies of the model it does nothing."""

    def __init__(self, hook: Callable[..., None]) -> None:
        self._hook = hook

    def __call__(self, *arguments: Any) -> None:
        self._hook(*arguments)

    def __reduce__(self) -> Any:
        return getattr, (nullcontext(), "__exit__")


def _unseen(setting: str) -> TypeError:
    return TypeError(
        f"{setting}: the callback cannot see the model's loss. Let the model compute it from its "
        "'labels' and return it with its logits, without label_smoothing_factor or "
        "compute_loss_func"
    )


def _is_of_next_words(model: Any) -> bool:
    """Return whether a model is a causal language model: its loss is that of the next label."""
    if hasattr(model, "get_base_model"):  # of a PEFT model
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
    """Flatten a batch with as many positions as classes, where the axis would be ambiguous."""
    is_square = logits.ndim == 3 and logits.shape[1] == logits.shape[2]
    if is_square and labels.shape == logits.shape[:2] and not labels.is_floating_point():
        return logits.flatten(0, 1), labels.flatten()
    return logits, labels


def _is_divided(loss: Tensor, logits: Tensor, labels: Tensor, share: Tensor) -> bool | None:
    """Return whether a model divided a pass's loss by `num_items_in_batch`, the step's labels.

    Some models, such as BERT, accept that number and ignore it, so the loss is compared with the
    mean over the pass's own labels. Waits for the device, once per run. None if both are equal.

    Args:
        loss: the pass's loss.
        logits: the pass's logits.
        labels: the pass's labels.
        share: the pass's share of the step's labels.
    """
    if labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        return False  # not classification: the library's regression losses ignore it
    if share > 0.99:
        return None
    own = nn.functional.cross_entropy(logits.flatten(0, -2).float(), labels.flatten())
    return bool(loss < own * share.sqrt())
