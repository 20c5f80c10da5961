"""The command `simulate`: load on an agent service by simulated children."""

from __future__ import annotations

import dataclasses
import json
import secrets
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from agent_service.domain.errors import AgentError
from agent_service.serving.access import Target, agent_option
from agent_service.serving.command import Amount, Count, echo

if TYPE_CHECKING:
    from rich.progress import TaskID

    from agent_service.client import AgentClient
    from trainer_service.load.simulate import Outcome, Told

HYPERPARAMETER = "dropout"
"""Of the controller: the simulated child's drop rate."""
_COUNT = Count(1, 10**6)
_AMOUNT = Amount(0, 10**6, min_open=True)
CANCELLERS = 16
"""Threads that end what an interrupted load left."""


@click.command()
@agent_option
@click.option("--runs", type=_COUNT, default=1000, help="Live runs.")
@click.option(
    "--seconds", type=_AMOUNT, default=60.0, help="Under load, after all runs are started."
)
@click.option("--rate", type=_AMOUNT, help="Reports a second; as many as it can by default.")
@click.option(
    "--chunks",
    type=_COUNT,
    default=100,
    help="Of a run; one that ends makes room for a new one.",
)
@click.option("--processes", type=Count(1, 256), default=2, help="That load the service.")
@click.option("--streams", is_flag=True, help="Report over streams, as fleets do; else by calls.")
@click.option("--rollout-size", type=_COUNT, default=2048, help="Transitions of one policy update.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def simulate(
    agent: Target,
    runs: int,
    seconds: float,
    rate: float | None,
    chunks: int,
    processes: int,
    streams: bool,
    rollout_size: int,
    as_json: bool,
) -> None:
    """Drive simulated children against an agent service, and print how it did.

    A controller of its own learns from them; at the end their runs are finished, and it is deleted.
    """
    from trainer_service.load.drive import Share
    from trainer_service.load.simulate import simulate as load

    name = f"simulated-{secrets.token_hex(4)}"
    share = Share(
        agent=agent.address,
        access=agent.access,
        controller=name,
        hyperparameter=HYPERPARAMETER,
        runs=runs,
        chunks=chunks,
        rate=rate,
        seconds=seconds,
        over_streams=streams,
        prefix=name,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what is made is removed then, too
    with _controller(agent, name, rollout_size, chunks), _bars() as told:
        outcome = load(share, processes=processes, told=told)
    echo(json.dumps(dataclasses.asdict(outcome), indent=1) if as_json else _table(outcome))


@contextmanager
def _controller(agent: Target, name: str, rollout_size: int, chunks: int) -> Iterator[None]:
    """Have a controller that learns from the load; delete it, whatever ends the load."""
    from agent_service.client import ControllerSpec, Hyperparameter, PPOSettings, Reward
    from agent_service.serving.access import connect
    from trainer_service.simulation.child import HIGHEST_RATE

    spec = ControllerSpec(
        name=name,
        hyperparameters=(Hyperparameter(name=HYPERPARAMETER, low=0.0, high=HIGHEST_RATE),),
        reward=Reward.VALIDATION,
        algorithm=PPOSettings(rollout_size=rollout_size),
    )
    with connect(agent) as client:
        client.create_controller(spec)
        try:
            yield
        finally:
            try:
                _cancel_runs(client, name, chunks)
                client.delete_controller(name)
            except AgentError as error:
                echo(f"the controller {name} is left at the agent: {error}", err=True)


def _cancel_runs(client: AgentClient, controller: str, chunks: int) -> None:
    """End the runs that an interrupted load left: a controller with active runs stays."""
    from agent_service.domain.runs import Outcome, RunState

    def cancel(run_id: str) -> None:
        client.run(controller, run_id=run_id, planned_chunks=chunks).finish(Outcome.CANCELLED)

    active = [r.run_id for r in client.list_runs(controller=controller, state=RunState.ACTIVE)]
    with ThreadPoolExecutor(CANCELLERS) as pool:
        list(pool.map(cancel, active))


@contextmanager
def _bars() -> Iterator[Told]:
    """Give what is told how far a load is, and shows a bar for each thing done, on a terminal."""
    from rich.progress import Progress

    from trainer_service.terminal import Terminal

    console = Terminal(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield told


def _table(outcome: Outcome) -> str:
    behind = outcome.versions_behind
    late = 100 * sum(n for versions, n in behind.items() if versions > 0) / outcome.decisions
    rows = [
        ("live runs", f"{outcome.live_runs:,}"),
        ("decisions", f"{outcome.decisions:,} in {outcome.seconds:g} s"),
        ("decisions a second", f"{outcome.decisions_per_second:,.0f}"),
        ("p50", f"{outcome.p50 * 1000:.1f} ms"),
        ("p99", f"{outcome.p99 * 1000:.1f} ms"),
        ("p99.9", f"{outcome.p999 * 1000:.1f} ms"),
        ("longest", f"{outcome.longest * 1000:.0f} ms"),
        ("errors", ", ".join(f"{k} {n}" for k, n in outcome.errors.items()) or "none"),
        *((f"memory: {name}", f"{size / 2**20:.0f} MiB") for name, size in outcome.memory.items()),
        *((f"processor: {name}", f"{_share(outcome, name)}") for name in outcome.cpu),
        ("store", _grown(outcome)),
        ("policy updates", str(outcome.updates)),
        ("update lag", _lag(outcome)),
        (
            "transitions waiting",
            f"{outcome.waiting:,} at most; an update takes {outcome.rollout:,}",
        ),
        (
            "policy staleness",
            f"{late:.1f}% decided by an older version, {max(behind)} behind at most",
        ),
    ]
    width = max(len(name) for name, _value in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _share(outcome: Outcome, process: str) -> str:
    seconds = outcome.cpu[process]
    return f"{seconds:.1f} s, {seconds / outcome.decisions * 1000:.2f} ms a decision"


def _lag(outcome: Outcome) -> str:
    if outcome.update_lag is None or outcome.longest_update_lag is None:
        return "no update"
    return (
        f"{outcome.update_lag:.1f} s from a full rollout to its policy, "
        f"{outcome.longest_update_lag:.1f} s at most"
    )


def _grown(outcome: Outcome) -> str:
    if outcome.store_growth is None:
        return "not a file of this machine"
    each = outcome.store_growth / outcome.decisions
    return f"{outcome.store_growth / 1e6:.1f} MB more, {each:.0f} bytes a decision"
