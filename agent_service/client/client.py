"""The client of the agent service: controllers, and runs that control a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

from agent_service.client.connection.calls import Calls
from agent_service.client.connection.tls import Tls
from agent_service.client.delivery import AgentDelivery, Availability, Hold
from agent_service.client.limits import Limits
from agent_service.client.report_stream import ReportStream
from agent_service.client.run import Run
from agent_service.client.schedule import Schedule
from agent_service.client.sites import Drives, Site
from agent_service.client.starting import RunOptions, start
from agent_service.domain.checks import by_name, check_kind, member
from agent_service.domain.problem import Problem
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
"""Bytes of a policy file per message."""


class AgentClient:
    """A connection to an agent service; thread-safe, a context manager.

    It belongs to the process that created it: a forked process must create its own. It can be
    pickled, for example for a spawned worker, and then opens a new connection.

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
        """Connect on first use.

        Args:
            address: HOST:PORT of the service, [IPv6]:PORT or unix:PATH; dns:///NAME:PORT for
                replicas. The environment's proxy is not used for this machine.
            budget_seconds: how long a call is retried while the service is away; calls of a run
                with `Hold` give up sooner, so that no training waits for them.
            tls: certificates; None connects without TLS.
            token: file with the token that the service requires; read again when it changes.

        Raises:
            InvalidArgument: the address or a file is invalid.
        """
        self._reconnect = partial(
            type(self), address, budget_seconds=budget_seconds, tls=tls, token=token
        )
        self._calls = Calls(
            address, budget_seconds=budget_seconds, name="agent service", tls=tls, token=token
        )
        self._stub = agent_pb2_grpc.AgentServiceStub(self._calls.channel)
        self._availability = Availability()
        self._local: LocalAgent | None = None

    @classmethod
    def local(cls, store: str = "sqlite:///agent.db") -> Self:
        """Start an agent service for this script alone, and connect to it; `close` ends it.

        For notebooks and single scripts; needs the extra `agent`. What it learns stays in the
        store, for the next time or for a shared service.

        Args:
            store: URL of the store; created if it does not exist.

        Raises:
            AgentError: the service did not start; the message says why.
        """
        from agent_service.client.local import LocalAgent  # slow to import, and rarely needed

        agent = LocalAgent(store)
        client = cls(agent.address)
        client._local = agent
        return client

    def __reduce__(self) -> tuple[partial[AgentClient], tuple[()]]:
        return self._reconnect, ()

    def close(self) -> None:
        """Close the connection, and end the service that `local` started."""
        self._calls.close()
        if self._local is not None:
            self._local.close(waited=self._availability.waited)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        try:
            self.close()
        except BaseException:
            if error is None:  # else the script's own exception goes on
                raise

    def wait_ready(self, timeout: float) -> None:
        """Wait until the service can be reached; raises Unavailable after `timeout` seconds."""
        self._calls.wait_ready(timeout)

    def create_controller(self, spec: ControllerSpec, mode: Mode = Mode.LEARNING) -> pb.Controller:
        """Create a controller; with the spec of an existing one, return that one."""
        check_kind(spec, ControllerSpec, "spec", "ControllerSpec(name=...)")
        request = pb.CreateControllerRequest(
            spec=convert.spec_to_message(spec), mode=convert.mode_to_message(mode)
        )
        return self._calls.call(self._stub.CreateController, request).controller

    def get_controller(self, name: str, *, within: float | None = None) -> pb.Controller:
        """Return a controller; wait at most `within` seconds, if given."""
        request = pb.GetControllerRequest(name=name)
        return self._calls.call(self._stub.GetController, request, within=within).controller

    def list_controllers(self) -> Iterator[pb.Controller]:
        """Yield all controllers by name, read page by page."""
        request = pb.ListControllersRequest()
        for page in self._pages(self._stub.ListControllers, request):
            yield from page.controllers

    def set_mode(self, name: str, mode: Mode) -> pb.Controller:
        """Set a controller's mode: learning or frozen."""
        request = pb.UpdateControllerRequest(name=name, mode=convert.mode_to_message(mode))
        return self._calls.call(self._stub.UpdateController, request).controller

    def delete_controller(self, name: str) -> None:
        """Delete a controller; its log is kept."""
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
        planned_steps: int | None = None,
        problem: Problem | None = None,
        optimizer: Any = None,
        loader: Any = None,
        model: nn.Module | None = None,
        sites: Mapping[str, Site] | None = None,
        drives: Drives | None = None,
        score: Score | None = None,
        when_away: Hold | None = HOLD,
        limits: Limits | None = None,
        is_repeated: bool = False,
    ) -> Run:
        """Start a run; use it as a context manager, so that it is finished.

        With `model`, each action is applied to it: the run's values drive its dropout, or what
        `sites` adds, and the run's end restores the model. A shadow run changes nothing: it reports
        the model's own rates beside what the controller would have set. With torch.distributed
        every process calls this and all that follows: rank 0 calls the agent, reports are the mean
        over ranks, and each rank applies the same action.

        Args:
            controller: the controller's name, or its spec, which creates it if it does not exist.
            run_id: the run's id, unique in the service; a new one by default. An existing run
                continues with its next chunk, for example after a crash of the script.
            mode: learning, frozen or shadow; the controller's own by default.
            policy_version: the version that a frozen or shadow run uses; 0 for the newest.
            labels: free-form labels, for listing runs.
            planned_chunks: planned length of the training, for controllers that observe progress.
            planned_steps: the same in training steps, instead.
            problem: what the training is about, for controllers that observe any problem. What it
                leaves out is filled in as far as it can be seen, from `model`, `optimizer` and
                `loader`, none of which is run or changed.
            optimizer: of torch; if it is Adam or its kin, `problem` gets its learning rate.
            loader: of training batches; `problem` gets samples, classes and batch size, that of all
                processes of torch.distributed together. State it in `problem` where a step
                accumulates several batches, or processes share one.
            model: a PyTorch model, already on its device; needs the extra `torch`.
            sites: regularizers to add, `Dropout()` or `GaussianNoise()`, by the name of the module
                whose output they act on.
            drives: which of the model's own drop rates each hyperparameter drives: `MODULE` or
                `MODULE:ATTRIBUTE`, or several, each a pattern such as `layer4.*`. By default, with
                one hyperparameter and no `sites`, all known dropout that is active. A module
                without wildcards, or an attribute, also selects what is otherwise left alone: rates
                of 0, stochastic depth, and rates of unknown modules.
            score: score of a batch's logits and labels, in [0, 1], larger is better; macro F1 over
                classes by default. "binary-f1", "multilabel-f1" or "r2" (clipped at 0), a metric of
                torchmetrics, or a function, which is called at each step.
            when_away: what to do while the agent is unreachable. `Hold`: within 2 seconds the
                training continues under its last values. With a model it may also start so, under
                the model's own rates; the run then begins once the agent answers. None: calls raise
                Unavailable once the client's budget is spent.
            limits: limits on the agent's actions; None for no limits.
            is_repeated: whether the run may already be finished: a training that resumes from an
                older checkpoint reports its last chunks again, and gets the same answers.

        Raises:
            Unavailable: the agent is away, and there is neither a model nor `Hold.values`.
            NotFound: the controller does not exist.
            AlreadyExists: the run id exists and was started with other arguments.
            FailedPrecondition: the run has finished, or this client is closed.
            InvalidArgument: a hyperparameter drives nothing, a name is not in the model, or the
                mode or a label is invalid. The run is not started, and the model is unchanged.
        """
        options = RunOptions(
            controller=controller,
            run_id=run_id,
            mode=None if mode is None else member(Mode, mode, "mode"),
            policy_version=policy_version,
            labels=labels,
            planned_chunks=planned_chunks,
            planned_steps=planned_steps,
            problem=problem,
            optimizer=optimizer,
            loader=loader,
            model=model,
            sites=sites,
            drives=drives,
            score=score,
            when_away=when_away,
            limits=limits,
            is_repeated=is_repeated,
        )
        own = AgentDelivery(self._calls, self._stub, when_away, self._availability)
        return start(options, own)

    def schedule(self, run_id: str) -> Schedule:
        """Return the values that a run's chunks actually ran under, to replay without an agent.

        Raises:
            NotFound: the run does not exist.
            InvalidArgument: it has not reported a chunk yet.
        """
        controller = self.get_run(run_id).controller
        applied = [
            t.applied if t.HasField("applied") else t.action
            for t in self.transitions(run_id=run_id)
        ]
        return Schedule(
            chunk_size=self.get_controller(controller).spec.chunk_size,
            values=tuple(dict(values.values) for values in applied),
        )

    def report_stream(self) -> ReportStream:
        """Return a stream that reports chunks of many runs; use it as a context manager."""
        return ReportStream(self._stub, self._availability)

    def get_run(self, run_id: str) -> pb.Run:
        """Return a run."""
        return self._calls.call(self._stub.GetRun, pb.GetRunRequest(run_id=run_id)).run

    def list_runs(
        self,
        *,
        controller: str = "",
        state: RunState | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> Iterator[pb.Run]:
        """Yield runs, newest first, read page by page.

        Args:
            controller: only runs of this controller; empty for all.
            state: only runs in this state; None for all.
            labels: only runs that have all of these labels.
        """
        request = pb.ListRunsRequest(
            controller=controller, state=convert.state_to_message(state), labels=labels
        )
        for page in self._pages(self._stub.ListRuns, request):
            yield from page.runs

    def transitions(
        self, *, controller: str = "", run_id: str = "", after: int = 0
    ) -> Iterator[pb.Transition]:
        """Yield the log's transitions after a position, of a controller, a run, or all."""
        request = pb.StreamTransitionsRequest(
            controller=controller, run_id=run_id, after_position=after
        )
        for response in self._calls.stream(self._stub.StreamTransitions(request)):
            yield response.transition

    def follow_transitions(
        self, *, controller: str = "", run_id: str = "", after: int = 0
    ) -> Iterator[pb.Transition]:
        """Yield transitions after a position, then new ones as they come, without end.

        If the service goes away this waits for it, and loses and repeats nothing. Close the
        iterator to end the call.

        Raises:
            Unavailable: the service cannot be reached at first, within the budget.
        """
        request = pb.StreamTransitionsRequest(
            controller=controller, run_id=run_id, after_position=after, follow=True
        )
        # Fails on a wrong address, which `follow` would wait for.
        self._calls.call(self._stub.ListControllers, pb.ListControllersRequest(page_size=1))
        for response in self._calls.follow(lambda: self._stub.StreamTransitions(request)):
            request.after_position = response.transition.position
            yield response.transition

    def list_policy_versions(self, controller: str) -> Iterator[pb.PolicyVersion]:
        """Yield a controller's policy versions, newest first, read page by page."""
        request = pb.ListPolicyVersionsRequest(controller=controller)
        for page in self._pages(self._stub.ListPolicyVersions, request):
            yield from page.policy_versions

    def _pages(self, method: Any, request: Any) -> Iterator[Any]:
        while True:
            page = self._calls.call(method, request)
            yield page
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def export_policy(self, controller: str, version: int = 0) -> bytes:
        """Return the bytes of a policy version's file; 0 for the newest version."""
        request = pb.ExportPolicyRequest(controller=controller, policy_version=version)
        return b"".join(r.data for r in self._calls.stream(self._stub.ExportPolicy(request)))

    def import_policy(self, controller: str, data: bytes) -> int:
        """Make a policy file the controller's newest version; return its number."""
        pieces = range(0, max(len(data), 1), PIECE)
        # A fresh iterator for each attempt, since a failed one has consumed its messages.
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
