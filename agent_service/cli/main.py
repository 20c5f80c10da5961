"""The `agent-service` command. Each option can also be set by AGENT_SERVICE_<COMMAND>_<OPTION>."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from agent_service.cli.analysis import agreement, replay
from agent_service.cli.log import transitions
from agent_service.cli.prune import prune_options, prune_store
from agent_service.config import AgentConfig
from agent_service.domain.checks import quoted
from agent_service.domain.errors import NotFound, invalid
from agent_service.domain.runs import RunState
from agent_service.domain.store import Durability
from agent_service.serving.access import FILE, Target, agent_option, connect
from agent_service.serving.command import (
    LONGEST_SECONDS,
    Amount,
    Commands,
    Count,
    NewFile,
    echo,
    field_options,
    headed,
    run_command,
)
from agent_service.serving.options import serving_options, start_service_log
from agent_service.shutdown import end_on_interrupt, end_with_stdin
from agent_service.text import decoded
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire.pem import check_no_secret

_DEFAULTS = AgentConfig()


@click.group(
    "agent-service",
    Commands,
    context_settings={"auto_envvar_prefix": "AGENT_SERVICE", "show_default": True},
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="reinforced-regularization")
def cli(debug: bool) -> None:
    """Host controllers that set regularization hyperparameters of running trainings."""


_LIMIT = Count(min=1)
_capacity_options = field_options(
    _DEFAULTS.capacity,
    "capacity",
    {
        "controllers": {
            "type": _LIMIT,
            "help": "Maximum number of controllers that are not deleted.",
        },
        "runs": {"type": _LIMIT, "help": "Maximum number of active runs."},
        "hyperparameters": {
            "type": _LIMIT,
            "help": "Maximum number of hyperparameters of a controller.",
        },
        "chunk_size": {"type": _LIMIT, "help": "Maximum number of losses in a chunk."},
    },
    prefix="max_",
)


def _store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the store, passed to the command as its complete URL, `store`."""

    @functools.wraps(command)
    def run(*, store: str, store_password: Path | None, **options: Any) -> Any:
        if store_password is not None:
            store = _with_password(store, store_password)
        return command(store=store, **options)

    text = "URL of the store: sqlite:///PATH, or postgresql+psycopg://USER@HOST/DATABASE."
    secret = "File with its password; libpq's PGPASSFILE and PGSERVICE work, too."
    run = click.option("--store-password", type=FILE, help=secret)(run)
    return click.option("--store", default=_DEFAULTS.store, help=text)(run)


def _with_password(store: str, file: Path) -> str:
    import sqlalchemy as sa

    check_no_secret(file, "store_password")
    try:
        password = decoded(file.read_bytes()).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise invalid("store_password", f"{file} cannot be read: {error}") from error
    try:
        url = sa.make_url(store)
    except (sa.exc.ArgumentError, ValueError):
        return store  # the error is reported when it is opened
    if url.get_backend_name() == "sqlite":
        raise invalid("store_password", "a SQLite file has no password; omit it")
    return url.set(password=password).render_as_string(hide_password=False)


@cli.command()
@click.option(
    "--listen", default=_DEFAULTS.listen, help="HOST:PORT or unix:PATH; port 0: any free one."
)
@_store_options
@click.option(
    "--metrics-port",
    default=_DEFAULTS.metrics_port,
    help="Port of the Prometheus metrics; 0: any free one.",
)
@click.option(
    "--durability",
    type=click.Choice(Durability, case_sensitive=False),
    default=_DEFAULTS.durability,
    help="What an answered call survives: a power failure, or a killed process.",
)
@click.option(
    "--lease",
    type=Amount(min=0, min_open=True, max=LONGEST_SECONDS),
    default=_DEFAULTS.lease,
    help="Seconds without a report after which a run is abandoned.",
)
@serving_options
@_capacity_options
@click.option("--with-stdin", is_flag=True, help="Also stop when standard input is closed.")
def serve(*, with_stdin: bool, **options: Any) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    end_on_interrupt()  # before it serves, and again after it has drained
    config = AgentConfig(**options)
    start_service_log("agent", config.serving)
    from agent_service.app import serve as run

    if with_stdin:
        end_with_stdin()

    def announce(port: int, page: int) -> None:
        echo(f"agent service at {config.listening.announced(port, page)}")

    run(config, announce)
    end_on_interrupt()


@cli.command()
@agent_option
def health(agent: Target) -> None:
    """Exit with 0 if the service is serving, for container checks."""
    from agent_service.serving.health import check_health

    check_health(agent.address, "agent service", tls=agent.access.tls)
    echo("serving")


@cli.command()
@agent_option
def controllers(agent: Target) -> None:
    """List controllers."""
    with connect(agent) as client:
        columns = ("controller", "algorithm", "mode", "policy", "runs", "transitions")
        for c in headed(client.list_controllers(), *columns):
            echo(
                f"{c.spec.name}\t{c.spec.WhichOneof('algorithm') or 'unknown'}"
                f"\t{pb.Mode.Name(c.mode)[5:].lower()}"
                f"\tversion {c.policy_version}\t{c.active_runs} active runs"
                f"\t{c.learned_transitions} learned\t{c.ready_transitions} ready"
            )


@cli.command()
@agent_option
@click.option("--controller", default="", help="Only runs of this controller.")
@click.option(
    "--state", type=click.Choice(RunState, case_sensitive=False), help="Only runs in this state."
)
@click.option("--label", "labels", multiple=True, help="Only runs with this KEY=VALUE; repeatable.")
def runs(agent: Target, controller: str, state: RunState | None, labels: tuple[str, ...]) -> None:
    """List runs, newest first."""
    wanted = dict(_label(text) for text in labels)
    with connect(agent) as client:
        found = client.list_runs(controller=controller, state=state, labels=wanted)
        columns = ("run", "controller", "state", "chunks", "mode")
        r = None
        for r in headed(found, *columns):
            ended = pb.Outcome.Name(r.outcome)[8:] if r.outcome else pb.RunState.Name(r.state)[10:]
            echo(
                f"{r.run_id}\t{r.controller}\t{ended.lower()}\t{r.reported_chunks} chunks"
                f"\t{pb.Mode.Name(r.mode)[5:].lower()}"
            )
        is_empty = bool(controller) and r is None
        if is_empty and all(c.spec.name != controller for c in client.list_controllers()):
            raise NotFound(f"no controller {quoted(controller)}")


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--label")
    return key, value


for command in (transitions, replay, agreement):
    cli.add_command(command)


@cli.command("export")
@agent_option
@click.argument("controller")
@click.argument("path", type=NewFile())
@click.option(
    "--policy-version", type=Count(min=0), default=0, help="Version to export; 0: the newest."
)
def export_(agent: Target, controller: str, path: Path, policy_version: int) -> None:
    """Write a controller's policy to a safetensors file."""
    with connect(agent) as client:
        path.write_bytes(client.export_policy(controller, policy_version))
    echo(f"wrote {path}")


@cli.command("import")
@agent_option
@click.argument("controller")
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_(agent: Target, controller: str, path: Path) -> None:
    """Import a policy file as a controller's newest version."""
    with connect(agent) as client:
        version = client.import_policy(controller, path.read_bytes())
    echo(f"policy version {version}")


@cli.command()
@agent_option
@click.argument("controller")
def policies(agent: Target, controller: str) -> None:
    """List a controller's policy versions, newest first."""
    with connect(agent) as client:
        columns = ("version", "origin", "made", "learned from", "size", "statistics")
        for v in headed(client.list_policy_versions(controller), *columns):
            origin = pb.Origin.Name(v.origin)[7:].lower()
            statistics = " ".join(f"{k}={v.statistics[k]:.4g}" for k in sorted(v.statistics))
            echo(
                f"version {v.version}\t{origin}\t{v.create_time.ToJsonString()}"
                f"\t{v.learned_transitions} transitions\t{v.size_bytes} bytes\t{statistics}"
            )


@cli.command("compare-policies")
@agent_option
@click.argument("controller")
@click.argument("one", type=Count(min=1))
@click.argument("other", type=Count(min=1))
@click.option(
    "--transitions",
    default=1000,
    type=Count(min=1),
    help="Minimum number of transitions; whole runs are taken, newest first.",
)
def compare_policies(
    agent: Target, controller: str, one: int, other: int, transitions: int
) -> None:
    """Show how two policy versions of a controller differ, and the statistics of each.

    Both decide, as in frozen runs, on the states of the controller's newest runs. Distances are in
    each hyperparameter's own unit.
    """
    from agent_service.app import compare_policies as compare

    with connect(agent) as client:
        found, states = compare(client, controller, one, other, transitions=transitions)
        versions = {v.version: v.statistics for v in client.list_policy_versions(controller)}
    echo(f"on {states} states\tmean\tlargest\tthere {one}\tthere {other}\twhere")
    for d in found:
        echo(
            f"{d.hyperparameter}\t{d.mean:.4g}\t{d.largest:.4g}\t{d.one:.4g}\t{d.other:.4g}"
            f"\trun {d.run_id}, chunk {d.chunk}"
        )
    echo(f"statistic\t{one}\t{other}")
    for name in sorted({*versions[one], *versions[other]}):
        shown = (f"{v[name]:.4g}" if name in v else "-" for v in (versions[one], versions[other]))
        echo("\t".join((name, *shown)))


@cli.command()
@agent_option
@click.argument("controller")
@click.argument("version", type=Count(min=1))
def rollback(agent: Target, controller: str, version: int) -> None:
    """Copy an older policy version to a new one, from which learning continues."""
    with connect(agent) as client:
        newest = client.import_policy(controller, client.export_policy(controller, version))
    echo(f"policy version {newest}, as version {version}")


@cli.command()
@_store_options
def verify(store: str) -> None:
    """Re-derive every decision of the log, and report the first that differs."""
    from agent_service.app import verify_store

    echo(f"{verify_store(store)} decisions derived again, all equal")


@cli.command()
@_store_options
@prune_options
def prune(store: str, **options: Any) -> None:
    """Move old runs from the store into a folder of Parquet files, while the store is served.

    Only runs that are finished or abandoned, and that learning no longer needs. A run's decisions
    are deleted once its file is on disk and was read back. Its id stays taken. The next prune into
    the same folder completes what a killed one left. Bytes in the table are sizes of values in the
    store.
    """
    prune_store(store, **options)


def main() -> None:
    """Run the command and end the process."""
    run_command(cli)
