"""The client of a trainer service: submits runs and watches them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from os import PathLike
from typing import Self

from agent_service.client.connection.calls import Calls
from agent_service.client.connection.tls import Tls
from agent_service.domain.errors import Unavailable
from trainer_service.rpc import convert
from trainer_service.runs.run import Event, RunSpec
from trainer_service.training.chunk import Which
from trainer_service.v1 import trainer_pb2 as pb
from trainer_service.v1 import trainer_pb2_grpc


class TrainerClient:
    """A connection to one trainer service; thread-safe, a context manager.

    Errors are those of `agent_service.domain.errors`.
    """

    def __init__(
        self,
        address: str = "localhost:50052",
        *,
        budget_seconds: float = 30.0,
        tls: Tls | None = None,
        token: str | PathLike[str] | None = None,
    ) -> None:
        """Connect on first use; the arguments are those of `AgentClient`."""
        self.address = address
        self._rebuild = partial(
            type(self), address, budget_seconds=budget_seconds, tls=tls, token=token
        )
        self._calls = Calls(
            address, budget_seconds=budget_seconds, name="trainer service", tls=tls, token=token
        )
        self._stub = trainer_pb2_grpc.TrainerServiceStub(self._calls.channel)

    def __reduce__(self) -> tuple[partial[TrainerClient], tuple[()]]:
        return self._rebuild, ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.close()

    def submit(self, run_id: str, spec: RunSpec) -> pb.Run:
        """Queue a run and return it; idempotent for the same id and spec."""
        request = pb.SubmitRunRequest(run_id=run_id, spec=convert.spec_to_message(spec))
        return self._calls.call(self._stub.SubmitRun, request).run

    def get(self, run_id: str) -> pb.Run:
        """Return a run."""
        return self._calls.call(self._stub.GetRun, pb.GetRunRequest(run_id=run_id)).run

    def list(self) -> Iterator[pb.Run]:
        """Yield all runs in the order of submission, fetched in pages."""
        request = pb.ListRunsRequest()
        while True:
            page = self._calls.call(self._stub.ListRuns, request)
            yield from page.runs
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def cancel(self, run_id: str) -> pb.Run:
        """Cancel a run; no-op if it has ended."""
        return self._calls.call(self._stub.CancelRun, pb.CancelRunRequest(run_id=run_id)).run

    def watch(self, run_id: str, *, after: int = 0) -> Iterator[Event]:
        """Yield a run's events after index `after`, then follow it until it ends.

        If the service becomes unavailable, the call waits as others do; no event is lost or
        repeated.
        """
        request = pb.WatchRunRequest(run_id=run_id, after_event=after)
        while True:
            try:
                for response in self._calls.stream(self._stub.WatchRun(request)):
                    request.after_event = response.event.index
                    yield convert.event_from_message(response.event)
            except Unavailable:
                self.get(run_id)  # waits for the service, up to the budget
            else:
                return

    def weights(self, run_id: str, which: Which = Which.BEST) -> bytes:
        """Return the weights of a run that kept its checkpoint, as the bytes of a file.

        `trainer_service.training.child_file.load_child` rebuilds the child from it.
        """
        request = convert.weights_request(run_id, which)
        return b"".join(r.data for r in self._calls.stream(self._stub.GetWeights(request)))

    def discard(self, run_id: str) -> pb.Run:
        """Remove the checkpoint that a run kept; no-op if it is removed already."""
        request = pb.DiscardCheckpointRequest(run_id=run_id)
        return self._calls.call(self._stub.DiscardCheckpoint, request).run

    def device(self) -> pb.Device:
        """Return the device that the service trains on."""
        return self._calls.call(self._stub.ListDevices, pb.ListDevicesRequest()).devices[0]
