"""Who may call what: bearer tokens, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import grpc

from agent_service.domain.errors import PermissionDenied, Unauthenticated, invalid
from agent_service.serving.config import ServingConfig
from agent_service.wire.reloading import Reloaded
from agent_service.wire.tokens import read_tokens

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

LOG_SECONDS = 1.0
"""Between two lines about refusals of one kind, at the least."""


class Needs(Enum):
    """What a call must carry, where the service has tokens."""

    NOTHING = "nothing"
    RUN_TOKEN = "run token"
    """Or the admin token, which opens everything."""
    ADMIN_TOKEN = "admin token"


class Guard:
    """Looks at the tokens that calls carry."""

    def __init__(self, config: ServingConfig) -> None:
        """Read the tokens; raises InvalidArgument where a file holds none, or both hold one."""
        self._runs = _digests(config.run_token, "run_token")
        self._admins = _digests(config.admin_token, "admin_token")
        if self._runs and self._admins and set(self._runs.get()) & set(self._admins.get()):
            raise invalid(
                "admin_token",
                f"{config.admin_token} and {config.run_token} hold the same token, so every run "
                "could administer; for one token that opens everything give --admin-token alone",
            )
        self.is_open = not config.has_tokens
        """Whether anybody may call anything."""
        self._refusals = RefusalLog()

    def check(self, context: Context, needs: Needs, method: str) -> None:
        """Let a call through.

        Raises:
            Unauthenticated: it carries no token, or none of ours.
            PermissionDenied: it carries the run token, and needs the admin token.
        """
        try:
            self._check(context.invocation_metadata() or (), needs, method)
        except (PermissionDenied, Unauthenticated) as error:
            kind = f"{type(error).__name__} {method}"
            self._refusals.tell(kind, f"refused {method} of {context.peer()}: {error}")
            raise

    def _check(self, metadata: Iterable[Any], needs: Needs, method: str) -> None:
        token = _token(metadata)
        digest = _digest(token)
        # Both, whatever the first says: how long it takes tells nothing.
        is_admin = _is_one_of(digest, self._admins)
        is_run = _is_one_of(digest, self._runs)
        if is_admin or (is_run and needs is Needs.RUN_TOKEN):
            return
        if is_run:
            raise PermissionDenied(f"{method} needs the admin token; this is the run token")
        raise Unauthenticated(
            "the token is none that this service knows; is it an old one?"
            if token
            else "no token; send the metadata `authorization: Bearer TOKEN`, or give --token FILE"
        )


@dataclass(slots=True)
class _Kind:
    logged_at: float = float("-inf")
    unlogged: int = 0


class RefusalLog:
    """Logs a refusal of each kind at most once in a while, and how many there were.

    So nobody fills the log by being refused.
    """

    def __init__(self) -> None:
        """Know of none."""
        self._kinds: dict[str, _Kind] = {}

    def tell(self, kind: str, line: str) -> None:
        """Log `line`, unless one of its kind just was; of kinds there are few."""
        now = time.monotonic()
        seen = self._kinds.setdefault(kind, _Kind())
        if now - seen.logged_at < LOG_SECONDS:
            seen.unlogged += 1
            return
        more = f" (and {seen.unlogged} more like it before)" if seen.unlogged else ""
        self._kinds[kind] = _Kind(logged_at=now)
        log.warning("%s%s", line, more)


def _token(metadata: Iterable[Any]) -> str:
    for key, value in metadata:
        if key == "authorization":
            scheme, _, token = str(value).partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""


def _digest(token: str) -> bytes:
    """Return a digest, which has one length whatever the token's."""
    return hashlib.sha256(token.encode()).digest()


def _digests(path: Path | None, field: str) -> Reloaded[list[bytes]] | None:
    if path is None:
        return None
    return Reloaded([path], lambda: [_digest(token) for token in read_tokens(path, field)])


def _is_one_of(digest: bytes, known: Reloaded[list[bytes]] | None) -> bool:
    matches = [hmac.compare_digest(digest, one) for one in (known.get() if known else [])]
    return any(matches)
