"""Policies that come with the package: each a file `NAME.safetensors`, and its card, `NAME.md`."""

from __future__ import annotations

from pathlib import Path

from agent_service.domain.errors import invalid

FOLDER = Path(__file__).parent / "shipped"
"""The folder of the files."""


def names() -> list[str]:
    """Return the names of the policies, in order."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def read(name: str) -> bytes:
    """Return the policy file of a name, as `policy_file` writes it.

    Raises:
        InvalidArgument: field `policy`: there is none of this name; lists those that there are.
    """
    known = names()
    if name not in known:
        raise invalid("policy", f"is not one of this service's: {', '.join(known) or 'none'}")
    return (FOLDER / f"{name}.safetensors").read_bytes()
