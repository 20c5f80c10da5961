"""Regularizers: their laws, and that a new value rebuilds nothing."""

from collections.abc import Iterable, Sequence

import pytest
import torch
from torch import Tensor, nn

from agent_service.domain.errors import InvalidArgument
from tests.trainer_service.specs import CPU
from trainer_service.training.child.models import traits_of
from trainer_service.training.child.network import build_child
from trainer_service.training.regularizers.dropout import Dropout
from trainer_service.training.regularizers.installed import Regularization
from trainer_service.training.regularizers.registry import REGULARIZERS, training_methods
from trainer_service.training.regularizers.sites import Draws, Site
from trainer_service.training.sites import watch_pass
from trainer_service.training.spec import Method, Model, Sites, TrainingSpec, hyperparameters


def make(method: Method, **changes: object) -> tuple[nn.Module, Regularization, TrainingSpec]:
    fields = {"width": 0.0625, "chunks": 1} | changes
    spec = TrainingSpec(method=method, **fields)  # type: ignore[arg-type]
    size = 8 if traits_of(spec.model).names_stages else 32
    child = build_child(spec, (1, size, size), classes=10)
    calls = watch_pass(child, (1, size, size))
    return child, Regularization(spec, child, calls, batch=2, device=CPU), spec


def new_site(name: str, strengths: Iterable[float], draws: Draws, number: int = 0) -> Site:
    """Return a site of as many children as there are strengths, as it stands in a child."""
    before = nn.ReLU() if name == "dni" else None
    site = Site(REGULARIZERS[name], torch.tensor(list(strengths)), before=before)
    site.read(draws, number)
    return site


def new_draws(
    name: str, shapes: Sequence[tuple[int, ...]], *, seeds: Sequence[int] = (0,), **changes: bool
) -> Draws:
    """Return the numbers of a pass, drawn."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    draws = Draws(generators, shapes, is_normal=REGULARIZERS[name].is_normal, **changes)
    draws.draw()
    return draws


def site(name: str, strength: float, shape: tuple[int, ...]) -> Site:
    """Return a site of one child."""
    return new_site(name, [strength], new_draws(name, [shape]))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    """A share p is 0, what is kept is scaled by 1 / (1 - p)."""
    features = site("dropout", rate, (2, 100_000))(torch.ones(2, 100_000))

    assert (features == 0).float().mean() == pytest.approx(rate, abs=0.005)
    assert features.max() == pytest.approx(1 / (1 - rate))


@pytest.mark.parametrize("deviation", [0.0, 0.5, 1.0])
def test_noise_has_mean_zero_and_its_deviation(deviation: float) -> None:
    """Gaussian noise of deviation sigma around the features."""
    noise = site("noise", deviation, (2, 100_000))(torch.ones(2, 100_000)) - 1

    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(deviation, abs=0.01)


def test_two_methods_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The later one would train in place of the other."""
    monkeypatch.setitem(REGULARIZERS, "mine", type("Mine", (Dropout,), {"name": "mine"})())
    with pytest.raises(ValueError, match="two regularizers have a method 'D'"):
        training_methods()


def test_nothing_is_active_in_eval_mode() -> None:
    """Dropout, noise and DNI leave features alone, DNI but for its ReLU."""
    features = torch.randn(4, 1000)

    for name in ("dropout", "noise"):
        assert torch.equal(site(name, 0.9, (4, 1000)).eval()(features), features)
    unit = site("dni", 0.5, (4, 1000)).eval()
    assert torch.equal(unit(features), features.relu())


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 5, 5), (4, 6, 7)])
@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("is_last", [False, True])
def test_children_side_by_side_have_strengths_and_numbers_of_their_own(
    name: str, shape: tuple[int, ...], is_last: bool
) -> None:
    """To the bit what each child's own site makes of its own channels, in either format."""
    features = [torch.randn(shape) for _ in range(3)]
    draws = [
        new_draws(name, [(1, 1), shape], seeds=seeds, is_channels_last=is_last)
        for seeds in ((0,), (1,), (2,), (0, 1, 2))
    ]
    strengths = [0.1, 0.5, 0.9]
    alone = [
        new_site(name, [strength], its_draws, 1)(part)
        for strength, its_draws, part in zip(strengths, draws, features, strict=False)
    ]

    together = new_site(name, strengths, draws[3], 1)(torch.cat(features, dim=1))

    assert torch.equal(together, torch.cat(alone, dim=1))


@pytest.mark.parametrize("sites", Sites)
@pytest.mark.parametrize("method", [Method.D, Method.NI])
def test_a_new_value_reaches_its_sites_and_rebuilds_nothing(method: Method, sites: Sites) -> None:
    """Shared or one a site: the modules stay, and read the tensor that was written."""
    child, regularization, spec = make(method, sites=sites)
    modules = [m for m in child.modules() if isinstance(m, Site)]
    values = {h.name: 0.1 * (i + 1) for i, h in enumerate(hyperparameters(spec))}

    regularization.apply(values)

    now = [m for m in child.modules() if isinstance(m, Site)]
    assert all(a is b for a, b in zip(modules, now, strict=True))
    assert len(modules) == (5 if method is Method.D else 4)
    read = [float(m.strengths) for m in now]
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

    assert sum(isinstance(m, Site) for m in child.modules()) == units
    assert regularization.values() == {"noise-strength": 0.25}


def test_a_model_without_a_unit_has_no_dni() -> None:
    """SiLU follows its batch norms, no ReLU: the error names the method."""
    with pytest.raises(InvalidArgument, match="no batch norm that a ReLU follows"):
        make(Method.DNI, model=Model.EFFICIENTNET_B0, width=1.0)


def test_the_strength_of_dni_follows_the_loss() -> None:
    """Its gradient is the training loss's own: equal to central differences with the same noise."""
    unit = site("dni", 0.3, (64, 8)).double()
    unit.strengths = nn.Parameter(unit.strengths.double())
    unit.numbers = unit.numbers.double()
    features = torch.randn(64, 8, dtype=torch.float64)

    def loss() -> Tensor:
        result: Tensor = (unit(features) ** 2).mean()
        return result

    loss().backward()  # type: ignore[no-untyped-call]
    step = 1e-6
    with torch.no_grad():
        unit.strengths.add_(step)
        above = loss()
        unit.strengths.sub_(2 * step)
        below = loss()

    assert unit.strengths.grad is not None
    assert float(unit.strengths.grad) == pytest.approx(
        float((above - below) / (2 * step)), rel=1e-5
    )
