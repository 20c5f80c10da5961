"""The gRPC servicer of the agent service: each method decodes, calls the rules, encodes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import starmap
from typing import Any

import grpc

from agent_service.domain.checks import quoted
from agent_service.domain.errors import ResourceExhausted, invalid
from agent_service.domain.runs import Decision, Mode, Run, check_labels
from agent_service.rpc.log_stream import LogStreams
from agent_service.rpc.report_stream import ReportStream
from agent_service.rules.catalog import Catalog
from agent_service.rules.runs import RunService
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1 import agent_pb2_grpc
from agent_service.wire import convert
from agent_service.wire.paging import fitting, number_token, page_size

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

PIECE = 64 * 1024
"""Bytes of a policy file per message."""
IMPORT_SECONDS = 60.0
"""Timeout for receiving a policy file."""


class AgentServicer(agent_pb2_grpc.AgentServiceServicer):
    """Serves controllers and runs."""

    def __init__(
        self,
        catalog: Catalog,
        run_service: RunService,
        *,
        pause: Callable[[float], Awaitable[None]],
        draining: Callable[[], Awaitable[object]],
    ) -> None:
        """Serve controllers and runs.

        Args:
            catalog: the rules of controllers.
            run_service: the rules of runs.
            pause: sleeps between polls of following streams; raises when the server is draining.
            draining: returns an awaitable that is done when open streams must end.
        """
        self._catalog = catalog
        self._run_service = run_service
        self._log = LogStreams(run_service, pause=pause)
        self._draining = draining

    # Controllers

    async def CreateController(  # noqa: N802
        self, request: pb.CreateControllerRequest, context: Context
    ) -> pb.CreateControllerResponse:
        """See the contract."""
        mode = convert.mode_from_message(request.mode) or Mode.LEARNING
        # Specs and policies may be large, so they are prepared outside of the event loop.
        new = await asyncio.to_thread(
            lambda: self._catalog.prepared(convert.spec_from_message(request.spec))
        )
        await asyncio.wrap_future(self._catalog.create_controller(new, mode))
        _log_event("exists", controller=new.spec.name)
        return pb.CreateControllerResponse(controller=await self._controller(new.spec.name))

    async def GetController(  # noqa: N802
        self, request: pb.GetControllerRequest, context: Context
    ) -> pb.GetControllerResponse:
        """See the contract."""
        return pb.GetControllerResponse(controller=await self._controller(request.name))

    async def _controller(self, name: str) -> pb.Controller:
        return await asyncio.to_thread(
            lambda: convert.controller_to_message(*self._catalog.get_controller(name))
        )

    async def ListControllers(  # noqa: N802
        self, request: pb.ListControllersRequest, context: Context
    ) -> pb.ListControllersResponse:
        """See the contract."""
        limit = page_size(request.page_size)
        controllers, has_more = await asyncio.to_thread(
            self._catalog.list_controllers,
            after=request.page_token,
            limit=limit + 1,
            page=lambda found: fitting(starmap(convert.controller_to_message, found), limit),
        )
        token = controllers[-1].spec.name if has_more else ""
        return pb.ListControllersResponse(controllers=controllers, next_page_token=token)

    async def UpdateController(  # noqa: N802
        self, request: pb.UpdateControllerRequest, context: Context
    ) -> pb.UpdateControllerResponse:
        """See the contract."""
        mode = convert.mode_from_message(request.mode)
        if mode is None:
            raise invalid("mode", "is not set; set MODE_LEARNING or MODE_FROZEN")
        await asyncio.wrap_future(self._catalog.set_mode(request.name, mode))
        _log_event(f"is {mode}", controller=request.name)
        return pb.UpdateControllerResponse(controller=await self._controller(request.name))

    async def DeleteController(  # noqa: N802
        self, request: pb.DeleteControllerRequest, context: Context
    ) -> pb.DeleteControllerResponse:
        """See the contract."""
        await asyncio.wrap_future(self._catalog.delete_controller(request.name))
        _log_event("is deleted", controller=request.name)
        return pb.DeleteControllerResponse()

    # Runs

    async def StartRun(  # noqa: N802
        self, request: pb.StartRunRequest, context: Context
    ) -> pb.StartRunResponse:
        """See the contract."""
        start = convert.start_from_message(request)
        if self._run_service.is_slow_to_start(start.controller):
            await asyncio.to_thread(self._run_service.precompute, start)
        decision = await asyncio.wrap_future(self._run_service.start_run(start))
        _log_event("is started", run=start.run_id, controller=start.controller)
        return pb.StartRunResponse(action=convert.action_to_message(decision))

    async def ReportChunk(  # noqa: N802
        self, request: pb.ReportChunkRequest, context: Context
    ) -> pb.ReportChunkResponse:
        """See the contract."""
        report = convert.report_from_message(request)
        decision = await asyncio.wrap_future(self._run_service.report_chunk(report))
        return pb.ReportChunkResponse(action=convert.action_to_message(decision))

    async def StreamReports(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.StreamReportsRequest], context: Context
    ) -> AsyncIterator[pb.StreamReportsResponse]:
        """See the contract."""
        stream = ReportStream(self._run_service, draining=self._draining)
        async for response in stream.answer(request_iterator):
            yield response

    async def FinishRun(  # noqa: N802
        self, request: pb.FinishRunRequest, context: Context
    ) -> pb.FinishRunResponse:
        """See the contract."""
        finish = convert.finish_from_message(request)
        await asyncio.wrap_future(self._run_service.finish_run(finish))
        _log_event(f"is {finish.outcome}", run=finish.run_id)
        return pb.FinishRunResponse(run=await self._run(finish.run_id))

    async def GetRun(  # noqa: N802
        self, request: pb.GetRunRequest, context: Context
    ) -> pb.GetRunResponse:
        """See the contract."""
        return pb.GetRunResponse(run=await self._run(request.run_id))

    async def _run(self, run_id: str) -> pb.Run:
        found = await asyncio.to_thread(self._run_service.get_run, run_id)
        return convert.run_to_message(*found)

    async def ListRuns(  # noqa: N802
        self, request: pb.ListRunsRequest, context: Context
    ) -> pb.ListRunsResponse:
        """See the contract."""
        limit = page_size(request.page_size)
        before = number_token(request.page_token)
        keys: list[int] = []
        check_labels(request.labels)

        def message(run: Run, decision: Decision) -> pb.Run:
            keys.append(run.key)
            return convert.run_to_message(run, decision)

        runs, has_more = await asyncio.to_thread(
            self._run_service.list_runs,
            controller=request.controller,
            state=convert.state_from_message(request.state),
            labels=dict(request.labels),
            before=before,
            limit=limit + 1,
            page=lambda found: fitting(starmap(message, found), limit),
        )
        token = str(keys[len(runs) - 1]) if has_more else ""
        return pb.ListRunsResponse(runs=runs, next_page_token=token)

    # The log

    async def StreamTransitions(  # noqa: N802
        self, request: pb.StreamTransitionsRequest, context: Context
    ) -> AsyncIterator[pb.StreamTransitionsResponse]:
        """See the contract."""
        async for response in self._log.answer(request):
            yield response

    # Policies

    async def ListPolicyVersions(  # noqa: N802
        self, request: pb.ListPolicyVersionsRequest, context: Context
    ) -> pb.ListPolicyVersionsResponse:
        """See the contract."""
        limit = page_size(request.page_size)
        page = await asyncio.to_thread(
            self._catalog.list_policies,
            request.controller,
            before=number_token(request.page_token),
            limit=limit + 1,
        )
        shown = page[:limit]
        return pb.ListPolicyVersionsResponse(
            policy_versions=[convert.policy_entry_to_message(entry) for entry in shown],
            next_page_token=str(shown[-1].version) if len(page) > limit else "",
        )

    async def ExportPolicy(  # noqa: N802
        self, request: pb.ExportPolicyRequest, context: Context
    ) -> AsyncIterator[pb.ExportPolicyResponse]:
        """See the contract."""
        policy = await asyncio.to_thread(
            self._catalog.export_policy, request.controller, request.policy_version
        )
        for start in range(0, len(policy.data), PIECE):
            piece = policy.data[start : start + PIECE]
            yield pb.ExportPolicyResponse(data=piece, policy_version=policy.version)

    async def ImportPolicy(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.ImportPolicyRequest], context: Context
    ) -> pb.ImportPolicyResponse:
        """See the contract."""
        try:
            async with asyncio.timeout(IMPORT_SECONDS):
                name, data = await self._collect(request_iterator)
        except TimeoutError:
            raise ResourceExhausted(
                f"the file did not arrive within {IMPORT_SECONDS:g} s"
            ) from None
        await asyncio.to_thread(self._catalog.check_policy, name, data)
        version = await asyncio.wrap_future(self._catalog.import_policy(name, data))
        _log_event(f"has policy version {version}, from a file", controller=name)
        return pb.ImportPolicyResponse(policy_version=version)

    async def _collect(self, pieces: AsyncIterator[pb.ImportPolicyRequest]) -> tuple[str, bytes]:
        """Return the controller's name and the file; refuse one larger than its policies can be."""
        name, limit, data = "", 0, bytearray()
        async for piece in pieces:
            if not name:
                name = piece.controller
                limit = await asyncio.to_thread(self._catalog.largest_policy, name)
            if piece.controller not in ("", name):
                raise invalid("controller", f"is {quoted(name)}, then {quoted(piece.controller)}")
            data += piece.data
            if len(data) > limit:
                raise invalid(
                    "data", f"exceeds {limit} bytes, the limit for {quoted(name)}'s policy"
                )
        if not name:
            raise invalid("controller", "is not set; name it in the first piece")
        return name, bytes(data)


def _log_event(event: str, **of: str) -> None:
    """Log the new state of a run or controller; repeated calls are logged again."""
    about = ", ".join(f"{kind} {name}" for kind, name in of.items())
    log.info("%s %s", about, event, extra=of)
