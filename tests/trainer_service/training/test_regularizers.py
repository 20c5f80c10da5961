"""Regularizers: their laws, and that a new value rebuilds nothing."""

import pytest
import torch
from torch import nn

from agent_service.domain.errors import InvalidArgument
from trainer_service.training.child import build_child
from trainer_service.training.regularizers import (
    Dropout,
    DynamicNoise,
    GaussianNoise,
    Regularization,
)
from trainer_service.training.spec import Method, Model, Sites, TrainingSpec, hyperparameters

CPU = torch.device("cpu")


def make(method: Method, **changes: object) -> tuple[nn.Module, Regularization, TrainingSpec]:
    spec = TrainingSpec(method=method, width=0.0625, chunks=1, **changes)  # type: ignore[arg-type]
    child = build_child(spec, channels=1, classes=10, image_size=8)
    return child, Regularization(spec, child, CPU), spec


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    """A share p is 0, what is kept is scaled by 1 / (1 - p)."""
    features = Dropout(torch.tensor(rate))(torch.ones(200_000))

    assert (features == 0).float().mean() == pytest.approx(rate, abs=0.005)
    assert features.max() == pytest.approx(1 / (1 - rate))


@pytest.mark.parametrize("deviation", [0.0, 0.5, 1.0])
def test_noise_has_mean_zero_and_its_deviation(deviation: float) -> None:
    """Gaussian noise of deviation sigma around the features."""
    noise = GaussianNoise(torch.tensor(deviation))(torch.ones(200_000)) - 1

    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(deviation, abs=0.01)


def test_nothing_is_active_in_eval_mode() -> None:
    """Dropout, noise and DNI leave features alone, DNI but for its ReLU."""
    features = torch.randn(1000)

    for module in (Dropout(torch.tensor(0.9)), GaussianNoise(torch.tensor(1.0))):
        assert torch.equal(module.eval()(features), features)
    assert torch.equal(DynamicNoise(0.5).eval()(features), features.relu())


@pytest.mark.parametrize("sites", Sites)
@pytest.mark.parametrize("method", [Method.D, Method.NI])
def test_a_new_value_reaches_its_sites_and_rebuilds_nothing(method: Method, sites: Sites) -> None:
    """Shared or one a site: the modules stay, and read the tensor that was written."""
    child, regularization, spec = make(method, sites=sites)
    modules = [m for m in child.modules() if isinstance(m, Dropout | GaussianNoise)]
    values = {h.name: 0.1 * (i + 1) for i, h in enumerate(hyperparameters(spec))}

    regularization.apply(values)

    now = [m for m in child.modules() if isinstance(m, Dropout | GaussianNoise)]
    assert all(a is b for a, b in zip(modules, now, strict=True))
    assert len(modules) == (5 if method is Method.D else 4)
    read = [float(m.rate if isinstance(m, Dropout) else m.deviation) for m in now]
    expected = list(values.values()) * (len(now) if sites is Sites.SHARED else 1)
    assert read == pytest.approx(expected)
    assert regularization.values() == values


@pytest.mark.parametrize("values", [{}, {"dropout": 0.95}, {"noise": 0.1}, {"dropout": -0.1}])
def test_wrong_values_are_refused_and_change_nothing(values: dict[str, float]) -> None:
    """Missing, unknown and out of range."""
    _child, regularization, _spec = make(Method.D)
    before = regularization.values()

    with pytest.raises(InvalidArgument):
        regularization.apply(values)

    assert regularization.values() == before


@pytest.mark.parametrize(("model", "units"), [(Model.RESNET18, 9), (Model.RESNET50, 33)])
def test_dni_stands_in_every_unit(model: Model, units: int) -> None:
    """One strength for the stem and each BN+ReLU unit inside the blocks."""
    child, regularization, _spec = make(Method.DNI, model=model)

    assert sum(isinstance(m, DynamicNoise) for m in child.modules()) == units
    assert regularization.values() == {"noise-strength": 0.25}


def test_the_strength_of_dni_follows_the_loss() -> None:
    """Its gradient is the training loss's own: equal to central differences with the same noise."""
    unit = DynamicNoise(0.3).double()
    features = torch.randn(64, 8, dtype=torch.float64)

    def loss() -> torch.Tensor:
        torch.manual_seed(1)
        result: torch.Tensor = (unit(features) ** 2).mean()
        return result

    loss().backward()  # type: ignore[no-untyped-call]
    step = 1e-6
    with torch.no_grad():
        unit.alpha.add_(step)
        above = loss()
        unit.alpha.sub_(2 * step)
        below = loss()

    assert unit.alpha.grad is not None
    assert float(unit.alpha.grad) == pytest.approx(float((above - below) / (2 * step)), rel=1e-5)
