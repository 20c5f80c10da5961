"""The options of `serve` that our services share."""

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
        "--tls-clients", type=FILE, help="PEM file of who signs clients' certificates: mutual TLS."
    ),
    click.option("--run-token", type=FILE, help="File of the tokens that runs call with."),
    click.option("--admin-token", type=FILE, help="File of the tokens that open everything."),
    click.option("--insecure", is_flag=True, help="Serve other machines without TLS or tokens."),
    click.option(
        "--max-message-bytes",
        type=_POSITIVE,
        default=_DEFAULTS.max_message_bytes,
        help="Of one message.",
    ),
    click.option(
        "--max-header-bytes",
        type=_POSITIVE,
        default=_DEFAULTS.max_header_bytes,
        help="Of a call's metadata.",
    ),
    click.option(
        "--max-calls", type=_POSITIVE, default=_DEFAULTS.max_calls, help="Calls in work at once."
    ),
    click.option(
        "--max-streams", type=_POSITIVE, default=_DEFAULTS.max_streams, help="Open streams at once."
    ),
    click.option(
        "--log-format",
        type=click.Choice(LogFormat, case_sensitive=False),
        default=_DEFAULTS.log_format,
        help="Of the lines on standard error, one an event.",
    ),
    click.option(
        "--traces",
        metavar="URL",
        help="OTLP over gRPC of a collector of traces, as http://localhost:4317.",
    ),
)


def serving_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `ServingConfig`, which is passed on as `serving`."""

    @functools.wraps(command)
    def run(**options: Any) -> Any:
        ours = {field.name: options.pop(field.name) for field in fields(ServingConfig)}
        return command(serving=ServingConfig(**ours), **options)

    wrapped: Callable[..., Any] = run
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def start_service_log(service: str, config: ServingConfig) -> None:
    """Begin to log as a service, before Prometheus' client is imported."""
    # Left over from another program it would have metrics written to files of its folder.
    for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
        os.environ.pop(name, None)
    start_logging(service, config.log_format)
