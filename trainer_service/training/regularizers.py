"""Regularizers whose strength can change between chunks: nothing is rebuilt or recompiled.

Each reads its strength from a tensor on the device; a new value is written into that tensor. Random
numbers are read from a tensor, too, which a child's own generator fills before each training pass:
so a child draws the same whatever trains beside it, and a compiled or captured pass draws nothing.

The sites also serve children that train as one model (see `stacked`). Then features hold the
channels of K children one after another, and each child has a strength and numbers of its own. A
child alone is the case K = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from math import prod

import torch
from torch import Tensor, nn

from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import check_values
from trainer_service.training.sites import Call, classifier_name, stage_ends
from trainer_service.training.spec import (
    DEFAULTS,
    STAGES,
    STRENGTH,
    Method,
    TrainingSpec,
    fixed_values,
    hyperparameters,
)

Shape = tuple[int, ...]


class Draws:
    """The random numbers of one training pass, for all sites of K children."""

    def __init__(
        self,
        generators: Sequence[torch.Generator],
        shapes: Sequence[Shape],
        *,
        is_normal: bool,
        is_channels_last: bool = False,
    ) -> None:
        """Make room for the numbers of each site.

        Args:
            generators: one a child, on the device.
            shapes: of one child's features at each site, (b, c, ...).
            is_normal: N(0, 1) instead of uniform in [0, 1).
            is_channels_last: whether images' features lie so in memory.
        """
        self.generators = tuple(generators)
        self.shapes = tuple(shapes)
        self.is_normal = is_normal
        self.is_channels_last = is_channels_last
        sizes = [prod(shape) for shape in shapes]
        device = self.generators[0].device
        self._numbers = torch.zeros(len(self.generators), sum(sizes), device=device)
        self._places = tuple(pairwise(accumulate(sizes, initial=0)))

    def draw(self) -> None:
        """Draw all numbers anew."""
        for row, generator in zip(self._numbers, self.generators, strict=True):
            if self.is_normal:
                row.normal_(generator=generator)
            else:
                row.uniform_(generator=generator)

    def at(self, site: int) -> Tensor:
        """Return the numbers of a site, float32[b, K, c, ...]; they change with each `draw`."""
        start, end = self._places[site]
        batch, channels, *image = self.shapes[site]
        numbers = self._numbers[:, start:end]
        if self.is_channels_last and len(image) == 2:
            return numbers.view(-1, batch, *image, channels).permute(1, 0, 4, 2, 3)
        return numbers.view(-1, batch, channels, *image).transpose(0, 1)


class Site(nn.Module):
    """A place in K children where features are changed in training mode."""

    def __init__(self, strengths: Tensor, draws: Draws, number: int) -> None:
        """Read from tensors that stay the caller's.

        Args:
            strengths: float[K], one a child.
            draws: what is random.
            number: of this site in `draws`.
        """
        super().__init__()
        self.strengths = strengths
        self.number = number
        self.numbers = draws.at(number)

    def forward(self, features: Tensor) -> Tensor:
        """Return the features [b, K c, ...], changed in training mode."""
        if not self.training:
            return features
        batch, _channels, *rest = features.shape
        by_child = features.view(batch, len(self.strengths), -1, *rest)
        strengths = self.strengths.view(-1, *[1] * (features.ndim - 1)).to(features.dtype)
        return self.change(by_child, strengths).flatten(1, 2)

    def change(self, features: Tensor, strengths: Tensor) -> Tensor:
        """Return the features [b, K, c, ...] changed by `strengths`, [K, 1, ...]."""
        raise NotImplementedError


class Dropout(Site):
    """Sets a share p, in [0, 0.9], of the features to 0 and scales the others by 1 / (1 - p)."""

    def change(self, features: Tensor, strengths: Tensor) -> Tensor:
        """See the class."""
        kept = self.numbers >= self.strengths.view(strengths.shape)
        return features * kept / (1.0 - strengths)


class GaussianNoise(Site):
    """Adds zero-mean Gaussian noise of standard deviation sigma, in [0, 1]."""

    def change(self, features: Tensor, strengths: Tensor) -> Tensor:
        """See the class."""
        return torch.addcmul(features, self.numbers.to(features.dtype), strengths)


class DynamicNoise(GaussianNoise):
    """DNI's unit: relu(x + alpha e), e ~ N(0, 1) anew in each training pass, x = bn(...).

    This is our reading of [13], of which only this is known here: feature-level noise inside the
    BN+ReLU unit, whose strength follows the training loss's gradient together with the weights
    (Eq. 1). It stands in the place of the ReLU, so that the noise comes between the two.
    """

    strengths: nn.Parameter

    def forward(self, features: Tensor) -> Tensor:
        """Return relu of the features, noisy in training mode."""
        return torch.relu(super().forward(features))


class Regularization:
    """The regularizers of one method, installed in one child."""

    def __init__(
        self,
        spec: TrainingSpec,
        child: nn.Module,
        calls: Sequence[Call],
        *,
        batch: int,
        device: torch.device,
        is_channels_last: bool = False,
    ) -> None:
        """Install the method of `spec` in `child`.

        Args:
            spec: names the method; its seed is that of all noise.
            child: is on `device`.
            calls: of a pass through it, for an image of the size that it will see.
            batch: images in a training pass.
            device: of the child.
            is_channels_last: whether the child's features lie so in memory.

        Raises:
            InvalidArgument: where the child has no place for the method.
        """
        self.generator = torch.Generator(device).manual_seed(spec.seed + 3)
        """Draws all noise of this child."""
        self._hyperparameters = hyperparameters(spec)
        self._tensors = {h.name: torch.zeros(1, device=device) for h in self._hyperparameters}
        self._values = dict.fromkeys(self._tensors, 0.0)
        self._strengths: list[nn.Parameter] = []
        self.draws: Draws | None = None
        """None where nothing is random."""

        def draws(shapes: Sequence[Shape], *, is_normal: bool) -> Draws:
            batches = [(batch, *shape) for shape in shapes]
            return Draws(
                [self.generator], batches, is_normal=is_normal, is_channels_last=is_channels_last
            )

        if spec.method is Method.DNI:
            strength = spec.values.get(STRENGTH, DEFAULTS[STRENGTH])
            self.draws, self._strengths = _install_dynamic_noise(child, strength, calls, draws)
        elif spec.method.regularizer is not None:
            self.draws = _install_sites(child, spec, calls, self._tensors, draws)
            self.apply(fixed_values(spec) or self._values)

    def draw(self) -> None:
        """Draw the noise of the next training pass."""
        if self.draws is not None:
            self.draws.draw()

    def apply(self, values: Mapping[str, float]) -> None:
        """Set what the sites run under from now on.

        Args:
            values: one for each hyperparameter, by name; none for vanilla and DNI.

        Raises:
            InvalidArgument: where one is missing, unknown or out of range.
        """
        check_values(self._hyperparameters, values, field="values")
        for name, value in values.items():
            self._tensors[name].fill_(value)
        self._values = dict(values)

    def values(self) -> dict[str, float]:
        """Return what the sites run under; DNI's mean |alpha| is read off the device."""
        if self._strengths:
            alphas = torch.cat([alpha.detach() for alpha in self._strengths])
            return {STRENGTH: float(alphas.abs().mean())}
        return dict(self._values)


MakeDraws = Callable[..., Draws]


def _install_sites(
    child: nn.Module,
    spec: TrainingSpec,
    calls: Sequence[Call],
    tensors: Mapping[str, Tensor],
    make_draws: MakeDraws,
) -> Draws:
    """Put a regularizer after each stage, and dropout before the classifier, too."""
    regularizer = spec.method.regularizer
    assert regularizer is not None
    is_dropout = regularizer == "dropout"
    make = Dropout if is_dropout else GaussianNoise
    by_name = {call.name: call for call in calls}
    channels = calls[0].input_shape[0]
    places = dict(zip(STAGES, stage_ends(child, spec.model, channels=channels), strict=True))
    shapes = [by_name[place].shape for place in places.values()]
    if is_dropout:
        places["classifier"] = classifier_name(child)
        shapes.append(by_name[places["classifier"]].input_shape)
    draws = make_draws(shapes, is_normal=not is_dropout)
    for number, (site, place) in enumerate(places.items()):
        # One value of its own, or the one that all sites share.
        name = f"{regularizer}-{site}"
        tensor = tensors[name if name in tensors else regularizer]
        new, old = make(tensor, draws, number), child.get_submodule(place)
        order = [new, old] if site == "classifier" else [old, new]
        child.set_submodule(place, nn.Sequential(*order))
    return draws


def _install_dynamic_noise(
    child: nn.Module, strength: float, calls: Sequence[Call], make_draws: MakeDraws
) -> tuple[Draws, list[nn.Parameter]]:
    """Put a DNI unit in place of each ReLU that directly follows a batch norm.

    A residual block's last ReLU follows the addition of the shortcut, not a batch norm, so it is
    no BN+ReLU unit and stays as it is, though the block may call one module for all of its ReLUs.
    """
    relus = {name for name, module in child.named_modules() if isinstance(module, nn.ReLU)}
    calls = [call for call in calls if call.name in relus]
    shapes = [call.shape for call in calls if call.follows_norm]
    if not shapes:
        raise invalid("method", "the model has no batch norm that a ReLU follows, which dni needs")
    draws = make_draws(shapes, is_normal=True)
    units: dict[str, list[nn.Module]] = {call.name: [] for call in calls}
    strengths: list[nn.Parameter] = []
    for call in calls:
        unit: nn.Module = nn.ReLU()
        if call.follows_norm:
            device = draws.generators[0].device
            strengths.append(nn.Parameter(torch.full((1,), strength, device=device)))
            unit = DynamicNoise(strengths[-1], draws, len(strengths) - 1)
        units[call.name].append(unit)
    for name, by_place in units.items():
        one_unit = by_place[0] if len(by_place) == 1 else _ReluByPlace(by_place)
        child.set_submodule(name, one_unit)
    return draws, strengths


class _ReluByPlace(nn.Module):
    """One ReLU module that is called several times in a pass: a unit for each call, in turn."""

    def __init__(self, units: Sequence[nn.Module]) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self._place = 0

    def forward(self, features: Tensor) -> Tensor:
        """Return what the next unit makes of the features."""
        unit = self.units[self._place]
        self._place = (self._place + 1) % len(self.units)
        result: Tensor = unit(features)
        return result
