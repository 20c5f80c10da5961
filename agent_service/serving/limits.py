"""Limits of any of our servers: how many calls are in work, and what their metrics show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # has no public name without grpcio-channelz
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
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


class TransportMetrics(Collector):
    """Calls that gRPC's core refused; Python sees none of them: they are counted by difference."""

    def __init__(self, registry: CollectorRegistry, *, failed: Callable[[], float]) -> None:
        """Declare the metric in `registry`; `failed` returns how many calls failed in methods."""
        self._servers: list[int] = []
        """Numbers of our servers in the core."""
        self._failed = failed
        self._more = 0.0
        """What ended servers had counted beyond what failed in methods."""
        self._most = 0.0
        registry.register(self)

    def server_began(self) -> None:
        """Count what a server refuses that was made just now."""
        self._servers.append(
            int(json.loads(cygrpc.channelz_get_servers(0))["server"][-1]["ref"]["serverId"])
        )

    def server_ended(self) -> None:
        """Go on from what was counted last, without the servers that the core has no more."""
        self._servers = [number for number in self._servers if _told(number) is not None]
        self._more += self._most - self._refused()

    def _refused(self) -> float:
        told = [_told(number) for number in self._servers]
        return sum(count for count in told if count is not None) - self._failed() + self._more

    def collect(self) -> Iterable[Metric]:
        """Return the count."""
        # A call that just fails is counted here and there at slightly different moments.
        self._most = max(self._most, self._refused())
        refused = CounterMetricFamily(
            "grpc_server_transport_refused",
            "Calls that ended before they came to a method: a message or header over its limit, "
            "bytes that are no call, an unknown method, or a client that went away.",
        )
        refused.add_metric((), self._most)
        return [refused]


def _told(number: int) -> float | None:
    """Return how many calls failed in one of the core's servers; None where that has ended."""
    try:
        answer = json.loads(cygrpc.channelz_get_server(number))
    except ValueError:
        return None
    return float(answer["server"]["data"].get("callsFailed", 0))
