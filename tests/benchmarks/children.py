"""Children of the trainer's benchmarks: specs, images, and many at once in each way."""

from dataclasses import replace
from pathlib import Path

import torch

from tests.benchmarks.bare import VmappedLoop, seconds
from trainer_service.training.datasets import Images, Split, load_images
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import Method, TrainingSpec
from trainer_service.training.stacked import StackedTraining

SIZE, CLASSES = 48, 7
RATE = {"dropout": 0.2}


def spec_of(**changes: object) -> TrainingSpec:
    """Return a ResNet34 under reinforced dropout, batches of 64, as in the paper."""
    return replace(TrainingSpec(method=Method.RD, chunks=1_000_000), **changes)  # type: ignore[arg-type]


def grey_images(count: int = 4096) -> Images:
    """Return noise in the shape of FER2013: speed does not depend on what is seen."""
    draws = torch.Generator().manual_seed(0)
    shape = (count, 1, SIZE, SIZE)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draws)
    training = Split(pixels, torch.arange(count) % CLASSES)
    validation = Split(pixels[: count // 2], training.labels[: count // 2])
    names = tuple(str(c) for c in range(CLASSES))
    return Images(training=training, validation=validation, test=validation, class_names=names)


def digits() -> Images:
    return load_images(spec_of(), Path("."))


def steps_of(children: list[ChildTraining], steps: int) -> None:
    """Train each child for some steps, one after another."""
    for child in children:
        child.begin_chunk(RATE)
        for _ in range(steps):
            child.end_step(*child.passes.train(*child.next_batch()))


class Many:
    """K children of one spec, in each way to train them; images a second of training passes."""

    def __init__(self, spec: TrainingSpec, images: Images, device: torch.device, k: int) -> None:
        specs = [replace(spec, seed=seed) for seed in range(k)]
        self._images = k * spec.batch_size
        self._device, self._steps = device, spec.chunk_size
        self._alone = [ChildTraining(spec, images, device) for spec in specs]
        self._children = [ChildTraining(spec, images, device) for spec in specs]
        self._stacked = StackedTraining(self._children).passes
        self._vmapped = VmappedLoop(spec, images, k) if device.type == "cpu" else None
        for warm in (self._one_by_one, self._together, self._by_vmap):
            warm(2)

    def _one_by_one(self, steps: int) -> None:
        steps_of(self._alone, steps)

    def _together(self, steps: int) -> None:
        for child in self._children:
            child.begin_chunk(RATE)
        for _ in range(steps):
            results = self._stacked.train([child.next_batch() for child in self._children])
            for child, result in zip(self._children, results, strict=True):
                child.end_step(*result)

    def _by_vmap(self, steps: int) -> None:
        if self._vmapped is not None:
            self._vmapped.train(steps)

    def measure(self, name: str) -> dict[str, float]:
        """Return images a second, one after another and stacked in each way."""
        ways = {"alone": self._one_by_one, "stacked": self._together}
        if self._vmapped is not None:
            ways["vmap"] = self._by_vmap
        images = self._images * self._steps
        return {
            f"{name}_{way}_per_s": images / seconds(lambda run=run: run(self._steps), self._device)
            for way, run in ways.items()
        }
