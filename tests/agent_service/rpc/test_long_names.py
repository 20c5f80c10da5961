"""Names of any length are refused, with little of them in the message."""

from typing import Any

import grpc
import pytest

from agent_service.client import AgentClient
from agent_service.v1 import agent_pb2 as pb
from tests.agent_service.specs import spec

SCORES = pb.Scores(training=0.5, validation=0.5)
REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


def calls(name: str) -> dict[str, Any]:
    """Return requests by their method that carry a name, each in another field."""
    rate = pb.Hyperparameter(name=name, high=0.5)
    drawn = pb.Random()
    report = pb.ReportChunkRequest(run_id="r", chunk_index=1, losses=[1.0] * 4, scores=SCORES)
    applied = pb.ReportChunkRequest()
    applied.CopyFrom(report)
    applied.applied.values[name] = 0.1
    report.run_id = name
    good = pb.Hyperparameter(name="dropout", high=0.5)
    specs = [
        pb.ControllerSpec(name=name, hyperparameters=[good], random=drawn),
        pb.ControllerSpec(name="n", hyperparameters=[rate], random=drawn),
        pb.ControllerSpec(
            name="n", hyperparameters=[good], constant=pb.Constant(values={name: 0.1})
        ),
        pb.ControllerSpec(name="n", hyperparameters=[good], replay=pb.Replay(run_id=name)),
        pb.ControllerSpec(
            name="n", hyperparameters=[good], ppo=pb.Ppo(warm_start=pb.WarmStart(controller=name))
        ),
    ]
    return {
        "CreateController": [pb.CreateControllerRequest(spec=one) for one in specs],
        "GetController": [pb.GetControllerRequest(name=name)],
        "UpdateController": [pb.UpdateControllerRequest(name=name, mode=pb.MODE_FROZEN)],
        "DeleteController": [pb.DeleteControllerRequest(name=name)],
        "StartRun": [
            pb.StartRunRequest(controller=name, run_id="s"),
            pb.StartRunRequest(controller="c", run_id=name),
            pb.StartRunRequest(controller="c", run_id="s", labels={name * 5: "x"}),
            pb.StartRunRequest(controller="c", run_id="s", labels={"x": name * 10}),
        ],
        "ReportChunk": [report, applied],
        "FinishRun": [pb.FinishRunRequest(run_id=name, outcome=pb.OUTCOME_TERMINATED)],
        "GetRun": [pb.GetRunRequest(run_id=name)],
        "ListRuns": [
            pb.ListRunsRequest(page_token=name),
            pb.ListRunsRequest(controller=name, page_size=1, page_token="t"),
        ],
        "ListPolicyVersions": [pb.ListPolicyVersionsRequest(controller=name)],
    }


@pytest.mark.parametrize("name", ["x" * 129, "\u6f22" * 5_000, "x" * 200_000])
def test_a_long_name_is_refused_in_a_short_message(client: AgentClient, name: str) -> None:
    """By its length, wherever it stands: never by what gRPC cannot carry back."""
    client.create_controller(spec())
    client.run("c", run_id="r")
    for method, requests in calls(name).items():
        for request in requests:
            with pytest.raises(grpc.RpcError) as raised:
                getattr(client._stub, method)(request, timeout=30)
            error: Any = raised.value
            assert error.code() in REFUSED, (method, error)
            assert len(error.details()) < 600, method

    assert [c.spec.name for c in client.list_controllers()] == ["c"]
    assert client.get_run("r").reported_chunks == 0


def test_a_long_name_is_refused_by_its_length(client: AgentClient) -> None:
    """What is too long, and how long it may be."""
    request = pb.StartRunRequest(controller="c", run_id="x" * 5_000)
    with pytest.raises(grpc.RpcError, match=r"run_id: 'xxx.*5,000 characters.* at most 128"):
        client._stub.StartRun(request)
    with pytest.raises(grpc.RpcError, match=r"no controller 'xxx.*5,000 characters"):
        client._stub.GetController(pb.GetControllerRequest(name="x" * 5_000))


def test_a_message_that_names_much_is_cut(client: AgentClient) -> None:
    """64 hyperparameters of 63 letters come to more than a client takes."""
    names = [f"{'x' * 60}-{n:02}" for n in range(64)]
    rates = [pb.Hyperparameter(name=name, high=0.5) for name in names]
    request = pb.CreateControllerRequest(
        spec=pb.ControllerSpec(
            name="n", hyperparameters=rates, constant=pb.Constant(values={"y": 0.1})
        )
    )
    with pytest.raises(grpc.RpcError, match="no such hyperparameter; there are") as raised:
        client._stub.CreateController(request)
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert len(error.details()) <= 1000
