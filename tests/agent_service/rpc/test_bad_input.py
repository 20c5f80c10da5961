"""Bad input: its status code, the field that is named, and that nothing changed."""

import math
import pickle

import grpc
import pytest

from agent_service.client import AgentClient
from agent_service.domain.errors import FieldViolation, InvalidArgument
from agent_service.v1 import agent_pb2 as pb
from agent_service.wire import convert
from tests.agent_service.specs import spec

LOSSES = [2.0, 1.5, 1.25, 1.0]
SCORES = pb.Scores(training=0.5, validation=0.5)


def spec_message(**changes: object) -> pb.ControllerSpec:
    message = convert.spec_to_message(spec("new"))
    for path, value in changes.items():
        target, *_, field = (
            (message.hyperparameters[0], path) if path != "name" else (message, path)
        )
        setattr(target, field, value)
    return message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"low": 0.9}, "spec.hyperparameters[0].low"),
        ({"low": 1.0}, "spec.hyperparameters[0].low"),
        ({"low": math.nan}, "spec.hyperparameters[0].low"),
        ({"high": math.inf}, "spec.hyperparameters[0].high"),
        ({"scale": pb.SCALE_LOG}, "spec.hyperparameters[0].low"),
        ({"low": -0.5, "scale": pb.SCALE_LOG}, "spec.hyperparameters[0].low"),
        ({"scale": 99}, "spec.hyperparameters[0].scale"),
        ({"name": "Not A Name"}, "spec.name"),
    ],
)
def test_a_wrong_spec_is_refused_by_field(
    client: AgentClient, changes: dict[str, object], field: str
) -> None:
    """INVALID_ARGUMENT names the field, and no controller is there afterwards."""
    request = pb.CreateControllerRequest(spec=spec_message(**changes))

    with pytest.raises(InvalidArgument) as raised:
        client._calls.call(client._stub.CreateController, request)

    assert [v.field for v in raised.value.violations] == [field]
    assert list(client.list_controllers()) == []


@pytest.mark.parametrize(
    ("algorithm", "field"),
    [
        ({}, "spec.algorithm"),
        ({"bayesian": pb.Bayesian(n_startup_trials=0)}, "spec.bayesian.n_startup_trials"),
        ({"bayesian": pb.Bayesian(n_startup_trials=257)}, "spec.bayesian.n_startup_trials"),
        ({"bayesian": pb.Bayesian(n_ei_candidates=0)}, "spec.bayesian.n_ei_candidates"),
        ({"bayesian": pb.Bayesian(n_ei_candidates=49)}, "spec.bayesian.n_ei_candidates"),
        ({"ppo": pb.Ppo(gamma=1.5)}, "spec.ppo.gamma"),
        ({"ppo": pb.Ppo(rollout_size=0)}, "spec.ppo.rollout_size"),
        ({"ppo": pb.Ppo(max_staleness=0)}, "spec.ppo.max_staleness"),
        ({"ppo": pb.Ppo(net_arch=[64, 0])}, "spec.ppo.net_arch"),
        ({"ppo": pb.Ppo(max_change=0)}, "spec.ppo.max_change"),
        ({"ppo": pb.Ppo(max_change=2.5)}, "spec.ppo.max_change"),
        ({"ppo": pb.Ppo(max_change=math.nan)}, "spec.ppo.max_change"),
        ({"ppo": pb.Ppo(warm_start=pb.WarmStart())}, "spec.ppo.warm_start.controller"),
        (
            {"ppo": pb.Ppo(warm_start=pb.WarmStart(controller="c", policy_version=-1))},
            "spec.ppo.warm_start.policy_version",
        ),
        ({"ppo": pb.Ppo(net_arch=[2**31 - 1])}, "spec.ppo.net_arch"),
        ({"ppo": pb.Ppo(net_arch=[8] * 1000)}, "spec.ppo.net_arch"),
        ({"ppo": pb.Ppo(log_std_init=1e30)}, "spec.ppo.log_std_init"),
        ({"ppo": pb.Ppo(log_std_init=math.nan)}, "spec.ppo.log_std_init"),
        ({"constant": pb.Constant()}, "spec.constant.values[dropout]"),
        ({"constant": pb.Constant(values={"dropout": 2})}, "spec.constant.values[dropout]"),
        ({"constant": pb.Constant(values={"x": 0})}, "spec.constant.values[x]"),
        ({"schedule": pb.Schedule(chunks=5)}, "spec.schedule.shape"),
        ({"schedule": pb.Schedule(shape=pb.SHAPE_STEP, chunks=1)}, "spec.schedule.chunks"),
        ({"replay": pb.Replay()}, "spec.replay.values"),
        (
            {"replay": pb.Replay(values=[pb.ReplayedValues(values={"dropout": 2})])},
            "spec.replay.values[0][dropout]",
        ),
        (
            {"replay": pb.Replay(run_id="r", values=[pb.ReplayedValues(values={"dropout": 0})])},
            "spec.replay.values",
        ),
    ],
)
def test_a_wrong_algorithm_is_refused_by_field(
    client: AgentClient, algorithm: dict[str, object], field: str
) -> None:
    """What is missing or out of range is named."""
    message = pb.ControllerSpec(
        name="new",
        hyperparameters=[pb.Hyperparameter(name="dropout", high=0.9)],
        **algorithm,  # type: ignore[arg-type]
    )

    with pytest.raises(InvalidArgument) as raised:
        client._calls.call(client._stub.CreateController, pb.CreateControllerRequest(spec=message))

    assert [v.field for v in raised.value.violations] == [field]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"losses": LOSSES[:3]}, "losses"),
        ({"losses": []}, "losses"),
        ({"losses": [1.0, math.nan, 1.0, 1.0]}, "losses[1]"),
        ({"losses": [1.0, 1.0, 1.0, -math.inf]}, "losses[3]"),
        ({"chunk_index": 0}, "chunk_index"),
        ({"chunk_index": -1}, "chunk_index"),
        ({"scores": pb.Scores(training=1.5, validation=0.5)}, "scores.training"),
        ({"scores": pb.Scores(training=0.5, validation=math.nan)}, "scores.validation"),
        ({"reward": 0.5}, "reward"),
        ({"scores": None}, "feedback"),
        ({"applied": pb.Applied(values={"dropout": math.nan})}, "applied.values[dropout]"),
        ({"applied": pb.Applied(values={"x": 0.5})}, "applied"),
        ({"applied": pb.Applied()}, "applied"),
    ],
)
def test_a_wrong_report_is_refused_by_field(
    client: AgentClient, changes: dict[str, object], field: str
) -> None:
    """INVALID_ARGUMENT names the field, and the run stands where it stood."""
    client.create_controller(spec())
    client.run("c", run_id="r")
    before = client.get_run("r")
    content: dict[str, object] = {"chunk_index": 1, "losses": LOSSES, "scores": SCORES} | changes
    if "reward" in changes:
        del content["scores"]

    with pytest.raises(InvalidArgument) as raised:
        client._calls.call(
            client._stub.ReportChunk,
            pb.ReportChunkRequest(run_id="r", **content),  # type: ignore[arg-type]
        )

    assert [v.field for v in raised.value.violations] == [field]
    assert client.get_run("r") == before
    assert list(client.transitions()) == []


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("StartRun", pb.StartRunRequest(controller="c", run_id=""), "run_id"),
        ("StartRun", pb.StartRunRequest(controller="c", run_id="../x"), "run_id"),
        ("StartRun", pb.StartRunRequest(controller="c", run_id="r", mode=77), "mode"),  # type: ignore[arg-type]
        (
            "StartRun",
            pb.StartRunRequest(controller="c", run_id="r", planned_chunks=-1),
            "planned_chunks",
        ),
        ("UpdateController", pb.UpdateControllerRequest(name="c"), "mode"),
        ("UpdateController", pb.UpdateControllerRequest(name="c", mode=pb.MODE_SHADOW), "mode"),
        ("FinishRun", pb.FinishRunRequest(run_id="live"), "outcome"),
        (
            "FinishRun",
            pb.FinishRunRequest(run_id="live", outcome=pb.OUTCOME_TERMINATED, final_score=math.nan),
            "final_score",
        ),
        ("ListRuns", pb.ListRunsRequest(page_size=-1), "page_size"),
        ("ListRuns", pb.ListRunsRequest(page_token="x"), "page_token"),
        ("ListControllers", pb.ListControllersRequest(page_size=10_000), "page_size"),
    ],
)
def test_other_wrong_calls_are_refused_by_field(
    client: AgentClient, method: str, request_: object, field: str
) -> None:
    """Each names its field and leaves the live run alone."""
    client.create_controller(spec())
    client.run("c", run_id="live")

    with pytest.raises(InvalidArgument) as raised:
        client._calls.call(getattr(client._stub, method), request_)

    assert [v.field for v in raised.value.violations] == [field]
    assert [r.run_id for r in client.list_runs()] == ["live"]


def test_a_message_of_ten_mebibytes_is_refused(client: AgentClient) -> None:
    """RESOURCE_EXHAUSTED from the transport's limit, and the service serves on."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")
    huge = pb.ReportChunkRequest(run_id="r", chunk_index=1, losses=[1.0] * (10 * 2**17))

    with pytest.raises(grpc.RpcError) as raised:
        client._stub.ReportChunk(huge, timeout=30)

    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    run.report_chunk(LOSSES, training_score=0.5, validation_score=0.5)


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"x" * 100_000])
def test_what_is_no_policy_is_not_imported(client: AgentClient, data: bytes) -> None:
    """A file that ExportPolicy did not write is INVALID_ARGUMENT, and the policy stays."""
    client.create_controller(spec())

    with pytest.raises(InvalidArgument, match="policy"):
        client.import_policy("c", data)

    assert client.get_controller("c").policy_version == 1


def test_an_error_is_the_same_in_another_process() -> None:
    """As rank 0 of a training tells it to the others."""
    error = InvalidArgument(FieldViolation("spec.name", "is empty"), FieldViolation("mode", "is 9"))

    told = pickle.loads(pickle.dumps(error))

    assert (str(told), told.violations) == (str(error), error.violations)
