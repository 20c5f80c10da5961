"""Limits of any of our servers: how many calls are in work, and what their metrics show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent_service.domain.errors import Busy


class Room:
    """Room for so many calls at once; for one event loop."""

    def __init__(self, name: str, size: int) -> None:
        """Name the limit, as in metrics; its option is `--max-NAME`."""
        self._name = name
        self._size = size
        self._taken = 0

    def enter(self) -> None:
        """Take a place, to be left again; raises Busy where there is none."""
        if self._taken >= self._size:
            raise Busy(
                f"{self._size} {self._name} at once are the limit (--max-{self._name}); "
                "send it again a little later",
                limit=self._name,
            )
        self._taken += 1

    def leave(self) -> None:
        """Give the place back."""
        self._taken -= 1


class LimitMetrics(Collector):
    """What the limits are, and how often each refused something."""

    def __init__(self, registry: CollectorRegistry, limits: Mapping[str, float]) -> None:
        """Declare the metrics in `registry`; `limits` by name."""
        self._limits = limits
        self.refused = Counter(
            "service_limit_refusals_total",
            "Calls that a limit refused.",
            ("limit",),
            registry=registry,
        )
        for name in limits:
            self.refused.labels(name)
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return the limits."""
        sizes = GaugeMetricFamily("service_limit", "A limit as it is set.", labels=("limit",))
        for name, size in self._limits.items():
            sizes.add_metric((name,), size)
        return [sizes]
