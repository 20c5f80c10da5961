"""Stacked children: each as if it were alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from agent_service.domain.errors import InvalidArgument
from tests.trainer_service.specs import CHILD
from trainer_service.training.chunk import Chunk
from trainer_service.training.datasets import load_images
from trainer_service.training.loop import ChildTraining, Diverged
from trainer_service.training.regularizers.registry import training_methods
from trainer_service.training.spec import (
    Method,
    Model,
    Sites,
    hyperparameters,
    is_stackable,
)
from trainer_service.training.stacked import StackedTraining

CPU = torch.device("cpu")
SPEC = replace(CHILD, learning_rate=1e-4)
IMAGES = load_images(SPEC, Path("."))
SEEDS = (3, 5, 8)


def children(**changes: object) -> list[ChildTraining]:
    spec = replace(SPEC, **changes)  # type: ignore[arg-type]
    return [ChildTraining(replace(spec, seed=seed), IMAGES, CPU) for seed in SEEDS]


def values(child: ChildTraining, number: int, chunk: int) -> dict[str, float]:
    """Return values of its own for each child, chunk and site."""
    names = [h.name for h in hyperparameters(child.spec)]
    return {n: 0.05 * (1 + number + chunk + site) for site, n in enumerate(names)}


def weights(child: ChildTraining) -> torch.Tensor:
    return torch.cat([t.double().flatten() for t in child.passes.child.state_dict().values()])


def check_same(stacked: Chunk | Diverged, alone: Chunk, *, tolerance: float) -> None:
    assert isinstance(stacked, Chunk)
    assert stacked.losses == pytest.approx(alone.losses, rel=tolerance)
    assert stacked.values == pytest.approx(alone.values, rel=tolerance)
    assert stacked.validation_loss == pytest.approx(alone.validation_loss, rel=tolerance)
    assert (stacked.index, stacked.epochs) == (alone.index, alone.epochs)


CASES: list[tuple[str, dict[str, object]]] = [
    (method, {}) for method in (Method.VANILLA, Method.D, Method.NI, Method.DNI, Method.RD)
]
CASES += [(Method.RD, {"sites": Sites.EACH}), (Method.RNI, {"sites": Sites.EACH})]
CASES += [(Method.RD, {"model": Model.RESNET50, "learning_rate": 1e-5, "chunks": 1})]


@pytest.mark.parametrize(("method", "changes"), CASES)
def test_a_stacked_child_trains_as_alone(method: str, changes: dict[str, object]) -> None:
    """Losses, values, validation, best weights and test scores of three equal those alone."""
    alone = children(method=method, **changes)
    together = children(method=method, **changes)
    stacked = StackedTraining(together)

    for t in range(stacked.chunks):
        its_values = [values(child, k, t) for k, child in enumerate(alone)]
        chunks = stacked.train_chunk(its_values)
        for child, its, chunk in zip(alone, its_values, chunks, strict=True):
            check_same(chunk, child.train_chunk(its), tolerance=2e-3)

    for child, other in zip(together, alone, strict=True):
        assert torch.allclose(weights(child), weights(other), rtol=1e-2, atol=2e-4)
    scores = [child.finish() for child in alone]
    for its_scores, own in zip(stacked.finish(), scores, strict=True):
        assert its_scores.best_epoch == own.best_epoch
        assert its_scores.test_score_last == pytest.approx(own.test_score_last, abs=0.02)


FIRST: list[tuple[str, dict[str, object]]] = [(method, {}) for method in training_methods()]
FIRST += [(Method.RD, {"model": Model.RESNEXT50_32X4D, "width": 1.0, "batch_size": 8})]


@pytest.mark.parametrize(("method", "changes"), FIRST)
def test_the_first_loss_is_that_alone(method: str, changes: dict[str, object]) -> None:
    """Before rounding has had steps to grow: same weights, batches, masks, to float tolerance."""
    alone = children(method=method, chunk_size=1, **changes)
    stacked = StackedTraining(children(method=method, chunk_size=1, **changes))
    its_values = [values(child, 3 * k, 0) for k, child in enumerate(alone)]

    chunks = stacked.train_chunk(its_values)

    for child, its, chunk in zip(alone, its_values, chunks, strict=True):
        assert isinstance(chunk, Chunk)
        assert chunk.losses[0] == pytest.approx(child.train_chunk(its).losses[0], rel=1e-4)


def test_a_child_that_diverges_leaves_the_others_alone() -> None:
    """It is told apart, the others train as they would, and go on when they are stacked anew."""
    alone, together = children(), children()
    with torch.no_grad():
        next(together[1].passes.child.parameters()).fill_(float("nan"))

    first, second, third = StackedTraining(together).train_chunk([{}, {}, {}])
    rest = [together[0], together[2]]
    again = StackedTraining(rest).train_chunk([{}, {}])

    assert isinstance(second, Diverged)
    for child, chunks in ((alone[0], (first, again[0])), (alone[2], (third, again[1]))):
        for chunk in chunks:
            check_same(chunk, child.train_chunk({}), tolerance=2e-3)


def test_moments_and_weights_are_each_childs_own_views() -> None:
    """What a checkpoint of one child would take is there, and is what training alone makes."""
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
                assert torch.allclose(state[number][name], moments[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        [{}, {"width": 0.125}],
        [{}, {"method": Method.DNI}],
        [{"model": Model.MOBILENET_V3_SMALL, "width": 1.0}] * 2,
    ],
)
def test_children_that_cannot_be_stacked_are_refused(changes: list[dict[str, object]]) -> None:
    """Children that differ in more than seed and values, or are no ResNets."""
    specs = [replace(SPEC, batch_size=4, **change) for change in changes]  # type: ignore[arg-type]

    assert not is_stackable(*specs)
    with pytest.raises(InvalidArgument) as raised:
        StackedTraining([ChildTraining(spec, IMAGES, CPU) for spec in specs])
    assert [v.field for v in raised.value.violations] == ["together"]
