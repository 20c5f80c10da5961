"""Provenance of a result: the versions and the commit that made it."""

from __future__ import annotations

import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("reinforced-regularization", "torch", "torchvision", "stable-baselines3", "numpy")
"""Packages that decide a result."""

COMMIT = re.compile(r"[0-9a-f]{7,64}(\+changes)?")
"""The form of what `commit` returns of a checkout."""


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of PACKAGES."""
    return {
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
    }


@cache
def commit() -> str:
    """Return the commit of the checkout that this code lies in, `+changes` where files differ.

    Empty where it lies in none. Asked once: what runs is what was loaded then.
    """
    head = _git("rev-parse", "HEAD")
    return head + "+changes" if head and _git("status", "--porcelain") else head


def _git(*words: str) -> str:
    folder = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return shown.stdout.strip()
