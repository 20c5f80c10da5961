"""Malformed traffic against real services, and what must be true meanwhile and afterwards.

`make test-traffic` sends 100,000 generated requests, and each kind of frames many times; the
suite's own test sends few.
"""

import os
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np

from agent_service.app import verify_store
from agent_service.client import AgentClient
from agent_service.domain.errors import AlreadyExists, FailedPrecondition, NotFound
from agent_service.serving.health import check_health
from agent_service.v1 import agent_pb2
from tests.agent_service.specs import spec
from tests.end_to_end import frames
from tests.end_to_end.long import measure
from tests.end_to_end.neighbour import NAME, Neighbour
from tests.end_to_end.processes import AgentProcess, ServiceProcess, TrainerProcess
from tests.end_to_end.traffic import Target, hold_idle, send_frames, send_oversized, write_slowly
from tests.trainer_service.specs import run_spec
from trainer_service.client import TrainerClient
from trainer_service.training.spec import Method
from trainer_service.v1 import trainer_pb2

LEAST_URGENT = 19
GROWTH = 48.0
"""MiB that traffic may leave behind; Python and gRPC keep what they once took for a while."""


@dataclass
class Figures:
    codes: Counter[str] = field(default_factory=Counter)
    """Of generated requests, by status code."""
    frames: int = 0
    quiet_p99: float = 0.0
    """Seconds of another client's reports without traffic."""
    ratios: dict[str, float] = field(default_factory=dict)
    """The same during each kind of traffic, to the quiet value."""
    memory: tuple[float, float] = (0.0, 0.0)
    """MiB that the agent holds before and afterwards."""


def rows(path: Path, queries: Iterable[str]) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return repr([connection.execute(query).fetchall() for query in queries])


def agent_state(path: Path) -> str:
    """Return all of an agent's store but what the neighbour wrote."""
    theirs = f"SELECT id FROM controllers WHERE name = '{NAME}'"
    return rows(
        path,
        (
            f"SELECT * FROM controllers WHERE name <> '{NAME}'",
            f"SELECT * FROM policies WHERE controller_id NOT IN ({theirs})",
            f"SELECT * FROM runs WHERE controller_id NOT IN ({theirs})",
            f"SELECT * FROM decisions WHERE controller_id NOT IN ({theirs})",
        ),
    )


@contextmanager
def elsewhere() -> Iterator[None]:
    """Take only what cores the service leaves: senders of traffic stand for other machines."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, LEAST_URGENT)
    try:
        yield
    finally:
        with suppress(PermissionError):  # only root may become more urgent again
            os.setpriority(os.PRIO_PROCESS, 0, before)


def attack_agent(
    folder: Path,
    *,
    count: int,
    times: int,
    idle: int,
    seconds: float,
    seed: int,
    tell: Callable[[str], None],
) -> Figures:
    """Send all kinds of traffic to an agent beside which a training reports; check the end.

    Args:
        folder: of the store and the log.
        count: generated requests.
        times: how often each kind of frames is sent.
        idle: connections that are held, and a tenth of them slow writers.
        seconds: how long both are, and how long there is no traffic, for the quiet value.
        seed: of all that is drawn.
        tell: told what goes on.
    """
    store, figures = folder / "agent.db", Figures()
    agent = AgentProcess(store)
    agent.log = folder / "agent.log"
    with agent, Neighbour(agent.address) as neighbour, AgentClient(agent.address) as client:
        target = Target(
            agent, agent_pb2.DESCRIPTOR.services_by_name["AgentService"], lambda: _restored(client)
        )
        # What is taken once, such as buffers, threads and arenas of the heap, is no growth.
        send_frames(agent.address, times=times, seed=seed)
        hold_idle(agent.address, idle, seconds=1)
        neighbour.take()
        time.sleep(seconds)
        figures.quiet_p99 = float(np.percentile(neighbour.take(), 99))
        before = agent.memory()
        for name, send in (
            (
                "generated",
                lambda: figures.codes.update(
                    target.send_generated(count, seed=seed, state=lambda: agent_state(store))
                ),
            ),
            ("frames", lambda: send_frames(agent.address, times=times, seed=seed + 1)),
            ("oversized", lambda: send_oversized(agent.address)),
            ("slow writers", lambda: write_slowly(agent.address, idle // 10, seconds=seconds)),
            ("idle connections", lambda: hold_idle(agent.address, idle, seconds=seconds)),
        ):
            with elsewhere():
                send()
            ratio = float(np.percentile(neighbour.take(), 99)) / figures.quiet_p99
            figures.ratios[name] = ratio
            held = agent.memory()
            tell(f"{name}: another's p99 is {ratio:.1f} times its quiet value; {held:.0f} MiB")
        figures.frames = times * len(frames.ATTACKS)
        figures.memory = (before, agent.memory())
        check_health(agent.address, "agent service")
        check_page(agent)
    check_log(agent.log)
    assert verify_store(agent.url) > 0
    return figures


def _restored(client: AgentClient) -> None:
    """Have the controller and the run of the names that requests are made of."""
    # A run that a request has finished stays so, under a new controller, too.
    with suppress(AlreadyExists, NotFound, FailedPrecondition):
        client.create_controller(spec("c"))
        client.run("c", run_id="live")


def attack_trainer(folder: Path, *, count: int, times: int, seed: int) -> Counter[str]:
    """Send requests and frames to a trainer whose queue is full; return the codes of requests.

    Its one run waits for an agent that is away. Another begins only if that one is cancelled.
    """
    trainer = TrainerProcess(folder, "--max-runs", "1")
    trainer.log = folder / "trainer.log"
    path = folder / "trainer.db"
    with trainer, TrainerClient(trainer.address) as client:
        service = trainer_pb2.DESCRIPTOR.services_by_name["TrainerService"]
        client.submit("live", run_spec(Method.RD, controller="c"))
        target = Target(trainer, service, lambda: None)
        codes = target.send_generated(
            count, seed=seed, state=lambda: rows(path, ["SELECT id, spec FROM runs"])
        )
        send_frames(trainer.address, times=times, seed=seed)
        check_health(trainer.address, "trainer service")
        check_page(trainer)
    check_log(trainer.log)
    return codes


def check_page(process: ServiceProcess) -> None:
    """Fail where a method ended as our fault, by the service's own count."""
    with urlopen(process.metrics) as page:
        lines = page.read().decode().splitlines()
    faults = [
        line for line in lines if 'grpc_code="Internal"' in line or 'grpc_code="Unknown"' in line
    ]
    assert not faults, faults


def check_log(path: Path) -> None:
    """Fail where a call failed by a fault, or anything left a trace."""
    text = path.read_text()
    assert "call failed" not in text, text[-3000:]
    assert "Traceback" not in text, text[-3000:]


def main(count: int, seed: int) -> None:
    def work(folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
        figures = attack_agent(
            folder, count=count, times=50, idle=1000, seconds=10, seed=seed, tell=progress
        )
        before, after = figures.memory
        assert after < before + GROWTH, f"it holds {after:.0f} MiB, and {before:.0f} MiB before"
        codes = attack_trainer(folder, count=count // 10, times=5, seed=seed)
        return {
            "agent_codes": dict(figures.codes.most_common()),
            "trainer_codes": dict(codes.most_common()),
            "floods_of_frames": figures.frames,
            "memory_mib": [round(before), round(after)],
            "worst_p99_to_quiet": max(figures.ratios.values()),
            "seed": seed,
        }

    measure("traffic", work)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1)
