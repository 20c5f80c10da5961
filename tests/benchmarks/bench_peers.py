"""How many decisions a second peers that do the nearest thing give, side by side in one run.

A round is what one decision takes: with this project a chunk's report, which brings the next
action; with OSS Vizier a suggestion and its completion; with Optuna, through its gRPC storage
proxy, an ask, a suggested value and a tell; with RLlib's old policy server an action and its
reward. Each through its own server and client; the first three on a SQLite file, as RLlib stores
nothing, and the two tuners with the cheapest algorithm that they have. `make bench-peers` installs
them in environments of their own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks.results import Claim, Figures, show_rounds
from tests.end_to_end.processes import AgentProcess

ROUNDS = 5
SECONDS = 4.0
CALLERS = (1, 16)
PEERS = {
    "vizier": ".venv-peers/bin/python",
    "optuna": ".venv-peers/bin/python",
    "rllib": ".venv-rllib/bin/python",
}
"""Where each is installed: they need other versions than this project."""


@contextmanager
def serving(peer: str, folder: Path) -> Iterator[str]:
    module = f"tests.benchmarks.peers.{peer}_rounds"
    command = [PEERS[peer], "-m", module, "serve", str(folder / f"{peer}.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            # Some say other things before.
            yield next(line.strip() for line in process.stdout if ":" in line and " " not in line)
        finally:
            process.kill()


def rounds(python: str, name: str, *arguments: str) -> float:
    """Return the rounds a second of a load in a process of its own."""
    command = [python, "-m", f"tests.benchmarks.peers.{name}_rounds", *arguments, str(SECONDS)]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(shown.split()[-1])


def measure(folder: Path) -> Figures:
    figures = {}
    with AgentProcess(folder / "own.db") as agent:
        for callers in CALLERS:
            figures[f"own_{callers}_per_s"] = rounds(
                sys.executable, "own", agent.address, str(callers)
            )
    for peer in PEERS:
        with serving(peer, folder) as address:
            for callers in CALLERS:
                figures[f"{peer}_{callers}_per_s"] = rounds(
                    PEERS[peer], peer, "load", address, str(callers)
                )
    return figures


def claims(f: Figures) -> list[Claim]:
    """Return how many times the decisions a second of others are given here."""
    found = []
    for callers in CALLERS:
        own = f[f"own_{callers}_per_s"]
        tuner = max(f[f"vizier_{callers}_per_s"], f[f"optuna_{callers}_per_s"])
        # RLlib's policy server stores nothing.
        rllib = f[f"rllib_{callers}_per_s"]
        found.append(Claim(f"{callers} callers: to the better tuner's", own / tuner, least=20))
        found.append(Claim(f"{callers} callers: to RLlib's", own / rllib, least=1))
    return found


if __name__ == "__main__":
    show_rounds("peers", measure, claims, rounds=ROUNDS)
