"""The client's cost in a training script: time a step, a report's round trip, the import.

References of the same run: the same training without the client, a bare gRPC call of the same
bytes, one synced append to the same disk, and `import grpc`. The services and the echo are
processes of their own. Trains on the CPU, or on `--device cuda:0`, where a step that waits for the
device is an error.
"""

import argparse
import functools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import torch
from torch import nn

from agent_service.client import AgentClient, Run
from agent_service.domain.store import Durability
from tests.benchmarks.bench_agent import echo_server, serving, synced_append
from tests.benchmarks.echo import CALL
from tests.benchmarks.load import report
from tests.benchmarks.results import Claim, Figures, show_rounds

ROUNDS = 5
CHUNKS = 15
"""Pairs of chunks in a round, with the client and without, in turn."""
STEPS = 20
"""N."""
CALLS = 300
STEP_SECONDS = 0.02
"""Of the step that the aim is about; those measured here take about as long."""
IMPORTS = 7


class Script:
    """A small training, on the CPU of some 20 ms a step on one thread."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(4),
            nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 49, 10),
        ).to(device)  # fmt: skip
        self._optimizer = torch.optim.Adam(self.model.parameters())
        self._images = torch.randn(26, 3, 32, 32, device=device)
        self._labels = torch.randint(10, (26,), device=device)

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
        if self._labels.is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - began


@contextmanager
def waiting_for_nothing(device: torch.device) -> Iterator[None]:
    """Make it an error to wait for a CUDA device."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def steps(client: AgentClient, device: torch.device) -> Figures:
    """Train chunks with the client and without, in turn."""
    own, other = Script(device), Script(device)
    for script in (own, other):
        script.chunk(lambda *_: None)
    plain, steered = [], []
    with client.run("waits", model=other.model) as run:

        def tell(loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
            with waiting_for_nothing(device):
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


def round_trips(lasting: AgentClient, quick: AgentClient, echo: str) -> Figures:
    """Report chunks to a service of either durability, and call the echo, in turn."""
    data = report("bench-12345-123", 100).SerializeToString()
    power, process, calls = [], [], []
    with (
        grpc.insecure_channel(echo) as channel,
        lasting.run("waits") as one,
        quick.run("waits") as other,
    ):
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CALL)
        for _ in range(CALLS):
            calls.append(_seconds(lambda: call(data)))
            power.append(_seconds(lambda: _report(one)))
            process.append(_seconds(lambda: _report(other)))
    return {
        "echo_s": statistics.median(calls),
        "report_power_s": statistics.median(power),
        "report_process_s": statistics.median(process),
    }


def _report(run: Run) -> None:
    run.report_chunk([1.2345] * STEPS, training_score=0.5, validation_score=0.5)


def _seconds(act: Callable[[], object]) -> float:
    before = time.perf_counter()
    act()
    return time.perf_counter() - before


def imports() -> Figures:
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


async def measure(folder: Path, *, device: torch.device) -> Figures:
    torch.set_num_threads(1)
    async with serving(folder, Durability.POWER) as power:
        with AgentClient(power.address) as lasting:
            figures = steps(lasting, device)
            async with serving(folder, Durability.PROCESS) as process:
                with AgentClient(process.address) as quick, echo_server() as echo:
                    figures |= round_trips(lasting, quick, echo)
    return figures | synced_append(folder) | imports()


def claims(f: Figures) -> list[Claim]:
    added = f["steered_step_s"] - f["plain_step_s"]
    power, process = ((f[f"report_{kind}_s"] - f["echo_s"]) * 1e3 for kind in ("power", "process"))
    return [
        Claim("added a step, of one of 20 ms", added / STEP_SECONDS * 100, most=1, unit="%"),
        Claim("report above a bare call, --durability process", process, most=0.5, unit="ms"),
        Claim("report above a bare call, --durability power", power, most=0.5, unit="ms"),
        Claim("import above grpc's", f["import_client_s"] - f["import_grpc_s"], most=0.1, unit="s"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    given = functools.partial(measure, device=parser.parse_args().device)
    show_rounds("client", given, claims, rounds=ROUNDS)
