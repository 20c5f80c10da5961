"""A real Prometheus for tests, where it is installed, with the configuration that is deployed."""

import json
import os
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

import pytest

from tests.end_to_end.processes import ServiceProcess, wait_for

DEPLOYED = Path(__file__).parents[2] / "deploy" / "prometheus"
SCRAPE_SECONDS = 1


def tool(name: str) -> str:
    """Return a program of Prometheus, or skip; where it must be there, as in CI, fail."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("REQUIRE_PROMETHEUS"):
            pytest.fail(f"{name} is not installed, and REQUIRE_PROMETHEUS says that it must be")
        pytest.skip(f"needs {name}: apt-get install prometheus")
    return found


class PrometheusProcess:
    """Scrapes services each second by the deployed configuration. Ends with its context."""

    def __init__(self, folder: Path, targets: Mapping[str, str]) -> None:
        """Write the deployed files into `folder`, faster, and with targets by job."""
        self._folder = folder
        for file in DEPLOYED.glob("*.yml"):
            text = re.sub(r"_interval: \d+s", f"_interval: {SCRAPE_SECONDS}s", file.read_text())
            (folder / file.name).write_text(text)
        for job, at in targets.items():
            group = {"labels": {"job": job}, "targets": [at]}
            (folder / f"{job}s.yml").write_text(json.dumps([group]))  # JSON is YAML

    def __enter__(self) -> Self:
        log = self._folder / "prometheus.log"
        command = [tool("prometheus"), f"--config.file={self._folder / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={self._folder / 'data'}"]
        command += ["--web.listen-address=127.0.0.1:0"]
        with log.open("w") as output:
            self._process = subprocess.Popen(command, stderr=output, stdout=output)
        try:
            wait_for(lambda: "Server is ready" in log.read_text())
        except BaseException:
            self._process.kill()
            raise
        found = re.search(r'msg="Listening on".* address=(\S+)', log.read_text())
        assert found, log.read_text()
        self.address = found[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def get(self, path: str, **parameters: str | float) -> Any:
        """Return the data of an answer of the HTTP API; what it refuses raises HTTPError."""
        query = urllib.parse.urlencode(parameters)
        with urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=20) as answer:
            return json.load(answer)["data"]

    def values(self, expr: str, *, start: float, end: float) -> list[float]:
        """Return all values of a query, of all series, at each second of a time."""
        found = self.get("query_range", query=expr, start=start, end=end, step=SCRAPE_SECONDS)
        return [float(text) for series in found["result"] for _time, text in series["values"]]


def of_services(folder: Path, **services: ServiceProcess) -> PrometheusProcess:
    """Return one that scrapes services, named by their job, with its files in a new folder."""
    place = folder / "prometheus"
    place.mkdir()
    return PrometheusProcess(
        place,
        {
            job: service.metrics.removeprefix("http://").removesuffix("/metrics")
            for job, service in services.items()
        },
    )
