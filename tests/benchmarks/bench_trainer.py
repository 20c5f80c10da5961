"""How fast the trainer is, as ratios to bare PyTorch loops that are measured in the same run.

`make bench-trainer` runs what a CPU can show. With `--device cuda:0` it runs what only a GPU can:
ResNet34 in bf16 beside published loops, CUDA graphs, eight stacked children on 48x48 images.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import torch

from agent_service.client import AgentClient, ControllerSpec, Hyperparameter
from agent_service.client import Run as AgentRun
from tests.benchmarks.bare import BareLoop, seconds
from tests.benchmarks.children import RATE, Many, digits, grey_images, spec_of
from tests.benchmarks.results import Claim, Figures, show_rounds
from tests.benchmarks.through_service import children_an_hour
from tests.end_to_end.processes import AgentProcess
from trainer_service.runs.run import Run, RunSpec, RunState
from trainer_service.training.checkpoint import Pace
from trainer_service.training.datasets import Images
from trainer_service.training.folder import open_folder
from trainer_service.training.loop import ChildTraining
from trainer_service.training.spec import TrainingSpec
from trainer_service.workers.checkpointer import Checkpointer

ROUNDS = 5
KEEPING_SECONDS = 20.0
"""For how long a training keeps checkpoints, some 15 of them."""
CPU = torch.device("cpu")
DROPOUT = Hyperparameter(name="dropout", low=0.0, high=0.9)


class Pair:
    """A regularized, scored, reporting training, and the bare loop of the same child."""

    def __init__(self, name: str, spec: TrainingSpec, images: Images, device: torch.device) -> None:
        self._name, self._spec, self._device = name, spec, device
        self._training = ChildTraining(spec, images, device)
        self._bare = BareLoop(spec, images, device)
        self._training.train_chunk({"dropout": 0.2})
        self._bare.train(2)
        self._bare.evaluate(2)

    @property
    def controller(self) -> ControllerSpec:
        size = self._spec.chunk_size
        return ControllerSpec(name=self._name, chunk_size=size, hyperparameters=(DROPOUT,))

    def measure(self, run: AgentRun, chunks: int) -> Figures:
        ours = bare = ours_validation = bare_validation = 0.0
        for _ in range(chunks):
            whole, validation = self._chunk(run)
            ours, ours_validation = ours + whole - validation, ours_validation + validation
            n, m = self._spec.chunk_size, self._spec.validation_batches
            bare += seconds(lambda n=n: self._bare.train(n), self._device)
            bare_validation += seconds(lambda m=m: self._bare.evaluate(m), self._device)
        images = chunks * self._spec.chunk_size * self._spec.batch_size
        return {
            f"{self._name}_per_s": images / ours,
            f"{self._name}_bare_per_s": images / bare,
            f"{self._name}_validation_s": ours_validation / chunks,
            f"{self._name}_bare_validation_s": bare_validation / chunks,
        }

    def _chunk(self, run: AgentRun) -> tuple[float, float]:
        """Train and report a chunk; return its time without epochs' ends, and its validation's."""
        child, epoch_ends = self._training, 0.0
        before = time.perf_counter()
        child.begin_chunk(run.hyperparameters)
        for _ in range(self._spec.chunk_size):
            child.end_step(*child.passes.train(*child.next_batch()))
            if child.is_epoch_over:
                start = time.perf_counter()
                child.end_epoch(child.evaluate(child.all_validation))
                epoch_ends += time.perf_counter() - start
        start = time.perf_counter()
        logits = child.evaluate(child.draw_validation())
        validation = time.perf_counter() - start
        chunk = child.end_chunk(logits)
        run.report_chunk(
            chunk.losses,
            training_score=chunk.training_score,
            validation_score=chunk.validation_score,
        )
        return time.perf_counter() - before - epoch_ends, validation


def checkpoint_share(spec: TrainingSpec, folder: Path) -> float:
    """Return which share of a training's time its checkpoints take at their default interval."""
    training = ChildTraining(spec, digits(), CPU)
    run = Run(
        id="kept",
        key=1,
        spec=RunSpec(training=spec, controller="digits"),
        state=RunState.RUNNING,
        cause="",
        trained_chunks=0,
        planned_chunks=0,
        result=None,
        created_at=0.0,
    )
    checkpointer = Checkpointer(
        run,
        training,
        parent=None,
        folder=open_folder(str(folder)),
        pace=Pace(None),
        flush=lambda: None,
    )
    saving, started = 0.0, time.perf_counter()
    while time.perf_counter() < started + KEEPING_SECONDS:
        chunk = training.train_chunk(RATE)
        saving += seconds(lambda chunk=chunk: checkpointer.save_if_due(chunk, 1), CPU)
    assert checkpointer.saved_chunk > 0
    return saving / (time.perf_counter() - started)


def peak(kind: str, device: torch.device, width: float) -> float:
    """Return the peak memory of a training in a process of its own, in MiB."""
    command = [sys.executable, "-m", "tests.benchmarks.training_peak", kind, str(device)]
    run = subprocess.run([*command, str(width)], capture_output=True, text=True, check=True)
    return float(run.stdout)


class OnCpu:
    """All measures of a CPU; children are made once."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        narrow = spec_of(width=0.125)
        greys = spec_of(width=0.125, chunk_size=5, validation_batches=5)
        self._narrow = narrow
        self._pairs = (
            # The longer one first: the agent's learner takes seconds of a core to start.
            (Pair("greys", greys, grey_images(), CPU), 2),
            (Pair("digits", narrow, digits(), CPU), 5),
        )
        self._many = {k: Many(narrow, digits(), CPU, k) for k in (2, 4, 8)}
        self._greys = Many(spec_of(width=0.125, chunk_size=2), grey_images(), CPU, 4)

    async def measure(self, folder: Path) -> Figures:
        figures: Figures = {}
        with AgentProcess(folder / "agent.db") as agent, AgentClient(agent.address) as client:
            for pair, chunks in self._pairs:
                client.create_controller(pair.controller)
                figures |= pair.measure(client.run(pair.controller.name), chunks)
            figures |= children_an_hour(self._narrow, "digits", agent, folder)
        for k, many in self._many.items():
            figures |= many.measure(f"digits_{k}")
        figures |= self._greys.measure("greys_4")
        for kind in ("ours", "bare"):
            figures[f"peak_{kind}_mb"] = peak(kind, CPU, 0.5)
        figures["checkpoint_share"] = checkpoint_share(self._narrow, folder)
        return figures


def claims(f: Figures) -> list[Claim]:
    found = []
    for name in ("digits", "greys"):
        speed = f[f"{name}_per_s"] / f[f"{name}_bare_per_s"]
        validation = f[f"{name}_validation_s"] / f[f"{name}_bare_validation_s"]
        found.append(Claim(f"{name}: images a second to the bare loop's", speed, least=0.97))
        found.append(Claim(f"{name}: validation to a bare pass", validation, most=1.05))
    found.append(
        Claim("peak memory to the bare loop's", f["peak_ours_mb"] / f["peak_bare_mb"], most=1.1)
    )
    found.append(Claim("share of a run's time for checkpoints", f["checkpoint_share"], most=0.01))
    for name, least in (("digits_2", 1), ("digits_4", 1), ("digits_8", 2), ("greys_4", 1)):
        gain = f[f"{name}_stacked_per_s"] / f[f"{name}_alone_per_s"]
        found.append(Claim(f"{name}: stacked to one after another", gain, least=least))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, or as torch names a GPU: cuda:0")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    measure: Callable[[Path], Awaitable[Figures]]
    if options.device == "cpu":
        measure, its_claims = OnCpu().measure, claims
    else:
        from tests.benchmarks import trainer_cuda

        bench = trainer_cuda.OnCuda(torch.device(options.device))
        measure, its_claims = bench.measure, trainer_cuda.claims
    show_rounds(
        f"trainer-{options.device.replace(':', '-')}", measure, its_claims, rounds=options.rounds
    )


if __name__ == "__main__":
    main()
