"""Declares the trainer service's metrics."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psutil
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trainer_service.runs.run import (
    ChunkTrained,
    EventContent,
    Finished,
    Planned,
    RunState,
    StateChanged,
)
from trainer_service.runs.store import RunStore
from trainer_service.workers.value_source import WAITS


class Metrics:
    """Updates the metrics from run events; thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Declare the metrics in `registry`."""
        self._registry = registry
        self._chunk_seconds = self._seconds(
            "trainer_chunk_seconds",
            "Training and validation time of a chunk; of stacked children, of all together.",
            (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100),
        )
        self._agent_seconds = self._seconds(
            "trainer_agent_call_seconds",
            "Time of a chunk's report to the agent, including waits for an unavailable agent.",
            (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
        )
        self._images = self._counter(
            "trainer_images_total", "Images processed by children, in complete chunks.", "split"
        )
        self._held = self._counter(
            "trainer_agent_held_actions_total",
            "Waits of runs that held their action because the agent was unavailable.",
        )
        self._diverged = self._counter(
            "trainer_diverged_runs_total", "Runs that ended with a non-finite loss."
        )
        self._loss = self._gauge("loss", "Mean cross-entropy of its last chunk.", "split")
        self._score = self._gauge("score", "Mean score of its last chunk, from 0 to 1.", "split")
        self._hyperparameter = self._gauge(
            "hyperparameter",
            "Value in its last chunk, in the hyperparameter's own unit.",
            "hyperparameter",
        )
        self._progress = self._gauge("progress", "Share of its planned chunks that are trained.")
        self._planned: dict[str, int] = {}
        self._holding: set[str] = set()
        """Running runs that wait for the agent."""

    def _seconds(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, buckets=buckets, unit="seconds", registry=self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Return a gauge with a series per running run."""
        text = f"Of a running run: {text[0].lower()}{text[1:]}"
        return Gauge(f"trainer_run_{name}", text, ("run", *labels), registry=self._registry)

    def observe(self, run_id: str, what: EventContent) -> None:
        """Update the metrics for one event of a run."""
        match what:
            case Planned(chunks=chunks):
                self._planned[run_id] = chunks
            case ChunkTrained():
                self._trained(run_id, what)
            case Finished(diverged=True):
                self._diverged.inc()
            case StateChanged(state=RunState.RUNNING, cause=cause):
                self._hold(run_id, is_waiting=cause.startswith(WAITS))
            case StateChanged():
                # So that the page shows running runs only and does not grow.
                self._planned.pop(run_id, None)
                self._holding.discard(run_id)
                for gauge in (self._loss, self._score, self._hyperparameter, self._progress):
                    gauge.remove_by_labels({"run": run_id})

    def _hold(self, run_id: str, *, is_waiting: bool) -> None:
        """Count the start of a wait; before Planned, a run has no action to hold."""
        if not is_waiting:
            self._holding.discard(run_id)
        elif run_id in self._planned and run_id not in self._holding:
            self._holding.add(run_id)
            self._held.inc()

    def _trained(self, run_id: str, trained: ChunkTrained) -> None:
        chunk = trained.chunk
        self._chunk_seconds.observe(chunk.seconds)
        if trained.policy_version:
            self._agent_seconds.observe(trained.agent_seconds)
        mean_loss = sum(chunk.losses) / len(chunk.losses)
        self._loss.labels(run_id, "train").set(mean_loss)
        self._loss.labels(run_id, "validation").set(chunk.validation_loss)
        self._score.labels(run_id, "train").set(chunk.training_score)
        self._score.labels(run_id, "validation").set(chunk.validation_score)
        for name, value in chunk.values.items():
            self._hyperparameter.labels(run_id, name).set(value)
        self._progress.labels(run_id).set(chunk.index / self._planned[run_id])
        self._images.labels("train").inc(chunk.training_images)
        self._images.labels("validation").inc(chunk.validation_images)


class StoreCollector(Collector):
    """Collects run counts and device memory at each scrape."""

    def __init__(self, store: RunStore, device: str) -> None:
        """Read from `store`; `device` is a torch device name."""
        self._store = store
        self._device = device

    def collect(self) -> Iterable[Metric]:
        """Return the number of runs by state, and the memory in use on the device."""
        runs = GaugeMetricFamily("trainer_runs", "Runs by state.", labels=("state",))
        for state, count in self._store.count().items():
            runs.add_metric((state.value,), count)
        yield runs
        memory = GaugeMetricFamily(
            "trainer_device_memory_bytes",
            "Memory in use on the device by all processes; for cpu, on the machine.",
            labels=("device",),
            unit="bytes",
        )
        memory.add_metric((self._device,), _memory_used(torch.device(self._device)))
        yield memory


def _memory_used(device: torch.device) -> int:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    return int(psutil.virtual_memory().used)
