"""Options and connections of commands that call a running service."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent_service.config import AgentConfig
from agent_service.domain.errors import InvalidArgument, invalid
from agent_service.serving.command import field_options
from agent_service.wire.addresses import AGENT_PORT, address_to_call

if TYPE_CHECKING:
    from agent_service.client import AgentClient
    from agent_service.client.connection.tls import Tls

FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True, kw_only=True)
class Access:
    """TLS files and token with which a command calls a service."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: Path | None = None

    @property
    def tls(self) -> Tls | None:
        """The client's TLS settings; None if no option asks for TLS."""
        # Imported here, since gRPC reads its settings from the environment when it is imported.
        from agent_service.client.connection.tls import Tls

        if (self.ca, self.certificate, self.key) == (None, None, None):
            return None
        return Tls(ca=self.ca, certificate=self.certificate, key=self.key)

    def check(self) -> None:
        """Validate the files with which the trainer service will call the agent.

        Raises:
            InvalidArgument: a file is invalid; names the trainer's option, such as `agent_ca`.
        """
        from agent_service.client.connection.channel import open_channel

        try:
            open_channel(address_to_call("localhost:1"), tls=self.tls, token=self.token).close()
        except InvalidArgument as error:
            (violation,) = error.violations
            field = violation.field.removeprefix("tls.")
            raise invalid(f"agent_{field}", violation.description) from None


@dataclass(frozen=True)
class Target:
    """The service that a command calls."""

    address: str
    access: Access


_ACCESS = {
    "ca": "PEM file of the CA that signed the service's certificate; enables TLS.",
    "certificate": "PEM file of the client certificate, for mutual TLS.",
    "key": "PEM file of the client's private key.",
    "token": "File with the bearer token for the service.",
}


def access_options(prefix: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the options of `Access`, passed to the command as `access`.

    Like all options, each can be set by <PREFIX>_<COMMAND>_<OPTION>; <PREFIX>_<OPTION> sets it for
    all commands.
    """
    options = {
        name: {"type": FILE, "envvar": f"{prefix}_{name.upper()}", "help": text}
        for name, text in _ACCESS.items()
    }
    return field_options(Access(), "access", options)


def agent_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select the agent service, passed to the command as `agent`, a Target."""

    @functools.wraps(command)
    def run(*, agent: str, access: Access, **options: Any) -> Any:
        address = address_to_call(agent, "agent", port=AGENT_PORT).target
        return command(agent=Target(address, access), **options)

    where = click.option("--agent", default=AgentConfig().listen, help="HOST:PORT of the service.")
    return where(access_options("AGENT_SERVICE")(run))


def connect(target: Target) -> AgentClient:
    """Return a client with a retry budget short enough for an interactive command."""
    from agent_service.client import AgentClient

    access = target.access
    return AgentClient(target.address, budget_seconds=5, tls=access.tls, token=access.token)
