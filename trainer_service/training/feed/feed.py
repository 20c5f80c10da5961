"""How a split's images come to the device: all of them beforehand, or ahead of their use.

Both give the same images in the same order, to the bit.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from agent_service.shutdown import end_with_parent
from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.files import ImageFiles
from trainer_service.training.datasets.memory import Memory, fits, free_bytes
from trainer_service.training.datasets.values import Images, Pixels, Split

log = logging.getLogger(__name__)

PRELOAD = ["trainer_service.training.datasets.files"]
"""Modules that reading processes have imported when they start: torch alone takes seconds."""
MOST_READERS = 8
"""Processes that read the images of one split."""
PIECE = 256
"""Images that one of them reads at once: each holds two pieces ready, whatever the batches."""


class ResidentFeed:
    """A split that is held on the device, as uint8."""

    def __init__(self, split: Split, device: torch.device) -> None:
        """Copy the split to `device`; its images must be in memory."""
        assert isinstance(split.images, Tensor), "files are read by load_images, or streamed"
        self._images = split.images.to(device)
        self.labels = split.labels.to(device)
        """int64[n], on the device."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def batches(self, places: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images at each of `places`, int64[b] on the device, as uint8[b, c, h, w]."""
        for batch in places:
            yield self._images[batch]


class StreamedFeed:
    """A split that does not fit on the device: batches are read, and copied, ahead of their use.

    Files are read by processes of their own, since decoding in this one would hold up the training.
    Images in host memory need none. One iteration at a time.
    """

    def __init__(self, split: Split, device: torch.device, *, children: int = 1) -> None:
        """Start no process yet; the first batches do.

        Args:
            split: what is read.
            device: where batches go.
            children: that train in this process, each with feeds of its own: they share the cores.
        """
        self.labels = split.labels.to(device)
        """int64[n], on the device."""
        self._device = device
        self._places: list[list[int]] = []
        is_read = isinstance(split.images, ImageFiles)
        self._loader: DataLoader[Tensor | DataError] = DataLoader(
            _Reader(split.images),  # type: ignore[arg-type]  # it reads whole batches only
            batch_sampler=self._places,
            collate_fn=_as_it_is,
            num_workers=_readers(children) if is_read else 0,
            multiprocessing_context=_context() if is_read else None,
            worker_init_fn=_begin_reading,
            persistent_workers=is_read,
            pin_memory=device.type == "cuda",
            # Else each iteration would draw from the global generator, which others may draw from.
            generator=torch.Generator(),
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def batches(self, places: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the images at each of `places`, int64[b], as uint8[b, c, h, w] on the device.

        Places on a GPU are copied from it, once. Reading begins with this call.

        Raises:
            DataError: at the batch with an image that cannot be read, or if a reader died.
        """
        parts = list(places)
        wanted = torch.split(torch.cat(parts).cpu(), [len(part) for part in parts])
        pieces = [torch.split(batch, PIECE) for batch in wanted]
        self._places[:] = [piece.tolist() for batch in pieces for piece in batch]
        read = _checked(iter(self._loader))
        if self._device.type == "cuda":
            read = _copied_ahead(read, self._device)
        return _joined(read, [len(batch) for batch in pieces])


Feed = ResidentFeed | StreamedFeed


class _Reader:
    """Reads the images of a whole batch at once, in the loader's processes."""

    def __init__(self, images: Pixels) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, places: list[int]) -> Tensor | DataError:
        """Return uint8[b, c, h, w]; an error as a value, which keeps its message as it is."""
        try:
            return self._images[torch.tensor(places)]
        except DataError as error:
            return error


def _begin_reading(_reader: int) -> None:
    # A forked reader's parent is the server process, which lives while readers do; so torch's own
    # watch would not see that the training was killed.
    end_with_parent()


def _as_it_is(batch: Any) -> Any:
    return batch


def _checked(batches: Iterator[Tensor | DataError]) -> Iterator[Tensor]:
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            cause = str(error).splitlines()[0]
            if "DataLoader worker" not in cause:  # torch's words for a reader that was killed
                raise
            raise _died(cause) from error
        except (ConnectionError, EOFError, FileNotFoundError) as error:  # as it handed a batch over
            raise _died(repr(error)) from error
        if isinstance(batch, DataError):
            raise batch
        yield batch


def _joined(pieces: Iterator[Tensor], counts: list[int]) -> Iterator[Tensor]:
    """Yield batches that were read in so many pieces each."""
    for count in counts:
        batch = list(islice(pieces, count))
        yield batch[0] if count == 1 else torch.cat(batch)


def _died(cause: str) -> DataError:
    return DataError(f"a process that reads images died; is memory short? {cause}")


def _copied_ahead(batches: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Yield batches on the GPU; the next one is copied, from pinned memory, while one is used."""
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    waiting: Tensor | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            copy = batch.to(device, non_blocking=True)
        if waiting is not None:
            yield waiting
        torch.cuda.current_stream(device).wait_stream(copying)
        copy.record_stream(torch.cuda.current_stream(device))
        waiting = copy
    if waiting is not None:
        yield waiting


def _readers(children: int) -> int:
    """Return how many processes read for each of so many children: one core is the training's."""
    return max(1, min(MOST_READERS, len(os.sched_getaffinity(0)) - 1) // children)


def _context() -> multiprocessing.context.ForkServerContext:
    """Return how reading processes start: from one that has torch, but no threads and no GPU."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def choose_feed(
    images: Images, device: torch.device, *, children: int = 1
) -> Callable[[Split, torch.device], Feed]:
    """Return how the images come to a device, by the memory that is free there; says so in the log.

    Images that `load_images` left as files do not fit in memory, so they are streamed.
    """
    splits = (images.training, images.validation, images.test)
    size = sum(split.bytes for split in splits)
    are_files = any(isinstance(split.images, ImageFiles) for split in splits)
    is_on_device = device.type == "cpu" and not are_files  # it is there already
    if images.memory is Memory.AUTO:
        is_resident = is_on_device or (not are_files and fits(size, device))
    else:
        is_resident = images.memory is Memory.RESIDENT
    log.info(
        "images are %s: %d MB, %d MB free on %s, --data-memory %s",
        "resident" if is_resident else "streamed",
        size // 2**20,
        free_bytes(device) // 2**20,
        device,
        images.memory,
    )
    return ResidentFeed if is_resident else partial(StreamedFeed, children=children)
