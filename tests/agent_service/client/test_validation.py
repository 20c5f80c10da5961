"""Validation beside a training: it changes nothing of it, and says which batches it cannot read."""

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from agent_service.client import AgentClient, ConstantSettings, ControllerSpec, Hyperparameter, Mode
from agent_service.client.model import Validation
from agent_service.domain.errors import InvalidArgument

RATE = 0.3


def spec() -> ControllerSpec:
    rate = Hyperparameter(name="dropout", low=0.1, high=0.5)
    constant = ConstantSettings(values={"dropout": RATE})
    return ControllerSpec(name="c", hyperparameters=(rate,), chunk_size=4, algorithm=constant)


def data(count: int) -> TensorDataset:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(0))
    return TensorDataset(x, (x[:, 0] > 0).long())


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Images that Python, NumPy and torch change at random."""

    def __init__(self) -> None:
        self._data = data(32)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        x, label = self._data[place]
        noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1)
        return x + noise + 0.1 * torch.randn(4), label


class Noisy(nn.Module):
    """A network that draws in eval mode, too."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(RATE), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x + 0.01 * torch.randn_like(x))
        return logits


def weights_after(client: AgentClient, validation: str, mode: Mode | None) -> Tensor:
    """Train two epochs, without a run for no mode, and return all weights."""
    for seed in (torch.manual_seed, random.seed, np.random.seed):
        seed(1)
    model, generator = Noisy(), torch.Generator().manual_seed(2)
    loaders: dict[str, Any] = {
        "in order": DataLoader(data(32), 8),
        "shuffled": DataLoader(data(32), 8, shuffle=True),
        "augmented": DataLoader(Augmented(), 8),
        "the training's generator": DataLoader(data(32), 8, shuffle=True, generator=generator),
    }
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    validated = Validation(loaders[validation], batches=3)
    run = None if mode is None else client.run("c", model=model, mode=mode)
    for _ in range(2):
        for x, y in DataLoader(Augmented(), 4, shuffle=True, generator=generator):
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
    "validation", ["in order", "shuffled", "augmented", "the training's generator"]
)
def test_a_training_of_the_same_rates_ends_with_the_same_weights(
    client: AgentClient, validation: str
) -> None:
    """Shadowed or steered, whatever is drawn to validate: by loader, samples or model."""
    client.create_controller(spec())
    alone = weights_after(client, validation, None)

    for mode in (Mode.SHADOW, Mode.LEARNING):
        assert torch.equal(alone, weights_after(client, validation, mode))


def test_a_shuffled_validation_is_drawn_anew_each_time() -> None:
    """Though nothing else is drawn meanwhile."""
    batches = DataLoader(TensorDataset(torch.arange(64.0), torch.zeros(64)), 64, shuffle=True)
    validation = Validation(batches, batches=1)
    first, second = (next(iter([*validation.of(nn.Identity())]))[0] for _ in range(2))

    assert not torch.equal(first, second)


class Drawing(Augmented):
    """Samples of generators of its own; the loader's is behind a sampler of the script."""

    shared = np.random.default_rng(0)

    def __init__(self) -> None:
        super().__init__()
        self.own: list[Any] = [random.Random(0), np.random.RandomState(0), random.SystemRandom()]

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        x, label = super().__getitem__(place)
        return x + self.shared.normal() + self.own[0].random() + self.own[1].normal(), label


class Wrapped:
    """A loader, or a sampler, around another."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.itself = inner, self

    def __iter__(self) -> Any:
        return iter(self.inner)

    def __len__(self) -> int:
        return len(self.inner)


def test_generators_within_what_is_wrapped_are_left_as_they_were() -> None:
    generator, samples = torch.Generator(), Drawing()
    order = Wrapped(RandomSampler(samples, generator=generator))
    loader = Wrapped(DataLoader(samples, 8, sampler=order))

    def states() -> str:
        own: Any = samples.own
        others = [own[0].getstate(), [*own[1].get_state()[1]], Drawing.shared.bit_generator.state]
        return repr([generator.get_state().tolist(), *others])

    before = states()
    first, second = ([*Validation(loader, batches=1).of(Noisy())] for _ in range(2))
    assert states() == before
    assert torch.equal(first[0][1], second[0][1])


def test_a_validation_that_was_used_is_copied_and_pickled() -> None:
    validation = Validation(DataLoader(data(32), 8), batches=1)
    model = Noisy()
    ((_logits, labels),) = validation.of(model)

    for made in (copy.deepcopy(validation), pickle.loads(pickle.dumps(validation))):
        assert torch.equal(next(iter([*made.of(model)]))[1], labels)


class Merging(nn.Linear):
    """Adds its low ranks to its weights to evaluate, and takes them off to train, as LoRA does."""

    def train(self, mode: bool = True) -> "Merging":
        if self.training != mode:
            with torch.no_grad():
                self.weight += -1.0 if mode else 1.0
        super().train(mode)
        return self


def test_layers_that_change_to_evaluate_are_changed_back() -> None:
    """Those that train, in a model one part of which the script keeps in eval mode."""
    first, second, dropout = Merging(4, 2), Merging(2, 2), nn.Dropout(RATE)
    model = nn.Sequential(first, nn.Sequential(second, dropout))
    model[1].eval()
    dropout.train()
    weights = [first.weight.clone(), second.weight.clone()]
    list(Validation([(X, Y)], batches=2).of(model))

    assert [module.training for module in model.modules()] == [True, True, False, False, True]
    assert all(map(torch.allclose, weights, (first.weight, second.weight)))


def test_a_score_that_fails_leaves_the_model_and_gradients_as_they_were(
    client: AgentClient,
) -> None:
    """Its modules train on, and gradients are recorded: a script may go on."""
    client.create_controller(spec())
    model = Noisy()
    x, y = data(8).tensors
    with client.run("c", model=model) as run:
        for _ in range(4):
            run.step(1.0, model(x), y)
        # The error, as a notebook keeps it, holds the frames, and so the batches, of the report.
        with pytest.raises(InvalidArgument, match="multilabel-f1") as _caught:
            run.report(Validation([(x, y.float())], batches=2).of(model))
        assert all(module.training for module in model.modules())
        assert torch.is_grad_enabled()
        run.report(Validation([(x, y)], batches=2).of(model))


def test_a_loader_that_is_read_once_is_refused_at_once() -> None:
    """A training would break off where it is at its end; a script's own iterator may go on."""
    for loader in ((pair for pair in [(X, Y)]), iter(DataLoader(data(8)))):
        with pytest.raises(
            TypeError, match="give one that can be read again, such as a DataLoader"
        ):
            Validation(loader)

    class Again:
        def __iter__(self) -> Any:
            self.is_new = True
            return self

        def __next__(self) -> Any:
            if not self.is_new:
                raise StopIteration
            self.is_new = False
            return X, Y

    assert len(list(Validation(Again(), batches=3).of(Noisy()))) == 3


def test_a_loader_without_batches_says_whether_it_had_any() -> None:
    """An empty one; and one of a script's own that is at its end for good."""
    with pytest.raises(ValueError, match=r"is empty.*drop_last=True"):
        next(Validation(DataLoader(data(4), 8, drop_last=True)).of(Noisy()))

    class Once:
        pairs = iter([(X, Y)])

        def __iter__(self) -> Any:
            return self.pairs

    with pytest.raises(ValueError, match="validation loader is exhausted"):
        list(Validation(Once(), batches=2).of(Noisy()))


class Pair(Noisy):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), 0.0


X, Y = data(8).tensors
OTHERS: dict[str, tuple[nn.Module, Any]] = {
    "a dict": (Noisy(), {"inputs": X, "labels": Y}),
    r"a tuple\['Tensor', 'Tensor', 'Tensor'\]": (Noisy(), (X, Y, Y)),
    r"a list\['list', 'Tensor'\]": (Noisy(), [[X, X], Y]),
    r"output is a tuple\['Tensor', 'float'\]": (Pair(), (X, Y)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_batches_of_another_kind_need_predict(name: str) -> None:
    """The error says what they are, and what to give."""
    model, batch = OTHERS[name]
    with pytest.raises(TypeError, match=f"{name}.*Validation\\(loader, predict=f\\)"):
        list(Validation([batch]).of(model))

    def predict(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
        return X, Y

    assert len(list(Validation([batch], predict=predict, batches=2).of(model))) == 2


def test_inputs_are_turned_into_the_models_precision() -> None:
    """Of floats; indices of an embedding stay what they are."""
    exact = nn.Sequential(nn.Linear(4, 2)).bfloat16()
    words = nn.Sequential(nn.Embedding(9, 2)).bfloat16()

    ((logits, _labels),) = Validation([(X, Y)], batches=1).of(exact)
    ((embedded, _labels),) = Validation([(Y, Y)], batches=1).of(words)
    assert logits.dtype == embedded.dtype == torch.bfloat16
