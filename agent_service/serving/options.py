"""The options of `serve` that both services share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

from agent_service.serving.access import FILE
from agent_service.serving.command import Count
from agent_service.serving.config import ServingConfig
from agent_service.serving.logs import LogFormat, start_logging

_DEFAULTS = ServingConfig()
_POSITIVE = Count(min=1)
_OPTIONS = (
    click.option("--tls-certificate", type=FILE, help="PEM file of the server's certificate."),
    click.option("--tls-key", type=FILE, help="PEM file of its private key."),
    click.option(
        "--tls-clients", type=FILE, help="PEM file of the CA of client certificates: mutual TLS."
    ),
    click.option("--run-token", type=FILE, help="File with the tokens for runs, one per line."),
    click.option("--admin-token", type=FILE, help="File with the tokens that grant everything."),
    click.option("--insecure", is_flag=True, help="Serve other machines without TLS or tokens."),
    click.option(
        "--max-message-bytes",
        type=_POSITIVE,
        default=_DEFAULTS.max_message_bytes,
        help="Maximum size of one message.",
    ),
    click.option(
        "--max-header-bytes",
        type=_POSITIVE,
        default=_DEFAULTS.max_header_bytes,
        help="Maximum size of a call's metadata.",
    ),
    click.option(
        "--max-calls",
        type=_POSITIVE,
        default=_DEFAULTS.max_calls,
        help="Maximum number of concurrent calls.",
    ),
    click.option(
        "--max-streams",
        type=_POSITIVE,
        default=_DEFAULTS.max_streams,
        help="Maximum number of open streams.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(LogFormat, case_sensitive=False),
        default=_DEFAULTS.log_format,
        help="Format of the log on standard error, one line per event.",
    ),
    click.option(
        "--traces",
        metavar="URL",
        help="OTLP/gRPC endpoint of a trace collector, such as http://localhost:4317.",
    ),
)


def serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `ServingConfig`, passed to the command as `serving`."""

    @functools.wraps(command)
    def run(**options: Any) -> Any:
        ours = {field.name: options.pop(field.name) for field in fields(ServingConfig)}
        return command(serving=ServingConfig(**ours), **options)

    wrapped: Callable[..., Any] = run
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def start_service_log(service: str, config: ServingConfig) -> None:
    """Start logging as a service, before prometheus_client is imported."""
    # Left over from another program, it would make prometheus_client write files to its folder.
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        os.environ.pop(name, None)
    start_logging(service, config.log_format)
