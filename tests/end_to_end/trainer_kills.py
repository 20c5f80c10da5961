"""Kills of trainer service, child process and agent at random moments, and what must be true then.

`make test-trainer-kills` makes 50 and writes what came of them; the suite's own test makes a few.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent_service.app import verify_store
from agent_service.client import AgentClient, Mode
from tests.end_to_end.long import measure
from tests.end_to_end.processes import AgentProcess, TrainerProcess, is_alive, wait_for
from tests.end_to_end.runs import causes, chunks_of, controller, followed
from tests.given import ServedTrainer
from tests.trainer_service.specs import run_spec
from trainer_service.client import TrainerClient
from trainer_service.runs.run import (
    ChunkTrained,
    EventContent,
    Finished,
    RunSpec,
    RunState,
    StateChanged,
)
from trainer_service.training.spec import Method

METHODS = (Method.RD, Method.RNI, Method.D)
PARALLEL = 2
PATIENCE = 120.0
"""Seconds for which a call of the test is retried."""
CHECKPOINT_SECONDS = 0.3
"""Several chunks long, so that a run that goes on trains some of them again."""


def study_run(number: int, *, chunks: int) -> tuple[str, RunSpec]:
    """Return a run of the study: its methods in turn, under frozen controllers."""
    method = METHODS[number % len(METHODS)]
    is_reinforced = method is not Method.D
    spec = run_spec(
        method,
        controller=method.value if is_reinforced else "",
        mode=Mode.FROZEN if is_reinforced else None,
        chunks=chunks,
        seed=number,
    )
    return f"{method}-{number}", spec


class Services:
    """An agent, a trainer that asks it, and clients of both."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.agent = AgentProcess(folder / "agent.db")
        self._folder = folder

    @contextmanager
    def run(self) -> Iterator[None]:
        options = ("--checkpoint-seconds", str(CHECKPOINT_SECONDS), "--restarts", "1000")
        with self.agent, agent_client(self.agent) as self.client:
            self.trainer = TrainerProcess(
                self._folder, *options, agent=self.agent.address, parallel=PARALLEL
            )
            self.trainer.log = self._folder / "trainer.log"
            with (
                self.trainer,
                TrainerClient(self.trainer.address, budget_seconds=PATIENCE) as self.runs,
            ):
                yield

    def kill(self, victim: str, rng: random.Random) -> None:
        """Kill a service, which is started again, or a child, which the trainer starts again.

        No child outlives a trainer.
        """
        if victim == "child":
            wait_for(lambda: self._kill_child(rng))
        elif victim == "agent":
            self.agent.kill()
            self.agent.start()
        else:
            left = self.trainer.run_processes()
            self.trainer.kill()
            wait_for(lambda: not any(map(is_alive, left)))
            self.trainer.start()

    def _kill_child(self, rng: random.Random) -> bool:
        """Kill one of the children; return whether there was one."""
        children = self.trainer.run_processes()
        if children:
            with suppress(ProcessLookupError):
                os.kill(children[int(rng.random() * len(children))], signal.SIGKILL)
        return bool(children)


@contextmanager
def agent_client(agent: AgentProcess) -> Iterator[AgentClient]:
    """Give a client, and the agent frozen controllers: by their first policies runs are alike."""
    with AgentClient(agent.address, budget_seconds=PATIENCE) as client:
        for method in (Method.RD, Method.RNI):
            client.create_controller(controller(method.value, method), Mode.FROZEN)
        yield client


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """A run as its client saw it and as the agent's log has it, without times."""

    outcome: list[EventContent]
    """Its chunks and its results."""
    end: RunState
    reported: list[Any]
    kills: list[str]
    """Why it was in the queue again, each time."""


def story(agent: AgentClient, trainer: TrainerClient, run_id: str, spec: RunSpec) -> Story:
    """Follow a run to its end, and read what the agent has of it."""
    happened = followed(trainer, run_id)
    states = [what.state for what in happened if isinstance(what, StateChanged)]
    log = list(agent.transitions(run_id=run_id)) if spec.controller else []
    return Story(
        outcome=[what for what in happened if isinstance(what, ChunkTrained | Finished)],
        end=states[-1],
        reported=[(t.chunk_index, [*t.next_state], t.reward, dict(t.action.values)) for t in log],
        kills=causes(happened, RunState.QUEUED)[1:],
    )


def kill_through_study(
    folder: Path,
    *,
    kills: int,
    chunks: int,
    pause: float,
    seed: int,
    progress: Callable[[str], None],
) -> dict[str, int]:
    """Kill while a study trains, compare it with one that nobody disturbed; return figures.

    Up to `pause` seconds pass between two kills: some hit what has just started, some what trains.
    """
    rng, victims = random.Random(seed), Counter[str]()
    services = Services(folder / "killed")
    runs: list[tuple[str, RunSpec]] = []
    with services.run():
        for number in range(1, kills + 1):
            keep_busy(services, runs, chunks=chunks)
            if number == 1:
                wait_for(lambda: services.runs.get(runs[0][0]).trained_chunks > 0)
            time.sleep(rng.uniform(0, pause))
            victim = rng.choice(("service", "child", "agent"))
            services.kill(victim, rng)
            victims[victim] += 1
            progress(f"{number}/{kills} kills, {len(runs)} runs submitted")
        disturbed = [story(services.client, services.runs, *run) for run in runs]
    decisions = verify_store(services.agent.url)
    progress(f"the same {len(runs)} runs, undisturbed and one after another")
    check_same(disturbed, undisturbed(folder, runs), chunks=chunks)
    return {
        **{f"{victim}_kills": victims[victim] for victim in ("service", "child", "agent")},
        "runs": len(runs),
        "chunks": sum(len(chunks_of(s.outcome)) for s in disturbed),
        "times_gone_on": sum(len(s.kills) for s in disturbed),
        "decisions_verified": decisions,
    }


def keep_busy(services: Services, runs: list[tuple[str, RunSpec]], *, chunks: int) -> None:
    """Submit as many runs as it takes for one to wait beside those that train."""
    device = services.runs.device()
    for _ in range(PARALLEL + 1 - device.running - device.queued):
        runs.append(study_run(len(runs), chunks=chunks))
        services.runs.submit(*runs[-1])


def undisturbed(folder: Path, runs: Sequence[tuple[str, RunSpec]]) -> list[Story]:
    with (
        AgentProcess(folder / "agent.db") as agent,
        agent_client(agent) as client,
        ServedTrainer(folder, agent=agent.address) as trainer,
        TrainerClient(trainer.address, budget_seconds=PATIENCE) as served,
    ):
        for run in runs:
            served.submit(*run)
        return [story(client, served, *run) for run in runs]


def check_same(disturbed: Sequence[Story], quiet: Sequence[Story], *, chunks: int) -> None:
    """Check that each run ended as the undisturbed one, and told all chunks once, in order."""
    for one, other in zip(disturbed, quiet, strict=True):
        assert one.end is RunState.SUCCEEDED
        assert [c.index for c in chunks_of(one.outcome)] == list(range(1, chunks + 1))
        (result,) = (what for what in one.outcome if isinstance(what, Finished))
        assert result.weights_digest
        assert all("was killed" in cause or "exit code -9" in cause for cause in one.kills)
        assert replace(one, kills=[]) == other


def main(kills: int) -> None:
    measure(
        "trainer_kills",
        lambda folder, progress: kill_through_study(
            folder, kills=kills, chunks=60, pause=3.0, seed=1, progress=progress
        ),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
