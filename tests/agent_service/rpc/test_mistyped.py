"""What is mistyped is told as a person would tell it: the field, and what there is."""

from typing import Any

import pytest
import torch
from torch import nn

from agent_service.client import (
    AgentClient,
    BayesianSettings,
    ConstantSettings,
    ControllerSpec,
    Hold,
    Hyperparameter,
    Limits,
    Mode,
    Outcome,
    PPOSettings,
    ReplaySettings,
    Reward,
    Scale,
    ScheduleSettings,
    Shape,
    Tls,
    WarmStart,
)
from agent_service.controllers.ppo import FrozenStart
from agent_service.domain.errors import AlreadyExists, InvalidArgument
from tests.agent_service.specs import spec
from tests.given import ServedAgent

DROPOUT = Hyperparameter("dropout", 0.1, 0.5)
ENDS: dict[str, Any] = {"start": {"dropout": 0.1}, "end": {"dropout": 0.5}, "chunks": 5}
ANY: Any = None
"""What a script without a type checker may give."""


def controller(**changes: Any) -> ControllerSpec:
    return ControllerSpec(**{"name": "c", "hyperparameters": (DROPOUT,), **changes})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: controller(reward="validaton"),
            "reward: 'validaton' is not one of gap, validation",
        ),
        (lambda: controller(reward=1), "reward: 1 is not one of gap"),
        (lambda: Hyperparameter("d", 0.1, 1, "logarithmic"), "scale: .* not one of linear, log"),  # type: ignore[arg-type]
        (lambda: ScheduleSettings(shape="cosin", **ENDS), "shape: 'cosin' is not one of linear"),  # type: ignore[arg-type]
        (lambda: PPOSettings(frozen_start="men"), "frozen_start: 'men' is not one of mean"),  # type: ignore[arg-type]
        (lambda: PPOSettings(net_arch="64"), r"net_arch: '64' given; write \[64, 64\]"),  # type: ignore[arg-type]
        (lambda: controller(hyperparameters={"dropout": (0.1, 0.5)}), r"write \[Hyperparameter\("),
        (lambda: controller(hyperparameters=["dropout"]), "hyperparameters: 'dropout' given"),
        (lambda: controller(algorithm="ppo"), r"algorithm: 'ppo' is none, as PPOSettings\(\)"),
        (lambda: controller(algorithm=PPOSettings), r"algorithm: .* is none, as PPOSettings\(\)"),
        (
            lambda: controller(algorithm=ConstantSettings(values=0.3)),  # type: ignore[arg-type]
            r"constant.values: 0.3 given; write \{'dropout': \.\.\.\}",
        ),
        (
            lambda: controller(algorithm=ConstantSettings(values={"dropout": "0.3"})),  # type: ignore[dict-item]
            r"constant.values\[dropout\]: '0.3' is not a number",
        ),
        (lambda: ReplaySettings(values=0.3), r"values: 0.3 given; write \[\{"),  # type: ignore[arg-type]
        (lambda: controller(chunk_size="20"), "chunk_size: '20' given; write chunk_size=20"),
        (lambda: Limits(max_change="0.1"), "limits.max_change: '0.1' is not a number"),  # type: ignore[arg-type]
        (lambda: Hold(limit="9"), "when_away.limit: '9' is not a number"),  # type: ignore[arg-type]
        (lambda: Hyperparameter("d", "0.1", 0.5), "low: '0.1' is not a number"),  # type: ignore[arg-type]
        (lambda: Hyperparameter(0.1, 0.5, 1), "name: 0.1 does not match"),  # type: ignore[arg-type]
    ],
)
def test_a_spec_says_at_once_what_is_wrong(make: Any, said: str) -> None:
    """As soon as it is made, whatever the field: no KeyError, no TypeError of another library."""
    with pytest.raises(InvalidArgument, match=said):
        make()


def test_names_and_lists_are_what_they_stand_for() -> None:
    """A choice's name is the choice, and a list or one value a tuple: equal specs stay equal."""
    named = controller(
        hyperparameters=[Hyperparameter("dropout", 0.1, 0.5, "log")],  # type: ignore[arg-type]
        reward="improvement",
        algorithm=PPOSettings(net_arch=[8, 8], frozen_start="uniform"),  # type: ignore[arg-type]
    )

    assert named == controller(
        hyperparameters=(Hyperparameter("dropout", 0.1, 0.5, Scale.LOG),),
        reward=Reward.IMPROVEMENT,
        algorithm=PPOSettings(net_arch=(8, 8), frozen_start=FrozenStart.UNIFORM),
    )
    assert named.hyperparameters[0].value(0.0) == pytest.approx(0.05**0.5)
    assert controller(hyperparameters=DROPOUT) == controller()
    assert ScheduleSettings(shape="step", **ENDS).shape is Shape.STEP  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "given", "names"),
    [
        (ControllerSpec, ("c", DROPOUT), ("ControllerSpec", "name", "hyperparameters")),
        (PPOSettings, (256,), ("PPOSettings", "rollout_size")),
        (ConstantSettings, ({"dropout": 0.3},), ("ConstantSettings", "values")),
        (ScheduleSettings, (Shape.STEP,), ("ScheduleSettings", "shape", "start", "end", "chunks")),
        (BayesianSettings, (5,), ("BayesianSettings", "n_startup_trials")),
        (ReplaySettings, ("r",), ("ReplaySettings", "run_id", "values")),
        (WarmStart, ("c",), ("WarmStart", "controller")),
        (Limits, (0.1,), ("Limits", "max_change")),
        (Hold, ({"dropout": 0.1},), ("Hold", "values")),
        (Tls, ("ca.pem",), ("Tls", "ca")),
    ],
)
def test_what_is_given_by_place_is_told_by_name(
    kind: Any, given: tuple[Any, ...], names: tuple[str, ...]
) -> None:
    """Not how many arguments a method takes that the script never called."""
    with pytest.raises(TypeError) as raised:
        kind(*given)
    assert all(name in str(raised.value) for name in names)


def test_runs_are_asked_for_by_name(client: AgentClient) -> None:
    """As specs are; what is wrong is told before anything is started."""
    client.create_controller(spec())
    run: Any = client.run("c", run_id="r")

    with pytest.raises(TypeError, match=r"AgentClient.run: give by name run_id, .*model"):
        client.run("c", "r2")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Run.report_chunk: give by name training_score"):
        run.report_chunk([1.0] * 4, 0.5, 0.5)
    with pytest.raises(TypeError, match=r"Run.finish: give by name final_score"):
        run.finish(Outcome.TERMINATED, 0.5)
    with pytest.raises(
        InvalidArgument, match="mode: 'frozn' is not one of learning, frozen, shadow"
    ):
        client.run("c", run_id="r2", mode="frozn")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="labels: 1 is not text; write '1'"):
        client.run("c", run_id="r2", labels={"seed": 1})  # type: ignore[dict-item]
    with pytest.raises(InvalidArgument, match="outcome: 'ended' is not one of terminated"):
        run.finish("ended")
    with pytest.raises(InvalidArgument, match="mode: 'learn' is not one of learning"):
        client.set_mode("c", "learn")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="mode: 'learn' is not one of learning"):
        client.create_controller(spec("d"), "learn")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="state: 'open' is not one of active"):
        list(client.list_runs(state="open"))  # type: ignore[arg-type]

    assert [r.run_id for r in client.list_runs()] == ["r"]
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3))
    shadow = client.run("c", run_id="s", mode="shadow", model=model)  # type: ignore[arg-type]
    assert client.get_run(shadow.run_id).mode == 3
    assert "shadow" in type(shadow._model).__module__, "its name is the mode, for the model too"
    assert client.set_mode("c", Mode.FROZEN).mode == 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"when_away": "hold"}, r"when_away: 'hold' given; write Hold\(\), or None"),
        ({"limits": 0.1}, r"limits: 0.1 given; write Limits\("),
        ({"labels": "seed"}, r"labels: 'seed' given; write \{"),
        ({"sites": "0"}, r"sites: '0' given; write \{'MODULE': Dropout\(\)\}"),
        ({"sites": {"0": nn.Dropout(0.1)}}, r"sites\[0\]: .* GaussianNoise\(\) of agent_service"),
        ({"drives": "1"}, "drives: takes patterns by hyperparameter"),
        ({"drives": {"dropout": 1}}, r"drives\[dropout\]: 1 given; write \['MODULE'\]"),
        ({"model": "resnet"}, "model: 'resnet' given; write .* torch.nn.Module"),
        ({"model": [nn.Dropout(0.1)]}, "model: .* given; write .* torch.nn.Module"),
    ],
)
def test_a_run_says_at_once_which_argument_is_of_the_wrong_kind(
    client: AgentClient, given: dict[str, Any], said: str
) -> None:
    """In one line, and nothing is started."""
    client.create_controller(spec())
    with pytest.raises(InvalidArgument, match=said):
        client.run("c", **{"model": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3)), **given})
    assert not list(client.list_runs())


@pytest.mark.parametrize("validation", ["0.5", None, [0.5], (torch.ones(2), torch.ones(2))])
def test_a_report_of_neither_a_number_nor_pairs_says_what_is_needed(
    client: AgentClient, validation: Any
) -> None:
    """And the chunk is kept."""
    client.create_controller(spec())
    run = client.run("c", model=nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3)))
    for _ in range(4):
        run.step(1.0, score=0.5)
    with pytest.raises(TypeError, match="needs a number, or pairs of logits and labels"):
        run.report(validation)
    assert run.chunk_full


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"loss": torch.ones(3, 2)}, r"loss: has the shape \[3, 2\]; give one number"),
        ({"loss": torch.ones(3, device="meta")}, r"loss: has the shape \[3\]"),
        ({"loss": "1"}, "loss: '1' is not a number"),
        ({"score": torch.ones(3)}, r"score: has the shape \[3\]"),
    ],
)
def test_a_step_takes_one_loss_and_one_score(
    client: AgentClient, told: dict[str, Any], said: str
) -> None:
    """A loss without its mean is told at its step, by its shape alone."""
    client.create_controller(spec())
    run = client.run("c")
    with pytest.raises(InvalidArgument, match=said):
        run.step(**{"loss": 1.0, "score": 0.5, **told})
    for _ in range(4):
        run.step(torch.ones(1), score=0.5)
    assert run.chunk_full


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"hyperparameters": (Hyperparameter("dropout", 0.1, 0.6125),)},
            r"another spec: hyperparameters\[0\].high is 0.5 there, 0.6125 sent;",
        ),
        ({"seed": 77}, "spec: seed is 0 there, 77 sent;"),
        ({"reward": Reward.VALIDATION, "chunk_size": 5}, "chunk_size is 20 there, 5 sent, reward"),
        ({"algorithm": PPOSettings(gamma=0.9)}, "spec: algorithm.gamma is 0.995 there, 0.9 sent;"),
        (
            {"algorithm": ConstantSettings(values={"dropout": 0.2})},
            "spec: algorithm is ppo there, constant sent;",
        ),
        (
            {"hyperparameters": (DROPOUT, Hyperparameter("noise", 0, 1))},
            r"spec: hyperparameters is \[dropout\] there, \[dropout, noise\] sent;",
        ),
    ],
)
def test_another_spec_of_a_name_is_refused_with_what_differs(
    client: AgentClient, changes: dict[str, Any], said: str
) -> None:
    """The field and both values; and it stays as it was."""
    client.create_controller(controller())
    with pytest.raises(AlreadyExists, match=said) as raised:
        client.create_controller(controller(**changes))

    assert len(str(raised.value)) < 1000
    assert client.create_controller(controller()).spec.seed == 0


def test_only_some_of_many_differences_are_shown(client: AgentClient) -> None:
    """Of a replay of thousands of chunks, say."""
    values = [{"dropout": 0.1}] * 5000
    client.create_controller(controller(algorithm=ReplaySettings(values=values)))  # type: ignore[arg-type]
    values = [{"dropout": 0.2}] * 5000
    with pytest.raises(AlreadyExists, match=r"values\[0\]\[dropout\] is 0.1 .* and 4995 more"):
        client.create_controller(controller(algorithm=ReplaySettings(values=values)))  # type: ignore[arg-type]


def test_another_start_of_a_run_is_refused_with_what_differs(served: ServedAgent) -> None:
    """Likewise."""
    with AgentClient(served.address) as client:
        client.create_controller(spec())
        client.run("c", run_id="r", labels={"seed": "1"}, planned_chunks=5)
        with pytest.raises(AlreadyExists, match=r"planned_chunks is 5 there, 6 sent; choose"):
            client.run("c", run_id="r", labels={"seed": "1"}, planned_chunks=6)
        with pytest.raises(AlreadyExists, match=r"labels\[seed\] is '1' there, '2' sent"):
            client.run("c", run_id="r", labels={"seed": "2"}, planned_chunks=5)
