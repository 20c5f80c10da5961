"""A regularizer in a child: its sites, and the values that it runs under."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from agent_service.domain.hyperparameters import check_values
from trainer_service.training.child.models import STAGES
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
            calls: of its modules in a pass, in order, for an image of the size that it will see.
            batch: images in a training pass.
            device: of the child.
            is_channels_last: whether the child's features lie so in memory.

        Raises:
            InvalidArgument: where the child has no place for the regularizer.
        """
        self.regularizer = spec.regularizer
        self.child = child
        self.calls = tuple(calls)
        self.generator = torch.Generator(device).manual_seed(spec.seed + 3)
        """Draws all noise of this child."""
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

    def apply(self, values: Mapping[str, float]) -> None:
        """Set what the sites run under from now on.

        Args:
            values: one for each hyperparameter, by name.

        Raises:
            InvalidArgument: where one is missing, unknown or out of range.
        """
        check_values(self._hyperparameters, values, field="values")
        for name, value in values.items():
            self.strengths[name].fill_(value)
        self._values = dict(values)

    def values(self) -> dict[str, float]:
        """Return what the sites run under; the mean |strength| of trained ones, off the device."""
        if not self.regularizer.is_trained:
            return dict(self._values)
        strengths = torch.cat([site.strengths.detach() for site, _shape in self._sites])
        return {self.regularizer.strength.name: float(strengths.abs().mean())}

    # For `Regularizer.install`

    @cached_property
    def _places(self) -> dict[str, str]:
        """The module that each site stands after or before, in the child as it was built."""
        first = self.calls[0]
        ends = stage_ends(self.child, self._spec.model, channels=first.input_shape[0])
        stages = dict(zip(STAGES, ends, strict=True))
        return stages | {"input": first.name, "classifier": classifier_name(self.child)}

    def add_site(self, name: str) -> None:
        """Add a site where a name says: see `Regularizer.sites`."""
        place = self._places[name]
        call = {call.name: call for call in self.calls}[place]
        is_stage = name in STAGES
        site = self.make_site(call.shape if is_stage else call.input_shape, name=name)
        there = self.child.get_submodule(place)
        self.replace(place, [nn.Sequential(*([there, site] if is_stage else [site, there]))])

    def make_site(
        self, shape: Shape, *, name: str = "", before: nn.Module | None = None
    ) -> nn.Module:
        """Return a site that is nowhere yet.

        Args:
            shape: of one image's features there.
            name: of the site, for a strength of its own.
            before: what the features go through next, in both modes.
        """
        site = Site(self.regularizer, self._strength(name), before=before)
        self._sites.append((site, shape))
        return site

    def _strength(self, site: str) -> Tensor:
        """Return the strength of a site: one that is trained, its own, or the one of all sites."""
        if self.regularizer.is_trained:
            initial = initial_strength(self._spec)
            return nn.Parameter(torch.full((1,), initial, device=self._device))
        name = self.regularizer.strength.name
        own = self.strengths.get(f"{name}-{site}")
        return self.strengths[name] if own is None else own

    def replace(self, place: str, modules: Sequence[nn.Module]) -> None:
        """Have a module replaced: by one, or by one for each call of it in a pass."""
        self.child.set_submodule(place, modules[0] if len(modules) == 1 else _ByCall(modules))


class _ByCall(nn.Module):
    """One module that is called several times in a pass: another one for each call, in turn."""

    def __init__(self, units: Sequence[nn.Module]) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self._place = 0

    def forward(self, features: Tensor) -> Tensor:
        """Return what the next module makes of the features."""
        unit = self.units[self._place]
        self._place = (self._place + 1) % len(self.units)
        result: Tensor = unit(features)
        return result
