"""The training loop: reproducible, paired by seed, scored as the paper says, honest at the end."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import Tensor

from agent_service.domain.problem import Problem
from tests.trainer_service.specs import CHILD, CPU, digits, new_child, values
from trainer_service.training.datasets import Split
from trainer_service.training.loop import ChildTraining, Diverged
from trainer_service.training.regularizers.registry import training_methods
from trainer_service.training.spec import Method, Precision, Score


def watched(training: ChildTraining) -> list[Tensor]:
    """Return the list that the logits of training passes will be added to."""
    passes: list[Tensor] = []

    def keep(module: torch.nn.Module, _inputs: object, logits: Tensor) -> None:
        if module.training:
            passes.append(logits.detach().clone())

    training.passes.child.register_forward_hook(keep)
    return passes


def f1(labels: Tensor, logits: Tensor) -> float:
    return float(f1_score(labels, logits.argmax(-1), average="macro", zero_division=0))


@pytest.mark.parametrize("method", training_methods())
def test_every_method_trains_the_same_again_to_the_bit(method: str) -> None:
    """Finite losses, scores in [0, 1], and equal chunks and scores for equal specs."""
    results = []
    for _ in range(2):
        training = new_child(method=method)
        chunks = [training.train_chunk(values(training.spec)) for _ in range(training.chunks)]
        results.append(([replace(c, seconds=0) for c in chunks], training.finish()))

    chunks, scores = results[0]
    assert results[1] == results[0]
    assert [c.index for c in chunks] == [1, 2, 3]
    assert all(len(c.losses) == 4 and np.isfinite(c.losses).all() for c in chunks)
    assert all(0 <= c.training_score <= 1 and 0 <= c.validation_score <= 1 for c in chunks)
    assert 0 <= scores.test_score_best <= 1
    assert chunks[-1].epochs == 3


def test_methods_are_paired_by_seed() -> None:
    """One seed gives all methods the same initial weights and batch order; another one others."""
    weights, batches = [], []
    for method, seed in [*((method, 0) for method in training_methods()), ("vanilla", 1)]:
        training = new_child(method=method, seed=seed)
        first = next(p for p in training.passes.child.parameters() if p.ndim == 4)
        weights.append(first.detach().numpy().tobytes())
        training.train_chunk(values(training.spec))
        batches.append(training.next_batch()[0].numpy().tobytes())

    for of_seed_0 in (weights[:-1], batches[:-1]):
        assert len(set(of_seed_0)) == 1
    assert weights[-1] != weights[0]
    assert batches[-1] != batches[0]


def test_losses_and_training_score_come_from_the_same_passes() -> None:
    """MTF is the mean F1 of the N batches (Eqs. 7, 9) on the passes, in train mode, of S_t."""
    training = new_child(method=Method.RD)
    order = torch.Generator().manual_seed(training.spec.seed + 1)
    passes = watched(training)
    chunk = training.train_chunk({"dropout": 0.3})

    labels = digits().training.labels[torch.randperm(64, generator=order)].reshape(4, 16)
    losses = [
        float(torch.nn.functional.cross_entropy(logits, y))
        for logits, y in zip(passes, labels, strict=True)
    ]
    scores = [f1(y, logits) for logits, y in zip(passes, labels, strict=True)]
    assert chunk.losses == pytest.approx(losses, abs=1e-6)
    assert chunk.training_score == pytest.approx(np.mean(scores), abs=1e-6)


def test_all_samples_of_a_chunk_may_be_scored_together() -> None:
    """The client's default replaces the mean over batches; nothing else changes."""
    training, paper = new_child(score=Score.OF_SAMPLES), new_child()
    order = torch.Generator().manual_seed(training.spec.seed + 1)
    passes = watched(training)
    chunk, same = training.train_chunk({}), paper.train_chunk({})

    labels = digits().training.labels[torch.randperm(64, generator=order)]
    assert chunk.training_score == pytest.approx(f1(labels, torch.cat(passes)))
    assert chunk.losses == same.losses
    assert chunk.training_score != same.training_score
    assert chunk.validation_score != same.validation_score


def test_scores_of_validation_batches_are_those_of_single_passes() -> None:
    """Evaluating each drawn image once gives loss and MVF of m passes (Eqs. 8, 10)."""
    training, validation = new_child(), digits().validation
    draws = training._draws.get_state()
    chunk = training.train_chunk({})
    training._draws.set_state(draws)
    losses, scores = [], []
    for _ in range(3):
        places = torch.randperm(len(validation), generator=training._draws)[:16]
        labels = validation.labels[places]
        logits = training.passes.evaluate(validation.images[places])
        losses.append(float(torch.nn.functional.cross_entropy(logits, labels)))
        scores.append(f1(labels, logits))

    assert chunk.validation_loss == pytest.approx(np.mean(losses), abs=1e-5)
    # Rounding differs with the batch, in the last bits of a logit: predictions do not.
    assert chunk.validation_score == pytest.approx(np.mean(scores), abs=1e-12)


def test_a_child_can_overfit() -> None:
    """Without regularization 32 images are learned by heart: the training score reaches 1."""
    training = new_child(training_size=32, width=0.125, chunk_size=20, chunks=5, learning_rate=3e-3)

    chunks = [training.train_chunk({}) for _ in range(5)]

    assert chunks[-1].training_score == 1.0
    assert chunks[-1].losses[-1] < 0.1


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    """Diverged names chunk and step, and the scores so far are available."""
    training = new_child(learning_rate=1e30)

    with pytest.raises(Diverged, match="chunk 1, step"):
        training.train_chunk({})
    assert 0 <= training.finish().test_score_last <= 1


def test_the_best_epoch_is_judged_with_its_own_weights() -> None:
    """The best validation score is the largest of all epochs, its epoch from 1."""
    training = new_child(chunks=5)
    for _ in range(5):
        training.train_chunk({})
    scores = training.finish()

    assert scores.validation_score_best == max(training._epoch_scores)
    assert training._epoch_scores[scores.best_epoch - 1] == scores.validation_score_best
    logits = training.evaluate(training.all_validation)
    assert f1(digits().validation.labels, logits) == pytest.approx(scores.validation_score_best)


def test_the_length_can_be_given_in_epochs() -> None:
    """Six epochs of four steps are 24 steps: six chunks of four."""
    assert new_child(chunks=None, epochs=6).chunks == 6
    assert new_child(chunks=None, epochs=1, chunk_size=3).chunks == 2


def test_bf16_trains() -> None:
    """Autocast gives finite float losses."""
    assert np.isfinite(new_child(precision=Precision.BF16).train_chunk({}).losses).all()


def test_a_split_smaller_than_a_batch_is_one_batch() -> None:
    """An epoch of few images is one step of all of them."""
    whole = digits().training
    small = replace(digits(), training=Split(whole.images[:10], whole.labels[:10]))

    assert ChildTraining(CHILD, small, CPU).train_chunk({}).epochs == 4


@pytest.mark.parametrize(("method", "sites"), [("rd", 5), ("rni", 4), ("vanilla", None)])
def test_a_training_tells_what_it_is_about(method: str, sites: int | None) -> None:
    """As it is trained: a split smaller than a batch is one, and a site is a place in the child."""
    whole = digits().training
    small = replace(digits(), training=Split(whole.images[:10], whole.labels[:10]))
    training = ChildTraining(replace(CHILD, method=method, learning_rate=0.01), small, CPU)

    assert training.problem == Problem(
        classes=10,
        training_samples=10,
        batch_size=10,
        learning_rate=0.01,
        parameters=sum(tensor.numel() for tensor in training.passes.child.parameters()),
        sites=sites,
    )
