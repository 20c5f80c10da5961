"""Each data set: what it is, its terms, where to get it, where to put it, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent_service.domain.errors import InvalidArgument
from trainer_service.training.datasets.affectnet import read_affectnet
from trainer_service.training.datasets.cifar import read_cifar10, read_cifar100
from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.digits import read_digits
from trainer_service.training.datasets.fer2013 import read_fer2013
from trainer_service.training.datasets.folder import read_folder
from trainer_service.training.datasets.npz import read_npz
from trainer_service.training.datasets.values import TEST, TRAIN, VALIDATION, Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One data set, or one kind of data sets of a user's own."""

    title: str
    terms: str
    get: str
    """Where from; what to run, where one command does it."""
    put: str
    """What is looked for, below the data folder."""
    splits: str
    """Which splits it has itself, and what becomes of them."""
    read: Callable[[Path], Stored]
    """Raises FileNotFoundError where the folder holds none of its layouts, else DataError."""
    published: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Images by split, then by class in the order of labels; empty where none are published."""
    cited: str = ""
    """Where the counts are from."""


_CIFAR = "Free for research; cite Krizhevsky, Learning Multiple Layers of Features, 2009."
CATALOG: Mapping[str, Entry] = {
    "digits": Entry(
        title="1,797 scans of handwritten digits, 8x8, grey, 10 classes (UCI, in scikit-learn)",
        terms="CC BY 4.0",
        get="comes with scikit-learn",
        put="nothing",
        splits="none: a fifth is drawn for the test",
        read=read_digits,
    ),
    "cifar10": Entry(
        title="CIFAR-10: 60,000 small photographs, 32x32, colour, 10 classes",
        terms=_CIFAR,
        get="trainer-service datasets download cifar10 (170 MB, www.cs.toronto.edu/~kriz)",
        put="cifar10/cifar-10-batches-py/",
        splits="training, test",
        read=read_cifar10,
        published={TRAIN: (5000,) * 10, TEST: (1000,) * 10},
        cited="www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "cifar100": Entry(
        title="CIFAR-100: 60,000 small photographs, 32x32, colour, 100 classes",
        terms=_CIFAR,
        get="trainer-service datasets download cifar100 (169 MB, www.cs.toronto.edu/~kriz)",
        put="cifar100/cifar-100-python/",
        splits="training, test",
        read=read_cifar100,
        published={TRAIN: (500,) * 100, TEST: (100,) * 100},
        cited="www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "fer2013": Entry(
        title="FER2013: 35,887 faces in the wild, 48x48, grey, 7 expressions",
        terms="Challenge data, images from the web: research use, do not redistribute; cite "
        "Goodfellow et al., arXiv 1307.0414.",
        get="kaggle.com, challenges-in-representation-learning-facial-expression-recognition-"
        "challenge (fer2013.csv, icml_face_data.csv) or msambare/fer2013 (folders)",
        put="fer2013/: fer2013.npz, fer2013.csv, icml_face_data.csv, or train/ and test/, with or "
        "without val/",
        splits="Training, PublicTest (validates), PrivateTest (tests); the folders have both "
        "tests in one",
        read=read_fer2013,
        published={
            TRAIN: (3995, 436, 4097, 7215, 4830, 3171, 4965),
            VALIDATION: (467, 56, 496, 895, 653, 415, 607),
            TEST: (491, 55, 528, 879, 594, 416, 626),
        },
        cited="Kaggle's fer2013.csv; the sums in arXiv 1307.0414",
    ),
    "affectnet": Entry(
        title="AffectNet: 291,651 faces in the wild with 8 expressions, read as 224x224, colour",
        terms="Research only, by a signed agreement; cite Mollahosseini et al., arXiv 1708.03985.",
        get="ask its authors: mohammadmahoor.com/affectnet",
        put="affectnet/: train_set/ and val_set/ with images/ID.jpg, annotations/ID_exp.npy; or "
        "training.csv, validation.csv and Manually_Annotated_Images/",
        splits="training, and the official validation set, which tests",
        read=read_affectnet,
        published={
            TRAIN: (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750),
            TEST: (500,) * 8,
        },
        cited="arXiv 1708.03985, table 3, of which 500 a class validate; one release lacks one",
    ),
    "folder": Entry(
        title="folder:NAME, images of your own",
        terms="yours",
        get="yours",
        put="NAME/<class>/<image>, or NAME/{train,val,test}/<class>/<image>",
        splits="those that are there, in any case: train or training; val, valid, validation, dev "
        "or eval; test or testing; without a test, a fifth of training is drawn",
        read=read_folder,
    ),
    "npz": Entry(
        title="npz:NAME, arrays of your own",
        terms="yours",
        get="yours",
        put="NAME.npz: images uint8[n, h, w] or [n, h, w, 3], labels int[n], optionally split "
        "(train, validation, test) and class_names",
        splits="those that are there; without a test, a fifth of training is drawn",
        read=read_npz,
    ),
}
"""By name, the part of a spec's data set before a colon."""


def read_stored(dataset: str, root: Path) -> Stored:
    """Read a data set as it is stored below the data folder.

    Args:
        dataset: its name in a spec, e.g. `fer2013` or `folder:faces`.
        root: the data folder.

    Raises:
        DataError: where it is not there, with what to do, or where it is wrong.
    """
    kind, _, name = dataset.partition(":")
    entry = CATALOG[kind]
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
