"""A stack of problems, each with its twins: children that share all but what they run under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from agent_service.domain.problem import Problem
from agent_service.scores import macro_f1
from trainer_service.pretraining.data import ProblemData, problem_data
from trainer_service.pretraining.distribution import ProblemDraw, Problems, StackDraw
from trainer_service.training.child.inputs import Inputs
from trainer_service.training.datasets.pixels import pixel_statistics
from trainer_service.training.passes import Passes
from trainer_service.training.regularizers.registry import steerable
from trainer_service.training.spec import Score, Sites, TrainingSpec
from trainer_service.training.stacked import StackedPasses

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StackChunk:
    """What a chunk brought to each of K children."""

    losses: FloatArray
    """float64[K, N]; not finite where a child diverged."""
    training: FloatArray
    """Macro F1 of the chunk's training samples, float64[K]."""
    validation: FloatArray
    """Macro F1 of the validation images, float64[K]."""
    test: FloatArray
    """Macro F1 of test images, whose labels are never wrong, float64[K]."""


class ProblemStack:
    """K = groups x twins children that train in lockstep, the twins of a problem side by side."""

    def __init__(self, draw: StackDraw, problems: Problems, root: Path) -> None:
        """Draw the data and build the children.

        Raises:
            DataError: a data set is missing or invalid.
        """
        self._draw, self._twins = draw, problems.twins
        self._chunk_size = problems.chunk_size
        self._steps = 0
        data = [problem_data(problems.data[p.source], root, draw, p) for p in draw.problems]
        self._data = data
        self._batch = min(draw.batch_size, *(len(d.labels) for d in data))
        specs = [self._spec(problems, seed=p.seed) for p in draw.problems]
        self._passes = [
            self._child(spec, its)
            for spec, its in zip(specs, data, strict=True)
            for _ in range(problems.twins)
        ]
        self._stacked = StackedPasses(self._passes, specs[0])
        self._images, self._labels = _padded([(d.images, d.labels) for d in data])
        self._held = _padded([_held_images(d) for d in data])
        self._order = torch.stack(
            [self._order_of(d, p.seed) for d, p in zip(data, draw.problems, strict=True)]
        )
        self.problems = [self._told(d, p) for d, p in zip(data, draw.problems, strict=True)]
        """What each problem's runs tell of it, hidden descriptors left out."""

    def _spec(self, problems: Problems, *, seed: int) -> TrainingSpec:
        regularizer = steerable(problems.regularizer)
        return TrainingSpec(
            model=self._draw.model,
            width=self._draw.width,
            depth=self._draw.depth,
            method=regularizer.steered.lower(),
            sites=Sites.EACH,
            chunks=self._draw.chunks,
            chunk_size=problems.chunk_size,
            batch_size=self._draw.batch_size,
            learning_rate=self._draw.learning_rate,
            score=Score.OF_SAMPLES,
            seed=seed,
        )

    def _child(self, spec: TrainingSpec, data: ProblemData) -> Passes:
        _count, channels, height, width = data.images.shape
        mean, deviation = pixel_statistics(data.images)
        inputs = Inputs(
            channels=channels,
            height=height,
            width=width,
            class_names=tuple(map(str, range(self._draw.classes))),
            mean=tuple(mean.flatten().tolist()),
            deviation=tuple(deviation.flatten().tolist()),
        )
        torch.manual_seed(spec.seed)
        return Passes(spec, inputs, torch.device("cpu"), batch=self._batch)

    def _order_of(self, data: ProblemData, seed: int) -> Tensor:
        """Return the places of each step's images, int64[steps, b]: epoch after epoch."""
        generator = torch.Generator().manual_seed(seed + 1)
        count, steps = len(data.labels), self._draw.chunks * self._chunk_size
        each = count // self._batch
        epochs = [
            torch.randperm(count, generator=generator)[: each * self._batch]
            for _ in range(-(-steps // each))
        ]
        return torch.cat(epochs).view(-1, self._batch)[:steps]

    @property
    def planned_chunks(self) -> list[int | None]:
        """What each problem's runs tell of their length."""
        hidden = [p.hidden for p in self._draw.problems]
        return [None if "planned_chunks" in names else self._draw.chunks for names in hidden]

    def _told(self, data: ProblemData, problem: ProblemDraw) -> Problem:
        first = self._passes[0]
        names = list(first.regularization.strengths)
        told: dict[str, Any] = {
            "classes": data.classes,
            "training_samples": len(data.labels),
            "batch_size": self._batch,
            "learning_rate": self._draw.learning_rate,
            "parameters": sum(p.numel() for p in first.child.parameters()),
            "sites": len(self._driven(names)),
        }
        return replace(Problem(**told), **dict.fromkeys(problem.hidden & told.keys()))

    def _driven(self, names: Sequence[str]) -> list[str]:
        """Return the hyperparameters, one a site, that the controller's value sets."""
        return [names[-1]] if self._draw.sites == "classifier" else list(names)

    @property
    def is_over(self) -> bool:
        """Whether all chunks are trained."""
        return self._steps == len(self._order[0])

    def train_chunk(self, values: Sequence[float]) -> StackChunk:
        """Train the next chunk, each child under its own value, and score it."""
        for passes, value in zip(self._passes, values, strict=True):
            names = list(passes.regularization.strengths)
            driven = self._driven(names)
            passes.regularization.apply({n: value if n in driven else 0.0 for n in names})
        losses, predictions, labels = [], [], []
        for _ in range(self._chunk_size):
            batch = self._batch_of(self._order[:, self._steps])
            loss, predicted = self._stacked.step(*batch)
            self._steps += 1
            losses.append(loss)
            predictions.append(predicted)
            labels.append(batch[1])
        training = self._scores(torch.cat(predictions), torch.cat(labels))
        validation, test = self._held_scores()
        return StackChunk(
            losses=torch.stack(losses, 1).double().numpy(),
            training=training,
            validation=validation,
            test=test,
        )

    def _batch_of(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return images uint8[b, K c, h, w] and labels int64[b, K] of places int64[groups, b]."""
        groups = torch.arange(len(places))[:, None]
        images, labels = self._images[groups, places], self._labels[groups, places]
        return self._for_twins(images), labels.repeat_interleave(self._twins, 0).T.contiguous()

    def _for_twins(self, images: Tensor) -> Tensor:
        """Return uint8[b, K c, h, w] of uint8[groups, b, c, h, w]."""
        return images.repeat_interleave(self._twins, 0).transpose(0, 1).flatten(1, 2)

    def _held_scores(self) -> tuple[FloatArray, FloatArray]:
        """Return the scores of validation and test images, float64[K] each."""
        images, labels = self._held
        parts = torch.split(images, 128, dim=1)
        logits = torch.cat([self._stacked.evaluate(self._for_twins(part)) for part in parts])
        predictions = logits.view(len(logits), len(self._passes), -1).argmax(-1)
        tests = torch.tensor([len(d.test_labels) for d in self._data])[:, None]
        is_test = torch.arange(labels.shape[1]) < tests
        scores = [
            self._scores(predictions, labels.where(part, -1).repeat_interleave(self._twins, 0).T)
            for part in (~is_test, is_test)
        ]
        return scores[0], scores[1]

    def _scores(self, predictions: Tensor, labels: Tensor) -> FloatArray:
        """Return macro F1, float64[K], of int64[n, K]; labels of -1 are left out."""
        scores = macro_f1(predictions.T, labels.T, classes=self._draw.classes)
        found: FloatArray = scores.numpy()
        return found


def _held_images(data: ProblemData) -> tuple[Tensor, Tensor]:
    images = torch.cat([data.test_images, data.validation_images])
    return images, torch.cat([data.test_labels, data.validation_labels])


def _padded(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return images and labels of several problems as two tensors; labels of -1 fill the gaps."""
    most = max(len(labels) for _images, labels in parts)
    images = torch.zeros(len(parts), most, *parts[0][0].shape[1:], dtype=torch.uint8)
    labels = torch.full((len(parts), most), -1)
    for place, (some, theirs) in enumerate(parts):
        images[place, : len(some)], labels[place, : len(theirs)] = some, theirs
    return images, labels
