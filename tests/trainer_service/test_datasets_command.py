"""`trainer-service datasets`: the list, and checks of small and real data sets."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from agent_service.domain.errors import AgentError
from tests.trainer_service.training.datasets.layouts import (
    faces,
    write_classes,
    write_fer2013_npz,
)
from trainer_service.cli.main import cli
from trainer_service.training.datasets import load_images
from trainer_service.training.datasets.catalog import DATASETS, catalog
from trainer_service.training.spec import TrainingSpec

SHARED = Path(__file__).parents[3] / "shared" / "data"
"""Real data for some checks, beside the checkout and not part of it."""


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["datasets", *arguments])
    if isinstance(result.exception, AgentError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_each_data_set_is_shown_with_its_terms_and_its_place() -> None:
    """Every set that a spec can name, with the texts of the catalog."""
    shown = run()

    assert len(catalog()) == len(DATASETS)
    for name, entry in catalog().items():
        assert name in shown
        for text in (entry.title, entry.terms, entry.get, entry.put, entry.splits):
            assert " ".join(text.split()) in shown


def test_published_counts_are_those_of_the_whole_sets() -> None:
    """Their sums are those of the papers."""
    sums = {
        name: {split: sum(counts) for split, counts in entry.published.items()}
        for name, entry in catalog().items()
        if entry.published
    }

    assert sums == {
        "cifar10": {"train": 50_000, "test": 10_000},
        "cifar100": {"train": 50_000, "test": 10_000},
        "fer2013": {"train": 28_709, "validation": 3_589, "test": 3_589},
        "affectnet": {"train": 287_651, "test": 4_000},
    }


def test_a_check_counts_images_and_finds_defects(tmp_path: Path) -> None:
    """Duplicates within and across splits, conflicting labels and blank images, each counted."""
    images = faces(42)
    images[1] = images[0]  # within training, labels 0 and 1: a conflict
    images[14] = images[7]  # validation repeats training, both labelled 0
    images[28] = images[2]  # test repeats training, labels 0 and 2: a conflict
    images[30] = images[16]  # test repeats validation, both labelled 2
    images[40] = 9  # blank
    write_fer2013_npz(tmp_path / "fer2013", images)

    shown = run("check", "fer2013", "--data", str(tmp_path))

    assert "14, published 28,709" in shown
    assert "the counts are NOT as published" in shown
    for line in (
        "4 images are exact duplicates",
        "1 within train",
        "0 within test",
        "1 of validation are also in train",
        "1 of test are also in train",
        "1 of test are also in validation",
        "2 groups of duplicates carry conflicting labels",
        "1 images are blank",
        "--deduplicate",
    ):
        assert line in shown


def test_a_custom_set_has_no_published_counts(tmp_path: Path) -> None:
    """It is counted nevertheless."""
    np.savez(tmp_path / "mine.npz", images=np.zeros((6, 4, 4), np.uint8), labels=np.arange(6) % 2)

    shown = run("check", "npz:mine", "--data", str(tmp_path))

    assert "no published counts" in shown
    assert "5 images are exact duplicates" in shown
    assert "6 images are blank" in shown


def test_a_check_shows_the_splits_drawn_from_training(tmp_path: Path) -> None:
    """A missing split, with the count that a training uses; existing splits are not mentioned."""
    write_classes(tmp_path / "faces" / "train", images=17)
    shown = run("check", "folder:faces", "--data", str(tmp_path))
    assert "test: 11 drawn from training, 20%" in shown
    assert "validation: 4 drawn from training, 10%" in shown

    images = load_images(TrainingSpec(dataset="folder:faces", chunks=1), tmp_path)
    assert (len(images.training), len(images.validation), len(images.test)) == (36, 4, 11)
    for split in ("val", "test"):
        write_classes(tmp_path / "faces" / split, images=1)
    assert "drawn" not in run("check", "folder:faces", "--data", str(tmp_path))


def test_a_check_resizes_images_of_different_sizes(tmp_path: Path) -> None:
    """As a training does, within the same range."""
    write_classes(tmp_path / "mix", classes=2, images=2)
    Image.new("RGB", (9, 11)).save(tmp_path / "mix" / "class0" / "other.png")
    with pytest.raises(AgentError, match="give --image-size"):
        run("check", "folder:mix", "--data", str(tmp_path))

    shown = run("check", "folder:mix", "--data", str(tmp_path), "--image-size", "8")

    assert "all │ 5" in shown
    words = ["datasets", "check", "folder:mix", "--data", str(tmp_path), "--image-size", "7"]
    refused = CliRunner().invoke(cli, words)
    assert refused.exit_code == 2
    assert "'--image-size': 7 is not in [8, 1024]" in refused.output


def test_a_check_lists_unread_files_and_escapes_names(tmp_path: Path) -> None:
    """By suffix; control characters in class names and suffixes are written out."""
    write_classes(tmp_path / "faces", classes=2, images=4)
    (tmp_path / "faces" / "class0").rename(tmp_path / "faces" / "\x1b[31mb\x1b]0;owned\x07")
    (tmp_path / "faces" / "class1" / "notes.\x1b[5mtxt").write_text("")

    shown = run("check", "folder:faces", "--data", str(tmp_path))

    assert r"\x1b[31mb\x1b]0;owned\x07 " in shown
    assert r"not read: 1 .\x1b[5mtxt" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar100", "cifar100 is not in .*trainer-service datasets download cifar100"),
        ("fer2013", r"fer2013 is not in .*Get it: kaggle\.com.*Put it below"),
        ("affectnet", "affectnet is not in .*Get it: ask its authors"),
        (
            "folder:nope",
            r"^there is no folder (\S+/nope); make it: \1/<class>/<image>, or \1/{train",
        ),
        ("npz:nope", r"^there is no file (\S+/nope.npz); make it: \1: images"),
        ("mnist", "not one of"),
        ("folder:../x", "stay inside"),
    ],
)
def test_a_missing_or_invalid_set_is_one_error(tmp_path: Path, name: str, message: str) -> None:
    """As a training would report it, with the remedy; an empty folder is as good as none."""
    (tmp_path / "fer2013").mkdir()

    with pytest.raises(AgentError, match=message):
        run("check", name, "--data", str(tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="FER2013 itself is not beside the checkout")
def test_the_real_fer2013_has_its_published_counts_and_known_defects(tmp_path: Path) -> None:
    """28,709 / 3,589 / 3,589; 280 and 288 images also in training; 57 conflicts; 12 blank."""
    unpack = [sys.executable, str(SHARED / "unpack.py"), "fer2013"]
    subprocess.run([*unpack, "--to", str(tmp_path / "fer2013")], check=True, capture_output=True)

    shown = run("check", "fer2013", "--data", str(tmp_path))

    for line in (
        "28,709 │ 3,589 │ 3,589",
        "all counts are as published",
        "1,853 images are exact duplicates",
        "280 of validation are also in train",
        "288 of test are also in train",
        "57 groups of duplicates carry conflicting labels",
        "12 images are blank",
    ):
        assert line in shown
