"""Bearer tokens: which opens what, what is told of the others, and that refusing costs nothing."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from agent_service.client import AgentClient, FleetReport, Scores
from agent_service.domain.errors import InvalidArgument, PermissionDenied, Unauthenticated
from agent_service.serving.config import ServingConfig
from agent_service.serving.guard import Guard
from agent_service.serving.health import check_health
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.calls import raw_stub
from tests.agent_service.specs import spec
from tests.given import ServedAgent

SERVICE = pb.DESCRIPTOR.services_by_name["AgentService"]
PROTO = Path(__file__).parents[3] / "proto/agent_service/v1/agent.proto"
RUN, ADMIN, WRONG = "run-token-0123456789", "admin-token-0123456789", "another-0123456789"
UNAUTHENTICATED, DENIED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED
REFUSED = {UNAUTHENTICATED, DENIED}


class Tokens:
    """The files of both."""

    def __init__(self, folder: Path) -> None:
        self.run, self.admin = folder / "run.token", folder / "admin.token"
        self.run.write_text(RUN + "\n")
        self.admin.write_text(ADMIN + "\n")


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
def served(tmp_path: Path, tokens: Tokens) -> Iterator[ServedAgent]:
    config = ServingConfig(run_token=tokens.run, admin_token=tokens.admin)
    with ServedAgent(tmp_path / "agent.db", config) as served:
        yield served


def bearer(token: str | None, scheme: str = "Bearer ") -> tuple[tuple[str, str], ...]:
    return () if token is None else (("authorization", f"{scheme}{token}"),)


def codes(address: str, metadata: Any) -> dict[str, grpc.StatusCode]:
    """Return what an empty call of each method ends with."""
    with raw_stub(address) as stub:
        return {m.name: code(m, getattr(stub, m.name), metadata) for m in SERVICE.methods}


def code(method: Any, call: Callable[..., Any], metadata: Any) -> grpc.StatusCode:
    request = getattr(pb, method.input_type.name)()
    try:
        answer = call(
            iter([request]) if method.client_streaming else request, timeout=20, metadata=metadata
        )
        if method.server_streaming:
            list(answer)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


def administration() -> set[str]:
    """Return the methods whose comment in the contract says that they need the admin token."""
    rpcs = re.findall(r"((?:  //.*\n)+)  rpc (\w+)", PROTO.read_text())
    assert len(rpcs) == len(SERVICE.methods)
    return {
        name
        for comment, name in rpcs
        if "Needs the admin token" in re.sub(r"\s*//\s*", " ", comment)
    }


def test_each_call_asks_for_the_token_that_the_contract_says(served: ServedAgent) -> None:
    """Without one, or with an unknown one, nothing opens; the run token opens what runs need."""
    names = {m.name for m in SERVICE.methods}
    unknown = [bearer(token) for token in (None, WRONG, "", " ", RUN[:-1], RUN + "x")]
    of_another_form = [bearer(RUN, scheme) for scheme in ("", "Basic ", "Bearer")]
    for metadata in (*unknown, *of_another_form):
        found = codes(served.address, metadata)
        assert found == dict.fromkeys(names, UNAUTHENTICATED), metadata
    by_run = codes(served.address, bearer(RUN))
    assert {name for name, code in by_run.items() if code is DENIED} == administration()
    assert UNAUTHENTICATED not in by_run.values()
    assert not REFUSED & set(codes(served.address, bearer(ADMIN)).values())


def test_a_refused_call_is_counted_and_not_decoded(served: ServedAgent) -> None:
    """Bytes that are no message are not looked at; what is refused changes nothing."""
    path = "/agent_service.v1.AgentService/CreateController"
    creation = pb.CreateControllerRequest()
    creation.spec.name = "c"
    with grpc.insecure_channel(served.address) as channel:
        call: Any = channel.unary_unary(path)
        for data in (b"\xff\xff", creation.SerializeToString()):
            for token, expected in ((None, UNAUTHENTICATED), (RUN, DENIED)):
                with pytest.raises(grpc.RpcError) as raised:
                    call(data, metadata=bearer(token))
                assert raised.value.code() is expected
        with pytest.raises(grpc.RpcError) as raised:
            call(b"\xff\xff", metadata=bearer(ADMIN))
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    for grpc_code in ("Unauthenticated", "PermissionDenied"):
        labels = {
            "grpc_type": "unary",
            "grpc_service": SERVICE.full_name,
            "grpc_method": "CreateController",
            "grpc_code": grpc_code,
        }
        assert served.registry.get_sample_value("grpc_server_handled_total", labels) == 2


def test_the_client_carries_its_token(served: ServedAgent, tokens: Tokens) -> None:
    """In calls, streams, and streams of reports; errors say which token is needed."""
    with (
        AgentClient(served.address, token=tokens.admin) as admin,
        AgentClient(served.address, token=str(tokens.run)) as trains,
        AgentClient(served.address) as nobody,
    ):
        admin.create_controller(spec())
        with pytest.raises(PermissionDenied, match="DeleteController needs the admin token"):
            trains.delete_controller("c")
        with trains.run("c", run_id="r") as run, trains.report_stream() as stream:
            report = FleetReport(
                run=run, losses=[1.0] * 4, feedback=Scores(training=0.5, validation=0.5)
            )
            assert stream.report([report]) == [None]
        assert len(list(trains.transitions())) == 1
        assert admin.import_policy("c", admin.export_policy("c")) == 1
        with pytest.raises(Unauthenticated, match="no token; send"):
            list(nobody.list_controllers())
        with pytest.raises(Unauthenticated, match="no token; send"):
            list(nobody.transitions())


def test_tokens_are_renewed_while_both_sides_run(served: ServedAgent, tokens: Tokens) -> None:
    """The new one stands before the old one until all clients have it; they read theirs anew."""
    old, new = tokens.run, tokens.run.with_name("new.token")
    mine = tokens.run.with_name("mine.token")
    mine.write_text(RUN)
    new.write_text("new-" + RUN)
    with (
        AgentClient(served.address, token=mine) as client,
        AgentClient(served.address, token=new) as renewed,
    ):
        with pytest.raises(Unauthenticated, match="unknown token"):
            list(renewed.list_controllers())
        old.write_text(f"new-{RUN}\n{RUN}\n")
        assert list(renewed.list_controllers()) == list(client.list_controllers()) == []
        old.write_text(f"new-{RUN}\n")
        with pytest.raises(Unauthenticated, match="was it rotated"):
            list(client.list_controllers())
        mine.write_text(f"new-{RUN}\n")
        assert list(client.list_controllers()) == []
        old.unlink()
        assert list(client.list_controllers()) == [], "the service goes by what it read before"


def test_health_needs_no_token(served: ServedAgent) -> None:
    """Whoever looks after the service has none; its contract is shown to those who have one."""
    check_health(served.address, "agent service")
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with grpc.insecure_channel(served.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        assert list(reflection(iter([request]), metadata=bearer(RUN)))
        with pytest.raises(grpc.RpcError) as raised:
            list(reflection(iter([request])))
    assert raised.value.code() is UNAUTHENTICATED


@pytest.mark.parametrize(("token", "opens"), [(RUN, False), (ADMIN, True)])
def test_one_token_alone_opens_no_more_than_it_says(
    tmp_path: Path, tokens: Tokens, token: str, opens: bool
) -> None:
    """With a run token alone nobody administers; with an admin token alone it opens all."""
    config = (
        ServingConfig(admin_token=tokens.admin) if opens else ServingConfig(run_token=tokens.run)
    )
    with ServedAgent(tmp_path / "agent.db", config) as served:
        found = codes(served.address, bearer(token))
        assert {name for name, c in found.items() if c in REFUSED} == (
            set() if opens else administration()
        )
        assert set(codes(served.address, ()).values()) == {UNAUTHENTICATED}


@pytest.mark.parametrize(
    "content", ["", " \n", "short", "with space inside it, and long", "ü" * 20]
)
def test_a_file_without_a_token_is_refused_and_never_shown(tmp_path: Path, content: str) -> None:
    """The service does not start, the client is not made, and the error has nothing of it."""
    path = tmp_path / "token"
    path.write_text(content)
    for make in (
        lambda: AgentClient(token=path),
        lambda: Guard(ServingConfig(run_token=path)),
        lambda: Guard(ServingConfig(admin_token=path)),
    ):
        with pytest.raises(InvalidArgument) as raised:
            make()
        assert str(path) in str(raised.value)
        assert not content.strip() or content.strip() not in str(raised.value)


@pytest.mark.parametrize("admins", ["one", "link", "{new}\n{one}"])
def test_a_token_for_runs_that_is_the_admins_is_refused(tmp_path: Path, admins: str) -> None:
    """One file for both, a link to it, or a copy among others: every run could administer."""
    runs, admin = tmp_path / "run.token", tmp_path / "admin.token"
    runs.write_text("r" * 20)
    if admins == "one":
        admin = runs
    elif admins == "link":
        admin.symlink_to(runs)
    else:
        admin.write_text(admins.format(new="n" * 20, one="r" * 20))
    config = ServingConfig(run_token=runs, admin_token=admin)

    with pytest.raises(InvalidArgument, match="hold the same token, so every run could") as raised:
        Guard(config)
    assert "rrrr" not in str(raised.value)
    Guard(ServingConfig(admin_token=admin))
