"""Disk usage of a service's store, as metrics.

Generic: knows none of our services.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

log = logging.getLogger(__name__)


class DiskCollector(Collector):
    """Exports the free space and size of a folder's file system, read at each scrape."""

    def __init__(self, service: str, folder: Path) -> None:
        """Take the prefix of the metrics' names, and an existing folder."""
        self._service = service
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Return the space available to the service, and the file system's size."""
        try:
            usage = shutil.disk_usage(self._folder)
        except OSError as error:
            # The other metrics must still be exported.
            log.warning("no disk metrics: %s", error)
            return
        for name, text, value in (
            ("free", "Free space for this service on its store's disk.", usage.free),
            ("size", "Size of its store's disk.", usage.total),
        ):
            yield GaugeMetricFamily(
                f"{self._service}_disk_{name}_bytes", text, value=value, unit="bytes"
            )
