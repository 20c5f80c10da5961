"""Small data sets in the real layouts: the tests' own, of random pixels with the right shape."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

Images = npt.NDArray[np.uint8]
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
USAGES = ("Training", "PublicTest", "PrivateTest")


def faces(count: int, *, seed: int = 0) -> Images:
    """Return uint8[count, 48, 48]."""
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), dtype=np.uint8)


def fer2013_rows(images: Images, usages: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return emotion, pixels and usage; the emotions go round."""
    return [
        (str(i % 7), " ".join(map(str, image.ravel())), usage)
        for i, (image, usage) in enumerate(zip(images, usages, strict=True))
    ]


def write_fer2013_csv(folder: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    """Write Kaggle's fer2013.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "fer2013.csv"
    lines = ["emotion,pixels,Usage", *(",".join(row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_icml_csv(folder: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    """Write Kaggle's icml_face_data.csv: another order, and spaces before the names."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "icml_face_data.csv"
    lines = ["emotion, Usage, pixels", *(f"{e},{usage},{pixels}" for e, pixels, usage in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_fer2013_npz(folder: Path, images: Images, /, **changes: np.ndarray) -> Path:
    """Write fer2013.npz: a third of the images for each usage."""
    folder.mkdir(parents=True, exist_ok=True)
    count = len(images)
    arrays = {
        "images": images,
        "labels": (np.arange(count) % 7).astype(np.uint8),
        "usage": (np.arange(count) * 3 // count).astype(np.uint8),
        "class_names": np.array(EXPRESSIONS),
        "usage_names": np.array(USAGES),
    } | changes
    np.savez(folder / "fer2013.npz", **arrays)  # type: ignore[arg-type]
    return folder / "fer2013.npz"


def write_fer2013_folders(folder: Path, images: Images) -> None:
    """Write train/ and test/ as msambare's set on Kaggle has them: every third image tests."""
    for i, image in enumerate(images):
        split = "test" if i % 3 == 2 else "train"
        path = folder / split / EXPRESSIONS[i % 7] / f"{split.title()}_{i:08}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def write_affectnet(folder: Path, labels: Mapping[str, Sequence[int]], *, size: int = 224) -> None:
    """Write the official layout; `labels` by `train_set` and `val_set`."""
    rng = np.random.default_rng(0)
    for name, of_images in labels.items():
        for part in ("images", "annotations"):
            (folder / name / part).mkdir(parents=True)
        for i, label in enumerate(of_images):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / "images" / f"{i}.jpg")
            for kind, value in (("exp", str(label)), ("val", "-0.25"), ("aro", "0.5")):
                np.save(folder / name / "annotations" / f"{i}_{kind}.npy", np.array(value))


def write_affectnet_lists(folder: Path, labels: Mapping[str, Sequence[int]]) -> None:
    """Write the larger release: lists, and images of many sizes in numbered folders."""
    header = (
        "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,"
        "valence,arousal"
    )
    (folder / "Manually_Annotated_file_lists").mkdir(parents=True)
    for name, of_images in labels.items():
        lines = [header]
        for i, label in enumerate(of_images):
            path = folder / "Manually_Annotated_Images" / str(i % 3) / f"{name}{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40 + i, 50), (i * 9 % 256, 20, 30)).save(path)
            lines.append(f"{i % 3}/{name}{i}.jpg,1,2,30,30,1.0;2.0,{label},0.1,-0.2")
        path = folder / "Manually_Annotated_file_lists" / f"{name}.csv"
        path.write_text("\n".join(lines) + "\n")


def write_classes(
    folder: Path, *, classes: int = 3, images: int = 20, mode: str = "RGB", seed: int = 0
) -> None:
    """Write FOLDER/class0/00.png and so on, 6 pixels high and 5 wide."""
    rng = np.random.default_rng(seed)
    for c in range(classes):
        (folder / f"class{c}").mkdir(parents=True)
        for i in range(images):
            shape = (6, 5) if mode == "L" else (6, 5, 3)
            pixels = rng.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{c}" / f"{i:02}.png")
