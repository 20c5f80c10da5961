"""Each hook of a regularizer, by ones that are registered from outside."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from agent_service.domain.hyperparameters import Hyperparameter
from tests.trainer_service.specs import new_child
from trainer_service.training.chunk import Chunk
from trainer_service.training.loop import ChildTraining
from trainer_service.training.regularizers.registry import REGULARIZERS
from trainer_service.training.regularizers.regularizer import Regularizer
from trainer_service.training.spec import Sites
from trainer_service.training.stacked import StackedTraining


class WeightDecay(Regularizer):
    """Shrinks all weights after each step."""

    name, fixed, steered = "decay", "Decay", "Reinforced-Decay"
    strength = Hyperparameter("decay", low=0.0, high=0.5)

    def optimizer(self, optimizer: torch.optim.Optimizer, strengths: Mapping[str, Tensor]) -> None:
        kept = 1 - strengths["decay"][:, None]
        for weights in optimizer.param_groups[0]["params"]:
            weights.view(len(kept), -1).mul_(kept)


class Mixup(Regularizer):
    """Mixes each image, and its label, with another one of the batch, by a fixed share."""

    name, fixed, steered = "mixup", "Mixup", "Reinforced-Mixup"
    strength = Hyperparameter("mixup", low=0.0, high=0.5)
    sites = ("input",)

    def features(self, features: Tensor, numbers: Tensor, strengths: Tensor) -> Tensor:
        order = partners(numbers).view(*features.shape[:2], *[1] * (features.ndim - 2))
        return features.lerp(features.gather(0, order.expand_as(features)), strengths)

    def loss(
        self,
        losses: Tensor,
        logits: Tensor,
        labels: Tensor,
        numbers: Sequence[Tensor],
        strengths: Mapping[str, Tensor],
    ) -> Tensor:
        others = labels.gather(0, partners(numbers[0]))
        log_probability = logits.log_softmax(-1).gather(-1, others[..., None])[..., 0]
        (strength,) = strengths.values()
        return losses.lerp(-log_probability, strength)


def partners(numbers: Tensor) -> Tensor:
    """Return the places of other images in the batch, int64[b, K]."""
    return numbers.flatten(2)[:, :, 0].argsort(0)


NEW = (WeightDecay(), Mixup())


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for regularizer in NEW:
        monkeypatch.setitem(REGULARIZERS, regularizer.name, regularizer)


def children(method: str, *seeds: int, **changes: Any) -> list[ChildTraining]:
    return [new_child(method=method, seed=s, learning_rate=1e-4, **changes) for s in seeds]


def norm(child: ChildTraining) -> float:
    return sum(float(weights.detach().norm()) for weights in child.passes.child.parameters())


@pytest.mark.parametrize("name", ["decay", "mixup"])
def test_a_strength_of_zero_is_no_regularization(name: str) -> None:
    """To the bit; another strength changes the training."""
    (plain,), (none, some) = children("vanilla", 0), children(f"reinforced-{name}", 0, 0)

    losses = plain.train_chunk({}).losses

    assert none.train_chunk({name: 0.0}).losses == losses
    assert some.train_chunk({name: 0.4}).losses != losses


def test_the_hook_of_the_optimizer_changes_the_weights() -> None:
    """A chunk of four steps that each keep a half."""
    (child,) = children("reinforced-decay", 0)
    before = norm(child)

    child.train_chunk({"decay": 0.5})

    assert norm(child) == pytest.approx(before / 16, rel=0.02)


@pytest.mark.parametrize("sites", Sites)
@pytest.mark.parametrize("name", ["decay", "mixup"])
def test_a_stacked_child_has_its_own_strength_in_each_hook(name: str, sites: Sites) -> None:
    """Losses, and the weights that they lead to, are those of a child that trains alone."""
    method = f"reinforced-{name}"
    alone, together = children(method, 3, 5, sites=sites), children(method, 3, 5, sites=sites)
    (driven,) = alone[0].spec.regularizer.hyperparameters(each=sites is Sites.EACH)
    values = [{driven.name: 0.1}, {driven.name: 0.4}]

    chunks = StackedTraining(together).train_chunk(values)

    for own, beside, chunk, its in zip(alone, together, chunks, values, strict=True):
        assert isinstance(chunk, Chunk)
        assert chunk.losses == pytest.approx(own.train_chunk(its).losses, rel=2e-3)
        assert norm(beside) == pytest.approx(norm(own), rel=1e-3)
