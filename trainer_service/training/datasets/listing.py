"""The entries of a folder of images: each image once, all others counted by what they are."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from trainer_service.training.datasets.decoding import DataError
from trainer_service.training.datasets.values import split_named

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp")
"""Suffixes of image files, in lower case."""
HIDDEN = "hidden or left by tools"
"""How entries are counted that people do not see as theirs."""
_TOOLS = {
    *("@eadir", "#recycle", "__macosx", "__pycache__", "lost+found", "system volume information"),
    *("@recycle", "@recently-snapshot", "#snapshot", "~snapshot", "network trash folder"),
    *("temporary items", "recycler", "cvs", "found.000", "$recycle.bin", "thumbs.db"),
    *("ehthumbs.db", "desktop.ini", "icon\r"),
}
"""Names, in lower case, of what file managers, servers and notebooks leave; others begin with
a dot."""
_SHOWN = 8
"""Kinds of entries that are named when they are left out; the others are added up."""


class Listing:
    """Lists the images below folders of one data set, and counts what is not read.

    Links are followed, since clusters keep images in one place and link to them.
    """

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self.left_out: Counter[str] = Counter()
        """Entries that are not read, by suffix or by what they are."""
        self._folders: dict[Path, list[str]] = {}
        self._has_links = False

    def folders(self, folder: Path) -> list[str]:
        """Return the names of the folders in a folder, sorted; files beside them are counted."""
        if folder not in self._folders:
            self._folders[folder] = sorted(self._listed(folder))
        return self._folders[folder]

    def images(self, folder: Path) -> list[str]:
        """Return the paths of all images below a folder, at any depth, in a lasting order.

        Raises:
            DataError: naming a link to a folder above it, or a folder with a split's name.
        """
        real = os.path.realpath(folder)
        above = frozenset((real, *map(str, Path(real).parents)))
        if os.path.join(os.path.realpath(folder.parent), "").startswith(os.path.join(real, "")):
            raise DataError(f"{folder} is a link to a folder above it; remove it")
        return [os.path.join(*place) for place in sorted(self._walk(str(folder), real, above))]

    def check_once(self, paths: Iterable[str]) -> None:
        """Check that links bring no file in twice; raises DataError naming both places."""
        if not self._has_links:
            return
        found: dict[str, str] = {}
        for path in paths:
            first = found.setdefault(os.path.realpath(path), path)
            if first != path:
                raise DataError(f"{path} and {first} are the same file by a link; remove one")

    def _listed(self, folder: Path) -> Iterator[str]:
        for entry in self._visible(str(folder)):
            if entry.is_dir():
                self._has_links |= entry.is_symlink()
                yield entry.name
            else:
                suffix = _suffix(entry.name)
                self.left_out[f"{suffix} outside a class" if suffix in SUFFIXES else suffix] += 1

    def _walk(self, folder: str, real: str, above: frozenset[str]) -> Iterator[tuple[str, str]]:
        """Yield folder and name of each image; `above` are the real folders that led here."""
        for entry in self._visible(folder):
            self._has_links |= entry.is_symlink()
            if entry.is_dir():
                target = os.path.realpath(entry.path) if entry.is_symlink() else entry.name
                below = os.path.join(real, target)
                if below in above:
                    raise DataError(f"{entry.path} is a link to a folder above it; remove it")
                yield from self._walk(entry.path, below, above | {below})
                if split := split_named(entry.name):
                    raise DataError(
                        f"{entry.path} is named as a split ({split}), inside a class; move it to "
                        "SPLIT/CLASS, or rename it"
                    )
            elif _suffix(entry.name) in SUFFIXES and _may_be_read(entry):
                yield folder, entry.name
            else:
                self.left_out[_suffix(entry.name)] += 1

    def _visible(self, folder: str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _TOOLS:
                    self.left_out[HIDDEN] += 1
                else:
                    yield entry


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without a suffix"


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file, or a broken link, which fails when it is read."""
    return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))


def in_words(left_out: Mapping[str, int]) -> str:
    """Return what was left out, the most frequent first: `5 .heic, 1 hidden or left by tools`."""
    kinds = Counter(left_out).most_common()
    words = [f"{count:,} {kind}" for kind, count in kinds[:_SHOWN]]
    if others := sum(count for _kind, count in kinds[_SHOWN:]):
        words.append(f"{others:,} others")
    return ", ".join(words)
