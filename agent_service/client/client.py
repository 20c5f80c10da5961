"""The client of the agent service: controllers, and runs to steer a training by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Self

from agent_service.client.connection.calls import Calls
from agent_service.client.connection.tls import Tls
from agent_service.client.delivery import Hold, Presence
from agent_service.client.limits import Limits
from agent_service.client.report_stream import ReportStream
from agent_service.client.run import Run
from agent_service.client.schedule import Schedule
from agent_service.client.sites import Drives, Site
from agent_service.client.starting import Start, Starting
from agent_service.domain.checks import by_name, member
from agent_service.domain.runs import Mode, RunState
from agent_service.domain.specs import ControllerSpec
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc
from agent_service.wire import convert

if TYPE_CHECKING:
    from torch import nn

    from agent_service.client.local import LocalAgent
    from agent_service.client.model.scores import Score

HOLD = Hold()
PIECE = 64 * 1024
"""Bytes of a policy file in one message."""


class AgentClient:
    """A connection to an agent service; thread-safe, a context manager.

    It belongs to the process that made it: a forked one makes its own, and a pickled one, as for
    a spawned worker, connects anew where it is unpickled.

    Errors are those of `agent_service.domain.errors`, never a bare gRPC error.
    """

    def __init__(
        self,
        address: str = "localhost:50051",
        *,
        budget_seconds: float = 30.0,
        tls: Tls | None = None,
        token: str | PathLike[str] | None = None,
    ) -> None:
        """Connect when first used.

        Args:
            address: HOST:PORT of the service, [IPv6]:PORT or unix:PATH; of replicas
                dns:///NAME:PORT. A proxy of the environment is not used for this machine.
            budget_seconds: for how long a call is tried while the service is away; those of a run
                that holds are given up sooner, so that they keep no training waiting.
            tls: the certificates to connect with; None speaks without TLS.
            token: file of the token that the service asks for, read again when it changes.

        Raises:
            InvalidArgument: the address is none, or a file is not what it should be.
        """
        self._anew = partial(
            type(self), address, budget_seconds=budget_seconds, tls=tls, token=token
        )
        self._calls = Calls(
            address, budget_seconds=budget_seconds, name="agent service", tls=tls, token=token
        )
        self._stub = agent_pb2_grpc.AgentServiceStub(self._calls.channel)
        self._presence = Presence()
        self._local: LocalAgent | None = None

    @classmethod
    def local(cls, store: str = "sqlite:///agent.db") -> Self:
        """Start an agent service for this script alone, and connect to it; `close` ends it.

        For notebooks and single scripts; needs the extra `agent`. What it learned is in the store,
        for the next time, or for a service that others use, too.

        Args:
            store: URL of the store; made where there is none.

        Raises:
            AgentError: the service did not start; says why.
        """
        from agent_service.client.local import LocalAgent  # which few need, and is slow to import

        agent = LocalAgent(store)
        client = cls(agent.address)
        client._local = agent
        return client

    def __reduce__(self) -> tuple[partial[AgentClient], tuple[()]]:
        return self._anew, ()

    def close(self) -> None:
        """Close the connection, and end the service that `local` started."""
        self._calls.close()
        if self._local is not None:
            self._local.close(waited=self._presence.waited)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except BaseException:
            if error is None:  # else the script ends with its own
                raise

    def wait_ready(self, timeout: float) -> None:
        """Wait until the service can be reached; raises Unavailable after `timeout` seconds."""
        self._calls.wait_ready(timeout)

    def create_controller(self, spec: ControllerSpec, mode: Mode = Mode.LEARNING) -> pb.Controller:
        """Create a controller; the same spec again answers the one that is there."""
        request = pb.CreateControllerRequest(
            spec=convert.spec_to_message(spec), mode=convert.mode_to_message(mode)
        )
        return self._calls.call(self._stub.CreateController, request).controller

    def get_controller(self, name: str, *, within: float | None = None) -> pb.Controller:
        """Return a controller as it stands; waits `within` seconds at the most, if given."""
        request = pb.GetControllerRequest(name=name)
        return self._calls.call(self._stub.GetController, request, within=within).controller

    def list_controllers(self) -> Iterator[pb.Controller]:
        """Return all controllers by name, read page by page."""
        request = pb.ListControllersRequest()
        while True:
            page = self._calls.call(self._stub.ListControllers, request)
            yield from page.controllers
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def set_mode(self, name: str, mode: Mode) -> pb.Controller:
        """Let a controller learn, or freeze it."""
        request = pb.UpdateControllerRequest(name=name, mode=convert.mode_to_message(mode))
        return self._calls.call(self._stub.UpdateController, request).controller

    def delete_controller(self, name: str) -> None:
        """Delete a controller; its log stays."""
        self._calls.call(self._stub.DeleteController, pb.DeleteControllerRequest(name=name))

    @by_name
    def run(
        self,
        controller: str | ControllerSpec,
        *,
        run_id: str | None = None,
        mode: Mode | None = None,
        policy_version: int = 0,
        labels: Mapping[str, str] | None = None,
        planned_chunks: int | None = None,
        model: nn.Module | None = None,
        sites: Mapping[str, Site] | None = None,
        drives: Drives | None = None,
        score: Score | None = None,
        when_away: Hold | None = HOLD,
        limits: Limits | None = None,
        is_repeated: bool = False,
    ) -> Run:
        """Start a run; use it as a context manager, so that it is finished.

        With `model`, each action is applied to it: the run's values drive the dropout that it has,
        or what `sites` adds, and its end leaves the model as it was. A shadow run changes nothing:
        it tells the model's own rates beside what the controller would have set. Where
        torch.distributed joins several processes, each calls this and all that follows: the first
        talks to the agent, reports are the mean of all, and each applies the same action.

        Args:
            controller: the name of the controller that decides, or its spec: it is created then,
                unless it is there.
            run_id: the run's id, unique in the service; a new one by default. One that is there
                goes on with its next chunk, as after a crash of the script.
            mode: learning, frozen or shadow; the controller's own by default.
            policy_version: what a frozen or shadow run keeps to; 0 takes the newest.
            labels: your words about the run, for lists.
            planned_chunks: how many the training plans, for controllers that observe progress.
            model: a PyTorch model, on its device already; needs the extra `torch`.
            sites: regularizers to add, `Dropout()` or `GaussianNoise()`, by the name of the module
                whose output they act on.
            drives: which of the model's own drop rates each hyperparameter drives: `MODULE` or
                `MODULE:ATTRIBUTE`, or several, each a pattern such as `layer4.*`. Where there is
                one hyperparameter and no `sites`, all dropout that is known to act. A module
                without wildcards, or an attribute, also takes what is left alone else: rates of 0,
                stochastic depth, and rates of modules that are not known.
            score: of a batch's logits and labels, in [0, 1], larger is better; macro F1 of classes
                by default. "binary-f1", "multilabel-f1" or "r2" (0 where it is below), a metric of
                torchmetrics, or a function, which is called at each step.
            when_away: what to do while the agent cannot be reached: the training goes on under its
                last values, within 2 seconds. With a model it may also begin so, under the model's
                own rates; its run begins once the agent answers. None has every call raise
                Unavailable once the client's budget is spent.
            limits: how far the run follows the agent; None for all the way.
            is_repeated: whether the run may have finished: a training that goes on from an older
                checkpoint reports its last chunks again, and is answered as it was.

        Raises:
            Unavailable: the agent is away, and there are neither a model nor values to begin with.
            NotFound: no such controller.
            AlreadyExists: the run id is there with another start.
            FailedPrecondition: the run has finished, or this client is closed.
            InvalidArgument: a hyperparameter drives nothing, a name is not in the model, or the
                mode or a label is none; the run was not started then, and the model is as it was.
        """
        start = Start(
            controller=controller,
            run_id=run_id,
            mode=None if mode is None else member(Mode, mode, "mode"),
            policy_version=policy_version,
            labels=labels,
            planned_chunks=planned_chunks,
            model=model,
            sites=sites,
            drives=drives,
            score=score,
            when_away=when_away,
            limits=limits,
            is_repeated=is_repeated,
        )
        return Starting(self._calls, self._stub, self._presence).begin(start)

    def schedule(self, run_id: str) -> Schedule:
        """Return what the chunks of a run truly ran under, to be taken home.

        Raises:
            NotFound: no such run.
            InvalidArgument: it has not reported a chunk yet.
        """
        controller = self.get_run(run_id).controller
        told = [
            t.applied if t.HasField("applied") else t.action
            for t in self.transitions(run_id=run_id)
        ]
        return Schedule(
            chunk_size=self.get_controller(controller).spec.chunk_size,
            values=tuple(dict(values.values) for values in told),
        )

    def report_stream(self) -> ReportStream:
        """Return a way to report chunks of many runs at once; use it as a context manager."""
        return ReportStream(self._stub, self._presence)

    def get_run(self, run_id: str) -> pb.Run:
        """Return a run as it stands."""
        return self._calls.call(self._stub.GetRun, pb.GetRunRequest(run_id=run_id)).run

    def list_runs(
        self,
        *,
        controller: str = "",
        state: RunState | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[pb.Run]:
        """Return runs, newest first, read page by page.

        Args:
            controller: only this one's; empty for all.
            state: only those that stand so; None for all.
            labels: only those that carry all of these.
        """
        request = pb.ListRunsRequest(
            controller=controller, state=convert.state_to_message(state), labels=labels
        )
        while True:
            page = self._calls.call(self._stub.ListRuns, request)
            yield from page.runs
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def transitions(
        self, *, controller: str = "", run_id: str = "", after: int = 0
    ) -> Iterator[pb.Transition]:
        """Return the decision log from a position on, of one controller or run or of all."""
        request = pb.StreamTransitionsRequest(
            controller=controller, run_id=run_id, after_position=after
        )
        for response in self._calls.stream(self._stub.StreamTransitions(request)):
            yield response.transition

    def follow_transitions(
        self, *, controller: str = "", run_id: str = "", after: int = 0
    ) -> Iterator[pb.Transition]:
        """Return the log from a position on, and then what is added to it; this has no end.

        A service that goes away is waited for as long as it takes, and none is lost or repeated.
        Close the iterator to end the call.

        Raises:
            Unavailable: the service cannot be reached at first, for as long as the budget.
        """
        request = pb.StreamTransitionsRequest(
            controller=controller, run_id=run_id, after_position=after, follow=True
        )
        # A wrong address shows here, and is not waited for.
        self._calls.call(self._stub.ListControllers, pb.ListControllersRequest(page_size=1))
        for response in self._calls.follow(lambda: self._stub.StreamTransitions(request)):
            request.after_position = response.transition.position
            yield response.transition

    def list_policy_versions(self, controller: str) -> Iterator[pb.PolicyVersion]:
        """Return a controller's policy versions, newest first, read page by page."""
        request = pb.ListPolicyVersionsRequest(controller=controller)
        while True:
            page = self._calls.call(self._stub.ListPolicyVersions, request)
            yield from page.policy_versions
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def export_policy(self, controller: str, version: int = 0) -> bytes:
        """Return a policy version as a file, the newest for 0."""
        request = pb.ExportPolicyRequest(controller=controller, policy_version=version)
        return b"".join(r.data for r in self._calls.stream(self._stub.ExportPolicy(request)))

    def import_policy(self, controller: str, data: bytes) -> int:
        """Make a policy file the controller's newest version; return its number."""
        pieces = range(0, max(len(data), 1), PIECE)
        # A fresh iterator for each attempt, since a broken one has lost what was sent.
        return self._calls.call(
            lambda _request, timeout: self._stub.ImportPolicy(
                (
                    pb.ImportPolicyRequest(controller=controller, data=data[i : i + PIECE])
                    for i in pieces
                ),
                timeout=timeout,
            ),
            None,
        ).policy_version
