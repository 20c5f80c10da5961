"""Authorization of calls by bearer tokens, compared in constant time."""

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
"""Minimum interval between log lines about one kind of refusal."""


class Needs(Enum):
    """The token that a call must carry, if the service has tokens."""

    NOTHING = "nothing"
    RUN_TOKEN = "run token"
    """Or the admin token, which grants everything."""
    ADMIN_TOKEN = "admin token"


class Guard:
    """Checks the bearer tokens of calls."""

    def __init__(self, config: ServingConfig) -> None:
        """Read the token files.

        Raises:
            InvalidArgument: a file holds no token, or both hold the same one.
        """
        self._runs = _digests(config.run_token, "run_token")
        self._admins = _digests(config.admin_token, "admin_token")
        if self._runs and self._admins and set(self._runs.get()) & set(self._admins.get()):
            raise invalid(
                "admin_token",
                f"{config.admin_token} and {config.run_token} hold the same token, so every run "
                "could administer; for one token that grants everything give --admin-token alone",
            )
        self.is_open = not config.has_tokens
        """Whether all calls are allowed without a token."""
        self._refusals = RefusalLog()

    def check(self, context: Context, needs: Needs, method: str) -> None:
        """Return if the call is allowed.

        Raises:
            Unauthenticated: it carries no token or an unknown one.
            PermissionDenied: it carries the run token but needs the admin token.
        """
        try:
            self._check(context.invocation_metadata() or (), needs, method)
        except (PermissionDenied, Unauthenticated) as error:
            kind = f"{type(error).__name__} {method}"
            self._refusals.warn(kind, f"refused {method} from {context.peer()}: {error}")
            raise

    def _check(self, metadata: Iterable[Any], needs: Needs, method: str) -> None:
        token = _token(metadata)
        digest = _digest(token)
        # Both comparisons, always: the time taken must reveal nothing.
        is_admin = _is_one_of(digest, self._admins)
        is_run = _is_one_of(digest, self._runs)
        if is_admin or (is_run and needs is Needs.RUN_TOKEN):
            return
        if is_run:
            raise PermissionDenied(f"{method} needs the admin token; this is the run token")
        raise Unauthenticated(
            "unknown token; was it rotated?"
            if token
            else "no token; send the metadata `authorization: Bearer TOKEN`, or give --token FILE"
        )


@dataclass(slots=True)
class _Recent:
    logged_at: float = float("-inf")
    suppressed: int = 0


class RefusalLog:
    """Rate-limited log of refusals, by kind, so that refused callers cannot flood the log."""

    def __init__(self) -> None:
        """Start with no refusal logged."""
        self._by_kind: dict[str, _Recent] = {}

    def warn(self, kind: str, line: str) -> None:
        """Log `line`, or only count it if one of its kind was just logged.

        Args:
            kind: of the refusal; the set of kinds must be small, since each is kept.
            line: to log.
        """
        now = time.monotonic()
        recent = self._by_kind.setdefault(kind, _Recent())
        if now - recent.logged_at < LOG_SECONDS:
            recent.suppressed += 1
            return
        more = f" (and {recent.suppressed} more like it before)" if recent.suppressed else ""
        self._by_kind[kind] = _Recent(logged_at=now)
        log.warning("%s%s", line, more)


def _token(metadata: Iterable[Any]) -> str:
    for key, value in metadata:
        if key == "authorization":
            scheme, _, token = str(value).partition(" ")
            return token.strip() if scheme.lower() == "bearer" else ""
    return ""


def _digest(token: str) -> bytes:
    """Return a digest, whose length does not depend on the token's."""
    return hashlib.sha256(token.encode()).digest()


def _digests(path: Path | None, field: str) -> Reloaded[list[bytes]] | None:
    if path is None:
        return None
    return Reloaded([path], lambda: [_digest(token) for token in read_tokens(path, field)])


def _is_one_of(digest: bytes, known: Reloaded[list[bytes]] | None) -> bool:
    matches = [hmac.compare_digest(digest, one) for one in (known.get() if known else [])]
    return any(matches)
