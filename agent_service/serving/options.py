"""The options of `serve` that both services share."""

from __future__ import annotations

import os

import click

from agent_service.serving.access import FILE
from agent_service.serving.command import Count, field_options
from agent_service.serving.config import ServingConfig
from agent_service.serving.logs import LogFormat, start_logging

_LIMIT = Count(min=1)
_FORMAT = click.Choice(LogFormat, case_sensitive=False)

serving_options = field_options(
    ServingConfig(),
    "serving",
    {
        "tls_certificate": {"type": FILE, "help": "PEM file of the server's certificate."},
        "tls_key": {"type": FILE, "help": "PEM file of its private key."},
        "tls_clients": {
            "type": FILE,
            "help": "PEM file of the CA of client certificates: mutual TLS.",
        },
        "run_token": {"type": FILE, "help": "File with the tokens for runs, one per line."},
        "admin_token": {"type": FILE, "help": "File with the tokens that grant everything."},
        "insecure": {"is_flag": True, "help": "Serve other machines without TLS or tokens."},
        "max_message_bytes": {"type": _LIMIT, "help": "Maximum size of one message."},
        "max_header_bytes": {"type": _LIMIT, "help": "Maximum size of a call's metadata."},
        "max_calls": {"type": _LIMIT, "help": "Maximum number of concurrent calls."},
        "max_streams": {"type": _LIMIT, "help": "Maximum number of open streams."},
        "log_format": {
            "type": _FORMAT,
            "help": "Format of the log on standard error, one line per event.",
        },
        "traces": {
            "metavar": "URL",
            "help": "OTLP/gRPC endpoint of a trace collector, such as http://localhost:4317.",
        },
    },
)
"""Adds the options of `ServingConfig`, passed to the command as `serving`."""


def start_service_log(service: str, config: ServingConfig) -> None:
    """Start logging as a service, before prometheus_client is imported."""
    # Left over from another program, it would make prometheus_client write files to its folder.
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        os.environ.pop(name, None)
    start_logging(service, config.log_format)
