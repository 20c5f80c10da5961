"""Data sets: small files in each layout, right and wrong."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer_service.training.datasets import DataError, Split, load_images
from trainer_service.training.spec import TrainingSpec

DIGITS = TrainingSpec(chunks=1)
FOLDER = replace(DIGITS, dataset="folder:faces")
NPZ = replace(DIGITS, dataset="npz:faces")


def pixels(split: Split) -> torch.Tensor:
    assert isinstance(split.images, torch.Tensor)
    return split.images


def write_classes(folder: Path, *, classes: int = 3, images: int = 20, mode: str = "RGB") -> None:
    rng = np.random.default_rng(0)
    for c in range(classes):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(images):
            shape = (6, 5) if mode == "L" else (6, 5, 3)
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{c}" / f"{i:02}.png")


def write_npz(root: Path, **changes: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "images": rng.integers(0, 256, (60, 6, 5, 3), dtype=np.uint8),
        "labels": np.arange(60) % 3,
    } | changes
    np.savez(root / "faces.npz", **arrays)  # type: ignore[arg-type]


def test_digits_are_the_1797_scans() -> None:
    """Every scan is in one split, one grey channel of 8x8, each class in each split alike."""
    images = load_images(DIGITS, Path("."))
    splits = (images.training, images.validation, images.test)

    assert [len(s.labels) for s in splits] == [1293, 144, 360]
    assert images.training.images.shape == (1293, 1, 8, 8)
    for split in splits:
        shares = np.bincount(split.labels.numpy()) / len(split.labels)
        assert shares == pytest.approx([0.1] * 10, abs=0.02)


def test_a_subset_has_its_size_and_classes_by_seed() -> None:
    """The same seed draws the same images; another one others."""
    spec = replace(DIGITS, training_size=100)
    first, again, other = (load_images(replace(spec, data_seed=s), Path(".")) for s in (0, 0, 1))

    assert np.bincount(first.training.labels.numpy()) == pytest.approx([10] * 10, abs=1)
    assert pixels(first.training).equal(pixels(again.training))
    assert not pixels(first.training).equal(pixels(other.training))


@pytest.mark.parametrize("noise", [0.0, 0.25, 0.9])
def test_label_noise_replaces_its_exact_share_of_training_labels(noise: float) -> None:
    """By another class each; validation and test stay clean."""
    clean = load_images(replace(DIGITS, training_size=200), Path("."))
    noisy = load_images(replace(DIGITS, training_size=200, label_noise=noise), Path("."))

    assert int((clean.training.labels != noisy.training.labels).sum()) == round(noise * 200)
    assert pixels(clean.training).equal(pixels(noisy.training))
    assert clean.validation.labels.equal(noisy.validation.labels)
    assert clean.test.labels.equal(noisy.test.labels)


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_a_folder_of_images_by_class_is_read(tmp_path: Path, mode: str, channels: int) -> None:
    """Class names are the folders'; grey images have one channel."""
    write_classes(tmp_path / "faces", mode=mode)

    images = load_images(FOLDER, tmp_path)

    assert images.class_names == ("class0", "class1", "class2")
    assert images.training.images.shape == (43, channels, 6, 5)


def test_a_folder_with_splits_keeps_them(tmp_path: Path) -> None:
    """train, val and test are taken as they are."""
    for split, images in (("train", 8), ("val", 4), ("test", 2)):
        write_classes(tmp_path / "faces" / split, images=images)

    images_ = load_images(FOLDER, tmp_path)

    sizes = [len(s.labels) for s in (images_.training, images_.validation, images_.test)]
    assert sizes == [24, 12, 6]


def test_arrays_are_read_to_the_pixel(tmp_path: Path) -> None:
    """With a split array, each image stays in its split."""
    split = np.array(["train"] * 40 + ["validation"] * 10 + ["test"] * 10)
    write_npz(tmp_path, split=split)

    images = load_images(NPZ, tmp_path)

    stored = np.load(tmp_path / "faces.npz")["images"]
    assert np.array_equal(pixels(images.test).numpy(), stored[50:].transpose(0, 3, 1, 2))
    assert [len(s.labels) for s in (images.training, images.validation)] == [40, 10]


def break_folder(name: str, folder: Path) -> None:
    write_classes(folder)
    broken = folder / "class1" / "03.png"
    if name == "unreadable":
        broken.write_bytes(b"no image")
    elif name == "size":
        Image.new("RGB", (9, 9)).save(broken)
    elif name == "empty":
        for path in (folder / "class1").glob("*.png"):
            path.unlink()
    else:
        for path in folder.glob("class[12]"):
            path.rename(folder.parent / path.name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unreadable", "03.png is no readable image"),
        ("size", "bring all to one size"),
        ("empty", "class1 has no image"),
        ("one", "two are needed"),
    ],
)
def test_a_wrong_folder_is_told_by_file(tmp_path: Path, name: str, message: str) -> None:
    """The error names the file or folder and what is wrong with it."""
    break_folder(name, tmp_path / "faces")

    with pytest.raises(DataError, match=message):
        load_images(FOLDER, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((60, 6, 5), np.float32)}, "images are float32"),
        ({"images": np.zeros((60, 6, 5, 2), np.uint8)}, "1 or 3"),
        ({"labels": np.zeros(59, int)}, "labels are"),
        ({"labels": np.arange(60) % 3 + 1}, "labels must be 0"),
        ({"labels": np.zeros(60)}, "labels are float64"),
        ({"split": np.array(["train", "exam"] * 30)}, "split must name"),
        ({"labels": np.array([0] * 59 + [1])}, "cannot be split by class"),
    ],
)
def test_wrong_arrays_are_told_by_name(
    tmp_path: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    """The error names the array and what it must be."""
    write_npz(tmp_path, **changes)

    with pytest.raises(DataError, match=message):
        load_images(NPZ, tmp_path)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    """An .npz with objects is refused: reading it could run code."""
    write_npz(tmp_path, labels=np.array([object()] * 60))

    with pytest.raises(DataError, match="no readable"):
        load_images(NPZ, tmp_path)


@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_file_is_refused_or_read_as_it_was(tmp_path: Path, cut: int, flip: int) -> None:
    """Cut short, or with a changed byte: a DataError and nothing else, or the right pixels."""
    write_npz(tmp_path)
    path = tmp_path / "faces.npz"
    whole, right = path.read_bytes(), load_images(NPZ, tmp_path)
    place = cut % len(whole)
    for damaged in (
        whole[:place],
        whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :],
    ):
        path.write_bytes(damaged)
        with suppress(DataError):
            read = load_images(NPZ, tmp_path)
            assert torch.equal(pixels(read.training), pixels(right.training))
            assert torch.equal(read.training.labels, right.training.labels)


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    """What `np.save` wrote has no names."""
    with (tmp_path / "faces.npz").open("wb") as file:
        np.save(file, np.zeros(3))

    with pytest.raises(DataError, match=r"faces\.npz is no readable \.npz"):
        load_images(NPZ, tmp_path)


@pytest.mark.parametrize("spec", [FOLDER, NPZ, replace(DIGITS, training_size=5000)])
def test_what_is_not_there_is_never_made_up(tmp_path: Path, spec: TrainingSpec) -> None:
    """A missing folder or file, or too few images, is an error."""
    with pytest.raises(DataError):
        load_images(spec, tmp_path)
