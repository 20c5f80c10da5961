"""Mistyped values and arguments: the error names the field, and the valid values."""

from typing import Any

import numpy as np
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

SCORES: dict[str, Any] = {"training_score": 0.5, "validation_score": 0.5}

DROPOUT = Hyperparameter("dropout", 0.1, 0.5)
ENDS: dict[str, Any] = {"start": {"dropout": 0.1}, "end": {"dropout": 0.5}, "chunks": 5}
LONG = ReplaySettings(values=({"dropout": 0.1},) * 6)


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


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda c, r: c.run("c", "r2"), TypeError, r"AgentClient.run: give by name run_id, .*mod"),
        (lambda c, r: r.report_chunk([1.0] * 4, 0.5, 0.5), TypeError, "by name training_score"),
        (lambda c, r: r.finish("terminated", 0.5), TypeError, "Run.finish: give by name final_sc"),
        (lambda c, r: c.run(5), InvalidArgument, "controller: 5 given; write a controller's name"),
        (lambda c, r: c.run("c", run_id=[]), InvalidArgument, r"run_id: \[\] given; write 'run-1'"),
        (lambda c, r: c.create_controller("d"), InvalidArgument, "spec: 'd' given; write Control"),
        (lambda c, r: c.run("c", mode="frozn"), InvalidArgument, "mode: 'frozn' is not one of lea"),
        (lambda c, r: c.run("c", labels={"a": 1}), InvalidArgument, "labels: 1 is not text; write"),
        (lambda c, r: r.finish("ended"), InvalidArgument, "outcome: 'ended' is not one of termina"),
        (lambda c, r: r.finish(final_score="high"), InvalidArgument, "final_score: 'high' is not"),
        (
            lambda c, r: r.report_chunk([1.0] * 4, **SCORES, chunk=7),
            InvalidArgument,
            "chunk: 7",
        ),
        (lambda c, r: c.set_mode("c", "learn"), InvalidArgument, "mode: 'learn' is not one of lea"),
        (lambda c, r: c.create_controller(spec("d"), "learn"), InvalidArgument, "mode: 'learn'"),
        (lambda c, r: list(c.list_runs(state="open")), InvalidArgument, "state: 'open' is not one"),
    ],
)
def test_a_wrong_argument_of_a_call_changes_nothing(
    client: AgentClient, call: Any, error: type[Exception], said: str
) -> None:
    """It is named before anything is started or ended."""
    client.create_controller(spec())
    run = client.run("c", run_id="r")

    with pytest.raises(error, match=said):
        call(client, run)

    assert [(r.run_id, r.outcome) for r in client.list_runs()] == [("r", 0)]
    run.report_chunk([1.0] * 4, **SCORES)
    assert client.get_run("r").reported_chunks == 1


def test_a_modes_name_is_the_mode(client: AgentClient) -> None:
    """For the controller, the run and its model."""
    client.create_controller(spec())
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.3))
    shadow = client.run("c", run_id="s", mode="shadow", model=model)  # type: ignore[arg-type]
    assert client.get_run(shadow.run_id).mode == 3
    assert "shadow" in type(shadow._model).__module__
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
    for one in (torch.ones(1), np.ones(1), np.ones((1, 1)), 1):
        run.step(one, score=one)
    run.report(np.array([0.5]))
    assert client.get_run(run.run_id).reported_chunks == 1


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
        (
            {"algorithm": ReplaySettings(values=({"dropout": 0.2},) * 6)},
            r"values\[0\]\[dropout\] is 0.1 there, 0.2 sent, .* and 1 more",
        ),
    ],
)
def test_another_spec_of_a_name_is_refused_with_what_differs(
    client: AgentClient, changes: dict[str, Any], said: str
) -> None:
    """The field and both values, some of many; and it stays as it was."""
    first = {"algorithm": LONG} if "1 more" in said else {}
    client.create_controller(controller(**first))
    with pytest.raises(AlreadyExists, match=said) as raised:
        client.create_controller(controller(**changes))

    assert len(str(raised.value)) < 1000
    assert client.create_controller(controller(**first)).spec.seed == 0
