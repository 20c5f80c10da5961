"""The trainer service's metrics, each declared once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import psutil
import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from trainer_service.run import ChunkTrained, Finished, Planned, RunState, StateChanged, What
from trainer_service.runs.store import RunStore
from trainer_service.workers.value_source import WAITS


class Metrics:
    """Observes what happens in runs; thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Declare the metrics in `registry`."""
        self._registry = registry
        self._chunk_seconds = self._seconds(
            "trainer_chunk_seconds",
            "Time of a chunk's training and validation; of stacked children, of all of them.",
            (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100),
        )
        self._agent_seconds = self._seconds(
            "trainer_agent_call_seconds",
            "Time of a chunk's report to the agent, waiting for one that is away included.",
            (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30),
        )
        self._images = self._counter(
            "trainer_images_total", "Images that went through children in whole chunks.", "split"
        )
        self._held = self._counter(
            "trainer_agent_held_actions_total",
            "Times that a run held its action, and trained no further, since the agent was away.",
        )
        self._diverged = self._counter(
            "trainer_diverged_runs_total", "Runs that ended by a loss that is not finite."
        )
        self._loss = self._gauge("loss", "Mean cross-entropy of its last chunk.", "split")
        self._score = self._gauge("score", "Mean score of its last chunk, from 0 to 1.", "split")
        self._hyperparameter = self._gauge(
            "hyperparameter", "What its last chunk ran under, in its own unit.", "hyperparameter"
        )
        self._progress = self._gauge("progress", "Share of its chunks that it has trained.")
        self._planned: dict[str, int] = {}
        self._holding: set[str] = set()
        """Of runs that train, those that wait for the agent."""

    def _seconds(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, buckets=buckets, unit="seconds", registry=self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Return a gauge of running runs."""
        text = f"Of a running run: {text[0].lower()}{text[1:]}"
        return Gauge(f"trainer_run_{name}", text, ("run", *labels), registry=self._registry)

    def happened(self, run_id: str, what: What) -> None:
        """Observe one event."""
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
                self._forget(run_id)

    def _hold(self, run_id: str, *, is_waiting: bool) -> None:
        """Count the begin of a wait; before its plan is told, a run has no action to hold."""
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

    def _forget(self, run_id: str) -> None:
        """Remove a run's gauges, so that the page shows what trains and does not grow."""
        self._planned.pop(run_id, None)
        self._holding.discard(run_id)
        for gauge in (self._loss, self._score, self._hyperparameter, self._progress):
            gauge.remove_by_labels({"run": run_id})


class StoreCollector(Collector):
    """Counts runs, and the device's memory, at each scrape."""

    def __init__(self, store: RunStore, device: str) -> None:
        """Read from `store`; `device` as torch names it."""
        self._store = store
        self._device = device

    def collect(self) -> Iterable[Metric]:
        """Return runs by state, and the memory that is taken of the device."""
        runs = GaugeMetricFamily("trainer_runs", "Runs by state.", labels=("state",))
        for state, count in self._store.count().items():
            runs.add_metric((state.value,), count)
        yield runs
        memory = GaugeMetricFamily(
            "trainer_device_memory_bytes",
            "Memory taken on the device, by all processes; of cpu, the machine's.",
            labels=("device",),
            unit="bytes",
        )
        memory.add_metric((self._device,), _memory_taken(torch.device(self._device)))
        yield memory


def _memory_taken(device: torch.device) -> int:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total - free
    return int(psutil.virtual_memory().used)
