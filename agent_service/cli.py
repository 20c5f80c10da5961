"""The `agent-service` command. Each option can also come from AGENT_SERVICE_<COMMAND>_<OPTION>."""

from __future__ import annotations

import logging
import sys

import click

from agent_service.config import AgentConfig
from agent_service.domain.errors import AgentError


@click.group(context_settings={"auto_envvar_prefix": "AGENT_SERVICE", "show_default": True})
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="reinforced-regularization")
def cli(debug: bool) -> None:
    """Host controllers that pick regularization hyperparameters for running trainings."""


@cli.command()
@click.option("--listen", default=AgentConfig.listen, help="HOST:PORT of gRPC; port 0: any free.")
@click.option("--store", default=AgentConfig.store, help="URL of the store.")
@click.option("--metrics-port", default=AgentConfig.metrics_port, help="Prometheus; 0: any free.")
def serve(listen: str, store: str, metrics_port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    from agent_service.build import serve as run

    logging.basicConfig(level=logging.INFO, format="%(asctime)s agent %(message)s")
    config = AgentConfig(listen=listen, store=store, metrics_port=metrics_port)
    run(
        config,
        lambda port, page: click.echo(
            f"agent service at {config.host}:{port}, metrics at http://{config.host}:{page}/metrics"
        ),
    )


def main() -> None:
    """Run the command; errors end in one line and exit code 1."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (AgentError, OSError) as error:
        if "--debug" in sys.argv:
            raise
        click.echo(f"agent-service: {error}", err=True)
        sys.exit(1)
