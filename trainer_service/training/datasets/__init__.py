"""Images to train on, from a file's bytes to the three splits of a child.

catalog  all data sets by name
digits cifar fer2013 affectnet folder npz    a layout each: what it is, its terms, how it is read
decoding an image file's pixels, as a viewer shows them
files    images that stay files until they are read
listing  the entries of a folder: which are images, and what the others are
values   a data set, a split of it, and as a child trains on it
pixels   all images of a split, a few at a time: statistics, sizes, duplicates
memory   what is held in memory, and what stays on the disk
load     all of these in their order, and what is drawn by seed
checks   what a careful user should know about a data set

Nothing is ever replaced by made-up data: what is not there is an error that says where to put it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer_service.training.datasets.decoding import DataError
    from trainer_service.training.datasets.files import ImageFiles
    from trainer_service.training.datasets.load import load_images
    from trainer_service.training.datasets.values import Images, Split

__all__ = ["DataError", "ImageFiles", "Images", "Split", "load_images"]
_MODULES = {
    "DataError": "decoding",
    "ImageFiles": "files",
    "Images": "values",
    "Split": "values",
    "load_images": "load",
}


def __getattr__(name: str) -> Any:
    """Import on demand: specs need the names of data sets alone, without torch."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
