"""A real receiver of OpenTelemetry's protocol, as a collector of traces is one."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps all that it is sent; a context manager."""

    def __init__(self) -> None:
        self._requests: list[pb.ExportTraceServiceRequest] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(  # type: ignore[no-untyped-call]
            self, self._server
        )
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(  # noqa: N802
        self, request: pb.ExportTraceServiceRequest, context: Any
    ) -> pb.ExportTraceServiceResponse:
        self._requests.append(request)
        return pb.ExportTraceServiceResponse()

    @property
    def text(self) -> str:
        return "\n".join(map(str, self._requests))

    def reports(self, service: str) -> set[bytes]:
        """Return the traces in which a service called, or answered, ReportChunk."""
        return {
            span.trace_id
            for request in list(self._requests)
            for sent in request.resource_spans
            if any(a.value.string_value == service for a in sent.resource.attributes)
            for scope in sent.scope_spans
            for span in scope.spans
            if span.name == "/agent_service.v1.AgentService/ReportChunk"
        }

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()
