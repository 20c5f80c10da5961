"""Problems: what a file says, what is drawn, and what a wrong file is told."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer_service.pretraining.problems import tiny
from trainer_service.pretraining.data import problem_data
from trainer_service.pretraining.distribution import (
    DESCRIPTORS,
    WrongProblems,
    draw_stack,
    read_problems,
    shipped_names,
)


def test_draws_are_those_of_their_seed_and_lie_within_the_distribution() -> None:
    problems = tiny(unknown=0.5, clean=0.5)
    draws = [draw_stack(problems, seed=seed) for seed in range(200)]
    every = [problem for draw in draws for problem in draw.problems]

    assert draws[7] == draw_stack(problems, seed=7) != draws[8]
    assert {draw.chunks for draw in draws} == {2, 3}
    assert {draw.classes for draw in draws} == {2, 3, 4, 5}
    assert all(60 <= problem.training_size <= 90 for problem in every)
    assert all(5e-4 <= draw.learning_rate <= 8e-3 for draw in draws)
    noises = [problem.label_noise for problem in every if problem.label_noise]
    assert 0.1 <= min(noises) < max(noises) <= 0.6
    # 400 draws of a half each: five deviations are 0.125.
    assert len(noises) / len(every) == pytest.approx(0.5, abs=0.125)
    for name in DESCRIPTORS:
        hidden = sum(name in problem.hidden for problem in every)
        assert hidden / len(every) == pytest.approx(0.5, abs=0.125)


@pytest.mark.parametrize("is_validation_wrong", [0.0, 1.0])
def test_labels_are_wrong_where_the_draw_says(is_validation_wrong: float) -> None:
    """Test labels never; validation labels with training's, or not."""
    noisy, clean = (
        tiny(clean=clean, wrong_validation=is_validation_wrong, training_size=(900, 900))
        for clean in (0.0, 1.0)
    )
    stack = draw_stack(noisy, seed=3)
    (wrong, right) = (
        problem_data(noisy.data[0], Path(), draw_stack(some, seed=3), draw)
        for some in (noisy, clean)
        for draw in draw_stack(some, seed=3).problems[:1]
    )
    share = stack.problems[0].label_noise

    assert torch.equal(wrong.images, right.images)
    assert torch.equal(wrong.test_labels, right.test_labels)
    flipped = float((wrong.labels != right.labels).double().mean())
    assert flipped == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / 900))
    assert torch.equal(wrong.validation_labels, right.validation_labels) == (
        not is_validation_wrong
    )


def test_classes_that_are_left_out_are_never_drawn() -> None:
    """Those of stored data: digits without 3 and 7."""
    data: dict[str, Any] = {"dataset": "digits", "without": ["3", "7"], "sizes": [8], "grey": 1}
    problems = tiny(data=[data], classes=(20, 20))
    draw = draw_stack(problems, seed=0)

    its = problem_data(problems.data[0], Path(), draw, draw.problems[0])

    assert its.classes == 8
    assert its.images.shape[1:] == (1, 8, 8)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_distributions_are_read(name: str) -> None:
    """They leave out what shipped policies are judged on."""
    problems = read_problems(name)

    assert name.startswith(problems.regularizer)
    assert len(problems.data[0].without) == 30
    assert {"digits", "fer2013"}.isdisjoint(table.dataset for table in problems.data)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("twinz = 4", "twinz: extra inputs are not permitted"),
        ("chunks = [9, 3]", "chunks: value error, .9.0, 3.0. must be two numbers above 0"),
        ("clean = 2", "clean: input should be less than or equal to 1"),
        ("regularizer = 'dni'", "regularizer: 'dni' is not one of noise, dropout"),
        ("[[models]]\nmodel = 'mlq'", "models.0.model: input should be"),
        ("= 3", "Invalid statement"),
    ],
)
def test_a_wrong_file_is_told_by_field(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "problems.toml"
    rest = "" if "models" in text else "\n[[models]]\nmodel = 'mlp'"
    path.write_text(f"{text}{rest}\n[[data]]\ndataset = 'prototypes'\n")

    with pytest.raises(WrongProblems, match=says):
        read_problems(str(path))


def test_a_file_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(WrongProblems, match=r"nowhere.toml: No such file.*dropout-1, noise-1"):
        read_problems("nowhere.toml")
