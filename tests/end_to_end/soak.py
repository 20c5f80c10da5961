"""Faults at random moments, for minutes: of replicas, learners, database and network.

Two replicas share a database, each on a machine of its own in a small network; callers train by
both in turn. What was acknowledged must stand in the store once, and be answered again to the bit;
after each fault calls are answered again, no caller gives up, and the replica that is never killed
keeps its memory level. `make test-soak` runs 20 minutes; MINUTES=5 is for trying.
"""

import os
import random
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from agent_service.app import verify_store
from agent_service.client import AgentClient
from agent_service.rules.policy_cache import KEPT
from tests.end_to_end.kills import Memory, check_log, controller, load
from tests.end_to_end.long import measure
from tests.end_to_end.network import HERE, NETWORK, Machine, network
from tests.end_to_end.processes import AgentProcess, learners, wait_for
from tests.postgresql import PostgresServer

CALLERS = 10
REPLICAS = 2
PATIENCE = 240.0
"""Seconds for which a call is retried."""
LONGEST_CUT = 20.0
"""Seconds without network: past the 10 after which a silent connection is given up, too."""
LONGEST_PAUSE = 3.0
"""Seconds between faults, and for which a killed replica or database stays away."""
REPEATED = 50
"""Old calls that are made again after each fault."""
GROWTH = 24.0
"""MiB by which memory may be above its first level, once the cache of policies is full."""


class Replica(AgentProcess):
    def __init__(self, machine: Machine, url: str) -> None:
        super().__init__(url, "--insecure")
        self.machine = machine
        self.within = machine.within
        self.address = f"{machine.address}:0"


class NetworkedServer(PostgresServer):
    """A database server that the network's machines reach."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        with (folder / "data" / "postgresql.auto.conf").open("a") as settings:
            settings.write(f"listen_addresses = '127.0.0.1,{HERE}'\n")
        with (folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all agent {NETWORK} trust\n")


class Faults:
    """A fault: one at a time, and then it is over."""

    def __init__(
        self, replicas: Sequence[Replica], database: PostgresServer, rng: random.Random
    ) -> None:
        self._replicas = replicas
        self._database = database
        self._rng = rng
        self._kinds: dict[str, Callable[[], object]] = {
            "replica killed": self._kill_replica,
            "learner killed": self._kill_learner,
            "sessions ended": database.kill_sessions,
            "database crashed": lambda: self._restart_database("immediate"),
            "database restarted": lambda: self._restart_database("fast"),
            "network cut": self._cut,
            "connections reset": lambda: self._any().machine.reset_connections(),
        }

    def strike(self) -> str:
        """Inject one fault and end it; return its kind."""
        kind = self._rng.choice(list(self._kinds))
        self._kinds[kind]()
        return kind

    def _any(self) -> Replica:
        return self._rng.choice(self._replicas)

    def _stay_away(self) -> None:
        time.sleep(self._rng.uniform(0, LONGEST_PAUSE))

    def _kill_replica(self) -> None:
        victim = self._rng.choice(self._replicas[1:])
        victim.kill()
        self._stay_away()
        victim.start()

    def _kill_learner(self) -> None:
        victim = self._any()
        wait_for(lambda: bool(learners(victim)))
        for pid in learners(victim):
            os.kill(pid, signal.SIGKILL)

    def _restart_database(self, how: str) -> None:
        self._database.stop(how)
        self._stay_away()
        self._database.start()

    def _cut(self) -> None:
        victim = self._any()
        victim.machine.cut()
        time.sleep(self._rng.uniform(0, LONGEST_CUT))
        victim.machine.mend()


@contextmanager
def deployment(folder: Path) -> Iterator[tuple[PostgresServer, list[Replica]]]:
    """Give a database and replicas that share it; they are gone afterwards."""
    with ExitStack() as stack:
        machines = stack.enter_context(network(REPLICAS))
        database = NetworkedServer(folder / "server")
        database.start()
        stack.callback(database.stop)
        url = database.new_database()
        there = url.replace("127.0.0.1", HERE)
        yield database, [stack.enter_context(Replica(machine, there)) for machine in machines]


def served_again(replicas: Sequence[Replica], memory: Memory) -> float:
    """Wait until callers and each replica are answered; return for how long, in seconds."""
    began = time.monotonic()
    before = len(memory)
    wait_for(lambda: len(memory) >= before + 2 * CALLERS, seconds=PATIENCE)
    for replica in replicas:
        with AgentClient(replica.address, budget_seconds=PATIENCE) as client:
            client.get_controller("c")
    return time.monotonic() - began


def check_callers(futures: Sequence[Future[None]]) -> None:
    """Fail with a caller's error, where one has given up."""
    for future in futures:
        if future.done():
            future.result()
            raise AssertionError("a caller ended by itself")


def growth(resident: Sequence[float]) -> float | None:
    """Return by how much the last third of samples is above the first; None of fewer than 6."""
    third = len(resident) // 3
    if third < 2:
        return None
    return statistics.median(resident[-third:]) - statistics.median(resident[:third])


def soak(folder: Path, *, seconds: float, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Inject faults for `seconds`, and check the invariants; return figures."""
    rng, memory, resident = random.Random(seed), Memory(), list[float]()
    away = defaultdict[str, list[float]](list)
    ends = time.monotonic() + seconds
    with deployment(folder) as (database, replicas):
        both = "ipv4:" + ",".join(replica.address for replica in replicas)
        faults = Faults(replicas, database, rng)
        with AgentClient(both, budget_seconds=PATIENCE) as client:
            client.create_controller(controller())
            with load(client, memory, CALLERS) as futures:
                while time.monotonic() < ends:
                    time.sleep(rng.uniform(0, LONGEST_PAUSE))
                    kind = faults.strike()
                    away[kind].append(served_again(replicas, memory))
                    memory.repeat(client, REPEATED, rng)
                    check_callers(futures)
                    held = replicas[0].memory()
                    if client.get_controller("c").policy_version > KEPT:
                        resident.append(held)
                    tell(
                        f"{kind}, served again {away[kind][-1]:.1f} s after it; "
                        f"{len(memory)} calls answered; {held:.0f} MiB"
                    )
            memory.repeat(client, 2000, rng)
            figures: dict[str, Any] = dict(check_log(client, memory))
        verified = verify_store(replicas[0].url.replace(HERE, "127.0.0.1"))
    return figures | {
        "faults": {kind: len(times) for kind, times in away.items()},
        "longest_until_served_again_s": {kind: max(times) for kind, times in away.items()},
        "calls_answered": len(memory),
        "decisions_verified": verified,
        "memory_mib": [round(held) for held in resident[:: max(1, len(resident) // 10)]],
        "growth_mib": growth(resident),
    }


def main(minutes: float, seed: int) -> None:
    def work(folder: Path, progress: Callable[[str], None]) -> dict[str, Any]:
        progress(f"seed {seed}")
        figures = soak(folder, seconds=60 * minutes, seed=seed, tell=progress)
        return figures | {"seed": seed}

    check_level(measure("soak", work)["growth_mib"])


def check_level(grown: float | None) -> None:
    """Fail where memory grew, or where the time was too short to tell."""
    if grown is None:
        sys.exit(f"all else held; memory counts after {KEPT} policy versions: give it more MINUTES")
    if grown > GROWTH:
        sys.exit(f"memory grew by {grown:.0f} MiB after all caches were full")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1_000_000))
