"""The `trainer-service` command; options also come from TRAINER_SERVICE_<COMMAND>_<OPTION>."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent_service.domain.errors import AgentError
from agent_service.serving.access import FILE, Access, Target, access_options
from agent_service.serving.command import (
    LONGEST_SECONDS,
    Amount,
    Commands,
    NewFile,
    echo,
    run_command,
)
from agent_service.serving.options import serving_options, start_service_log
from agent_service.shutdown import end_on_interrupt
from agent_service.wire.addresses import TRAINER_PORT, address_to_call
from trainer_service.cli.datasets import datasets
from trainer_service.cli.options import options_of, training_options, training_spec
from trainer_service.cli.pretraining import pretrain
from trainer_service.cli.study import compare, merge, report
from trainer_service.config import ExecutorName, TrainerConfig
from trainer_service.training.regularizers.registry import training_methods
from trainer_service.workers.cores import set_threads

if TYPE_CHECKING:
    from trainer_service.client import TrainerClient
    from trainer_service.v1 import trainer_pb2 as pb

_DEFAULTS = TrainerConfig()
_PATH = click.Path(file_okay=False, path_type=Path)
_SECONDS = Amount(0, LONGEST_SECONDS)

# Heavy imports are inside the commands: `--help` is fast, and gRPC reads its settings from the
# environment at import.


@click.group(
    "trainer-service",
    Commands,
    context_settings={"auto_envvar_prefix": "TRAINER_SERVICE", "show_default": True},
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(package_name="reinforced-regularization")
def cli(debug: bool) -> None:
    """Train children under controllers, one service per device."""


@cli.command()
@click.option("--agent", default=_DEFAULTS.agent, help="HOST:PORT of the agent service.")
@click.option("--agent-ca", type=FILE, help="PEM file of the agent's CA; enables TLS.")
@click.option("--agent-certificate", type=FILE, help="PEM file of the client certificate.")
@click.option("--agent-key", type=FILE, help="PEM file of the client's private key.")
@click.option("--agent-token", type=FILE, help="File with the bearer token for the agent.")
@click.option("--device", default=_DEFAULTS.device, help="Torch device, as cpu or cuda:0.")
@click.option("--data", default=_DEFAULTS.data, type=_PATH, help="Folder of the data sets.")
@click.option(
    "--data-memory",
    default=_DEFAULTS.data_memory,
    type=click.Choice(["auto", "resident", "streamed"]),
    help="Hold images on the device, or stream them to it.",
)
@click.option("--runs", default=_DEFAULTS.runs, type=click.Path(path_type=Path), help="Run store.")
@click.option("--storage", default="", help="Checkpoint URL (default: beside the run store).")
@click.option(
    "--executor",
    default=_DEFAULTS.executor,
    type=click.Choice(ExecutorName, case_sensitive=False),
    help="Where runs train: on this machine, or on a Ray cluster.",
)
@click.option("--address", default="", help="Ray: ray://HOST:10001 or HOST:6379 (default: auto).")
@click.option(
    "--gpus-per-process",
    type=Amount(0, 1),
    help="GPU share per process on Ray (default: 1 with cuda, else 0).",
)
@click.option(
    "--listen",
    default=_DEFAULTS.listen,
    help="HOST:PORT or unix:PATH of gRPC; port 0 selects a free one.",
)
@click.option("--metrics-port", default=_DEFAULTS.metrics_port, help="Prometheus; 0: any free.")
@click.option("--parallel", default=_DEFAULTS.parallel, help="Number of training processes.")
@click.option("--together", default=_DEFAULTS.together, help="Similar runs stacked per process.")
@click.option(
    "--threads",
    default=_DEFAULTS.threads,
    help="CPU threads per process (0: cores / --parallel; on Ray 1).",
)
@click.option("--checkpoint-seconds", type=_SECONDS, help="Interval (default: 1% of the time).")
@click.option(
    "--grace-seconds",
    default=_DEFAULTS.grace_seconds,
    type=_SECONDS,
    help="Seconds for running chunks to end at shutdown.",
)
@click.option("--restarts", default=_DEFAULTS.restarts, help="Most restarts without a new chunk.")
@click.option(
    "--stall-seconds",
    default=_DEFAULTS.stall_seconds,
    type=_SECONDS,
    help="Seconds without progress before a process is killed.",
)
@click.option(
    "--agent-seconds",
    default=_DEFAULTS.agent_seconds,
    type=_SECONDS,
    help="Seconds a run waits for an unavailable agent.",
)
@click.option("--tensorboard", type=_PATH, help="TensorBoard event files (default: none).")
@click.option("--max-runs", default=_DEFAULTS.max_runs, help="Most runs that wait or train.")
@serving_options
def serve(**options: Any) -> None:
    """Serve until SIGTERM or SIGINT; interrupted runs resume at the next start."""
    end_on_interrupt()  # during start-up, and again after draining
    access = {name: options.pop(f"agent_{name}") for name in ("ca", "certificate", "key", "token")}
    config = TrainerConfig(agent_access=Access(**access), **options)
    # The number of cores of a cluster's nodes is not known here.
    wanted = config.threads or int(config.executor is ExecutorName.RAY)
    threads = set_threads(os.environ, threads=wanted, parallel=config.parallel)
    config = replace(config, threads=threads)
    start_service_log("trainer", config.serving)
    from trainer_service.app import serve as run

    def announce(port: int, page: int) -> None:
        echo(f"trainer service at {config.listening.announced(port, page)}")

    run(config, announce)
    end_on_interrupt()


_WATCH_SECONDS = 60.0
"""How long `watch` waits for an unavailable service, as during a restart."""

_access_options = access_options("TRAINER_SERVICE")


def _trainer_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of the trainer service to call; passed on as `trainer`."""

    @functools.wraps(command)
    def run(*, trainer: str, access: Access, **options: Any) -> Any:
        address = address_to_call(trainer, "trainer", port=TRAINER_PORT).target
        return command(trainer=Target(address, access), **options)

    text = "HOST:PORT of the trainer service."
    return click.option("--trainer", default=_DEFAULTS.listen, help=text)(_access_options(run))


def _connect(target: Target, *, budget_seconds: float = 5) -> TrainerClient:
    from trainer_service.client import TrainerClient

    access = target.access
    return TrainerClient(
        target.address, budget_seconds=budget_seconds, tls=access.tls, token=access.token
    )


@cli.command()
@_trainer_option
@training_options
@click.argument("run_id")
@click.option("--method", default="vanilla", help=f"One of {', '.join(training_methods())}.")
@click.option(
    "--value",
    "values",
    multiple=True,
    help="Fixed value as NAME=NUMBER, such as dropout=0.2; may be repeated.",
)
@click.option(
    "--controller",
    default="",
    help="Name of the controller at the agent service, for methods that need one.",
)
@click.option("--mode", help="learning or frozen (default: the controller's own).")
@click.option("--seed", default=0, help="Seed of initial weights, batch order and noise.")
@click.option("--keep", is_flag=True, help="Keep the last checkpoint, for `weights` and --parent.")
@click.option(
    "--parent", default="", help="Continue from this kept run, with its options as defaults."
)
@click.pass_context
def submit(
    context: click.Context,
    /,
    trainer: Target,
    run_id: str,
    keep: bool,
    parent: str,
    **options: Any,
) -> None:
    """Queue a run."""
    from agent_service.domain.checks import member
    from agent_service.domain.runs import Mode
    from trainer_service.runs.run import RunSpec

    options["values"] = dict(_named_value(text) for text in options["values"])
    with _connect(trainer) as client:
        if parent:
            options = _options_of_run(client, parent) | _given(context, options)
        controller, mode = options.pop("controller"), options.pop("mode")
        spec = RunSpec(
            training=training_spec(options),
            controller=controller,
            mode=None if mode is None else member(Mode, mode, "mode"),
            keep=keep,
            parent=parent,
        )
        client.submit(run_id, spec)
    there = "" if trainer.address == _DEFAULTS.listen else f" --trainer {trainer.address}"
    echo(f"{run_id} is queued; follow it: trainer-service watch {run_id}{there}")


def _options_of_run(client: TrainerClient, run_id: str) -> dict[str, Any]:
    """Return the options that a run was submitted with, except its length."""
    from trainer_service.rpc import convert

    spec = convert.spec_from_message(client.get(run_id).spec)
    options = options_of(spec.training) | {"chunks": None, "epochs": None}
    return options | {"controller": spec.controller, "mode": spec.mode}


def _given(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options given on the command line or by the environment."""
    default = click.core.ParameterSource.DEFAULT
    return {k: v for k, v in options.items() if context.get_parameter_source(k) is not default}


def _named_value(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not NAME=NUMBER", param_hint="--value") from None


def _state_name(run: pb.Run) -> str:
    from trainer_service.rpc.convert import state_from_message

    return str(state_from_message(run))


@cli.command()
@_trainer_option
def runs(trainer: Target) -> None:
    """List runs in the order of submission."""
    with _connect(trainer) as client:
        for r in client.list():
            state = _state_name(r)
            score = f"test F1 {r.result.test_score_best:.3f}" if r.result.device else ""
            end = ", ".join(part for part in (score, r.cause) if part)
            echo(f"{r.run_id}\t{state}\t{r.trained_chunks}/{r.planned_chunks} chunks\t{end}")


@cli.command()
@_trainer_option
@click.argument("run_id")
def watch(trainer: Target, run_id: str) -> None:
    """Show a run's events from its first to its last, across restarts of the service.

    Exits with 1 if the run failed or was cancelled.
    """
    from trainer_service.runs.run import RunState, StateChanged
    from trainer_service.study.run.progress import RunProgress, event_line
    from trainer_service.study.terminal import Terminal

    with (
        _connect(trainer, budget_seconds=_WATCH_SECONDS) as client,
        RunProgress(Terminal(), run_id) as shown,
    ):
        for event in client.watch(run_id):
            shown.happened(event)
    match event.what:
        case StateChanged(state=RunState.FAILED | RunState.CANCELLED):
            raise AgentError(f"run {run_id}: {event_line(event)}")


@cli.command()
@_trainer_option
@click.argument("run_id")
def cancel(trainer: Target, run_id: str) -> None:
    """Cancel a run that waits or trains."""
    from trainer_service.v1 import trainer_pb2 as pb

    with _connect(trainer) as client:
        run = client.cancel(run_id)
    match run.state:
        case pb.RUN_STATE_CANCELLED:
            echo(f"{run_id} is cancelled")
        case pb.RUN_STATE_SUCCEEDED | pb.RUN_STATE_FAILED:
            echo(f"{run_id} had ended: {_state_name(run)}")
        case _:
            echo(f"{run_id} still trains, and is cancelled as soon as it can stop")


@cli.command()
@_trainer_option
@click.argument("run_id")
@click.argument("file", type=NewFile())
@click.option("--last", is_flag=True, help="Write the last weights instead of the best epoch's.")
def weights(trainer: Target, run_id: str, file: Path, last: bool) -> None:
    """Write the weights of a run that kept its checkpoint, as safetensors."""
    from trainer_service.training.child_file import read_manifest
    from trainer_service.training.chunk import Which

    with _connect(trainer) as client:
        data = client.weights(run_id, Which.LAST if last else Which.BEST)
    manifest = read_manifest(data)
    file.write_bytes(data)
    score = f"validation F1 {manifest.validation_score:.3f}"
    echo(f"{file}: the {manifest.which} weights of {run_id}, {score}, {len(data)} bytes")


@cli.command()
@_trainer_option
@click.argument("run_id")
def discard(trainer: Target, run_id: str) -> None:
    """Remove the checkpoint that a run kept."""
    with _connect(trainer) as client:
        client.discard(run_id)
    echo(f"{run_id} has no checkpoint any more")


@cli.command()
@_trainer_option
def health(trainer: Target) -> None:
    """Exit with 0 if the service is ready, for container health checks."""
    from agent_service.serving.health import check_health

    check_health(trainer.address, "trainer service", tls=trainer.access.tls)
    echo("serving")


for command in (compare, report, merge, datasets, pretrain):
    cli.add_command(command)


def main() -> None:
    """Run the command and end the process."""
    run_command(cli)
