"""Copies of a model made during a run are as the user made it, and belong to no run."""

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

from agent_service.client import Dropout
from agent_service.client.model.steered import SteeredModel
from tests.agent_service.specs import DROPOUT as RATE


class Own(nn.Module):
    """Has its own method to copy it."""

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
    """Return dropout as a module, as an attribute, of an LSTM, and a module to add some to."""
    return nn.Sequential(
        nn.Linear(4, 4),
        nn.Dropout(0.25),
        nn.MultiheadAttention(4, 2, dropout=0.125),
        nn.LSTM(4, 4, num_layers=2, dropout=0.5),
        Own(),
    )


def steer(model: nn.Module, **arguments: Any) -> SteeredModel:
    steered = SteeredModel(model, [RATE], **arguments)
    steered.apply({"dropout": 0.75})
    return steered


def steer_all(model: nn.Module) -> SteeredModel:
    return steer(model, sites={"0": Dropout(), "4": Dropout()}, drives={"dropout": "*"})


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
    """Return a module's attributes but tensors and submodules: rates, modes, hooks, methods."""
    apart = ("_parameters", "_buffers", "_modules", "_flat_weights", "_flat_weight_refs")
    return {name: value for name, value in vars(module).items() if name not in apart}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_driven_model_is_as_its_user_made_it(way: str) -> None:
    """With its own rates, and nothing of the client; the original stays driven.

    No instance gets a forward pass, which libraries such as accelerate put there and remove.
    """
    model, untouched = network(), network()
    steered = steer_all(model)
    assert not any("forward" in vars(module) for module in model.modules())
    made = COPIES[way](model)

    for module, other in zip(made.modules(), untouched.modules(), strict=True):
        assert plain_attributes(module) == plain_attributes(other)
    assert torch.equal(made.state_dict()["0.weight"], model.state_dict()["0.weight"])
    steer_all(made).remove()
    assert model[1].p == model[2].dropout == model[3].dropout == 0.75
    steered.remove()
    assert [model[1].p, model[2].dropout, model[3].dropout] == [0.25, 0.125, 0.5]


@pytest.mark.parametrize("when", ["before", "in the run", "no more"])
def test_copies_of_parametrized_modules_keep_their_weights(when: str) -> None:
    """Whenever they were parametrized, and also if a module is in the model twice."""
    first, second = (nn.LSTM(4, 4, num_layers=2, dropout=0.5) for _ in range(2))
    model = nn.ModuleDict({"first": first, "second": second, "again": first})

    def change(how: Callable[[nn.Module, str], Any]) -> None:
        for module in (first, second):
            how(module, "weight_hh_l0")

    if when != "in the run":
        change(parametrizations.weight_norm)
    steered = steer(model)
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


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("is_training", [False, True])
def test_a_clone_by_its_namespace_follows_its_own_mode(
    is_training: bool, is_compiled: bool
) -> None:
    """As learn2learn clones modules; the original has the other mode."""
    torch.manual_seed(0)
    model = nn.Dropout(0.25).train(not is_training)
    steer(model)
    clone = nn.Dropout.__new__(nn.Dropout)
    clone.__dict__ = model.__dict__.copy()
    clone.train(is_training)

    ones = torch.ones(100, 100)
    for module in (clone, model):
        run = torch.compile(module, backend="eager") if is_compiled else module
        rate = 0.75 if module.training else 0.0
        assert float((run(ones) == 0).float().mean()) == pytest.approx(rate, abs=0.03)
    torch.compiler.reset()


PROGRAMS: dict[str, Callable[[nn.Module, torch.Tensor], Any]] = {
    "script": lambda model, _: torch.jit.script(model),
    "export": lambda model, x: torch.export.export(model, (x,), strict=False).module(),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("way", PROGRAMS)
def test_a_program_keeps_the_rate_at_its_export(way: str) -> None:
    """It has plain dropout, and is not driven."""
    torch.manual_seed(0)
    model, ones = nn.Sequential(nn.Dropout(0.25)), torch.ones(100, 100)
    steered = steer(model)
    program = PROGRAMS[way](model, ones)
    steered.apply({"dropout": 0.1})

    assert float((program(ones) == 0).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert "dropout" in str(program.graph)
