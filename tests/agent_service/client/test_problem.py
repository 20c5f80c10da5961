"""What a run tells of its training: what is seen of it, and what the script states."""

import copy
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn, optim
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)
from torch.utils.data.distributed import DistributedSampler

from agent_service.client import AgentClient, Dropout, Mode, Problem
from agent_service.client.problem import seen_problem
from agent_service.domain.errors import AlreadyExists, InvalidArgument
from agent_service.wire.convert import problem_from_message


def network(**factory: Any) -> nn.Sequential:
    """Return a network with 4 * 8 + 8 + 8 * 3 + 3 = 67 parameters and two dropouts."""
    first, head = nn.Linear(4, 8, **factory), nn.Linear(8, 3, **factory)
    return nn.Sequential(first, nn.Dropout(0.25), nn.ReLU(), nn.Dropout(0.25), head)


def frozen() -> nn.Sequential:
    model = network()
    model[0].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (network, {"classes": 3, "parameters": 67}),
        (frozen, {"classes": 3, "parameters": 27}),
        (lambda: network(device="meta"), {"classes": 3, "parameters": 67}),
        (lambda: nn.DataParallel(network()), {"classes": 3, "parameters": 67}),
        (lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyLinear(5)), {"classes": 5}),
        # Classifiers that are convolutions.
        (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.LazyConv2d(5, 1)), {"classes": 5}),
        (lambda: nn.Sequential(nn.Conv1d(1, 2, 1), nn.Flatten()), {"classes": 2, "parameters": 4}),
        (lambda: nn.ConvTranspose2d(1, 2, 1), {"parameters": 4}),
        # What comes last is no classifier.
        (lambda: nn.Linear(4, 1), {"parameters": 5}),
        (lambda: nn.Sequential(nn.Linear(4, 2), nn.LayerNorm(2)), {"parameters": 14}),
        (lambda: nn.Sequential(nn.Linear(4, 2), nn.Conv1d(2, 3, 1)), {"parameters": 19}),
        (
            lambda: nn.Sequential(nn.Linear(4, 8), spectral_norm(nn.Linear(8, 3))),
            {"parameters": 67},
        ),
        (nn.ReLU, {}),
    ],
)
def test_a_model_tells_parameters_and_classes(
    make: Callable[[], nn.Module], told: dict[str, int]
) -> None:
    """Trainable ones, of all that is not lazy; the outputs of a last linear layer."""
    assert seen_problem(model=make()).known() == told


def weights() -> list[nn.Parameter]:
    return list(network().parameters())


def of_two_groups(*rates: float) -> Any:
    return [{"params": weights(), "lr": rate} for rate in rates]


def decayed(optimizer: optim.Optimizer) -> optim.Optimizer:
    optim.lr_scheduler.LambdaLR(optimizer, lambda _epoch: 0.0)
    assert optimizer.param_groups[0]["lr"] == 0
    return optimizer


class OwnAdam(optim.Adam):
    """Somebody's variant."""


@pytest.mark.parametrize(
    ("make", "rate"),
    [
        *[
            (lambda kind=kind: kind(weights(), lr=0.25), 0.25)
            for kind in (optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, OwnAdam)
        ],
        (lambda: optim.Adam(of_two_groups(0.5, 0.25)), 0.5),
        (lambda: optim.Adam(weights(), lr=torch.tensor(0.25)), 0.25),
        (lambda: decayed(optim.Adam(weights(), lr=0.25)), 0.25),
        # As accelerate and Lightning wrap it.
        (lambda: SimpleNamespace(optimizer=optim.AdamW(weights(), lr=0.25)), 0.25),
        (lambda: optim.Adam(weights(), lr=0.0), None),
        (lambda: optim.SGD(weights(), lr=0.25), None),
        (lambda: optim.SparseAdam(weights(), lr=0.25), None),
        (lambda: [optim.Adam(weights())], None),
        (MagicMock, None),
    ],
)
def test_an_optimizer_of_adams_kin_tells_its_learning_rate(
    make: Callable[[], Any], rate: float | None
) -> None:
    """That before any schedule; another optimizer's step size means something else."""
    assert seen_problem(optimizer=make()).learning_rate == rate


class Images(TensorDataset):
    """50 images of 7 classes."""

    classes = tuple("abcdefg")

    def __init__(self) -> None:
        super().__init__(torch.zeros(50, 4))


class Stream(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        raise AssertionError("it is not to be read")

    def __len__(self) -> int:
        return 5


class Strange:
    """Raises at whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise OSError(name)


class Endless:
    """Wraps itself."""

    batch_size = 4

    @property
    def dataset(self) -> Any:
        return self


IMAGES = Images()
ODD: tuple[Any, ...] = ([1, 2], iter([]), 3, Strange(), MagicMock())
WHOLE = {"classes": 7, "training_samples": 50, "batch_size": 8}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: DataLoader(IMAGES, 8), WHOLE),
        (lambda: DataLoader(IMAGES, 8, shuffle=True, drop_last=True), WHOLE),
        (lambda: DataLoader(IMAGES, 8, sampler=DistributedSampler(IMAGES, 4, 1)), WHOLE),
        (
            lambda: DataLoader(Subset(Subset(IMAGES, range(20)), range(10)), 8),
            WHOLE | {"training_samples": 10},
        ),
        (
            lambda: DataLoader(IMAGES, 8, sampler=RandomSampler(IMAGES, num_samples=30)),
            WHOLE | {"training_samples": 30},
        ),
        (
            lambda: DataLoader(
                IMAGES, batch_sampler=BatchSampler(SubsetRandomSampler(range(30)), 5, False)
            ),
            {"classes": 7, "training_samples": 30, "batch_size": 5},
        ),
        # Of which each may be a batch.
        (lambda: DataLoader(IMAGES, batch_size=None), {"classes": 7}),
        (lambda: DataLoader(Stream(), 8), {"batch_size": 8}),
        (lambda: DataLoader(Stream(), batch_size=None), {}),
        (
            lambda: DataLoader(TensorDataset(torch.zeros(50)), 8),
            {"training_samples": 50, "batch_size": 8},
        ),
        *[(lambda odd=odd: odd, {}) for odd in ODD],
        (Endless, {"batch_size": 4}),
    ],
)
def test_a_loader_tells_samples_batch_and_classes(
    make: Callable[[], Any], told: dict[str, int]
) -> None:
    """As far as it does: nothing is drawn from it, and nothing that it raises comes out."""
    assert seen_problem(loader=make()).known() == told


def stored(client: AgentClient, run_id: str) -> dict[str, Any]:
    return problem_from_message(client.get_run(run_id).problem).known()


def test_a_run_tells_what_it_sees_and_what_is_stated(client: AgentClient) -> None:
    """The script's word goes before a loader's, and a loader's before a model's."""
    model = network()
    before = copy.deepcopy(model.state_dict())
    drawn = torch.get_rng_state()
    options: dict[str, Any] = {
        "model": model,
        "optimizer": optim.Adam(model.parameters(), lr=1e-3),
        "loader": DataLoader(IMAGES, 8, shuffle=True),
    }
    own = Problem(batch_size=64, training_samples=40)
    client.run("c", run_id="seen", planned_steps=42, **options).finish()
    client.run("c", run_id="stated", problem=own, **options).finish()
    client.run("c", run_id="shadow", model=model, mode=Mode.SHADOW).finish()
    client.run("c", run_id="added", model=model, sites={"0": Dropout()}).finish()
    client.run("c", run_id="regression", model=model, score="r2").finish()
    client.run("c", run_id="nothing").finish()

    seen = {**WHOLE, "learning_rate": 1e-3, "parameters": 67, "sites": 2}
    assert stored(client, "seen") == seen
    assert client.get_run("seen").planned_chunks == 10, "full chunks of 4 steps"
    assert stored(client, "stated") == seen | own.known()
    assert stored(client, "shadow") == {"classes": 3, "parameters": 67, "sites": 2}
    assert stored(client, "added") == {"classes": 3, "parameters": 67, "sites": 1}
    assert stored(client, "regression") == {"parameters": 67, "sites": 2}
    assert not client.get_run("nothing").HasField("problem")
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))


def test_a_run_goes_on_though_its_training_looks_different(client: AgentClient) -> None:
    """It keeps what it began with, unless the script itself states something else."""
    model, again = network(), frozen()
    first = client.run("c", run_id="r", planned_steps=40, model=model, loader=DataLoader(IMAGES, 8))
    began = stored(client, "r")
    first._model.remove()  # type: ignore[union-attr]  # as the end of its process
    options: dict[str, Any] = {"run_id": "r", "model": again, "loader": DataLoader(IMAGES, 4)}

    run = client.run("c", planned_steps=20, **options)
    assert run.action == first.action
    assert (stored(client, "r"), client.get_run("r").planned_chunks) == (began, 10)
    run._model.remove()  # type: ignore[union-attr]
    for stated, says in (
        ({"problem": Problem(batch_size=4)}, "problem.batch_size is 8 there, 4 sent"),
        ({"planned_chunks": 5}, "planned_chunks is 10 there, 5 sent"),
        ({"labels": {"a": "b"}}, "labels"),
    ):
        with pytest.raises(AlreadyExists, match=says):
            client.run("c", **options | stated)
    assert again.get_submodule("1").p == 0.25, "no refused start leaves the model driven"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"problem": {"classes": 3}}, r"problem: .* given; write Problem\(classes=7\)"),
        ({"planned_steps": 0}, "planned_steps: 0 must be at least 1"),
        ({"planned_steps": 2.5}, "planned_steps: 2.5 given; write planned_steps=1000"),
        ({"planned_steps": 9, "planned_chunks": 2}, "planned_steps: give it or planned_chunks"),
    ],
)
def test_a_wrong_start_names_its_field(
    client: AgentClient, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidArgument, match=says):
        client.run("c", **options)
    assert list(client.list_runs()) == []
