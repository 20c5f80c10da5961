"""A child's training, chunk by chunk; whoever decides the values stands outside.

Inside a chunk nothing is copied off the device: losses and predictions wait there until it is full.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agent_service.domain.problem import Problem
from agent_service.scores import macro_f1
from trainer_service.training.child.inputs import inputs_of
from trainer_service.training.chunk import Chunk, FinalScores, chunk_of
from trainer_service.training.datasets import Images
from trainer_service.training.digest import weights_digest
from trainer_service.training.feed.augment import crop_flip
from trainer_service.training.feed.feed import Feed, choose_feed
from trainer_service.training.passes import Passes
from trainer_service.training.spec import Augment, Score, TrainingSpec


class Diverged(Exception):
    """A training loss was not finite; the message names chunk and step."""


class ChildTraining:
    """One training of one child.

    The same spec and data give the same bits on a CPU. Batch order, augmentation, the draws of
    validation batches and all noise come from generators of its own, so that weights and batches
    are the same for every method under one seed, whatever noise the methods draw and whatever
    trains beside it.
    """

    def __init__(
        self, spec: TrainingSpec, images: Images, device: torch.device, *, children: int = 1
    ) -> None:
        """Build the child, its weights drawn from `spec.seed`, and put the data on the device.

        `children` is the number of those that train in this process.

        Raises:
            InvalidArgument: the child does not fit the images, the device, or batches of one.
        """
        self.spec = spec
        self._device = device
        self.inputs = inputs_of(images)
        """Properties of the images that the child is built for."""
        self._classes = len(images.class_names)
        self._feed = choose_feed(images, device, children=children)
        self._training = self._feed(images.training, device)
        self._validation = self._feed(images.validation, device)
        self._test = images.test
        self._order = torch.Generator().manual_seed(spec.seed + 1)
        self._draws = torch.Generator().manual_seed(spec.seed + 2)
        self._augmentation_draws = torch.Generator().manual_seed(spec.seed + 4)
        torch.manual_seed(spec.seed)
        batch = self._batch_size(self._training)
        self.passes = Passes(spec, self.inputs, device, batch=batch)
        if batch == 1:
            self.passes.check_single_images()
        self._steps = 0
        self._batches: list[Tensor] = []
        """Places of the epoch's batches that are still to come."""
        self._images: Iterator[Tensor] = iter(())
        """Their images."""
        self._losses: list[Tensor] = []
        """Losses of the chunk's steps, on the device, as predictions and labels."""
        self._predictions: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._epoch_scores: list[float] = []
        self._best_weights: dict[str, Tensor] = {}

    @property
    def chunks(self) -> int:
        """Chunks planned, the last one possibly past the end of the last epoch."""
        if self.spec.chunks is not None:
            return self.spec.chunks
        assert self.spec.epochs is not None
        steps = self.spec.epochs * self._steps_per_epoch
        return chunk_of(steps, chunk_size=self.spec.chunk_size)

    @property
    def problem(self) -> Problem:
        """What the training is about, as it is trained."""
        child = self.passes.child
        return Problem(
            classes=self._classes if self._classes > 1 else None,
            training_samples=len(self._training),
            batch_size=self._batch_size(self._training),
            learning_rate=self.spec.learning_rate,
            parameters=sum(p.numel() for p in child.parameters() if p.requires_grad),
            sites=self.passes.regularization.site_count or None,
        )

    @property
    def _steps_per_epoch(self) -> int:
        """Full batches in the training split; one, if it is smaller than a batch."""
        return max(1, len(self._training) // self.spec.batch_size)

    @property
    def trained_chunks(self) -> int:
        """Chunks trained so far."""
        return self._steps // self.spec.chunk_size

    def _generators(self) -> dict[str, torch.Generator]:
        """Return all that draws anything while chunks are trained; a checkpoint holds each."""
        return {
            "order": self._order,
            "draws": self._draws,
            "augmentation": self._augmentation_draws,
            "noise": self.passes.regularization.generator,
        }

    def state(self) -> dict[str, Any]:
        """Return all that decides what follows the last whole chunk, for `restore`.

        Its tensors are the training's own: write them down before the next chunk.
        """
        return {
            "steps": self._steps,
            "places": list(self._batches),
            "epoch_scores": list(self._epoch_scores),
            "best_weights": dict(self._best_weights),
            "weights": self.passes.child.state_dict(),
            "optimizer": self.passes.optimizer.state_dict(),
            "generators": {name: g.get_state() for name, g in self._generators().items()},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state of the same spec, data and kind of device; call it before any chunk.

        What follows is then the same as if it had never ended, to the bit on a CPU.
        """
        self.passes.child.load_state_dict(state["weights"])
        self.passes.optimizer.load_state_dict(state["optimizer"])
        self._steps = state["steps"]
        self._batches = [places.to(self._device) for places in state["places"]]
        if self._batches:
            self._images = self._training.batches(tuple(self._batches))
        self._epoch_scores = list(state["epoch_scores"])
        self._best_weights = {
            name: tensor.to(self._device) for name, tensor in state["best_weights"].items()
        }
        # Last, since what is done above may draw.
        for name, generator in self._generators().items():
            generator.set_state(state["generators"][name])

    def weights_digest(self) -> str:
        """Return SHA-256 of the child's weights as they are; `finish` leaves the best epoch's."""
        return weights_digest(self.passes.child.state_dict())

    def _batch_size(self, feed: Feed) -> int:
        return min(self.spec.batch_size, len(feed))

    def train_chunk(self, values: Mapping[str, float]) -> Chunk:
        """Train N steps under `values`, then validate on m batches.

        Raises:
            Diverged: where a loss is not finite.
            InvalidArgument: where a value is missing, unknown or out of range.
        """
        self.begin_chunk(values)
        for _ in range(self.spec.chunk_size):
            images, labels = self.next_batch()
            self.end_step(*self.passes.train(images, labels))
            if self.is_epoch_over:
                self.end_epoch(self.evaluate(self.all_validation))
        return self.end_chunk(self.evaluate(self.draw_validation()))

    # The parts of a chunk, for children that are trained together: N times `next_batch`, `end_step`
    # and, where an epoch is over, `end_epoch`; then `draw_validation` and `end_chunk`

    def begin_chunk(self, values: Mapping[str, float]) -> None:
        """Start a chunk under `values`."""
        self._started = time.perf_counter()
        self.passes.regularization.apply(values)
        self._losses, self._predictions, self._labels = [], [], []

    def end_step(self, loss: Tensor, predictions: Tensor) -> None:
        """Take what a training step on the last batch brought, on the device."""
        self._losses.append(loss)
        self._predictions.append(predictions)
        self._steps += 1

    @property
    def is_epoch_over(self) -> bool:
        """Whether the last step was an epoch's last."""
        return not self._batches

    @property
    def all_validation(self) -> Tensor:
        """Places of all validation images, int64[n]."""
        return torch.arange(len(self._validation), device=self._device)

    def evaluate(self, places: Tensor) -> Tensor:
        """Return the logits of validation images at `places`, float32[n, classes]."""
        return self._evaluate(self._validation, places)

    def validation_images(self, places: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield validation images at each of `places`, as uint8[b, c, h, w] on the device."""
        yield from self._validation.batches(places)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of a training step's images, (b, c, h, w)."""
        inputs = self.inputs
        return (self._batch_size(self._training), inputs.channels, inputs.height, inputs.width)

    def end_epoch(self, logits: Tensor) -> None:
        """Score all validation images by their logits; keep the weights if no epoch's were better.

        Args:
            logits: float32[n, classes], of the images at `all_validation`.
        """
        score, _accuracy = self._scores(self._validation, logits)
        if not self._epoch_scores or score > max(self._epoch_scores):
            # Cloned one by one: a copy of views would be one of all that they are views of.
            weights = self.passes.child.state_dict()
            self._best_weights = {name: tensor.clone() for name, tensor in weights.items()}
        self._epoch_scores.append(score)

    def draw_validation(self) -> Tensor:
        """Draw the chunk's m validation batches; return the places of their images, each once.

        Batches overlap where the validation split is small, so each image that is drawn goes
        through the child once, and its logits serve all batches that it is in.

        Raises:
            Diverged: where a loss of the chunk is not finite.
        """
        # The one copy of this chunk off the device.
        self._loss_list: list[float] = torch.stack(self._losses).double().tolist()
        for place, loss in enumerate(self._loss_list, start=1):
            if not math.isfinite(loss):
                raise Diverged(f"the loss of chunk {self._index}, step {place} is {loss}")
        count = len(self._validation)
        size = self._batch_size(self._validation)
        places = [
            torch.randperm(count, generator=self._draws)[:size]
            for _ in range(self.spec.validation_batches)
        ]
        self._drawn = torch.stack(places).to(self._device)
        drawn: Tensor
        drawn, self._inverse = torch.unique(self._drawn, return_inverse=True)
        return drawn

    @property
    def _index(self) -> int:
        """Index of the last step's chunk, from 1."""
        return (self._steps - 1) // self.spec.chunk_size + 1

    def end_chunk(self, logits: Tensor) -> Chunk:
        """Return what the chunk brought, with mean loss and score of the m batches (Eq. 10).

        Args:
            logits: float32[n, classes], of the images that `draw_validation` returned.
        """
        predictions, labels = torch.stack(self._predictions), torch.stack(self._labels)
        training_score = self._score(predictions, labels)
        validation_loss, validation_score = self._validation_scores(logits[self._inverse])
        return Chunk(
            index=self._index,
            losses=tuple(self._loss_list),
            training_score=training_score,
            validation_score=validation_score,
            validation_loss=validation_loss,
            values=self.passes.regularization.values(),
            epochs=self._steps / self._steps_per_epoch,
            training_images=self.spec.chunk_size * self._batch_size(self._training),
            validation_images=self.spec.validation_batches * self._batch_size(self._validation),
            seconds=time.perf_counter() - self._started,
        )

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """Return the next batch; an epoch's incomplete last batch is left out."""
        if not self._batches:
            order = torch.randperm(len(self._training), generator=self._order)
            size = self._batch_size(self._training)
            used = order[: self._steps_per_epoch * size].to(self._device)
            self._batches = list(torch.split(used, size))
            self._images = self._training.batches(tuple(self._batches))
        labels = self._training.labels[self._batches.pop(0)]
        images = next(self._images)
        if self.spec.augment is Augment.CROP_FLIP:
            images = crop_flip(images, self._augmentation_draws)
        self._labels.append(labels)
        return images, labels

    def _evaluate(self, feed: Feed, places: Tensor) -> Tensor:
        """Return the logits of the images at `places`, in eval mode."""
        parts = torch.split(places, self.passes.evaluation_images())
        return torch.cat([self.passes.evaluate(images) for images in feed.batches(parts)])

    def _validation_scores(self, logits: Tensor) -> tuple[float, float]:
        """Return mean loss and score of the drawn batches by their logits, [m, B, classes]."""
        labels = self._validation.labels[self._drawn]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return float(loss), self._score(logits.argmax(-1), labels)

    def _score(self, predictions: Tensor, labels: Tensor) -> float:
        """Return the score of a chunk's batches, int64[batches, B]."""
        if self.spec.score is Score.OF_SAMPLES:
            predictions, labels = predictions.flatten(), labels.flatten()
        return float(macro_f1(predictions, labels, classes=self._classes).mean())

    def _scores(self, feed: Feed, logits: Tensor) -> tuple[float, float]:
        """Return macro F1 and accuracy on a whole split by its logits."""
        predictions = logits.argmax(-1)
        score = macro_f1(predictions, feed.labels, classes=self._classes)
        return float(score), float((predictions == feed.labels).double().mean())

    def finish(self) -> FinalScores:
        """Touch the test split, once: with the last weights, and with the best epoch's."""
        if self._batches or not self._epoch_scores:
            self._batches = []
            self.end_epoch(self.evaluate(self.all_validation))
        test = self._feed(self._test, self._device)
        every = torch.arange(len(test), device=self._device)
        last_score, last_accuracy = self._scores(test, self._evaluate(test, every))
        self.passes.child.load_state_dict(self._best_weights)
        best_score, best_accuracy = self._scores(test, self._evaluate(test, every))
        best = max(self._epoch_scores)
        return FinalScores(
            test_score_best=best_score,
            test_score_last=last_score,
            test_accuracy_best=best_accuracy,
            test_accuracy_last=last_accuracy,
            validation_score_best=best,
            validation_score_last=self._epoch_scores[-1],
            best_epoch=self._epoch_scores.index(best) + 1,
        )
