"""Bad input: its status code, the field that is named, and that nothing changed."""

import math
import pickle
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from agent_service.client import AgentClient, RandomSettings
from agent_service.domain.errors import (
    AgentError,
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
)
from agent_service.v1 import agent_pb2 as pb
from agent_service.v1.agent_pb2_grpc import AgentServiceStub
from tests.agent_service.calls import LOSSES, SCORES, Call, report_of
from tests.agent_service.specs import spec

NAN, INF = math.nan, math.inf


def ranged(**changes: Any) -> pb.CreateControllerRequest:
    """Return a request for a controller whose hyperparameter is as given."""
    rate = pb.Hyperparameter(**{"name": "dropout", "high": 0.9, **changes})
    return pb.CreateControllerRequest(
        spec=pb.ControllerSpec(name="new", hyperparameters=[rate], random=pb.Random())
    )


def using(name: str = "new", **algorithm: Any) -> pb.CreateControllerRequest:
    """Return a request for a controller with an algorithm."""
    rate = pb.Hyperparameter(name="dropout", high=0.9)
    return pb.CreateControllerRequest(
        spec=pb.ControllerSpec(name=name, hyperparameters=[rate], **algorithm)
    )


def ppo(**settings: Any) -> pb.CreateControllerRequest:
    return using(ppo=pb.Ppo(**settings))


def bayesian(**settings: Any) -> pb.CreateControllerRequest:
    return using(bayesian=pb.Bayesian(**settings))


def reported(**changes: Any) -> pb.ReportChunkRequest:
    return report_of("live", **changes)


def started(**changes: Any) -> pb.StartRunRequest:
    return pb.StartRunRequest(**{"controller": "c", "run_id": "r", **changes})


def finished(**fields: Any) -> pb.FinishRunRequest:
    return pb.FinishRunRequest(run_id="live", **fields)


WRONG: list[tuple[Message, str]] = [
    (ranged(low=0.9), "spec.hyperparameters[0].low"),
    (ranged(low=1.0), "spec.hyperparameters[0].low"),
    (ranged(low=NAN), "spec.hyperparameters[0].low"),
    (ranged(high=INF), "spec.hyperparameters[0].high"),
    (ranged(low=-1.7e308, high=1.7e308), "spec.hyperparameters[0].high"),
    (pb.ListRunsRequest(labels={str(n): "y" for n in range(65)}), "labels"),
    (ranged(scale=pb.SCALE_LOG), "spec.hyperparameters[0].low"),
    (ranged(low=-0.5, scale=pb.SCALE_LOG), "spec.hyperparameters[0].low"),
    (ranged(scale=99), "spec.hyperparameters[0].scale"),
    (ranged(name="Not A Name"), "spec.hyperparameters[0].name"),
    (using("Not A Name", random=pb.Random()), "spec.name"),
    (using(), "spec.algorithm"),
    (bayesian(n_startup_trials=0), "spec.bayesian.n_startup_trials"),
    (bayesian(n_startup_trials=257), "spec.bayesian.n_startup_trials"),
    (bayesian(n_ei_candidates=0), "spec.bayesian.n_ei_candidates"),
    (bayesian(n_ei_candidates=49), "spec.bayesian.n_ei_candidates"),
    (ppo(gamma=1.5), "spec.ppo.gamma"),
    (ppo(learning_rate=0), "spec.ppo.learning_rate"),
    (ppo(ent_coef=-0.1), "spec.ppo.ent_coef"),
    (ppo(rollout_size=0), "spec.ppo.rollout_size"),
    (ppo(max_staleness=0), "spec.ppo.max_staleness"),
    (ppo(max_change=0), "spec.ppo.max_change"),
    (ppo(max_change=2.5), "spec.ppo.max_change"),
    (ppo(max_change=NAN), "spec.ppo.max_change"),
    (ppo(warm_start=pb.WarmStart()), "spec.ppo.warm_start.controller"),
    (
        ppo(warm_start=pb.WarmStart(controller="c", policy_version=-1)),
        "spec.ppo.warm_start.policy_version",
    ),
    (
        ppo(warm_start=pb.WarmStart(controller="c", pretrained="dropout-1")),
        "spec.ppo.warm_start.pretrained",
    ),
    (
        ppo(warm_start=pb.WarmStart(pretrained="dropout-1", policy_version=1)),
        "spec.ppo.warm_start.policy_version",
    ),
    (ppo(warm_start=pb.WarmStart(pretrained="../x")), "spec.ppo.warm_start.pretrained"),
    (ppo(warm_start=pb.WarmStart(pretrained="dropout-1")), "spec.ppo.observe"),
    (
        ppo(warm_start=pb.WarmStart(pretrained="nobody"), observe=pb.OBSERVE_UNIVERSAL),
        "spec.ppo.warm_start",
    ),
    (ppo(net_arch=[64, 0]), "spec.ppo.net_arch"),
    (ppo(net_arch=[2**31 - 1]), "spec.ppo.net_arch"),
    (ppo(net_arch=[8] * 1000), "spec.ppo.net_arch"),
    (ppo(log_std_init=1e30), "spec.ppo.log_std_init"),
    (ppo(log_std_init=NAN), "spec.ppo.log_std_init"),
    (using(constant=pb.Constant()), "spec.constant.values[dropout]"),
    (using(constant=pb.Constant(values={"dropout": 2})), "spec.constant.values[dropout]"),
    (using(constant=pb.Constant(values={"x": 0})), "spec.constant.values[x]"),
    (using(schedule=pb.Schedule(chunks=5)), "spec.schedule.shape"),
    (using(schedule=pb.Schedule(shape=pb.SHAPE_STEP, chunks=1)), "spec.schedule.chunks"),
    (using(replay=pb.Replay()), "spec.replay.values"),
    (
        using(replay=pb.Replay(values=[pb.ReplayedValues(values={"dropout": 2})])),
        "spec.replay.values[0][dropout]",
    ),
    (
        using(replay=pb.Replay(run_id="r", values=[pb.ReplayedValues(values={"dropout": 0})])),
        "spec.replay.values",
    ),
    (using(pretrained=pb.Pretrained()), "spec.pretrained.policy"),
    (using(pretrained=pb.Pretrained(policy="../dropout-1")), "spec.pretrained.policy"),
    (using(pretrained=pb.Pretrained(policy="nobody")), "spec.pretrained.policy"),
    (reported(losses=LOSSES[:3]), "losses"),
    (reported(losses=[]), "losses"),
    (reported(losses=[1.0, NAN, 1.0, 1.0]), "losses[1]"),
    (reported(losses=[1.0, 1.0, 1.0, -INF]), "losses[3]"),
    (reported(chunk=0), "chunk_index"),
    (reported(chunk=-1), "chunk_index"),
    (reported(scores=pb.Scores(training=1.5, validation=0.5)), "scores.training"),
    (reported(scores=pb.Scores(training=0.5, validation=NAN)), "scores.validation"),
    (reported(scores=None, reward=0.5), "reward"),
    (reported(scores=None), "feedback"),
    (reported(applied=pb.Applied(values={"dropout": NAN})), "applied.values[dropout]"),
    (reported(applied=pb.Applied(values={"x": 0.5})), "applied"),
    (reported(applied=pb.Applied()), "applied"),
    (started(run_id=""), "run_id"),
    (started(run_id="../x"), "run_id"),
    (started(mode=77), "mode"),
    (started(planned_chunks=-1), "planned_chunks"),
    (started(problem=pb.Problem(classes=1)), "problem.classes"),
    (started(problem=pb.Problem(batch_size=0)), "problem.batch_size"),
    (started(problem=pb.Problem(sites=-(2**63))), "problem.sites"),
    (started(problem=pb.Problem(learning_rate=NAN)), "problem.learning_rate"),
    (pb.UpdateControllerRequest(name="c"), "mode"),
    (pb.UpdateControllerRequest(name="c", mode=pb.MODE_SHADOW), "mode"),
    (finished(), "outcome"),
    (finished(outcome=pb.OUTCOME_TERMINATED, final_score=NAN), "final_score"),
    (pb.ListRunsRequest(page_size=-1), "page_size"),
    (pb.ListRunsRequest(page_token="x"), "page_token"),
    (pb.ListControllersRequest(page_size=10_000), "page_size"),
    (pb.ListPolicyVersionsRequest(controller="c", page_size=-1), "page_size"),
    (pb.ListPolicyVersionsRequest(controller="c", page_token="x"), "page_token"),
    (pb.StreamTransitionsRequest(after_position=-1), "after_position"),
]


def test_a_wrong_value_is_refused_by_its_field(client: AgentClient, call: Call) -> None:
    """INVALID_ARGUMENT names the field, and everything is as it was."""
    client.create_controller(spec())
    client.run("c", run_id="live")
    before = [list(client.list_controllers()), list(client.list_runs())]

    for request, field in WRONG:
        with pytest.raises(InvalidArgument) as raised:
            print(request, call(request))
        assert [v.field for v in raised.value.violations] == [field], request

    assert [list(client.list_controllers()), list(client.list_runs())] == before
    assert list(client.transitions()) == []


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (pb.GetControllerRequest(name="nobody"), NotFound),
        (pb.UpdateControllerRequest(name="nobody", mode=pb.MODE_FROZEN), NotFound),
        (pb.DeleteControllerRequest(name="nobody"), NotFound),
        (pb.StartRunRequest(controller="nobody", run_id="r"), NotFound),
        (report_of("nobody"), NotFound),
        (pb.FinishRunRequest(run_id="nobody", outcome=pb.OUTCOME_TERMINATED), NotFound),
        (pb.GetRunRequest(run_id="nobody"), NotFound),
        (pb.StreamTransitionsRequest(run_id="nobody", follow=True), NotFound),
        (pb.StreamTransitionsRequest(controller="nobody", follow=True), NotFound),
        (pb.ListPolicyVersionsRequest(controller="nobody"), NotFound),
        (pb.ExportPolicyRequest(controller="nobody"), NotFound),
        (pb.ListPolicyVersionsRequest(controller="random"), FailedPrecondition),
        (pb.ExportPolicyRequest(controller="random"), FailedPrecondition),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_call_names_what_does_not_exist(
    client: AgentClient, call: Call, request_: Message, error: type[AgentError]
) -> None:
    """NOT_FOUND, never UNKNOWN or INTERNAL; a controller without a policy is another matter."""
    client.create_controller(spec("random", RandomSettings()))

    with pytest.raises(error, match=r"nobody|random"):
        call(request_)


def test_a_message_of_ten_mebibytes_is_refused(client: AgentClient, stub: AgentServiceStub) -> None:
    """RESOURCE_EXHAUSTED by the transport's limit, and the service goes on."""
    client.create_controller(spec())
    client.run("c", run_id="r")

    with pytest.raises(grpc.RpcError) as raised:
        stub.ReportChunk(report_of("r", losses=[1.0] * (10 * 2**17)), timeout=30)

    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.ReportChunk(report_of("r", scores=SCORES)).action.chunk_index == 2


def test_an_error_is_the_same_in_another_process() -> None:
    """As rank 0 of a training passes it to the others."""
    error = InvalidArgument(FieldViolation("spec.name", "is empty"), FieldViolation("mode", "is 9"))

    copy = pickle.loads(pickle.dumps(error))

    assert (str(copy), copy.violations) == (str(error), error.violations)
