"""Scores and chunks: exact, by property."""

import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from agent_service.scores import macro_f1
from trainer_service.training.chunk import chunk_of


@given(st.data(), st.integers(1, 12), st.integers(1, 40), st.integers(1, 4))
def test_macro_f1_is_scikit_learns(
    data: st.DataObject, classes: int, size: int, batches: int
) -> None:
    """Each batch's score equals f1_score(average="macro") with its default labels, to 1e-6."""
    drawn = st.lists(
        st.lists(st.integers(0, classes - 1), min_size=size, max_size=size),
        min_size=batches,
        max_size=batches,
    )
    labels, predictions = np.array(data.draw(drawn)), np.array(data.draw(drawn))

    scores = macro_f1(torch.from_numpy(predictions), torch.from_numpy(labels), classes=classes)

    expected = [
        f1_score(y, p, average="macro", zero_division=0)
        for y, p in zip(labels, predictions, strict=True)
    ]
    assert scores.tolist() == pytest.approx(expected, abs=1e-6)


@given(st.integers(1, 10**6), st.integers(1, 1000))
def test_each_propagation_has_its_chunk(k: int, chunk_size: int) -> None:
    """Eq. 2 as the paper writes it."""
    expected = k // chunk_size + (1 if k % chunk_size else 0)

    assert chunk_of(k, chunk_size=chunk_size) == expected


@given(st.integers(1, 5), st.lists(st.integers(-3, 7), min_size=1, max_size=30), st.randoms())
def test_labels_outside_the_classes_are_ignored(
    classes: int, drawn: list[int], random: Random
) -> None:
    """With their predictions: as scikit-learn scores what is left; NaN where nothing is."""
    labels = torch.tensor(drawn)
    predictions = torch.tensor([random.randrange(classes) for _ in drawn])
    counted = (labels >= 0) & (labels < classes)

    score = macro_f1(predictions, labels, classes=classes).item()

    if not counted.any():
        assert math.isnan(score)
        return
    kept = labels[counted], predictions[counted]
    assert score == pytest.approx(f1_score(*kept, average="macro", zero_division=0))
