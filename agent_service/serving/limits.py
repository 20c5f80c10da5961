"""Concurrency limits of a server, and the metrics of all its limits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent_service.domain.errors import Busy


class CallLimiter:
    """Limits concurrent calls, as a context manager around each. For one event loop."""

    def __init__(self, name: str, size: int) -> None:
        """Allow `size` calls at once.

        Args:
            name: of the limit, as in metrics; its option is `--max-NAME`.
            size: at least 1.
        """
        self._name = name
        self._size = size
        self._running = 0

    def __enter__(self) -> None:
        """Count a call in; raises Busy at the limit."""
        if self._running >= self._size:
            raise Busy(
                f"the limit is {self._size} concurrent {self._name} (--max-{self._name}); "
                "retry a little later",
                limit=self._name,
            )
        self._running += 1

    def __exit__(self, *_: object) -> None:
        self._running -= 1


class LimitMetrics(Collector):
    """Exports each limit, and how many calls it refused."""

    def __init__(self, registry: CollectorRegistry, limits: Mapping[str, float]) -> None:
        """Declare the metrics in `registry`; `limits` are values by name."""
        self._limits = limits
        self.refused = Counter(
            "service_limit_refusals_total",
            "Calls refused by a limit.",
            ("limit",),
            registry=registry,
        )
        for name in limits:
            self.refused.labels(name)
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return the limits' values."""
        sizes = GaugeMetricFamily("service_limit", "Configured limit.", labels=("limit",))
        for name, size in self._limits.items():
            sizes.add_metric((name,), size)
        return [sizes]
