"""Kills of the server and of its learner at random moments, and what must be true afterwards.

`make test-kills` makes 200 under load from 20 runs and writes what came of them; the suite's own
test makes a few.
"""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from agent_service.app import verify_store
from agent_service.client import AgentClient, ControllerSpec, Mode, PPOSettings
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import spec
from tests.end_to_end.long import measure
from tests.end_to_end.processes import AgentProcess, children, is_alive, learners, wait_for

ROLLOUT = 32
CHUNKS = 40
"""Reports of one run, before its caller starts another."""
PAUSE = 0.05
"""Seconds between two calls of one caller: a training's steps, very short ones."""
PATIENCE = 120.0
"""Seconds for which a call is retried."""


def controller() -> ControllerSpec:
    """Return one whose small rollouts make many policy versions."""
    return spec(algorithm=PPOSettings(rollout_size=ROLLOUT, batch_size=16, n_epochs=2))


class Memory:
    """Calls, and what each was answered, to the bit: the same call again must get it again."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, bytes], bytes] = {}

    def call(self, client: AgentClient, request: Message) -> Any:
        """Call what takes such a request; fail where it was answered otherwise before."""
        method = type(request).__name__.removesuffix("Request")
        response = client._calls.call(getattr(client._stub, method), request)
        asked = (method, request.SerializeToString(deterministic=True))
        answer = response.SerializeToString(deterministic=True)
        assert self._answers.setdefault(asked, answer) == answer, f"{request} got {response}"
        return response

    def repeat(self, client: AgentClient, calls: int, rng: random.Random) -> int:
        """Call some of all that was answered again, new and old alike; return how many."""
        known = list(self._answers)
        chosen = rng.sample(known, min(calls, len(known)))
        for method, request in chosen:
            self.call(client, getattr(pb, f"{method}Request").FromString(request))
        return len(chosen)

    def told(self) -> Iterator[tuple[str, pb.Action]]:
        """Return each run id and action of the answers."""
        for (method, asked), answer in list(self._answers.items()):
            if method == "StartRun":
                start = pb.StartRunRequest.FromString(asked)
                yield start.run_id, pb.StartRunResponse.FromString(answer).action
            if method == "ReportChunk":
                report = pb.ReportChunkRequest.FromString(asked)
                yield report.run_id, pb.ReportChunkResponse.FromString(answer).action

    def __len__(self) -> int:
        return len(self._answers)


def report_of(run_id: str, chunk: int) -> pb.ReportChunkRequest:
    """Return a report that is the same whenever it is made."""
    rng = random.Random(f"{run_id} {chunk}")
    losses = [rng.uniform(0, 3) for _ in range(4)]
    scores = pb.Scores(training=0.5, validation=sum(losses) / 12)
    return pb.ReportChunkRequest(run_id=run_id, chunk_index=chunk, losses=losses, scores=scores)


def keep_training(
    client: AgentClient, memory: Memory, name: str, is_over: Callable[[], bool]
) -> None:
    """Train one run after another, as one caller does, until it is over."""
    for number in count():
        run_id = f"{name}-{number}"
        memory.call(client, pb.StartRunRequest(controller="c", run_id=run_id))
        for chunk in range(1, CHUNKS + 1):
            if is_over():
                return
            memory.call(client, report_of(run_id, chunk))
            time.sleep(PAUSE)
        memory.call(client, pb.FinishRunRequest(run_id=run_id, outcome=pb.OUTCOME_TERMINATED))


@contextmanager
def load(client: AgentClient, memory: Memory, callers: int) -> Iterator[list[Future[None]]]:
    """Let many callers train while the context lasts; what one of them raises is raised."""
    over = threading.Event()
    with ThreadPoolExecutor(callers) as pool:
        futures = [
            pool.submit(keep_training, client, memory, f"r{number}", over.is_set)
            for number in range(callers)
        ]
        try:
            yield futures
        finally:
            over.set()
    for future in futures:
        future.result()


def kill(agent: AgentProcess, victim: str) -> None:
    """Kill the server and start it again, or kill the learner, which the server starts again.

    A server takes its learner along: else that would go on to write to the store.
    """
    if victim == "server":
        left = children(agent.process.pid)
        agent.kill()
        wait_for(lambda: not any(map(is_alive, left)))
        agent.start()
        return
    wait_for(lambda: bool(learners(agent)))
    for pid in learners(agent):
        os.kill(pid, signal.SIGKILL)


def kill_at_random(agent: AgentProcess, client: AgentClient, rng: random.Random) -> str:
    """Kill one of the two at a random moment, often while updates are made; return which."""
    if rng.random() < 0.5:
        version = client.get_controller("c").policy_version
        wait_for(lambda: client.get_controller("c").policy_version > version)
    time.sleep(rng.uniform(0, 1))
    victim = rng.choice(("server", "learner"))
    kill(agent, victim)
    return victim


def kill_under_load(
    path: Path, *, kills: int, callers: int, seed: int, progress: Callable[[str], None]
) -> dict[str, int]:
    """Kill under load, and check what must be true; return figures of what happened."""
    rng, memory, victims = random.Random(seed), Memory(), Counter[str]()
    repeated = 0
    with (
        AgentProcess(path) as agent,
        AgentClient(agent.address, budget_seconds=PATIENCE) as client,
    ):
        client.create_controller(controller())
        with load(client, memory, callers) as futures:
            for number in range(1, kills + 1):
                victims[kill_at_random(agent, client, rng)] += 1
                repeated += memory.repeat(client, 20, rng)
                assert not any(f.done() for f in futures), "a caller gave up"
                progress(f"{number}/{kills} kills, {len(memory)} calls answered")
        repeated += memory.repeat(client, 2000, rng)
        figures = check_log(client, memory)
        assert agent.stop() == 0
    return figures | {
        "server_kills": victims["server"],
        "learner_kills": victims["learner"],
        "calls_answered": len(memory),
        "calls_repeated": repeated,
        "decisions_verified": verify_store(agent.url),
    }


def check_log(client: AgentClient, memory: Memory) -> dict[str, int]:
    """Check that what was answered is in the log, once, and learned from once at the most."""
    client.set_mode("c", Mode.FROZEN)  # so that no version is made between two of these reads
    transitions = list(client.transitions())
    log = {(t.run_id, t.chunk_index): t for t in transitions}
    assert len(log) == len(transitions), "a chunk stands twice in the log"
    newest = {run.run_id: run for run in client.list_runs()}
    for run_id, action in memory.told():
        # An action is in the log with its chunk's report, and in the run until then.
        stored = log.get((run_id, action.chunk_index)) or newest[run_id]
        assert stored.action == action, f"run {run_id}: {action} was answered"
    newest_version = client.get_controller("c").policy_version
    learned = Counter(t.learned_in for t in log.values() if t.learned_in)
    assert learned == dict.fromkeys(range(2, newest_version + 1), ROLLOUT)
    assert all(t.learned_in == 0 or t.use == pb.USE_LEARNED for t in log.values())
    return {"chunks": len(log), "runs": len(newest), "policy_versions": newest_version}


def train_in_order(path: Path, *, runs: int, kills: int, seed: int) -> list[object]:
    """Train by one caller who waits for each update; return the log and every policy version.

    The order of arrival is the same each time, whatever is killed meanwhile.
    """
    rng = random.Random(seed)
    chunks = 20
    moments = Counter(rng.choices(range(runs * chunks), k=kills))
    with (
        AgentProcess(path) as agent,
        AgentClient(agent.address, budget_seconds=PATIENCE) as client,
        ThreadPoolExecutor(1) as killer,
    ):
        client.create_controller(controller())
        ends: list[Future[None]] = []
        for number in range(runs):
            with client.run("c", run_id=f"r{number}", when_away=None) as run:
                for chunk in range(1, chunks + 1):
                    for _ in range(moments[number * chunks + chunk - 1]):
                        victim, delay = rng.choice(("server", "learner")), rng.uniform(0, 0.3)
                        ends.append(killer.submit(_kill_later, agent, victim, delay))
                    request = report_of(run.run_id, chunk)
                    client._calls.call(client._stub.ReportChunk, request)
                    wait_for_learner(client)
            wait_for_learner(client)
        for end in ends:
            end.result()
        versions = range(1, client.get_controller("c").policy_version + 1)
        policies: list[object] = [client.export_policy("c", version) for version in versions]
        log = list(client.transitions())
    for transition in log:
        transition.ClearField("report_time")
    return [*policies, *log]


def wait_for_learner(client: AgentClient) -> None:
    wait_for(lambda: client.get_controller("c").ready_transitions < ROLLOUT)


def _kill_later(agent: AgentProcess, victim: str, delay: float) -> None:
    time.sleep(delay)
    kill(agent, victim)


def main(kills: int) -> None:
    def work(folder: Path, progress: Callable[[str], None]) -> dict[str, int]:
        figures = kill_under_load(
            folder / "load.db", kills=kills, callers=20, seed=1, progress=progress
        )
        progress("training through kills, and without")
        few = max(1, kills // 10)
        through = train_in_order(folder / "killed.db", runs=16, kills=few, seed=2)
        assert through == train_in_order(folder / "quiet.db", runs=16, kills=0, seed=2)
        progress(f"policies and log are equal to the bit: {len(through)} entries")
        return figures | {"kills_of_equal_trainings": few}

    measure("kills", work)


if __name__ == "__main__":
    main(int(sys.argv[1]))
