"""What the client costs a training script: time a step, a report's round trip, the import.

References of the same run: the same training without the client, a bare gRPC call of the same
bytes, and `import grpc`. The service and the echo are processes of their own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import torch
from torch import nn

from agent_service.client import AgentClient, Run
from tests.benchmarks.bench_agent import WAITS, echo_server
from tests.benchmarks.echo import CALL
from tests.benchmarks.load import report
from tests.benchmarks.results import Claim, Figures, show_rounds
from tests.end_to_end.processes import AgentProcess

ROUNDS = 5
CHUNKS = 15
"""Pairs of chunks in a round, with the client and without, in turn."""
STEPS = 20
"""N."""
CALLS = 300
IMPORTS = 7


class Script:
    """A small training of some 20 ms a step on one thread."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(4),
            nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 49, 10),
        )  # fmt: skip
        self._optimizer = torch.optim.Adam(self.model.parameters())
        self._images = torch.randn(16, 3, 32, 32)
        self._labels = torch.randint(10, (16,))

    def chunk(self, tell: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]) -> float:
        """Train a chunk, and return its seconds."""
        began = time.perf_counter()
        for _ in range(STEPS):
            logits = self.model(self._images)
            loss = nn.functional.cross_entropy(logits, self._labels)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            tell(loss, logits, self._labels)
        return time.perf_counter() - began


def steps(client: AgentClient) -> Figures:
    """Train chunks with the client and without, in turn."""
    own, other = Script(), Script()
    for script in (own, other):
        script.chunk(lambda *_: None)
    plain, steered = [], []
    with client.run("waits", model=other.model) as run:

        def tell(loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
            run.step(loss, logits, labels)
            if run.chunk_full:
                run.report(0.5)

        for _ in range(CHUNKS):
            plain.append(own.chunk(lambda *_: None))
            steered.append(other.chunk(tell))
    return {
        "plain_step_s": statistics.median(plain) / STEPS,
        "steered_step_s": statistics.median(steered) / STEPS,
    }


def round_trips(client: AgentClient, echo: str) -> Figures:
    """Report chunks, and call the echo with the same bytes, in turn."""
    data = report("bench-12345-123", 100).SerializeToString()
    reports, calls = [], []
    with grpc.insecure_channel(echo) as channel, client.run("waits") as run:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CALL)
        for _ in range(CALLS):
            calls.append(_seconds(lambda: call(data)))
            reports.append(_seconds(lambda: _report(run)))
    return {"echo_s": statistics.median(calls), "report_s": statistics.median(reports)}


def _report(run: Run) -> None:
    run.report_chunk([1.2345] * STEPS, training_score=0.5, validation_score=0.5)


def _seconds(act: Callable[[], object]) -> float:
    before = time.perf_counter()
    act()
    return time.perf_counter() - before


def imports() -> Figures:
    """Import in fresh processes."""
    return {
        "import_grpc_s": statistics.median(_import_seconds("grpc") for _ in range(IMPORTS)),
        "import_client_s": statistics.median(
            _import_seconds("agent_service.client") for _ in range(IMPORTS)
        ),
    }


def _import_seconds(module: str) -> float:
    code = f"import time; b = time.perf_counter(); import {module}; print(time.perf_counter() - b)"
    command = [sys.executable, "-c", code]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


async def measure(folder: Path) -> Figures:
    """Measure everything once."""
    torch.set_num_threads(1)
    with (
        AgentProcess(folder / f"{time.monotonic_ns()}.db") as agent,
        echo_server() as echo,
        AgentClient(agent.address) as client,
    ):
        client.create_controller(WAITS)
        figures = steps(client) | round_trips(client, echo)
    return figures | imports()


def claims(f: Figures) -> list[Claim]:
    """Return what is claimed, from the medians of the figures."""
    added = f["steered_step_s"] / f["plain_step_s"]
    above = (f["report_s"] - f["echo_s"]) * 1e3
    return [
        Claim("time a step to the script's own", added, most=1.01),
        Claim("report above a bare call", above, most=0.5, unit="ms"),
        Claim("import above grpc's", f["import_client_s"] - f["import_grpc_s"], most=0.1, unit="s"),
    ]


if __name__ == "__main__":
    show_rounds("client", measure, claims, rounds=ROUNDS)
