"""Image folders: every entry is read, refused, or counted and named; none is read twice."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer_service.training.datasets.layouts import (
    write_classes,
)
from trainer_service.training.datasets import DataError, ImageFiles, load_images
from trainer_service.training.datasets.catalog import read_stored
from trainer_service.training.datasets.values import Stored, split_named
from trainer_service.training.spec import TrainingSpec
from trainer_service.training.vision import datasets


def read(root: Path) -> Stored:
    return read_stored("folder:faces", root)


def sizes(stored: Stored) -> dict[str, int]:
    return {name: len(split) for name, split in stored.splits.items()}


@pytest.mark.parametrize(
    ("words", "split"),
    [
        ("train Train TRAINING train_set training-set trainset train_data train_images", "train"),
        ("val Valid validation dev eval VAL val_set validation-set dev_set", "validation"),
        ("test Testing TEST tests test_set test-set testset", "test"),
        ("trains testament value contest unlabelled happy 3 _ set data", None),
    ],
)
def test_a_splits_name_is_known_in_its_variants(words: str, split: str | None) -> None:
    """In any case, with `set`, `data` or `images` behind it; and no more than that."""
    for word in words.split():
        assert split_named(word) == split, word


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Testing"),
        ("training", "VALID", "test"),
        ("train_set", "val-set", "Test_Set"),
        ("train", "dev", "test"),
    ],
)
def test_folders_named_as_splits_are_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    """They are never classes, and all are read."""
    for name in names:
        write_classes(tmp_path / "faces" / name, images=4)

    stored = read(tmp_path)

    assert stored.class_names == ("class0", "class1", "class2")
    assert sizes(stored) == {str(split_named(name)): 12 for name in names}


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train", "val", "valid"), "val/ and valid/, both for validation"),
        (("Train", "train_set"), "Train/ and train_set/, both for train"),
        (("test", "class9"), "test/, named as splits, without train/"),
        (("train", "test", "holdout"), "images in holdout/, which is no split"),
        (("train/test", "train/b"), "train has the split test/ beside classes"),
        (("train2017", "val2017"), "train2017/, val2017/, which are like splits"),
        (("01_train", "02_test"), "01_train/, 02_test/, which are like splits"),
        (("images_train", "images_test"), "images_test/, images_train/, which are like splits"),
        (("trainset_v2", "testset_v2"), "testset_v2/, trainset_v2/, which are like splits"),
        (("PublicTest", "PrivateTest"), "PrivateTest/, PublicTest/, which are like splits"),
        (("trn", "tst"), "trn/, tst/, which are like splits"),
        (("cat/test", "dog"), "cat/test is named as a split .test., inside a class"),
        (("cat/old/Train_set", "dog"), "cat/old/Train_set is named as a split .train."),
    ],
)
def test_splits_that_are_not_clear_are_refused(
    tmp_path: Path, folders: tuple[str, ...], message: str
) -> None:
    """With both names, or what stands beside."""
    for name in folders:
        write_classes(tmp_path / "faces" / name, images=2)

    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_classes_may_hold_a_word_of_splits_where_others_do_not(tmp_path: Path) -> None:
    """And folders of anything else make no class of what is like a split."""
    for name in ("test1", "dev1", "cat"):
        write_classes(tmp_path / "faces" / name, images=2)
    assert read(tmp_path).class_names == ("cat", "dev1", "test1")

    shutil.rmtree(tmp_path / "faces" / "cat")
    (tmp_path / "faces" / "annotations").mkdir()
    with pytest.raises(DataError, match="dev1/, test1/, which are like splits"):
        read(tmp_path)


@pytest.mark.parametrize(
    "hidden",
    [
        ".ipynb_checkpoints",
        "@eaDir",
        "__MACOSX",
        "lost+found",
        "__pycache__",
        ".git",
        "#snapshot",
        "@Recycle",
    ],
)
@pytest.mark.parametrize("place", ["", "train", "train/class0"])
@pytest.mark.parametrize("images", [0, 2])
def test_what_tools_leave_is_no_data(tmp_path: Path, hidden: str, place: str, images: int) -> None:
    """Neither a class, nor a split, nor an image of a class; and it is counted."""
    for split in ("train", "test"):
        write_classes(tmp_path / "faces" / split, images=2)
    folder = tmp_path / "faces" / place / hidden
    folder.mkdir()
    for i in range(images):
        Image.new("RGB", (5, 6)).save(folder / f"{i}.png")

    stored = read(tmp_path)

    assert stored.class_names == ("class0", "class1", "class2")
    assert sizes(stored) == {"train": 6, "test": 6}
    assert stored.left_out["hidden or left by tools"] >= 1


def test_what_is_not_read_is_counted_by_its_suffix_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once each, those of tools apart; images that lie beside the class folders as well."""
    write_classes(tmp_path / "faces", images=12)
    for name in (
        "class0/a.HEIC",
        "class1/b.heic",
        "class0/._00.png",
        "class2/Thumbs.db",
        "LICENSE",
    ):
        (tmp_path / "faces" / name).write_bytes(b"\0")
    Image.new("RGB", (5, 6)).save(tmp_path / "faces" / "cover.png")

    stored = read(tmp_path)
    with caplog.at_level("INFO"):
        load_images(TrainingSpec(dataset="folder:faces", chunks=1), tmp_path)

    assert "folder:faces: not read: 2 .heic, 2 hidden" in caplog.text
    assert sizes(stored) == {"train": 36}
    assert stored.left_out == {
        ".heic": 2,
        "hidden or left by tools": 2,
        "without a suffix": 1,
        ".png outside a class": 1,
    }


@pytest.mark.parametrize(
    "suffix", [".gif", ".jfif", ".webp", ".bmp", ".tif", ".TIFF", ".jpeg", ".JPG", ".PNG"]
)
def test_the_usual_suffixes_are_read(tmp_path: Path, suffix: str) -> None:
    """In any case; Pillow finds the format by the content."""
    write_classes(tmp_path / "faces", images=4)
    for path in list(tmp_path.rglob("*.png")):
        with Image.open(path) as image:
            image.save(path.with_suffix(suffix), Image.registered_extensions()[suffix.lower()])
        path.unlink()

    stored = read(tmp_path)

    assert sizes(stored) == {"train": 12}
    assert len(stored.splits["train"].images[:2])


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("is_empty", [False, True])
def test_only_training_needs_every_class(tmp_path: Path, split: str, is_empty: bool) -> None:
    """Labels are those of training, whatever the others lack; a new class is refused."""
    write_classes(tmp_path / "faces" / "train", images=4)
    for name in ("class0", "class2"):
        (tmp_path / "faces" / split / name).mkdir(parents=True)
        Image.new("RGB", (5, 6)).save(tmp_path / "faces" / split / name / "0.png")
    if is_empty:
        (tmp_path / "faces" / split / "class1").mkdir()

    stored = read(tmp_path)

    assert stored.splits[str(split_named(split))].labels.tolist() == [0, 2]
    (tmp_path / "faces" / split / "class3").mkdir()
    with pytest.raises(DataError, match=r"unknown classes \['class3'\]"):
        read(tmp_path)


def test_a_split_without_an_image_is_refused(tmp_path: Path) -> None:
    """It would be drawn if its folder were not there."""
    write_classes(tmp_path / "faces" / "train", images=4)
    (tmp_path / "faces" / "val").mkdir()

    with pytest.raises(DataError, match=r"val has no image in a class folder; remove it"):
        read(tmp_path)


def test_linked_images_and_folders_are_read(tmp_path: Path) -> None:
    """Clusters keep the images in one place, and each data set links to them."""
    write_classes(tmp_path / "pool", images=4)
    for name in ("class0", "class1"):
        (tmp_path / "faces" / "train" / name).mkdir(parents=True)
        for i in range(4):
            os.symlink(
                tmp_path / "pool" / name / f"{i:02}.png", tmp_path / f"faces/train/{name}/{i}.png"
            )
    os.symlink(tmp_path / "pool" / "class2", tmp_path / "faces" / "train" / "class2")

    stored = read(tmp_path)

    assert sizes(stored) == {"train": 12}
    assert len(stored.splits["train"].images[:]) == 12


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        ("train/class0/again", ".", "again is a link to a folder above it"),
        ("train/class0/again", "../..", "again is a link to a folder above it"),
        ("train/class9", "..", "is a link to a folder above it"),
        ("train/class9", "class0", "are the same file by a link"),
        ("train/class0/again", "../class1", "are the same file by a link"),
        ("train/class0/z.png", "00.png", r"z\.png and .*00\.png are the same file by a link"),
        ("val", "test", "are the same file by a link"),
        ("test/class0/z.png", "../../train/class0/00.png", "are the same file by a link"),
    ],
)
def test_links_bring_no_image_in_twice(
    tmp_path: Path, link: str, target: str, message: str
) -> None:
    """Neither within a class, nor under two labels, nor across splits."""
    for split in ("train", "test"):
        write_classes(tmp_path / "faces" / split, images=2)
    os.symlink(target, tmp_path / "faces" / link)

    with pytest.raises(DataError, match=message):
        read(tmp_path)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """Two folders that link to each other."""
    write_classes(tmp_path / "faces", images=2)
    os.symlink("../class1", tmp_path / "faces" / "class0" / "x")
    os.symlink("../class0", tmp_path / "faces" / "class1" / "y")

    with pytest.raises(DataError, match="is a link to a folder above it"):
        read(tmp_path)


def test_a_broken_link_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    """An image that a cluster has purged is not left out in silence."""
    write_classes(tmp_path / "faces")
    os.symlink("/nowhere/1.png", tmp_path / "faces" / "class1" / "gone.png")

    with pytest.raises(DataError, match=r"gone\.png is no readable image"):
        load_images(TrainingSpec(dataset="folder:faces", chunks=1), tmp_path)


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    """A pipe would be waited on for ever."""
    write_classes(tmp_path / "faces", images=4)
    os.mkfifo(tmp_path / "faces" / "class0" / "pipe.png")

    assert sizes(read(tmp_path)) == {"train": 12}


def test_images_come_in_the_order_of_earlier_releases(tmp_path: Path) -> None:
    """Draws go by it, so the splits of a data set stay what they were; nested folders are read."""
    folder = tmp_path / "faces"
    for name in ("class1/b", "class1", "class1/a.d/e", "class0", "class1/a"):
        for image in ("2.png", "10.PNG", "1.png"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (5, 6)).save(folder / name / image)
    labels = {"class0": 0, "class1": 1}

    split = read(tmp_path).splits["train"]

    earlier = datasets.folder.make_dataset(str(folder), labels, extensions=(".png",))
    assert isinstance(split.images, ImageFiles)
    assert [*zip(split.images.paths, split.labels.tolist(), strict=True)] == earlier


@pytest.mark.parametrize("mode", ["RGB", "P", "LA", "RGBA"])
@pytest.mark.parametrize(
    "place", ["train/class0/0", "train/class2/9", "val/class1/9", "test/class0/0"]
)
def test_one_image_of_colour_makes_three_channels(tmp_path: Path, place: str, mode: str) -> None:
    """Wherever it lies; grey images of any depth are grey in all three."""
    for split in ("train", "val", "test"):
        for label in range(3):
            folder = tmp_path / "faces" / split / f"class{label}"
            folder.mkdir(parents=True)
            grey = np.full((4, 4), 60, np.uint8)
            Image.fromarray(grey).save(folder / "1.png")
            Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "2.png")
            Image.new("1", (4, 4), 1).save(folder / "3.png")
    assert {split.images.shape[1] for split in read(tmp_path).splits.values()} == {1}

    Image.new(mode, (4, 4)).save(tmp_path / "faces" / f"{place}.png")

    splits = read(tmp_path).splits
    assert {split.images.shape[1] for split in splits.values()} == {3}
    shown = splits["validation"].images[:3]
    assert [image.unique().tolist() for image in shown] == [[60], [60], [255]]
