"""Bearer tokens read from files, for clients and services."""

from __future__ import annotations

import re
from pathlib import Path

from agent_service.domain.errors import invalid
from agent_service.text import decoded
from agent_service.wire.pem import check_no_secret, read_file

SHORTEST = 16
"""Minimum length of a token; `make certificates` writes 43 characters with 256 random bits."""
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/=-]{{{SHORTEST},1024}}")


def read_tokens(path: Path, field: str) -> list[str]:
    """Return a file's tokens, one per line: the newest first, then others that are still valid.

    Raises:
        InvalidArgument: the file is invalid; names `field`, but never the file's content, nor a
            path that does not exist.
    """
    check_no_secret(path, field)
    try:
        tokens = decoded(read_file(path, field)).split()
    except UnicodeDecodeError:
        raise invalid(field, f"{path} has an unknown encoding; save it as UTF-8") from None
    if not tokens:
        raise invalid(field, f"{path} is empty; write a token into it")
    if not all(map(_TOKEN.fullmatch, tokens)):
        raise invalid(
            field,
            f"{path} has an invalid token: each is {SHORTEST} to 1024 letters, digits and ._~+/=-",
        )
    return tokens
