"""Data sets: small files in each layout, right and wrong."""

import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.trainer_service.training.datasets.layouts import write_classes
from trainer_service.training.datasets import DataError, Split, load_images, npz
from trainer_service.training.datasets.catalog import read_stored
from trainer_service.training.datasets.pixels import pixel_statistics
from trainer_service.training.spec import TrainingSpec

DIGITS = TrainingSpec(chunks=1)
FOLDER = replace(DIGITS, dataset="folder:faces")
NPZ = replace(DIGITS, dataset="npz:faces")


def pixels(split: Split) -> torch.Tensor:
    assert isinstance(split.images, torch.Tensor)
    return split.images


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


def test_arrays_are_read_to_the_pixel(tmp_path: Path) -> None:
    """With a split array, whose names may vary as folders' may, each image stays in its split."""
    split = np.array(["Training"] * 40 + ["valid"] * 10 + ["TEST"] * 10)
    write_npz(tmp_path, split=split, class_names=np.array(["cat", "dog", "eel"]))

    images = load_images(NPZ, tmp_path)

    stored = np.load(tmp_path / "faces.npz")["images"]
    assert np.array_equal(pixels(images.test).numpy(), stored[50:].transpose(0, 3, 1, 2))
    assert [len(s.labels) for s in (images.training, images.validation)] == [40, 10]
    assert images.class_names == ("cat", "dog", "eel")


def test_a_folder_needs_two_classes_with_images(tmp_path: Path) -> None:
    """The error names the folder and what is wrong with it."""
    write_classes(tmp_path / "faces", classes=2, images=1)
    (tmp_path / "faces" / "class1" / "00.png").unlink()
    with pytest.raises(DataError, match="class1 has no image"):
        load_images(FOLDER, tmp_path)

    (tmp_path / "faces" / "class1").rmdir()
    with pytest.raises(DataError, match="two are needed"):
        load_images(FOLDER, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_size": 5000}, "training_size 5000: digits has 1293 to train on"),
        ({"classes": 11}, "classes 11: digits has 10"),
    ],
)
def test_more_than_there_is_cannot_be_drawn(changes: dict[str, int], message: str) -> None:
    """Nothing is made up; the error says how much there is."""
    with pytest.raises(DataError, match=message):
        load_images(replace(DIGITS, **changes), Path("."))  # type: ignore[arg-type]


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
        ({"class_names": np.array(["cat"])}, "one for each of 3"),
        # Reading objects could run code.
        ({"labels": np.array([object()] * 60)}, r"faces\.npz is no readable \.npz"),
    ],
)
def test_invalid_arrays_are_refused_by_name(
    tmp_path: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    """The error names the array and what it must be."""
    write_npz(tmp_path, **changes)

    with pytest.raises(DataError, match=message):
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


def test_arrays_that_unpack_to_more_than_there_is_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Before they take the memory: zeros pack to a thousandth."""
    images = np.zeros((60, 512, 512), np.uint8)
    np.savez_compressed(tmp_path / "faces.npz", images=images, labels=np.arange(60) % 3)
    monkeypatch.setattr(npz, "free_bytes", lambda _device: images.nbytes - 1)

    with pytest.raises(DataError, match=r"faces\.npz unpacks to 15 MB, which are not free"):
        load_images(NPZ, tmp_path)


def test_what_is_no_array_is_named(tmp_path: Path) -> None:
    """A member that an array's name belongs to; a text with a suffix is passed over."""
    write_npz(tmp_path)
    with zipfile.ZipFile(tmp_path / "faces.npz", "a") as file:
        file.writestr("readme.txt", b"train")
    assert list(read_stored("npz:faces", tmp_path).splits) == ["train"]

    with zipfile.ZipFile(tmp_path / "faces.npz", "a") as file:
        file.writestr("split", b"train")
    with pytest.raises(DataError, match=r"faces\.npz: `split` is no array"):
        read_stored("npz:faces", tmp_path)

    with (tmp_path / "faces.npz").open("wb") as single:
        np.save(single, np.zeros(3))
    with pytest.raises(DataError, match=r"faces\.npz is no readable \.npz"):
        read_stored("npz:faces", tmp_path)


def test_a_kept_class_keeps_its_images_and_its_name() -> None:
    """Three of ten classes, drawn by the data seed, are renumbered in their order."""
    spec = replace(DIGITS, classes=3)
    whole, three = load_images(DIGITS, Path(".")), load_images(spec, Path("."))
    other = load_images(replace(spec, data_seed=1), Path("."))

    assert len(three.class_names) == 3
    assert three.class_names == tuple(sorted(three.class_names))
    assert three.class_names != other.class_names
    of_whole = torch.cat([s.labels for s in (whole.training, whole.validation, whole.test)])
    of_three = torch.cat([s.labels for s in (three.training, three.validation, three.test)])
    for label, name in enumerate(three.class_names):
        assert int((of_three == label).sum()) == int((of_whole == int(name)).sum())


def test_named_classes_are_those_that_are_used_or_drawn_from() -> None:
    """In the data set's order; all ten by name give what no name gives."""
    named = replace(DIGITS, class_names=("7", "2", "4"))
    every = replace(DIGITS, classes=3, class_names=tuple("9876543210"))

    three, whole = load_images(named, Path(".")), load_images(DIGITS, Path("."))
    pairs = [replace(named, classes=2, data_seed=seed) for seed in range(9)]

    assert three.class_names == ("2", "4", "7")
    of_three = torch.cat([pixels(s) for s in (three.training, three.validation, three.test)])
    of_whole = torch.cat([s.labels for s in (whole.training, whole.validation, whole.test)])
    assert len(of_three) == int(torch.isin(of_whole, torch.tensor([2, 4, 7])).sum())
    drawn = {load_images(pair, Path(".")).class_names for pair in pairs}
    assert drawn == {("2", "4"), ("2", "7"), ("4", "7")}
    alike = load_images(replace(DIGITS, classes=3), Path("."))
    assert pixels(load_images(every, Path(".")).training).equal(pixels(alike.training))


@pytest.mark.parametrize(
    ("name", "message"),
    [("class3", "has no class 'class3'; did you mean 'class2' or "), ("x", "'x'; it has 'class0'")],
)
def test_a_class_that_is_not_there_is_refused(tmp_path: Path, name: str, message: str) -> None:
    """The error names it, and those that may be meant, or all."""
    write_classes(tmp_path / "faces")

    with pytest.raises(DataError, match=message):
        load_images(replace(FOLDER, class_names=("class0", name)), tmp_path)


def test_duplicates_leave_training_for_validation_and_validation_for_test(tmp_path: Path) -> None:
    """A training image that is held out, and a validation image that tests, go; the rest stays."""
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
    split = np.array(["train"] * 40 + ["validation"] * 10 + ["test"] * 10)
    images[0] = images[41]  # training 0 validates
    images[1] = images[51]  # training 1 tests
    images[42] = images[52]  # validation 2 tests
    images[3] = images[2]  # twice in training
    write_npz(tmp_path, images=images, split=split)

    loaded = load_images(replace(NPZ, deduplicate=True), tmp_path)

    stored = torch.from_numpy(images.transpose(0, 3, 1, 2))
    assert pixels(loaded.training).equal(stored[2:40])
    assert pixels(loaded.validation).equal(torch.cat([stored[40:42], stored[43:50]]))
    assert pixels(loaded.test).equal(stored[50:])


def test_the_subset_is_drawn_from_what_duplicates_left(tmp_path: Path) -> None:
    """So it has the size that was asked for, and label noise its exact share of that."""
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 5, 3), dtype=np.uint8)
    images[:9] = images[51:60]
    split = np.array(["train"] * 40 + ["validation"] * 10 + ["test"] * 10)
    write_npz(tmp_path, images=images, split=split)
    spec = replace(NPZ, deduplicate=True, training_size=20)

    clean = load_images(spec, tmp_path)
    noisy = load_images(replace(spec, label_noise=0.5), tmp_path)

    assert len(clean.training) == 20
    assert int((clean.training.labels != noisy.training.labels).sum()) == 10


@pytest.mark.parametrize("dataset", ["folder:faces", "npz:faces"])
def test_images_can_be_brought_to_another_size(tmp_path: Path, dataset: str) -> None:
    """Files of different sizes, and arrays; without the size the files are refused."""
    write_classes(tmp_path / "faces")
    Image.new("RGB", (9, 13)).save(tmp_path / "faces" / "class0" / "00.png")
    write_npz(tmp_path)

    images = load_images(replace(NPZ, dataset=dataset, image_size=16), tmp_path)

    assert {s.images.shape[1:] for s in (images.training, images.validation, images.test)} == {
        (3, 16, 16)
    }


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_mean_and_deviation_are_those_of_all_pixels(tmp_path: Path, mode: str) -> None:
    """Counted level by level, they are what all images as floats would give."""
    write_classes(tmp_path / "faces", mode=mode, images=50)
    images = pixels(load_images(FOLDER, tmp_path).training)

    mean, deviation = pixel_statistics(images)

    floats = images.double() / 255
    assert mean.flatten().tolist() == pytest.approx(floats.mean(dim=(0, 2, 3)).tolist(), rel=1e-6)
    assert deviation.flatten().tolist() == pytest.approx(
        floats.std(dim=(0, 2, 3)).tolist(), rel=1e-6
    )
