"""Bearer tokens as files: a client's own, and those that a service takes."""

from __future__ import annotations

import re
from pathlib import Path

from agent_service.domain.errors import invalid
from agent_service.text import decoded
from agent_service.wire.pem import check_no_secret, read_file

SHORTEST = 16
"""Characters of a token; `make certificates` writes 43, of 256 random bits."""
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/=-]{{{SHORTEST},1024}}")


def read_tokens(path: Path, field: str) -> list[str]:
    """Return the tokens of a file, one a line: the newest first, and those that still hold.

    Raises:
        InvalidArgument: naming `field`; never with what the file holds, nor a path to nothing.
    """
    check_no_secret(path, field)
    try:
        tokens = decoded(read_file(path, field)).split()
    except UnicodeDecodeError:
        raise invalid(field, f"{path} is in no encoding that is known; save it as UTF-8") from None
    if not tokens:
        raise invalid(field, f"{path} is empty; write a token into it")
    if not all(map(_TOKEN.fullmatch, tokens)):
        raise invalid(
            field,
            f"{path} holds no token: each is {SHORTEST} to 1024 letters, digits and ._~+/=-",
        )
    return tokens
