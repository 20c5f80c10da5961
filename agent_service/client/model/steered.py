"""A PyTorch model whose regularization is driven by a run's values."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from agent_service.client.description import Description, Found
from agent_service.client.model.drives import DrivenModule
from agent_service.client.model.noise import Value
from agent_service.client.model.scores import Score, Scoring, scoring_of
from agent_service.client.model.selection import named_modules, nothing_driven, select, unwrapped
from agent_service.client.sites import Drives, Dropout, Site
from agent_service.domain.checks import check_kind
from agent_service.domain.errors import invalid
from agent_service.domain.hyperparameters import Hyperparameter

log = logging.getLogger("agent_service.client")


class SteeredModel:
    """Drives a model's own dropout, or added regularizers; `remove` restores the model."""

    def __init__(
        self,
        model: nn.Module,
        hyperparameters: Sequence[Hyperparameter],
        *,
        sites: Mapping[str, Site] | None = None,
        drives: Drives | None = None,
        score: Score | None = None,
    ) -> None:
        """Connect each hyperparameter with what it drives; see `AgentClient.run`.

        The model may be compiled or wrapped for distributed training.

        Raises:
            InvalidArgument: a name does not exist, a hyperparameter drives nothing, or its range
                does not fit what it drives. The model is left unchanged.
        """
        self.scoring: Scoring = scoring_of(score)
        """Starts the score of a chunk."""
        self._model = unwrapped(model)
        devices = {t.device for t in (*self._model.parameters(), *self._model.buffers())}
        devices.add(torch.device("cpu"))
        self._ranges = {h.name: h for h in hyperparameters}
        self._values = {name: Value(name, devices) for name in self._ranges}
        self._taken: dict[nn.Module, DrivenModule] = {}
        self._names: dict[nn.Module, str] = {}
        selection = select(self._model, self._ranges, drives, has_sites=sites is not None)
        found = list(selection.found)
        try:
            for name, rates in selection.driven.items():
                self._check_range(name, is_rate=True)
                for rate in rates:
                    self._takeover(rate.module, rate.name).drive(rate, self._values[name])
            for name, site in (sites or {}).items():
                found.append(self._add(name, site))
            self.description = Description(tuple(found), selection.left_alone)
            self._check_all_drive()
        except BaseException:
            self.remove()
            raise
        log.info("%s", self.description.summary())

    def _takeover(self, module: nn.Module, name: str) -> DrivenModule:
        if module not in self._taken:
            self._taken[module] = DrivenModule(module)
            self._names[module] = name
        return self._taken[module]

    def _add(self, name: str, site: Site) -> Found:
        modules: dict[str, nn.Module] = {}
        for known, module in named_modules(self._model):
            modules.setdefault(known, module)  # a wrapper, not the module that it wraps
        if name not in modules:
            raise invalid(
                f"sites[{name}]", f"is not a module of the model; it has {_some(modules)}"
            )
        own = "Dropout() or GaussianNoise() of agent_service.client"
        check_kind(site, Site, f"sites[{name}]", own)
        value = self._value_of(site, field=f"sites[{name}]")
        self._check_range(value.name, is_rate=isinstance(site, Dropout))
        self._takeover(modules[name], name).add(site, value)
        return Found(name, "", 0.0, value.name)

    def _value_of(self, site: Site, *, field: str) -> Value:
        if not site.hyperparameter and len(self._values) == 1:
            return next(iter(self._values.values()))
        if site.hyperparameter not in self._values:
            raise invalid(field, f"{site.hyperparameter!r} is not one of {sorted(self._values)}")
        return self._values[site.hyperparameter]

    def _check_range(self, name: str, *, is_rate: bool) -> None:
        h = self._ranges[name]
        if h.low < 0 or (is_rate and h.high >= 1):
            limit = "[0, 1), since it drives a drop rate" if is_rate else "0 and above"
            raise invalid(f"hyperparameters[{name}]", f"[{h.low}, {h.high}] must be in {limit}")

    def _check_all_drive(self) -> None:
        driving = {found.hyperparameter for found in self.description.driven}
        for name in self._ranges.keys() - driving:
            hint = nothing_driven(name, self.description.left_alone)
            raise invalid(f"hyperparameters[{name}]", f"drives nothing: {hint}")

    def apply(self, values: Mapping[str, float]) -> None:
        """Apply values from now on, without waiting for the device."""
        for name, value in self._values.items():
            value.set(values[name])
        self._release_removed()
        for takeover in self._taken.values():
            takeover.apply()

    def _release_removed(self) -> None:
        """Stop driving modules that were removed from the model."""
        present = set(self._model.modules())
        for module in [module for module in self._taken if module not in present]:
            self._taken.pop(module).undo()
            log.warning(
                "%r was removed from the model and is no longer driven; its replacement keeps its "
                "own rates: start another run to drive it",
                self._names[module],
            )

    def own_values(self) -> None:
        """Return None: chunks run under the decided values."""

    def remove(self) -> None:
        """Restore the model."""
        for takeover in self._taken.values():
            takeover.undo()
        self._taken = {}


def _some(modules: Mapping[str, object]) -> str:
    names = [name for name in modules if name]
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
