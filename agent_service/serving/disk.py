"""How full the disk is that a service writes to.

Generic: knows no service of ours.
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
    """Looks, at each scrape, at the file system of one folder."""

    def __init__(self, service: str, folder: Path) -> None:
        """Take the name that the metrics begin with, and the folder, which is there."""
        self._service = service
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        """Return what is free for the service, and the size of the whole."""
        try:
            usage = shutil.disk_usage(self._folder)
        except OSError as error:
            # The page has more to tell than this.
            log.warning("the page goes without the disk's metrics: %s", error)
            return
        for what, text, value in (
            ("free", "Free space, for this service, on the disk of its store.", usage.free),
            ("size", "Size of the disk of its store.", usage.total),
        ):
            yield GaugeMetricFamily(
                f"{self._service}_disk_{what}_bytes", text, value=value, unit="bytes"
            )
