"""Copies of a model that are made while a run steers it: as the user made it, and nobody's."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel

from agent_service.client import Dropout, Hyperparameter
from agent_service.client.model import release
from agent_service.client.model.steered import SteeredModel
from agent_service.domain.errors import InvalidArgument

RATE = Hyperparameter(name="dropout", low=0.0, high=0.9)


class Own(nn.Module):
    """Copied by a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Own":
        made = Own.__new__(Own)
        memo[id(self)] = made
        for name, value in vars(self).items():
            made.__dict__[name] = copy.deepcopy(value, memo)
        return made


def network() -> nn.Sequential:
    """Return dropout as a module, as an attribute, of an LSTM, and a place to add some."""
    return nn.Sequential(
        nn.Linear(4, 4),
        nn.Dropout(0.25),
        nn.MultiheadAttention(4, 2, dropout=0.125),
        nn.LSTM(4, 4, num_layers=2, dropout=0.5),
        Own(),
    )


def steer(model: nn.Module) -> SteeredModel:
    steered = SteeredModel(
        model, [RATE], sites={"0": Dropout(), "4": Dropout()}, drives={"dropout": "*"}
    )
    steered.apply({"dropout": 0.75})
    return steered


def by_torch(model: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    assert b"agent_service.client.model" not in file.getvalue()
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_pickle(model: nn.Module) -> Any:
    written = pickle.dumps(model)
    assert b"agent_service.client.model" not in written
    return pickle.loads(written)


COPIES: dict[str, Callable[[nn.Module], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": by_pickle,
    "torch.save": by_torch,
    "AveragedModel": lambda model: AveragedModel(model).module,
    "copy of each": lambda model: nn.Sequential(*(copy.copy(m) for m in model.children())),
}


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """Return all that a module has but tensors and submodules: rates, modes, hooks, methods."""
    apart = ("_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs")
    return {name: value for name, value in vars(module).items() if name not in apart}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_steered_model_is_as_its_user_made_it(way: str) -> None:
    """Own rates, no hooks, nothing of the client; the original goes on being steered."""
    model, untouched = network(), network()
    steered = steer(model)
    made = COPIES[way](model)

    for module, other in zip(made.modules(), untouched.modules(), strict=True):
        assert plain_attributes(module) == plain_attributes(other)
    assert torch.equal(made.state_dict()["0.weight"], model.state_dict()["0.weight"])
    steer(made).remove()
    assert model[1].p == model[2].dropout == model[3].dropout == 0.75
    steered.remove()
    assert [model[1].p, model[2].dropout, model[3].dropout] == [0.25, 0.125, 0.5]


@pytest.mark.parametrize("when", ["before", "in the run", "no more"])
def test_a_copy_of_parametrized_modules_has_each_with_its_weights(when: str) -> None:
    """Whenever they were parametrized, and where one of them is in the model twice."""
    first, second = (nn.LSTM(4, 4, num_layers=2, dropout=0.5) for _ in range(2))
    model = nn.ModuleDict({"first": first, "second": second, "again": first})

    def change(how: Callable[[nn.Module, str], Any]) -> None:
        for module in (first, second):
            how(module, "weight_hh_l0")

    if when != "in the run":
        change(parametrizations.weight_norm)
    steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.75})
    if when == "in the run":
        change(parametrizations.weight_norm)
    elif when == "no more":
        change(parametrize.remove_parametrizations)
    made = copy.deepcopy(model)
    steered.remove()

    assert made["first"] is made["again"] is not made["second"]
    assert made["first"].dropout == made["second"].dropout == 0.5
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, made.state_dict()[name])
    assert {"__deepcopy__", "__reduce_ex__"}.isdisjoint(vars(made["first"]) | vars(first))


def test_a_copy_drops_by_its_own_rate() -> None:
    """What the copy does in training mode is what the user set, while the run goes on."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.25))
    SteeredModel(model, [RATE]).apply({"dropout": 0.75})
    made, ones = copy.deepcopy(model), torch.ones(100, 100)

    assert float((made(ones) == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((model(ones) == 0).float().mean()) == pytest.approx(0.75, abs=0.03)


def test_a_forward_that_was_wrapped_during_the_run_is_plain_in_copies_and_afterwards() -> None:
    """As accelerate wraps it, around the pass that it finds: the pass is the module's own then."""
    model = nn.Sequential(nn.Dropout(0.25))
    steered = SteeredModel(model, [RATE])
    steered.apply({"dropout": 0.75})
    vars(model[0])["_old_forward"] = model[0].forward
    written = pickle.dumps(model)
    made = pickle.loads(written)
    steered.remove()

    assert b"agent_service.client.model" not in written
    for one in (made, model):
        kept: Any = vars(one[0])["_old_forward"]
        dropped = (kept(torch.ones(100, 100)) == 0).float().mean()
        assert float(dropped) == pytest.approx(0.25, abs=0.03)


def test_a_model_whose_run_is_lost_can_be_released() -> None:
    """It is as it was, another run may drive it, and the first, if it turns up, no more does."""
    model = network()
    lost = steer(model)
    with pytest.raises(InvalidArgument, match=r"release\(model\)"):
        steer(model)
    release(model)
    assert model[1].p == 0.25
    SteeredModel(model, [RATE]).apply({"dropout": 0.5})
    lost.apply({"dropout": 0.75})
    lost.remove()

    assert model[1].p == 0.5
