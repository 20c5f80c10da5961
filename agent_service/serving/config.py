"""How any of our servers serves: who may call, how it is hidden from others, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent_service.domain.errors import invalid
from agent_service.serving.logs import LogFormat
from agent_service.wire.addresses import Address


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """Files and limits; files are read again when they change."""

    tls_certificate: Path | None = None
    """The server's certificate, with its chain; None serves without TLS."""
    tls_key: Path | None = None
    """Its private key."""
    tls_clients: Path | None = None
    """Who signs the certificates of clients; set, a client without one is refused."""
    run_token: Path | None = None
    """Tokens for runs, one a line: all that a training needs."""
    admin_token: Path | None = None
    """Tokens for everything."""
    insecure: bool = False
    """Listen for other machines even without TLS and tokens."""
    max_message_bytes: int = 4 * 2**20
    """Size of one request, or of one message of a stream."""
    max_header_bytes: int = 16 * 2**10
    """Size of a call's metadata, the token included."""
    max_calls: int = 1024
    """Calls in work at once, streams not counted."""
    max_streams: int = 1024
    """Streams open at once."""
    log_format: LogFormat = LogFormat.TEXT
    """Of the lines on standard error."""
    traces: str | None = None
    """URL of an OpenTelemetry collector that gets the spans of calls; None traces nothing."""

    def __post_init__(self) -> None:
        """Check what belongs together; raises InvalidArgument naming the field."""
        if self.tls_certificate is None and self.tls_key is not None:
            raise invalid("tls_certificate", "is not set; give the certificate of --tls-key")
        if self.tls_certificate is not None and self.tls_key is None:
            raise invalid("tls_key", "is not set; give the private key of --tls-certificate")
        if self.tls_clients is not None and self.tls_certificate is None:
            raise invalid("tls_clients", "needs --tls-certificate and --tls-key")
        for name in ("max_message_bytes", "max_header_bytes", "max_calls", "max_streams"):
            if not 1 <= getattr(self, name) < 2**30:  # gRPC counts to 2^31, and calls with streams
                raise invalid(name, f"{getattr(self, name)} is not from 1 to {2**30 - 1}")

    @property
    def has_tokens(self) -> bool:
        """Whether calls need a token."""
        return self.run_token is not None or self.admin_token is not None

    @property
    def missing(self) -> list[str]:
        """What is missing to serve other machines than this one, as options."""
        missing = [] if self.tls_certificate else ["--tls-certificate and --tls-key"]
        return missing if self.has_tokens else [*missing, "--run-token or --admin-token"]

    def check_listening(self, address: Address, metrics_port: int) -> None:
        """Refuse to listen for other machines without TLS and tokens, and on no port at all.

        Raises:
            InvalidArgument: others reach it, something is missing, and not `insecure` either; or
                there is no such port of metrics.
        """
        if not 0 <= metrics_port < 2**16:
            raise invalid("metrics_port", f"{metrics_port} is not from 0 to 65535")
        if self.missing and not self.insecure and not address.is_private:
            raise invalid(
                "listen",
                f"{address.target} can be reached from other machines: give "
                f"{' and '.join(self.missing)}, or --insecure to let anybody in",
            )
