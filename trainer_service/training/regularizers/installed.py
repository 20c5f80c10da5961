"""The regularizer of one child: its sites and current values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from agent_service.domain.hyperparameters import check_values
from trainer_service.training.regularizers.sites import Draws, Shape, Site
from trainer_service.training.sites import Call, classifier_name, stage_ends
from trainer_service.training.spec import (
    TrainingSpec,
    fixed_values,
    hyperparameters,
    initial_strength,
)


class Regularization:
    """The regularizer of one child."""

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
        """Install the regularizer of `spec` in `child`.

        Args:
            spec: names the method; its seed is that of all noise.
            child: is on `device`.
            calls: of its modules in one pass, in order, at the training images' size.
            batch: images in a training pass.
            device: of the child.
            is_channels_last: whether the child's features lie so in memory.

        Raises:
            InvalidArgument: the child has no place for the regularizer.
        """
        self.regularizer = spec.regularizer
        self.child = child
        self.calls = tuple(calls)
        self.stages = spec.stages
        """Names of the child's stages."""
        self.generator = torch.Generator(device).manual_seed(spec.seed + 3)
        """Source of all noise of this child."""
        self._spec = spec
        self._device = device
        self._hyperparameters = hyperparameters(spec)
        self.strengths = {h.name: torch.zeros(1, device=device) for h in self._hyperparameters}
        """float32[1] of each hyperparameter, by name."""
        self._sites: list[tuple[Site, Shape]] = []
        self.regularizer.install(self)
        self.draws: Draws | None = None
        """None where nothing is random."""
        if self._sites:
            self.draws = Draws(
                [self.generator],
                [(batch, *shape) for _site, shape in self._sites],
                is_normal=self.regularizer.is_normal,
                is_channels_last=is_channels_last,
            )
            for number, (site, _shape) in enumerate(self._sites):
                site.read(self.draws, number)
        self.apply(fixed_values(spec) or {h.name: h.low for h in self._hyperparameters})

    @property
    def site_count(self) -> int:
        """Places in the child where it changes features."""
        return len(self._sites)

    def apply(self, values: Mapping[str, float]) -> None:
        """Set the values of the next passes, one for each hyperparameter, by name.

        Raises:
            InvalidArgument: a value is missing, unknown or out of range.
        """
        check_values(self._hyperparameters, values, field="values")
        for name, value in values.items():
            self.strengths[name].fill_(value)
        self._values = dict(values)

    def values(self) -> dict[str, float]:
        """Return the current values; of trained ones the mean magnitude, off the device."""
        if not self.regularizer.is_trained:
            return dict(self._values)
        strengths = torch.cat([site.strengths.detach() for site, _shape in self._sites])
        return {self.regularizer.strength.name: float(strengths.abs().mean())}

    # For `Regularizer.install`

    @cached_property
    def _places(self) -> dict[str, str]:
        """Paths of the modules next to each site, in the child as it was built."""
        first = self.calls[0]
        ends = stage_ends(self.child, self._spec.model, channels=first.input_shape[0])
        stages = dict(zip(self.stages, ends, strict=True))
        return stages | {"input": first.name, "classifier": classifier_name(self.child)}

    def add_site(self, name: str) -> None:
        """Insert the site of a name: see `Regularizer.sites`."""
        place = self._places[name]
        call = {call.name: call for call in self.calls}[place]
        is_stage = name in self.stages
        site = self.make_site(call.shape if is_stage else call.input_shape, name=name)
        there = self.child.get_submodule(place)
        self.replace(place, [nn.Sequential(*([there, site] if is_stage else [site, there]))])

    def make_site(
        self, shape: Shape, *, name: str = "", before: nn.Module | None = None
    ) -> nn.Module:
        """Return a new site, for `replace`.

        Args:
            shape: of one image's features there.
            name: of the site, to find its own strength.
            before: module applied next, in both modes.
        """
        site = Site(self.regularizer, self._strength(name), before=before)
        self._sites.append((site, shape))
        return site

    def _strength(self, site: str) -> Tensor:
        """Return a site's strength: a trained one, its own, or the shared one."""
        if self.regularizer.is_trained:
            initial = initial_strength(self._spec)
            return nn.Parameter(torch.full((1,), initial, device=self._device))
        name = self.regularizer.strength.name
        own = self.strengths.get(f"{name}-{site}")
        return self.strengths[name] if own is None else own

    def replace(self, place: str, modules: Sequence[nn.Module]) -> None:
        """Replace a module by another, or by one for each of its calls in a pass."""
        self.child.set_submodule(place, modules[0] if len(modules) == 1 else _ByCall(modules))


class _ByCall(nn.Module):
    """Stands for a module that a pass calls several times: applies another one at each call."""

    def __init__(self, units: Sequence[nn.Module]) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self._place = 0

    def forward(self, features: Tensor) -> Tensor:
        """Apply the next module."""
        unit = self.units[self._place]
        self._place = (self._place + 1) % len(self.units)
        result: Tensor = unit(features)
        return result
