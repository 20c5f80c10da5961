"""Validation during a training: it changes nothing of it, and refuses batches it cannot read."""

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from agent_service.client import AgentClient, ConstantSettings, Mode
from agent_service.client.model import Validation
from agent_service.domain.errors import InvalidArgument
from tests.agent_service.specs import spec

RATE = 0.3


def data(count: int) -> TensorDataset:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] > 0).long())


X, Y = data(8).tensors


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Samples changed at random by Python, NumPy, torch, and generators of their own."""

    shared = np.random.default_rng(0)

    def __init__(self) -> None:
        self._data = data(32)
        self.own: list[Any] = [random.Random(0), np.random.RandomState(0), random.SystemRandom()]

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        x, label = self._data[place]
        noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1)
        own = self.shared.normal() + self.own[0].random() + self.own[1].normal()
        return x + noise + 0.1 * own + 0.1 * torch.randn(4), label


class Noisy(nn.Module):
    """A network that draws random numbers in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(RATE), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x + 0.01 * torch.randn_like(x))
        return logits


class Wrapped:
    """A loader, or a sampler, around another."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.itself = inner, self

    def __iter__(self) -> Any:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


def weights_after(client: AgentClient, validation: str, mode: Mode | None) -> Tensor:
    """Train two epochs, without a run if `mode` is None, and return all weights."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(1)
    Augmented.shared = np.random.default_rng(0)
    model, generator = Noisy(), torch.Generator().manual_seed(2)
    training = Augmented()
    order = Wrapped(RandomSampler(training, generator=generator))
    loaders: dict[str, Any] = {
        "in order": DataLoader(data(32), 8),
        "shuffled": DataLoader(data(32), 8, shuffle=True),
        "the training's samples and generators": Wrapped(DataLoader(training, 8, sampler=order)),
    }
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    validated = Validation(loaders[validation], batches=3)
    run = None if mode is None else client.run("constant", model=model, mode=mode)
    for _ in range(2):
        for x, y in DataLoader(training, 4, shuffle=True, generator=generator):
            logits = model(x)
            loss = nn.functional.cross_entropy(logits, y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if run is not None:
                run.step(loss, logits, y)
                if run.chunk_full:
                    run.report(validated.of(model))
    if run is not None:
        run.finish()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize(
    "validation", ["in order", "shuffled", "the training's samples and generators"]
)
def test_a_training_under_its_own_rates_ends_with_the_same_weights(
    client: AgentClient, validation: str
) -> None:
    """Shadowed or driven, whatever random numbers loader, samples and model draw to validate."""
    client.create_controller(spec("constant", ConstantSettings(values={"dropout": RATE})))
    alone = weights_after(client, validation, None)

    for mode in (Mode.SHADOW, Mode.LEARNING):
        assert torch.equal(alone, weights_after(client, validation, mode))


def test_a_shuffled_validation_is_drawn_anew_each_time() -> None:
    """Although nothing else draws random numbers meanwhile."""
    batches = DataLoader(TensorDataset(torch.arange(64.0), torch.zeros(64)), 64, shuffle=True)
    validation = Validation(batches, batches=1)
    first, second = (next(iter([*validation.of(nn.Identity())]))[0] for _ in range(2))

    assert not torch.equal(first, second)


def test_a_used_validation_can_be_copied_and_pickled() -> None:
    validation = Validation(DataLoader(data(32), 8), batches=1)
    model = Noisy()
    ((_logits, labels),) = validation.of(model)

    for made in (copy.deepcopy(validation), pickle.loads(pickle.dumps(validation))):
        assert torch.equal(next(iter([*made.of(model)]))[1], labels)


class Merging(nn.Linear):
    """Adds its low ranks to its weights for evaluation, and removes them again, as LoRA does."""

    def train(self, mode: bool = True) -> "Merging":
        if self.training != mode:
            with torch.no_grad():
                self.weight += -1.0 if mode else 1.0
        super().train(mode)
        return self


def test_layers_that_change_for_evaluation_are_changed_back() -> None:
    """Also in a model of which the script keeps a part in eval mode."""
    first, second, dropout = Merging(4, 2), Merging(2, 2), nn.Dropout(RATE)
    model = nn.Sequential(first, nn.Sequential(second, dropout))
    model[1].eval()
    dropout.train()
    weights = [first.weight.clone(), second.weight.clone()]
    list(Validation([(X, Y)], batches=2).of(model))

    assert [module.training for module in model.modules()] == [True, True, False, False, True]
    assert all(map(torch.allclose, weights, (first.weight, second.weight)))


def test_a_failing_score_leaves_modes_and_gradients_as_they_were(client: AgentClient) -> None:
    """The modules stay in train mode, and gradients are recorded, so a script may continue."""
    model = Noisy()
    with client.run("c", model=model) as run:
        for _ in range(4):
            run.step(1.0, model(X), Y)
        # The error, as a notebook keeps it, holds the frames, and so the batches, of the report.
        with pytest.raises(InvalidArgument, match="multilabel-f1") as _caught:
            run.report(Validation([(X, Y.float())], batches=2).of(model))
        assert all(module.training for module in model.modules())
        assert torch.is_grad_enabled()
        run.report(Validation([(X, Y)], batches=2).of(model))


class Again:
    """An iterator that restarts."""

    def __iter__(self) -> Any:
        self.is_new = True
        return self

    def __next__(self) -> Any:
        if not self.is_new:
            raise StopIteration
        self.is_new = False
        return X, Y


class Once:
    """A loader that can be read only once."""

    pairs = iter([(X, Y)])

    def __iter__(self) -> Any:
        return self.pairs


def test_a_loader_that_can_be_read_only_once_is_refused() -> None:
    """At once, or when it is exhausted; an iterator of the script's own may restart."""
    for loader in ((pair for pair in [(X, Y)]), iter(DataLoader(data(8)))):
        with pytest.raises(TypeError, match="can be read again, such as a DataLoader"):
            Validation(loader)
    with pytest.raises(ValueError, match="validation loader is exhausted"):
        list(Validation(Once(), batches=2).of(Noisy()))

    assert len(list(Validation(Again(), batches=3).of(Noisy()))) == 3


def test_an_empty_loader_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is empty.*drop_last=True"):
        next(Validation(DataLoader(data(4), 8, drop_last=True)).of(Noisy()))


class Pair(Noisy):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), 0.0


OTHERS: dict[str, tuple[nn.Module, Any]] = {
    "a dict": (Noisy(), {"inputs": X, "labels": Y}),
    r"a tuple\['Tensor', 'Tensor', 'Tensor'\]": (Noisy(), (X, Y, Y)),
    r"a list\['list', 'Tensor'\]": (Noisy(), [[X, X], Y]),
    r"output is a tuple\['Tensor', 'float'\]": (Pair(), (X, Y)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_batches_and_outputs_need_predict(name: str) -> None:
    """The error names their types and the fix."""
    model, batch = OTHERS[name]
    with pytest.raises(TypeError, match=f"{name}.*Validation\\(loader, predict=f\\)"):
        list(Validation([batch]).of(model))

    predicted = Validation([batch], predict=lambda _model, _batch: (X, Y), batches=2)
    assert len(list(predicted.of(model))) == 2


def test_inputs_are_converted_to_the_models_precision() -> None:
    """Floats only, not an embedding's indices."""
    exact = nn.Sequential(nn.Linear(4, 2)).bfloat16()
    words = nn.Sequential(nn.Embedding(9, 2)).bfloat16()

    ((logits, _labels),) = Validation([(X, Y)], batches=1).of(exact)
    ((embedded, _labels),) = Validation([(Y, Y)], batches=1).of(words)
    assert logits.dtype == embedded.dtype == torch.bfloat16
