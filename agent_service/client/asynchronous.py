"""The client for asyncio: the same names, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, SupportsFloat, TypeVar

from agent_service.client.client import AgentClient
from agent_service.client.connection.tls import Tls
from agent_service.client.description import Description
from agent_service.client.run import Run
from agent_service.client.schedule import Schedule
from agent_service.domain.runs import Mode, Outcome, RunState
from agent_service.domain.specs import ControllerSpec
from agent_service.v1 import agent_pb2 as pb

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_END = object()


class AsyncAgentClient:
    """`AgentClient`, whose calls wait in threads, so that the event loop goes on.

    A call that is cancelled ends on its own; all of them may be made again. Belongs to one loop.
    """

    def __init__(
        self,
        address: str = "localhost:50051",
        *,
        budget_seconds: float = 30.0,
        tls: Tls | None = None,
        token: str | PathLike[str] | None = None,
    ) -> None:
        """Connect when first used; see `AgentClient`."""
        self._client = AgentClient(address, budget_seconds=budget_seconds, tls=tls, token=token)

    @classmethod
    async def local(cls, store: str = "sqlite:///agent.db") -> Self:
        """See `AgentClient.local`."""
        client = cls.__new__(cls)
        client._client = await asyncio.to_thread(AgentClient.local, store)
        return client

    async def close(self) -> None:
        """See `AgentClient.close`."""
        await asyncio.to_thread(self._client.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def wait_ready(self, timeout: float) -> None:
        """See `AgentClient.wait_ready`."""
        await asyncio.to_thread(self._client.wait_ready, timeout)

    async def create_controller(
        self, spec: ControllerSpec, mode: Mode = Mode.LEARNING
    ) -> pb.Controller:
        """See `AgentClient.create_controller`."""
        return await asyncio.to_thread(self._client.create_controller, spec, mode)

    async def get_controller(self, name: str, *, within: float | None = None) -> pb.Controller:
        """See `AgentClient.get_controller`."""
        return await asyncio.to_thread(self._client.get_controller, name, within=within)

    def list_controllers(self) -> AsyncIterator[pb.Controller]:
        """See `AgentClient.list_controllers`."""
        return _each(self._client.list_controllers())

    async def set_mode(self, name: str, mode: Mode) -> pb.Controller:
        """See `AgentClient.set_mode`."""
        return await asyncio.to_thread(self._client.set_mode, name, mode)

    async def delete_controller(self, name: str) -> None:
        """See `AgentClient.delete_controller`."""
        await asyncio.to_thread(self._client.delete_controller, name)

    async def run(self, controller: str | ControllerSpec, **options: Any) -> AsyncRun:
        """See `AgentClient.run`, also for the options."""
        return AsyncRun(await asyncio.to_thread(self._client.run, controller, **options))

    async def schedule(self, run_id: str) -> Schedule:
        """See `AgentClient.schedule`."""
        return await asyncio.to_thread(self._client.schedule, run_id)

    async def get_run(self, run_id: str) -> pb.Run:
        """See `AgentClient.get_run`."""
        return await asyncio.to_thread(self._client.get_run, run_id)

    def list_runs(
        self,
        *,
        controller: str = "",
        state: RunState | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> AsyncIterator[pb.Run]:
        """See `AgentClient.list_runs`."""
        return _each(self._client.list_runs(controller=controller, state=state, labels=labels))

    def transitions(
        self, *, controller: str = "", run_id: str = "", after: int = 0
    ) -> AsyncIterator[pb.Transition]:
        """See `AgentClient.transitions`."""
        return _each(self._client.transitions(controller=controller, run_id=run_id, after=after))

    def list_policy_versions(self, controller: str) -> AsyncIterator[pb.PolicyVersion]:
        """See `AgentClient.list_policy_versions`."""
        return _each(self._client.list_policy_versions(controller))

    async def export_policy(self, controller: str, version: int = 0) -> bytes:
        """See `AgentClient.export_policy`."""
        return await asyncio.to_thread(self._client.export_policy, controller, version)

    async def import_policy(self, controller: str, data: bytes) -> int:
        """See `AgentClient.import_policy`."""
        return await asyncio.to_thread(self._client.import_policy, controller, data)


class AsyncRun:
    """`Run`, whose reports are awaited; made by `AsyncAgentClient.run`."""

    def __init__(self, run: Run) -> None:
        """Take a run that was started."""
        self._run = run

    @property
    def run_id(self) -> str:
        """See `Run.run_id`."""
        return self._run.run_id

    @property
    def chunk_size(self) -> int:
        """See `Run.chunk_size`."""
        return self._run.chunk_size

    @property
    def action(self) -> pb.Action:
        """See `Run.action`."""
        return self._run.action

    @property
    def hyperparameters(self) -> dict[str, float]:
        """See `Run.hyperparameters`."""
        return self._run.hyperparameters

    @property
    def interventions(self) -> Mapping[str, int]:
        """See `Run.interventions`."""
        return self._run.interventions

    @property
    def is_finished(self) -> bool:
        """See `Run.is_finished`."""
        return self._run.is_finished

    @property
    def chunk_full(self) -> bool:
        """See `Run.chunk_full`."""
        return self._run.chunk_full

    def step(
        self,
        loss: SupportsFloat,
        logits: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        score: SupportsFloat | None = None,
    ) -> None:
        """See `Run.step`, which waits for nothing."""
        self._run.step(loss, logits, labels, score=score)

    async def report(
        self,
        validation: SupportsFloat | Iterable[tuple[Tensor, Tensor]],
        *,
        applied: Mapping[str, float] | None = None,
    ) -> dict[str, float]:
        """See `Run.report`."""
        return await asyncio.to_thread(self._run.report, validation, applied=applied)

    async def report_chunk(
        self,
        losses: Sequence[float],
        *,
        training_score: float,
        validation_score: float,
        applied: Mapping[str, float] | None = None,
        chunk: int | None = None,
    ) -> dict[str, float]:
        """See `Run.report_chunk`."""
        return await asyncio.to_thread(
            self._run.report_chunk,
            losses,
            training_score=training_score,
            validation_score=validation_score,
            applied=applied,
            chunk=chunk,
        )

    def add_pass(self, logits: Tensor, labels: Tensor) -> None:
        """See `Run.add_pass`."""
        self._run.add_pass(logits, labels)

    def describe(self) -> Description:
        """See `Run.describe`."""
        return self._run.describe()

    def drop_chunk(self) -> None:
        """See `Run.drop_chunk`."""
        self._run.drop_chunk()

    def start_again(self) -> None:
        """See `Run.start_again`."""
        self._run.start_again()

    async def report_reward(self, losses: Sequence[float], reward: float) -> dict[str, float]:
        """See `Run.report_reward`."""
        return await asyncio.to_thread(self._run.report_reward, losses, reward)

    async def finish(
        self, outcome: Outcome = Outcome.TERMINATED, *, final_score: float | None = None
    ) -> None:
        """See `Run.finish`."""
        await asyncio.to_thread(self._run.finish, outcome, final_score=final_score)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._run.__exit__, kind, error, trace)


async def _each(items: Iterator[T]) -> AsyncIterator[T]:
    """Pass on what an iterator yields, waiting for each in a thread."""
    while (item := await asyncio.to_thread(next, items, _END)) is not _END:
        yield item  # type: ignore[misc]  # the marker is not yielded
