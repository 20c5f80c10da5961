"""Packages of Debian releases other than this machine's, by the machine's own mirrors."""

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

APT = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet")
_SOURCES = Path("/etc/apt")


def sources(release: str) -> str:
    """Return apt's line for a release, at the mirror that this machine's own sources name.

    Raises:
        RuntimeError: where they name no mirror of Debian.
    """
    files = [_SOURCES / "sources.list", *sorted((_SOURCES / "sources.list.d").glob("*"))]
    texts = (file.read_text() for file in files if file.is_file())
    for mirror in (word for text in texts for word in _mirrors(text)):
        if mirror.rstrip("/").endswith("/debian"):
            key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
            return f"deb {key} {mirror} {release} main\n"
    raise RuntimeError("no mirror of Debian in /etc/apt: this needs a Debian machine")


def _mirrors(text: str) -> Iterator[str]:
    for line in text.splitlines():
        first, *words = line.split() or [""]
        if first in ("URIs:", "deb"):
            yield from words


def unpack(release: str, *packages: str, into: Path) -> None:
    """Unpack packages of a release into a folder, without what they depend on.

    Lists and cache are this call's own, so the machine's apt learns nothing of the release.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sources.list").write_text(sources(release))
        for part in ("lists/partial", "cache/archives/partial"):
            (folder / part).mkdir(parents=True)
        # apt fetches as a user of its own, who has to get here.
        folder.chmod(0o755)
        own = [f"Dir::Etc::sourcelist={folder}/sources.list", "Dir::Etc::sourceparts=-"]
        own += [f"Dir::State::lists={folder}/lists", f"Dir::Cache={folder}/cache"]
        own += ["APT::Sandbox::User=root"]
        apt = [*APT, *(word for setting in own for word in ("-o", setting))]
        _run([*apt, "update"], folder)
        _run([*apt, "download", *packages], folder)
        for package in folder.glob("*.deb"):
            _run(["dpkg", "-x", str(package), str(into)], folder)


def _run(command: Iterable[str], folder: Path) -> None:
    subprocess.run(list(command), cwd=folder, check=True, stdout=subprocess.DEVNULL, env=os.environ)
