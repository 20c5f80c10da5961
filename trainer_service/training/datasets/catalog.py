"""All data sets, by their names in specs; their modules are imported on demand."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from agent_service.domain.checks import quoted
from agent_service.domain.errors import InvalidArgument, invalid

if TYPE_CHECKING:
    from trainer_service.training.datasets.values import DataSet, Stored

_HERE = __name__.rpartition(".")[0]
DATASETS = {
    "digits": f"{_HERE}.digits:DIGITS",
    "cifar10": f"{_HERE}.cifar:CIFAR10",
    "cifar100": f"{_HERE}.cifar:CIFAR100",
    "fer2013": f"{_HERE}.fer2013:FER2013",
    "affectnet": f"{_HERE}.affectnet:AFFECTNET",
    "folder:NAME": f"{_HERE}.folder:FOLDER",
    "npz:NAME": f"{_HERE}.npz:NPZ",
}
"""Module and attribute of each; a NAME stands for any data set of the user's of that kind."""


def check_dataset(dataset: str) -> None:
    """Check the name of a data set; raises InvalidArgument."""
    kind, _, name = dataset.partition(":")
    if dataset in DATASETS and not name:
        return
    if f"{kind}:NAME" not in DATASETS or not name:
        raise invalid("dataset", f"{quoted(dataset)} is not one of {', '.join(DATASETS)}")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise invalid("dataset", f"{quoted(name)} must stay inside the data folder")


def catalog() -> dict[str, DataSet]:
    """Return all data sets, by the part of their names before the colon."""
    return {name.partition(":")[0]: find_dataset(name) for name in DATASETS}


def find_dataset(dataset: str) -> DataSet:
    """Return the data set of a checked name."""
    kind, _, name = dataset.partition(":")
    module, _, place = DATASETS[f"{kind}:NAME" if name else kind].partition(":")
    found: DataSet = getattr(import_module(module), place)
    return found


def read_stored(dataset: str, root: Path) -> Stored:
    """Read a data set from the data folder, as it is stored.

    Args:
        dataset: its name in a spec, e.g. `fer2013` or `folder:faces`.
        root: the data folder.

    Raises:
        DataError: it is missing, with instructions, or invalid.
    """
    # Here, since specs do without images.
    from trainer_service.training.datasets.decoding import DataError

    kind, _, name = dataset.partition(":")
    entry = find_dataset(dataset)
    try:
        return entry.read(root / (name or kind))
    except InvalidArgument as error:  # a text that cannot be read
        raise DataError(f"{error}; mend the file, or get it again") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        if name:
            place = str(root / name)
            raise DataError(f"{error}; make it: {entry.put.replace('NAME', place)}") from error
        raise DataError(
            f"{dataset} is not in {root} ({error}). Get it: {entry.get}. Put it below {root}: "
            f"{entry.put}"
        ) from error
