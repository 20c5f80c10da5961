"""A training beside all that traffic, in a process of its own: how long its reports take."""

import multiprocessing
import time
from multiprocessing.connection import Connection
from typing import Self

import numpy as np

from agent_service.client import AgentClient, RandomSettings
from tests.agent_service.specs import spec

NAME = "neighbour"
"""Of its controller and its run."""
PAUSE = 0.01
"""Seconds between two reports."""


class Neighbour:
    """Reports from its start to its end; a context manager."""

    def __init__(self, address: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_report, args=(address, theirs), daemon=True)

    def take(self) -> np.ndarray:
        """Return the seconds of each report since the last time; fails where one failed."""
        self._pipe.send(True)
        seconds: list[float] = self._pipe.recv()
        return np.array(seconds)

    def __enter__(self) -> Self:
        self._process.start()
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(False)
        self._process.join()
        self._pipe.close()


def _report(address: str, pipe: Connection) -> None:
    with AgentClient(address, budget_seconds=0) as client:
        client.create_controller(spec(NAME, RandomSettings()))
        run = client.run(NAME, run_id=NAME)
        seconds: list[float] = []
        while True:
            if pipe.poll(PAUSE):
                if not pipe.recv():
                    return
                pipe.send(seconds)
                seconds = []
            before = time.perf_counter()
            run.report_chunk([1.0] * 4, training_score=0.5, validation_score=0.5)
            seconds.append(time.perf_counter() - before)
