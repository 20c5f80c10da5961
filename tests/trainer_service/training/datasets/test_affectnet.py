"""AffectNet: both releases, eight expressions, images of any size; errors name the file."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainer_service.training.datasets.layouts import write_affectnet, write_affectnet_lists
from trainer_service.training.datasets import DataError, ImageFiles, load_images
from trainer_service.training.datasets.catalog import read_stored
from trainer_service.training.datasets.memory import Memory
from trainer_service.training.spec import TrainingSpec

LABELS = [*range(8)] * 3
SPEC = TrainingSpec(dataset="affectnet", chunks=1, validation_share=1 / 3)
EIGHT = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")


def test_the_official_layout_keeps_contempt(tmp_path: Path) -> None:
    """Annotations are arrays of text; the official validation set tests, validation is drawn."""
    write_affectnet(tmp_path / "affectnet", {"train_set": LABELS, "val_set": LABELS[:8]}, size=30)

    images = load_images(SPEC, tmp_path)

    assert images.class_names == EIGHT
    assert [len(s) for s in (images.training, images.validation, images.test)] == [16, 8, 8]
    assert sorted(images.test.labels.tolist()) == [*range(8)]
    assert images.training.images.shape == (16, 3, 224, 224)


def test_images_of_the_right_size_are_read_as_they_are(tmp_path: Path) -> None:
    """224x224 is the release's own size, so nothing is resampled."""
    write_affectnet(tmp_path / "affectnet", {"train_set": [0], "val_set": [7]})

    stored = read_stored("affectnet", tmp_path)

    path = tmp_path / "affectnet" / "train_set" / "images" / "0.jpg"
    expected = np.asarray(Image.open(path)).transpose(2, 0, 1)
    assert np.array_equal(stored.splits["train"].images[:1][0].numpy(), expected)


def test_the_lists_of_the_larger_release_are_read(tmp_path: Path) -> None:
    """None, uncertain and no-face are dropped; images of many sizes are brought to one."""
    labels = {"training": [*LABELS, 8, 9, 10], "validation": [*range(8), 10]}
    write_affectnet_lists(tmp_path / "affectnet", labels)

    images = load_images(
        TrainingSpec(dataset="affectnet", chunks=1, image_size=32, validation_share=1 / 3), tmp_path
    )

    assert [len(s) for s in (images.training, images.validation, images.test)] == [16, 8, 8]
    assert images.training.images.shape == (16, 3, 32, 32)
    # Each image is of one colour, which a resize keeps.
    first = images.test.images[:1][0]
    assert [channel.unique().numel() for channel in first] == [1, 1, 1]


def test_images_stay_files_when_they_are_to_be_streamed(tmp_path: Path) -> None:
    """Nothing is decoded at the start, not even to draw splits and subset."""
    write_affectnet(tmp_path / "affectnet", {"train_set": LABELS, "val_set": LABELS[:8]}, size=30)
    for path in (tmp_path / "affectnet").glob("*/images/*.jpg"):
        path.write_bytes(b"unread")

    images = load_images(
        TrainingSpec(dataset="affectnet", chunks=1, validation_share=1 / 3, training_size=8),
        tmp_path,
        Memory.STREAMED,
    )

    assert isinstance(images.training.images, ImageFiles)
    assert len(images.training) == 8


def break_official(folder: Path, what: str) -> None:
    write_affectnet(folder, {"train_set": LABELS, "val_set": LABELS[:8]}, size=30)
    annotation = folder / "train_set" / "annotations" / "5_exp.npy"
    if what == "missing annotation":
        annotation.unlink()
    elif what == "torn annotation":
        annotation.write_bytes(annotation.read_bytes()[:20])
    elif what == "unknown label":
        np.save(annotation, np.array("11"))
    elif what == "two labels":
        np.save(annotation, np.array([1, 2]))
    elif what == "second image":
        Image.new("RGB", (8, 8)).save(folder / "train_set" / "images" / "5.png")
    elif what == "third set":
        (folder / "test_set").mkdir()
    else:
        for path in (folder / "val_set" / "images").iterdir():
            path.unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing annotation", "5_exp.npy is missing: image 5 has no expression"),
        ("torn annotation", "5_exp.npy is no readable array"),
        ("unknown label", "5_exp.npy: expression '11' is not one of 0 to 10"),
        ("two labels", "5_exp.npy is no readable array of one label"),
        ("second image", r"5\.(png and .*5\.jpg|jpg and .*5\.png) have the same annotation"),
        ("third set", "test_set is no part of the release"),
        ("empty set", "val_set has no image with one of the 8 expressions"),
    ],
)
def test_an_error_in_the_official_set_names_the_file(
    tmp_path: Path, what: str, message: str
) -> None:
    """The error names the file and what is wrong with it."""
    break_official(tmp_path / "affectnet", what)

    with pytest.raises(DataError, match=message):
        load_images(SPEC, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1/training1.jpg", "1/nowhere.jpg", "training.csv, line 3: there is no image .*nowhere"),
        (
            "1.0;2.0,1,0.1,-0.2",
            "1.0;2.0,12,0.1,-0.2",
            "expression '12' is not one of 0 to 10",
        ),
        ("1/training1.jpg", "/training1.jpg", "line 3: '/training1.jpg' is outside of"),
        ("1/training1.jpg", "../1/training1.jpg", "line 3: '../1/training1.jpg' is outside of"),
        ("1/training1.jpg", "0/training0.jpg", "line 3: .* is also in .*training.csv, line 2;"),
        ("1.0;2.0,1,0.1,-0.2", f"1.0;2.0,{'9' * 500},0.1,-0.2", r"'9{40}\.\.\. \(500 char"),
        ("1.0;2.0,1,0.1,-0.2", "1.0", "line 3: has 6 columns, not 9; is the file truncated"),
        ("expression", "emotion", "'subDirectory_filePath'] are required"),
    ],
)
def test_an_error_in_a_list_names_its_line(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    """With the file that it is in."""
    folder = tmp_path / "affectnet"
    write_affectnet_lists(folder, {"training": LABELS, "validation": LABELS[:8]})
    path = folder / "Manually_Annotated_file_lists" / "training.csv"
    path.write_text(path.read_text().replace(old, new, 1))

    with pytest.raises(DataError, match=message):
        load_images(SPEC, tmp_path)


@pytest.mark.parametrize("name", ["Training", "extra"])
def test_a_second_folder_of_images_is_refused(tmp_path: Path, name: str) -> None:
    """It would replace the first, or be left out without a word."""
    write_affectnet(tmp_path / "affectnet", {n: range(8) for n in ("train_set", "val_set", name)})

    with pytest.raises(DataError, match=f"{name}/"):
        read_stored("affectnet", tmp_path)
