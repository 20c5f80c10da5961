"""Stacked children: each trains as if it were alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from agent_service.domain.errors import InvalidArgument
from tests.trainer_service.specs import CHILD, CPU, new_child
from trainer_service.training.chunk import Chunk
from trainer_service.training.datasets import load_images
from trainer_service.training.loop import ChildTraining, Diverged
from trainer_service.training.regularizers.registry import training_methods
from trainer_service.training.spec import (
    Augment,
    Method,
    Model,
    Score,
    Sites,
    hyperparameters,
    is_stackable,
)
from trainer_service.training.stacked import StackedTraining

SEEDS = (3, 5, 8)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    """Train in float64: in float32 a deep child turns the last bits of a sum into a visible part.

    The logits, and so the losses, are float32 nevertheless.
    """
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def children(**changes: Any) -> list[ChildTraining]:
    return [new_child(**{"learning_rate": 1e-4} | changes, seed=seed) for seed in SEEDS]


def own_values(child: ChildTraining, number: int, chunk: int) -> dict[str, float]:
    """Return values of its own for each child, chunk and site."""
    names = [h.name for h in hyperparameters(child.spec)]
    return {n: 0.05 * (1 + 2 * number + chunk + site) for site, n in enumerate(names)}


def weights(child: ChildTraining) -> torch.Tensor:
    return torch.cat([t.double().flatten() for t in child.passes.child.state_dict().values()])


def check_same(stacked: Chunk | Diverged, alone: Chunk) -> None:
    assert isinstance(stacked, Chunk)
    assert (stacked.training_score, stacked.validation_score) == pytest.approx(
        (alone.training_score, alone.validation_score)
    )
    assert stacked.losses == pytest.approx(alone.losses, rel=1e-6)
    assert stacked.values == pytest.approx(alone.values, rel=1e-6)
    assert stacked.validation_loss == pytest.approx(alone.validation_loss, rel=1e-6)
    assert (stacked.index, stacked.epochs) == (alone.index, alone.epochs)


CASES: list[dict[str, Any]] = [{"method": method} for method in training_methods()]
CASES += [{"method": method, "sites": Sites.EACH} for method in (Method.RD, Method.RNI)]
CASES += [
    {"model": Model.CNN, "method": method, "sites": Sites.EACH}
    for method in (Method.RD, Method.RNI, Method.DNI)
]
CASES += [{"model": Model.MLP, "method": Method.RD, "sites": Sites.EACH, "depth": 3}]
CASES += [{"method": Method.RD, "model": Model.RESNET50, "learning_rate": 1e-5, "chunks": 1}]


@pytest.mark.parametrize("changes", CASES, ids=lambda changes: "-".join(map(str, changes.values())))
def test_a_stacked_child_trains_as_alone(changes: dict[str, Any]) -> None:
    """Losses, values, validation, best weights and test scores of three equal those alone."""
    alone, together = children(**changes), children(**changes)
    stacked = StackedTraining(together)

    for t in range(alone[0].chunks):
        its_values = [own_values(child, k, t) for k, child in enumerate(alone)]
        chunks = stacked.train_chunk(its_values)
        for child, its, chunk in zip(alone, its_values, chunks, strict=True):
            check_same(chunk, child.train_chunk(its))

    for child, other in zip(together, alone, strict=True):
        assert torch.allclose(weights(child), weights(other), rtol=1e-6, atol=1e-9)
    scores = [child.finish() for child in alone]
    for its_scores, own in zip([child.finish() for child in together], scores, strict=True):
        assert its_scores.best_epoch == own.best_epoch
        assert its_scores.test_score_last == own.test_score_last


def test_groups_of_convolutions_are_stacked() -> None:
    """A step of a ResNeXt, whose convolutions have groups of their own, is that alone."""
    changes = {"model": Model.RESNEXT50_32X4D, "width": 1.0, "batch_size": 4, "chunk_size": 1}
    alone, together = (children(**changes, validation_batches=1)[:2] for _ in range(2))

    chunks = StackedTraining(together).train_chunk([{}, {}])

    for child, chunk in zip(alone, chunks, strict=True):
        check_same(chunk, child.train_chunk({}))


def test_a_child_that_diverges_leaves_the_others_alone() -> None:
    """It has no chunk; the others train as they would, also when they are stacked again."""
    alone, together = children(), children()
    with torch.no_grad():
        next(together[1].passes.child.parameters()).fill_(float("nan"))

    first, second, third = StackedTraining(together).train_chunk([{}, {}, {}])
    rest = [together[0], together[2]]
    again = StackedTraining(rest).train_chunk([{}, {}])

    assert isinstance(second, Diverged)
    for child, chunks in ((alone[0], (first, again[0])), (alone[2], (third, again[1]))):
        for chunk in chunks:
            check_same(chunk, child.train_chunk({}))


def test_moments_and_weights_are_each_childs_own_views() -> None:
    """A checkpoint of one child would hold what training alone makes."""
    alone, together = children(method=Method.DNI), children(method=Method.DNI)
    StackedTraining(together).train_chunk([{}, {}, {}])

    for child, other in zip(together, alone, strict=True):
        other.train_chunk({})
        state = child.passes.optimizer.state_dict()["state"]
        expected = other.passes.optimizer.state_dict()["state"]
        assert state.keys() == expected.keys()
        for number, moments in expected.items():
            assert float(state[number]["step"]) == float(moments["step"]) == 4
            for name in ("exp_avg", "exp_avg_sq"):
                assert torch.allclose(state[number][name], moments[name], rtol=1e-6, atol=1e-9)


OWN_DATA: list[dict[str, Any]] = [
    {"training_size": 96, "validation_batches": 2, "class_names": ("0", "8", "9")},
    {"training_size": 40, "data_seed": 4, "label_noise": 0.5, "class_names": ("1", "3", "5")},
    {"training_size": 16, "classes": 3, "score": Score.OF_SAMPLES, "augment": Augment.CROP_FLIP},
    {"training_size": 40, "classes": 3, "validation_share": 0.3, "chunks": 9},
]


def test_children_of_other_data_are_stacked() -> None:
    """Each validates on its own images, and ends its epochs at steps of its own."""
    specs = [
        replace(CHILD, model=Model.CNN, method=Method.RD, learning_rate=1e-4, seed=seed, **own)
        for seed, own in enumerate(OWN_DATA)
    ]
    images = [load_images(spec, Path()) for spec in specs]
    alone, together = (
        [ChildTraining(spec, its, CPU) for spec, its in zip(specs, images, strict=True)]
        for _ in range(2)
    )
    stacked = StackedTraining(together)

    for _ in range(3):
        chunks = stacked.train_chunk([{"dropout": 0.1}] * 4)
        for child, chunk in zip(alone, chunks, strict=True):
            check_same(chunk, child.train_chunk({"dropout": 0.1}))

    for child, other in zip(together, alone, strict=True):
        assert child.finish() == other.finish()


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ([{}, {"width": 0.125}], "differ in width"),
        ([{}, {"method": Method.DNI}], "differ in method"),
        ([{"learning_rate": 0.1}, {"chunk_size": 2}], "differ in learning_rate, chunk_size"),
        (
            [{"batch_size": 64}, {"batch_size": 64, "training_size": 32}],
            "the shape of their batches",
        ),
        ([{"model": Model.MOBILENET_V3_SMALL, "width": 1.0}] * 2, "mobilenet_v3_small cannot be"),
    ],
)
def test_children_that_cannot_be_stacked_are_refused(
    changes: list[dict[str, Any]], cause: str
) -> None:
    """They have no network, or no step, in common; the error names the difference."""
    pair = [new_child(**{"batch_size": 4} | change) for change in changes]

    assert not is_stackable(*[child.spec for child in pair])
    with pytest.raises(InvalidArgument, match=cause) as raised:
        StackedTraining(pair)
    assert [v.field for v in raised.value.violations] == ["together"]
