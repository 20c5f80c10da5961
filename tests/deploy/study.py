"""A real study that two real services run, scraped by a real Prometheus where there is one."""

import json
import math
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from agent_service.client import AgentClient, ControllerSpec, Hyperparameter
from agent_service.domain.errors import NotFound
from agent_service.domain.runs import Mode
from tests.deploy.prometheus import PrometheusProcess, of_services, tool
from tests.end_to_end.processes import (
    AgentProcess,
    TrainerProcess,
    command_of,
    start_in_terminal,
    wait_for,
)

_SMALL = "--subset 64 --model resnet18 --width 0.0625 --batch-size 16 --chunk-size 4"
_LONG = "--validation-batches 3 --chunks 100000 --seeds 1 --learning-runs 2 --rollout-size 16"
_OPTIONS = f"{_SMALL} {_LONG} --methods rd --reward gap".split(" ")
WATCHED = ControllerSpec(
    name="watched",
    chunk_size=4,
    hyperparameters=(Hyperparameter(name="dropout", low=0.0, high=0.5),),
)
"""Looked at by a shadow run: a script that keeps its own values."""


class Study:
    """A study that trains until its context ends, beside a script that looks on."""

    def __init__(
        self,
        agent: AgentProcess,
        trainer: TrainerProcess,
        client: AgentClient,
        prometheus: PrometheusProcess | None,
        controller: str,
    ) -> None:
        self._agent = agent
        self._trainer = trainer
        self._client = client
        self._prometheus = prometheus
        self.controller = controller
        """Its name, that learns."""
        self._shadow = client.run("watched", run_id="shadow", mode=Mode.SHADOW)
        self._started = time.time()

    @property
    def prometheus(self) -> PrometheusProcess:
        """Without one the test is skipped, or fails where REQUIRE_PROMETHEUS is set."""
        tool("prometheus")
        assert self._prometheus is not None
        return self._prometheus

    def values(self, expr: str) -> list[float]:
        """Return all values of a query, of all series, since the study began."""
        return self.prometheus.values(expr, start=self._started, end=time.time())

    def without_data(self, exprs: Iterable[str]) -> set[str]:
        """Return which of some queries give no number, however long one waits."""
        missing = set(exprs)

        def have_all() -> bool:
            for expr in list(missing):
                if not all(math.isnan(value) for value in self.values(expr)):
                    missing.remove(expr)
            return not missing

        self.until(have_all)
        return missing

    def pages(self, form: str = "text/plain") -> tuple[str, str]:
        """Return the pages of agent and trainer as they are now, as that media type."""
        agent, trainer = (_read(service.metrics, form) for service in (self._agent, self._trainer))
        return agent, trainer

    def until(self, condition: Callable[[], bool], *, seconds: float = 100.0) -> bool:
        """Let the script report and ask for what is not there until a condition is true."""
        deadline = time.monotonic() + seconds
        while not (is_true := condition()) and time.monotonic() < deadline:
            self._shadow.report_chunk(
                [1.0] * 4, training_score=0.5, validation_score=0.25, applied={"dropout": 0.1}
            )
            with pytest.raises(NotFound):
                self._client.get_run("missing")
            time.sleep(0.2)
        return is_true


def _read(page: str, form: str) -> str:
    with urlopen(Request(page, headers={"Accept": form})) as answer:
        text: str = answer.read().decode()
        return text


@contextmanager
def running_study(folder: Path) -> Iterator[Study]:
    with ExitStack() as stack:
        agent = stack.enter_context(AgentProcess(folder / "agent.db"))
        trainer = stack.enter_context(TrainerProcess(folder, agent=agent.address, parallel=2))
        is_installed = shutil.which("prometheus") is not None
        prometheus = (
            stack.enter_context(of_services(folder, agent=agent, trainer=trainer))
            if is_installed
            else None
        )
        client = stack.enter_context(AgentClient(agent.address))
        client.create_controller(WATCHED)
        output = folder / "study"
        stack.enter_context(_compare(output, agent, trainer))
        wait_for(lambda: len(list(client.list_controllers())) == 2)
        name = json.loads((output / "study.json").read_text())["id"]
        yield Study(agent, trainer, client, prometheus, f"{name}-rd")


@contextmanager
def _compare(output: Path, agent: AgentProcess, trainer: TrainerProcess) -> Iterator[None]:
    command = [*command_of("trainer_service"), "compare", "--output", str(output), *_OPTIONS]
    command += ["--agent", agent.address, "--trainer", trainer.address]
    with start_in_terminal(command) as process:
        try:
            yield
        finally:
            process.send_signal(signal.SIGINT)
            _shown, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
