"""CIFAR: torchvision's readers on small files in their layout."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trainer_service.training.datasets import DataError, load_images
from trainer_service.training.datasets.catalog import read_stored
from trainer_service.training.datasets.cifar import CIFAR10
from trainer_service.training.spec import TrainingSpec
from trainer_service.training.vision import datasets

READERS: dict[str, Any] = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}


def write_cifar(monkeypatch: pytest.MonkeyPatch, root: Path, name: str) -> npt.NDArray[np.uint8]:
    """Write pickles as the official ones are, with sums of their own; return the test images."""
    reader = READERS[name]
    classes = 10 if name == "cifar10" else 100
    labels_name = "labels" if name == "cifar10" else "fine_labels"
    folder = root / name / reader.base_folder
    folder.mkdir(parents=True)

    def dump(file: str, content: dict[str, Any]) -> str:
        data = pickle.dumps(content)
        (folder / file).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    rng = np.random.default_rng(0)
    images = np.zeros(0, np.uint8)
    for attribute in ("train_list", "test_list"):
        entries = []
        for file, _sum in getattr(reader, attribute):
            images = rng.integers(0, 256, (10 * classes, 3072), dtype=np.uint8)
            content = {"data": images, labels_name: [*range(classes)] * 10}
            entries.append([file, dump(file, content)])
        monkeypatch.setattr(reader, attribute, entries)
    names = [f"class{c}" for c in range(classes)]
    sum_ = dump(reader.meta["filename"], {reader.meta["key"]: names})
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": sum_})
    return images


@pytest.mark.parametrize(
    ("name", "classes", "training"), [("cifar10", 10, 500), ("cifar100", 100, 1000)]
)
def test_it_is_read_to_the_pixel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, classes: int, training: int
) -> None:
    """The official test stays the test, and a tenth of training validates, by class."""
    test = write_cifar(monkeypatch, tmp_path, name)

    images = load_images(TrainingSpec(dataset=name, chunks=1), tmp_path)

    assert len(images.class_names) == classes
    assert images.class_names[0] == "class0"
    assert len(images.training) == training * 9 // 10
    assert (
        np.bincount(images.validation.labels.numpy()).tolist()
        == [training // classes // 10] * classes
    )
    assert np.array_equal(images.test.images[:3].reshape(3, -1).numpy(), test[:3])


def test_a_damaged_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its sum is compared before anything is unpickled."""
    write_cifar(monkeypatch, tmp_path, "cifar10")
    path = tmp_path / "cifar10" / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(DataError, match=r"is not whole; have it made again: .*download cifar10"):
        read_stored("cifar10", tmp_path)


def test_a_download_that_fails_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The archive can be brought by other means, and is then only unpacked."""
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    assert CIFAR10.download is not None

    with pytest.raises(
        DataError, match=r"cannot be downloaded .*put cifar-10-python\.tar\.gz into"
    ):
        CIFAR10.download(tmp_path / "cifar10")
