"""Configuration that both services share: TLS, tokens, limits, logging, tracing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent_service.domain.errors import invalid
from agent_service.serving.logs import LogFormat
from agent_service.wire.addresses import Address


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """Files and limits; changed files are read again."""

    tls_certificate: Path | None = None
    """The server's certificate chain; None serves without TLS."""
    tls_key: Path | None = None
    """The certificate's private key."""
    tls_clients: Path | None = None
    """CA of client certificates; if set, clients without a certificate are refused."""
    run_token: Path | None = None
    """Tokens that allow all a training needs, one per line."""
    admin_token: Path | None = None
    """Tokens that allow everything, one per line."""
    insecure: bool = False
    """Allow other machines to connect even without TLS and tokens."""
    max_message_bytes: int = 4 * 2**20
    """Maximum size of a request, or of one message of a request stream."""
    max_header_bytes: int = 16 * 2**10
    """Maximum size of a call's metadata, the token included."""
    max_calls: int = 1024
    """Maximum number of concurrent calls, not counting streams."""
    max_streams: int = 1024
    """Maximum number of open streams."""
    log_format: LogFormat = LogFormat.TEXT
    """Format of the log on standard error."""
    traces: str | None = None
    """OTLP endpoint of an OpenTelemetry collector; None disables tracing."""

    def __post_init__(self) -> None:
        """Check fields and their combinations; raises InvalidArgument naming the field."""
        if self.tls_certificate is None and self.tls_key is not None:
            raise invalid("tls_certificate", "is not set; give the certificate of --tls-key")
        if self.tls_certificate is not None and self.tls_key is None:
            raise invalid("tls_key", "is not set; give the private key of --tls-certificate")
        if self.tls_clients is not None and self.tls_certificate is None:
            raise invalid("tls_clients", "needs --tls-certificate and --tls-key")
        for name in ("max_message_bytes", "max_header_bytes", "max_calls", "max_streams"):
            if not 1 <= getattr(self, name) < 2**30:  # the sum of calls and streams must fit int32
                raise invalid(name, f"{getattr(self, name)} is not from 1 to {2**30 - 1}")

    @property
    def has_tokens(self) -> bool:
        """Whether calls need a token."""
        return self.run_token is not None or self.admin_token is not None

    @property
    def missing(self) -> list[str]:
        """The options that are missing to serve other machines securely."""
        missing = [] if self.tls_certificate else ["--tls-certificate and --tls-key"]
        return missing if self.has_tokens else [*missing, "--run-token or --admin-token"]

    def check_listening(self, address: Address, metrics_port: int) -> None:
        """Refuse an invalid metrics port, and an exposed address without TLS and tokens.

        Raises:
            InvalidArgument: `metrics_port` is out of range; or other machines reach the address,
                TLS or tokens are missing, and `insecure` is not set.
        """
        if not 0 <= metrics_port < 2**16:
            raise invalid("metrics_port", f"{metrics_port} is not from 0 to 65535")
        if self.missing and not self.insecure and not address.is_private:
            raise invalid(
                "listen",
                f"{address.target} can be reached from other machines: give "
                f"{' and '.join(self.missing)}, or --insecure to allow anybody",
            )
