"""The loop: what a chunk brings, reproducible, paired by seed, honest at the end."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from agent_service.domain.errors import InvalidArgument
from tests.trainer_service.specs import CHILD
from trainer_service.training.datasets import Images, Split, load_images
from trainer_service.training.loop import ChildTraining, Diverged
from trainer_service.training.regularizers.registry import training_methods
from trainer_service.training.spec import (
    Method,
    Model,
    Precision,
    Score,
    Start,
    Stem,
    hyperparameters,
)

CPU = torch.device("cpu")
SPEC = CHILD
IMAGES = load_images(SPEC, Path("."))


def training(**changes: object) -> ChildTraining:
    spec = replace(SPEC, **changes)  # type: ignore[arg-type]
    return ChildTraining(spec, IMAGES, CPU)


def values(method: str, value: float = 0.2) -> dict[str, float]:
    return {h.name: value for h in hyperparameters(replace(SPEC, method=method))}


@pytest.mark.parametrize("method", training_methods())
def test_every_method_trains(method: str) -> None:
    """Each row of Table 1 gives finite losses, scores in [0, 1] and a result."""
    child = training(method=method)
    chunks = [child.train_chunk(values(method)) for _ in range(child.chunks)]
    scores = child.finish()

    assert [c.index for c in chunks] == [1, 2, 3]
    assert all(len(c.losses) == 4 and np.isfinite(c.losses).all() for c in chunks)
    assert all(0 <= c.training_score <= 1 and 0 <= c.validation_score <= 1 for c in chunks)
    assert 0 <= scores.test_score_best <= 1
    assert chunks[-1].epochs == 3


@pytest.mark.parametrize("method", [Method.VANILLA, Method.RD, Method.DNI])
def test_a_training_is_made_again_to_the_bit(method: str) -> None:
    """The same spec and data give the same chunks and scores on a CPU."""
    results = []
    for _ in range(2):
        child = training(method=method)
        chunks = [child.train_chunk(values(method)) for _ in range(3)]
        results.append(([replace(c, seconds=0) for c in chunks], child.finish()))

    assert results[0] == results[1]


def test_methods_are_paired_by_seed() -> None:
    """Under one seed all methods have the same initial weights and batch order."""
    weights, batches = set(), set()
    for method in training_methods():
        child = training(method=method)
        first = next(p for p in child._passes.child.parameters() if p.ndim == 4)
        weights.add(first.detach().numpy().tobytes())
        child.train_chunk(values(method))
        batches.add(child.next_batch()[0].numpy().tobytes())
    other = training(seed=1)

    assert len(weights) == len(batches) == 1
    assert other.next_batch()[0].numpy().tobytes() not in batches


def test_all_samples_of_a_chunk_may_be_scored_together() -> None:
    """The client's default, in place of the mean over batches; nothing else changes."""
    child, paper = training(score=Score.OF_SAMPLES), training()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(SPEC.seed + 1))
    passes: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, _inputs: object, logits: torch.Tensor) -> None:
        if module.training:
            passes.append(logits.argmax(-1))

    child._passes.child.register_forward_hook(keep)
    chunk, same = child.train_chunk({}), paper.train_chunk({})

    predictions, labels = torch.cat(passes), IMAGES.training.labels[order]
    expected = f1_score(labels, predictions, average="macro", zero_division=0)
    assert chunk.training_score == pytest.approx(expected)
    assert chunk.losses == same.losses
    assert chunk.training_score != same.training_score
    assert chunk.validation_score != same.validation_score


def test_another_seed_is_another_training() -> None:
    """Weights and order follow the seed."""
    losses = [training(seed=seed).train_chunk({}).losses for seed in (0, 1)]

    assert losses[0] != losses[1]


def test_losses_and_training_score_come_from_the_same_passes() -> None:
    """MTF is the mean F1 of the N batches (Eqs. 7, 9) on the passes, in train mode, of S_t."""
    child = training(method=Method.RD)
    order = torch.Generator()
    order.set_state(child._order.get_state())
    passes: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, _inputs: object, logits: torch.Tensor) -> None:
        if module.training:
            passes.append(logits.detach().clone())

    child._passes.child.register_forward_hook(keep)
    chunk = child.train_chunk({"dropout": 0.3})

    places = torch.randperm(64, generator=order).reshape(4, 16)
    labels = [IMAGES.training.labels[p] for p in places]
    losses = [
        torch.nn.functional.cross_entropy(logits, y)
        for logits, y in zip(passes, labels, strict=True)
    ]
    scores = [
        f1_score(y, logits.argmax(-1), average="macro", zero_division=0)
        for logits, y in zip(passes, labels, strict=True)
    ]
    assert chunk.losses == pytest.approx(torch.stack(losses).tolist(), abs=1e-6)
    assert chunk.training_score == pytest.approx(np.mean(scores), abs=1e-6)


def test_scores_of_validation_batches_are_those_of_single_passes() -> None:
    """Evaluating each drawn image once gives loss and MVF of m passes (Eqs. 8, 10)."""
    child = training()
    child.train_chunk({})
    draws = child._draws.get_state()
    loss, score = child._validate_batches()
    child._draws.set_state(draws)
    losses, scores = [], []
    for _ in range(3):
        places = torch.randperm(len(IMAGES.validation.labels), generator=child._draws)[:16]
        labels = IMAGES.validation.labels[places]
        logits = child._passes.evaluate(IMAGES.validation.images[places])
        losses.append(float(torch.nn.functional.cross_entropy(logits, labels)))
        scores.append(f1_score(labels, logits.argmax(-1), average="macro", zero_division=0))

    assert loss == pytest.approx(np.mean(losses), abs=1e-5)
    # Rounding differs with the batch, in the last bits of a logit: predictions do not.
    assert score == pytest.approx(np.mean(scores), abs=1e-12)


def test_values_act_on_training() -> None:
    """A higher drop rate changes the losses of the next chunk and is what the chunk says."""
    low, high = training(method=Method.RD), training(method=Method.RD)
    first = low.train_chunk({"dropout": 0.0})
    second = high.train_chunk({"dropout": 0.9})

    assert np.mean(second.losses) > np.mean(first.losses)
    assert second.values == {"dropout": 0.9}


def test_a_child_can_overfit() -> None:
    """Without regularization 32 images are learned by heart: the training score reaches 1."""
    spec = replace(SPEC, training_size=32, width=0.125, chunk_size=20, chunks=5, learning_rate=3e-3)
    child = ChildTraining(spec, load_images(spec, Path(".")), CPU)

    chunks = [child.train_chunk({}) for _ in range(5)]

    assert chunks[-1].training_score == 1.0
    assert chunks[-1].losses[-1] < 0.1


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    """Diverged names chunk and step, and the scores so far can still be had."""
    child = training(learning_rate=1e30)

    with pytest.raises(Diverged, match="chunk 1, step"):
        child.train_chunk({})
    assert 0 <= child.finish().test_score_last <= 1


def test_the_best_epoch_is_judged_with_its_own_weights() -> None:
    """The best validation score is the largest of all epochs, its epoch from 1."""
    child = training(chunks=5)
    for _ in range(5):
        child.train_chunk({})
    scores = child.finish()

    assert scores.validation_score_best == max(child._epoch_scores)
    assert child._epoch_scores[scores.best_epoch - 1] == scores.validation_score_best
    assert child._scores(child._validation)[0] == scores.validation_score_best


def test_the_length_can_be_given_in_epochs() -> None:
    """Six epochs of four steps are 24 steps: six chunks of four."""
    assert training(chunks=None, epochs=6).chunks == 6
    assert training(chunks=None, epochs=1, chunk_size=3).chunks == 2


def test_bf16_trains() -> None:
    """Autocast gives finite float losses."""
    chunk = training(precision=Precision.BF16).train_chunk({})

    assert np.isfinite(chunk.losses).all()


def test_a_split_smaller_than_a_batch_is_one_batch() -> None:
    """An epoch of few images is one step of all of them."""
    small = Split(IMAGES.training.images[:10], IMAGES.training.labels[:10])
    images = Images(
        training=small,
        validation=IMAGES.validation,
        test=IMAGES.test,
        class_names=IMAGES.class_names,
    )

    assert ChildTraining(SPEC, images, CPU).train_chunk({}).epochs == 4


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"dataset": "folder:../x"}, "dataset"),
        ({"dataset": "npz:/etc/x"}, "dataset"),
        ({"dataset": "npz:a/../../x"}, "dataset"),
        ({"dataset": "folder:a/.."}, "dataset"),
        ({"dataset": "folder:a\0b"}, "dataset"),
        ({"dataset": "folder:a\nb"}, "dataset"),
        ({"dataset": "mnist"}, "dataset"),
        ({"label_noise": 1.0}, "label_noise"),
        ({"width": 0.0}, "width"),
        ({"model": Model.VGG11, "width": 0.5}, "width"),
        ({"model": Model.VGG11, "width": 1.0, "stem": Stem.SMALL}, "stem"),
        ({"start": Start.IMAGENET}, "width"),
        ({"chunks": None}, "chunks"),
        ({"epochs": 2}, "chunks"),
        ({"chunks": 0}, "chunks"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"seed": -1}, "seed"),
        ({"values": {"dropout": 0.5}}, "values[dropout]"),
        ({"method": Method.D, "values": {"dropout": 0.95}}, "values[dropout]"),
        ({"method": Method.RD, "values": {"dropout": 0.5}}, "values[dropout]"),
    ],
)
def test_a_wrong_spec_is_refused_by_field(changes: dict[str, object], field: str) -> None:
    """No spec exists that is not valid."""
    with pytest.raises(InvalidArgument) as raised:
        replace(SPEC, **changes)  # type: ignore[arg-type]

    assert [v.field for v in raised.value.violations] == [field]
