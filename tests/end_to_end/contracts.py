"""Truths of every call of every contract."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import symbol_database
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

CLIENT_ERRORS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
}


def codes_of_empty_calls(service: ServiceDescriptor, stub: object) -> dict[str, grpc.StatusCode]:
    """Call every method with an empty request; return the status codes by method."""
    return {method.name: _code(method, getattr(stub, method.name)) for method in service.methods}


def _code(method: MethodDescriptor, call: Callable[..., Any]) -> grpc.StatusCode:
    request = symbol_database.Default().GetSymbol(method.input_type.full_name)()
    try:
        answer = call(iter([request]) if method.client_streaming else request, timeout=20)
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK
