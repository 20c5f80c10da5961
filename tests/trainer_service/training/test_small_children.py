"""The mlp and the cnn: their layers, and where regularizers stand in them."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from agent_service.domain.errors import InvalidArgument
from tests.trainer_service.specs import CPU
from trainer_service.training.child.network import build_child
from trainer_service.training.regularizers.installed import Regularization
from trainer_service.training.regularizers.sites import Site
from trainer_service.training.sites import watch_pass
from trainer_service.training.spec import Method, Model, Sites, TrainingSpec, hyperparameters

Shape = tuple[int, ...]


def build(shape: Shape, **changes: Any) -> tuple[TrainingSpec, nn.Module, Regularization]:
    """Return a child of three classes with its regularizer, and its spec."""
    spec = TrainingSpec(**({"chunks": 1} | changes))
    child = build_child(spec, shape, classes=3)
    calls = watch_pass(child, shape)
    return spec, child, Regularization(spec, child, calls, batch=2, device=CPU)


def layers(child: nn.Module) -> list[tuple[int, ...]]:
    """Return the shapes of the weights of linear layers and convolutions, in order."""
    return [p.shape for name, p in child.named_parameters() if p.ndim > 1]


@pytest.mark.parametrize(
    ("depth", "width", "expected"),
    [
        (None, 1.0, [(256, 48), (256, 256), (3, 256)]),
        (1, 0.1, [(26, 48), (3, 26)]),
        (4, 0.001, [(1, 48), (1, 1), (1, 1), (1, 1), (3, 1)]),
    ],
)
def test_an_mlp_has_hidden_layers_of_its_width(
    depth: int | None, width: float, expected: list[Shape]
) -> None:
    """As many as it is deep, two by default, of at least one unit; images need be no squares."""
    _spec, child, _ = build((1, 8, 6), model=Model.MLP, depth=depth, width=width)

    assert layers(child) == expected
    assert sum(isinstance(m, nn.ReLU) for m in child.modules()) == len(expected) - 1
    assert child(torch.rand(5, 1, 8, 6)).shape == (5, 3)


@pytest.mark.parametrize(
    ("depth", "shape", "channels", "sides"),
    [
        (None, (3, 16, 28), (3, 16, 32, 64), [(8, 14), (4, 7), (2, 3)]),
        (4, (1, 12, 12), (1, 16, 32, 64, 64), [(6, 6), (3, 3), (3, 3), (3, 3)]),
        (1, (1, 9, 9), (1, 16), [(4, 4)]),
    ],
)
def test_a_cnn_has_blocks_that_double_and_pool(
    depth: int | None, shape: Shape, channels: tuple[int, ...], sides: list[Shape]
) -> None:
    """Channels double up to four times the first; no block pools fewer than four pixels."""
    _spec, child, _ = build(shape, model=Model.CNN, depth=depth, width=0.25)
    calls = {call.name: call.shape for call in watch_pass(child, shape)}

    blocks = [calls[f"layer{i}"] for i in range(1, len(channels))]
    assert blocks == [(c, *size) for c, size in zip(channels[1:], sides, strict=True)]
    pixels = sides[-1][0] * sides[-1][1]
    convolutions = [(after, before, 3, 3) for before, after in pairwise(channels)]
    assert layers(child) == [*convolutions, (32, channels[-1] * pixels), (3, 32)]
    first = child.get_submodule("layer1.0")
    assert isinstance(first, nn.Conv2d)
    assert first.bias is None
    assert float(first.weight.detach().std()) == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.3)


STAGED = [(Model.MLP, depth, depth - 1) for depth in range(1, 6)]
STAGED += [(Model.CNN, depth, depth) for depth in range(1, 5)]


@pytest.mark.parametrize("sites", Sites)
@pytest.mark.parametrize(("model", "depth", "stages"), STAGED)
def test_dropout_stands_after_each_stage_and_before_the_classifier(
    model: Model, depth: int, stages: int, sites: Sites
) -> None:
    """Of fewer than four stages, the others have neither a site nor a hyperparameter."""
    changes = {"model": model, "depth": depth, "width": 0.1, "sites": sites}
    spec, child, regularization = build((1, 8, 8), method=Method.RD, **changes)
    names = [f"layer{i}" for i in range(1, stages + 1)]

    driven = [h.name for h in hyperparameters(spec)]
    each = [f"dropout-{name}" for name in (*names, "classifier")]
    assert driven == (each if sites is Sites.EACH else ["dropout"])

    regularization.apply({name: 0.1 * i for i, name in enumerate(driven)})
    places = {n: m for n, m in child.named_modules() if isinstance(m, Site)}
    assert [*places] == [*[f"{name}.1" for name in names], "classifier.0"]
    values = [float(site.strengths) for site in places.values()]
    assert values == pytest.approx(
        [0.1 * i if sites is Sites.EACH else 0 for i in range(len(each))]
    )


def test_dynamic_noise_stands_in_each_block_of_a_cnn() -> None:
    """Each has a batch norm that a ReLU follows; the hidden layer has none."""
    _spec, child, _ = build((1, 8, 8), model=Model.CNN, method=Method.DNI)

    places = [n for n, m in child.named_modules() if isinstance(m, Site)]
    assert places == ["layer1.2", "layer2.2", "layer3.2"]


def test_an_mlp_has_no_dynamic_noise() -> None:
    """It has no batch norm: the error names models that do."""
    with pytest.raises(InvalidArgument, match=r"no batch norm .*; take cnn or a ResNet"):
        build((1, 8, 8), model=Model.MLP, method=Method.DNI)
