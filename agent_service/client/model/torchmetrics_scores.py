"""Named scores computed by torchmetrics: binary F1, multilabel F1 and R2."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from agent_service.client.model.layouts import warn_once
from agent_service.domain.errors import AgentError

IGNORED = -100
"""Replaces labels below 0, which are ignored, as losses do."""


def check_installed(name: str) -> None:
    """Import torchmetrics now, which takes a second or two, rather than in the first report.

    Raises:
        AgentError: it is not installed.
    """
    if find_spec("torchmetrics") is None:
        raise AgentError(
            f"score={name!r} needs torchmetrics: pip install "
            "'reinforced-regularization[torchmetrics]'"
        )
    import_module("agent_service.torchvision_operators")
    import_module("torchmetrics")


def _binary_f1(_logits: Tensor) -> Any:
    from torchmetrics.classification import BinaryF1Score

    return BinaryF1Score(ignore_index=IGNORED)


def _multilabel_f1(logits: Tensor) -> Any:
    from torchmetrics.classification import MultilabelF1Score

    return MultilabelF1Score(num_labels=logits.shape[1], ignore_index=IGNORED)


def _r2(_predictions: Tensor) -> Any:
    from torchmetrics.regression import R2Score

    class R2FromZero(R2Score):
        """R2 clipped at 0, since it has no lower bound."""

        def compute(self) -> Tensor:
            if self.total < 2:
                warn_once("a chunk of fewer than two samples has no score 'r2'")
                return torch.tensor(torch.nan)
            return super().compute().clamp(min=0.0)

    return R2FromZero()


def _flat(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits.flatten(), _whole(labels).flatten()


def _each(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return logits, _whole(labels)


def _whole(labels: Tensor) -> Tensor:
    labels = labels.long()
    return torch.where(labels < 0, IGNORED, labels)


def _targets(predictions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if predictions.numel() == targets.numel():
        predictions = predictions.reshape(targets.shape)  # [b, 1] and [b]
    return predictions.double(), targets.double()  # sums of squares would cancel in float32


NAMED: dict[
    str, tuple[Callable[[Tensor], Any], Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]]
] = {
    "binary-f1": (_binary_f1, _flat),
    "multilabel-f1": (_multilabel_f1, _each),
    "r2": (_r2, _targets),
}
"""By name: a factory of the metric, and a function that prepares a batch for it."""
