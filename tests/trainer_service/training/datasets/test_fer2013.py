"""FER2013: each of its layouts gives the same faces; errors name file and line."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer_service.training.datasets.layouts import (
    EXPRESSIONS,
    USAGES,
    faces,
    fer2013_rows,
    write_fer2013_csv,
    write_fer2013_folders,
    write_fer2013_npz,
    write_icml_csv,
)
from trainer_service.training.datasets import DataError, load_images
from trainer_service.training.datasets.catalog import read_stored
from trainer_service.training.datasets.values import Split
from trainer_service.training.spec import TrainingSpec

COUNT = 42
FACES = faces(COUNT)
ROWS = fer2013_rows(FACES, [USAGES[i * 3 // COUNT] for i in range(COUNT)])


def pixels(split: Split) -> torch.Tensor:
    return split.images[torch.arange(len(split))]


@pytest.mark.parametrize("layout", ["fer2013.csv", "icml_face_data.csv", "fer2013.npz"])
def test_each_file_gives_the_same_faces(tmp_path: Path, layout: str) -> None:
    """To the pixel; PublicTest validates and PrivateTest tests."""
    folder = tmp_path / "fer2013"
    if layout == "fer2013.csv":
        write_fer2013_csv(folder, ROWS)
    elif layout == "icml_face_data.csv":
        write_icml_csv(folder, ROWS)
    else:
        write_fer2013_npz(folder, FACES)

    images = load_images(TrainingSpec(dataset="fer2013", chunks=1), tmp_path)

    assert images.class_names == EXPRESSIONS
    for place, split in enumerate((images.training, images.validation, images.test)):
        part = slice(14 * place, 14 * place + 14)
        assert np.array_equal(pixels(split)[:, 0].numpy(), FACES[part])
        assert split.labels.tolist() == (np.arange(COUNT) % 7)[part].tolist()


def test_folders_have_both_tests_in_one_and_validation_is_drawn(tmp_path: Path) -> None:
    """A share of training by class, unless a folder validates; the test folder stays the test."""
    write_fer2013_folders(tmp_path / "fer2013", faces(126))
    spec = TrainingSpec(dataset="fer2013", chunks=1, validation_share=0.25)

    images = load_images(spec, tmp_path)

    assert [len(s) for s in (images.training, images.validation, images.test)] == [63, 21, 42]
    assert np.bincount(images.validation.labels.numpy()).tolist() == [3] * 7
    assert images.class_names == EXPRESSIONS
    (tmp_path / "fer2013" / "test").rename(tmp_path / "fer2013" / "Valid")
    write_fer2013_folders(tmp_path / "fer2013", faces(42))
    stored = read_stored("fer2013", tmp_path)
    sizes = {name: len(split) for name, split in stored.splits.items()}
    assert sizes == {"train": 84, "validation": 42, "test": 14}


def with_row(place: int, **changes: str) -> list[tuple[str, str, str]]:
    emotion, text, usage = ROWS[place]
    row = {"emotion": emotion, "pixels": text, "usage": usage} | changes
    return [*ROWS[:place], (row["emotion"], row["pixels"], row["usage"]), *ROWS[place + 1 :]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (with_row(4, emotion="7"), "line 6: emotion '7' is not one of 0 to 6"),
        (with_row(4, emotion="happy"), "line 6: emotion 'happy' is not one"),
        (with_row(0, usage="Test"), "line 2: usage 'Test' is not one of Training, PublicTest"),
        (with_row(9, pixels="1 2 3"), "line 11 has 3 pixels, not 2304"),
        (with_row(9, pixels=ROWS[9][1] + " 0"), "line 11 has 2305 pixels"),
        (with_row(9, pixels="256" + ROWS[9][1]), "line 11: pixels must be whole numbers"),
        (with_row(9, pixels="-1 " * 2304), "line 11: pixels must be whole numbers"),
        (ROWS[:20], "has no image of PrivateTest"),
        ([row for row in ROWS if row[0] != "3"], "no training image of class 'happy'"),
    ],
)
def test_an_error_in_a_row_names_its_line(
    tmp_path: Path, rows: list[tuple[str, str, str]], message: str
) -> None:
    """With what it holds and what it must hold."""
    write_fer2013_csv(tmp_path / "fer2013", rows)

    with pytest.raises(DataError, match=message):
        load_images(TrainingSpec(dataset="fer2013", chunks=1), tmp_path)


@pytest.mark.parametrize("write", [write_fer2013_csv, write_icml_csv])
@pytest.mark.parametrize("cut", [4, 700, 9_000, -12, -2_000, -9_500])
def test_a_truncated_file_is_refused(tmp_path: Path, write: object, cut: int) -> None:
    """Wherever a download stopped: in the header, in a row's pixels or in its last column."""
    assert callable(write)
    path: Path = write(tmp_path / "fer2013", ROWS)
    path.write_bytes(path.read_bytes()[:cut])

    with pytest.raises(DataError, match=path.name):
        load_images(TrainingSpec(dataset="fer2013", chunks=1), tmp_path)


def test_a_file_that_an_editor_saved_again_has_the_same_faces(tmp_path: Path) -> None:
    """With a byte order mark, other line ends, and blank lines at its end."""
    path = write_fer2013_csv(tmp_path / "fer2013", ROWS)
    path.write_bytes((path.read_text() + "\n\n").replace("\n", "\r\n").encode("utf-16"))

    stored = read_stored("fer2013", tmp_path)

    assert np.array_equal(pixels(stored.splits["test"])[:, 0].numpy(), FACES[28:])
    assert [len(split) for split in stored.splits.values()] == [14, 14, 14]


def test_other_columns_are_refused(tmp_path: Path) -> None:
    """Those of Kaggle's train.csv lack the usage."""
    path = write_fer2013_csv(tmp_path / "fer2013", [])
    path.write_text("emotion,pixels\n0,1 2\n")

    with pytest.raises(DataError, match=r"has the columns \['emotion', 'pixels'\]"):
        read_stored("fer2013", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": np.zeros((COUNT, 32, 32), np.uint8)}, r"\[n, 48, 48\]"),
        ({"labels": np.full(COUNT, 7)}, "labels must be 0 to 6"),
        ({"usage": np.full(COUNT, 3)}, "usage must be 0"),
        ({"usage": np.zeros(COUNT, int)}, "no image left in its validation split"),
    ],
)
def test_invalid_arrays_are_refused_by_name(
    tmp_path: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    """The error names the array and what it must be."""
    write_fer2013_npz(tmp_path / "fer2013", FACES, **changes)

    with pytest.raises(DataError, match=message):
        load_images(TrainingSpec(dataset="fer2013", chunks=1), tmp_path)


def test_a_folder_of_another_expression_is_refused(tmp_path: Path) -> None:
    """Kaggle's folders have these seven, so no other set is taken for FER2013."""
    write_fer2013_folders(tmp_path / "fer2013", faces(42))
    (tmp_path / "fer2013" / "train" / "contempt").mkdir()

    with pytest.raises(DataError, match=r"unknown classes \['contempt'\]"):
        read_stored("fer2013", tmp_path)
