"""Selects the model's own drop rates that each hyperparameter drives."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from agent_service.client.description import Found
from agent_service.client.model.known_modules import (
    SINGLE_LAYER,
    STOCHASTIC_DEPTH,
    UNKNOWN,
    UNREAD,
    ZERO,
    Rate,
    rates_of,
)
from agent_service.client.sites import Drives
from agent_service.domain.checks import several
from agent_service.domain.errors import invalid

_WRAPPERS = {"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod"}
"""Attributes in which FSDP, activation checkpointing and torch.compile keep the wrapped module."""


@dataclass(frozen=True, slots=True)
class Selection:
    """A model's driven and other rates."""

    driven: Mapping[str, list[Rate]]
    """By hyperparameter; those that drive nothing are missing."""
    left_alone: tuple[Found, ...]

    @property
    def found(self) -> Iterator[Found]:
        """The driven rates, with their current values."""
        for hyperparameter, rates in self.driven.items():
            for rate in rates:
                reason = rate.reason if rate.reason in (UNKNOWN, UNREAD) else ""
                yield Found(rate.name, rate.attribute, rate.number, hyperparameter, reason)


@dataclass(frozen=True, slots=True)
class _Pattern:
    """An entry of `drives`: MODULE or MODULE:ATTRIBUTE."""

    hyperparameter: str
    text: str
    module: str
    attribute: str
    """Empty if the text has no colon."""

    def fits(self, rate: Rate) -> bool:
        """Return whether it matches a rate's name; it may still not select the rate."""
        return fnmatchcase(rate.name, self.module) and fnmatchcase(
            rate.attribute, self.attribute or "*"
        )

    def takes(self, rate: Rate) -> bool:
        """Return whether it selects a rate; one that is left alone must be named explicitly."""
        if not self.fits(rate) or rate.reason == SINGLE_LAYER:
            return False
        return bool(self.attribute or not rate.reason or not set(self.module) & set("*?["))


def select(
    model: nn.Module,
    hyperparameters: Iterable[str],
    drives: Drives | None,
    *,
    has_sites: bool = False,
) -> Selection:
    """Return which rates each hyperparameter drives.

    Args:
        model: the unwrapped model.
        hyperparameters: names of all hyperparameters.
        drives: patterns by hyperparameter; with None the only one drives all that are known to act.
        has_sites: whether regularizers are added to the model; then, without `drives`, its own
            rates are left alone.

    Raises:
        InvalidArgument: an unknown hyperparameter, several without `drives`, or a rate that is
            selected for two.
    """
    unnamed = "not named by drives="
    if drives is None and has_sites:
        drives, unnamed = {}, "sites= was given; name it in drives= to drive it, too"
    patterns = _patterns(sorted(hyperparameters), drives)
    named = {pattern.attribute for pattern in patterns}
    driven: dict[str, list[Rate]] = {}
    left_alone = []
    modules = named_modules(model)
    rates = [rate for name, module in modules for rate in rates_of(name, module, named)]
    if drives is not None and rates:
        _check_fit(patterns, rates)
    for rate in rates:
        takers = sorted({p.hyperparameter for p in patterns if p.takes(rate)})
        if len(takers) > 1:
            where = f"{rate.name}:{rate.attribute}"
            raise invalid(f"drives[{takers[1]}]", f"{where!r} is driven by {takers[0]}")
        if takers:
            driven.setdefault(takers[0], []).append(rate)
        else:
            reason = rate.reason or unnamed
            left_alone.append(Found(rate.name, rate.attribute, rate.number, reason=reason))
    return Selection(driven, tuple(left_alone))


def _patterns(names: list[str], drives: Drives | None) -> list[_Pattern]:
    if drives is None:
        if len(names) > 1:
            raise invalid("drives", f"specify which modules each of {names} drives")
        drives = dict.fromkeys(names, "*")
    if not isinstance(drives, Mapping):
        raise invalid(
            "drives", f"takes patterns by hyperparameter, as {{{names[0]!r}: {drives!r}}}"
        )
    for hyperparameter in drives:
        if hyperparameter not in names:
            raise invalid("drives", f"{hyperparameter!r} is not one of {names}")
    return [
        _Pattern(hyperparameter, text, text.partition(":")[0], text.partition(":")[2])
        for hyperparameter, texts in drives.items()
        for text in several(
            texts if isinstance(texts, str) or not isinstance(texts, Iterable) else [*texts],
            str,
            f"drives[{hyperparameter}]",
            "'MODULE'",
        )
    ]


def _check_fit(patterns: Iterable[_Pattern], rates: list[Rate]) -> None:
    """Refuse a hyperparameter if none of its patterns matches a rate."""
    unfit = {p.hyperparameter: p for p in patterns}
    for pattern in patterns:
        if any(map(pattern.fits, rates)):
            unfit.pop(pattern.hyperparameter, None)
    for hyperparameter, pattern in unfit.items():
        there = [r for r in rates if fnmatchcase(r.name, pattern.module)] or rates
        has = ", ".join(f"{r.name}:{r.attribute}" for r in there[:4])
        raise invalid(
            f"drives[{hyperparameter}]",
            f"drives nothing: {pattern.text!r} matches no float in [0, 1]; there is {has}",
        )


def nothing_driven(hyperparameter: str, left_alone: tuple[Found, ...]) -> str:
    """Return a hint for a hyperparameter that drives nothing."""
    add = "add some by sites={'module': Dropout()}"
    if not left_alone:
        return f"the model has no dropout there; {add}, or run without model="
    hints = (ZERO, STOCHASTIC_DEPTH, UNKNOWN)
    left_alone = tuple(
        sorted(left_alone, key=lambda found: (*hints, found.reason).index(found.reason))
    )
    listed = "; ".join(f"{found} {found.reason}" for found in left_alone[:3])
    more = f"; and {len(left_alone) - 3} more" if len(left_alone) > 3 else ""
    names = [f"{found.module}:{found.attribute}" for found in left_alone if found.reason in hints]
    name = (
        f"name what to drive, as drives={{{hyperparameter!r}: {names[0]!r}}}, or " if names else ""
    )
    return f"possible drop rates are left alone: {listed}{more}; {name}{add}"


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules, each with the name that it has without wrappers.

    A wrapper comes before the module that it wraps, under the same name.
    """
    for name, module in model.named_modules():
        yield ".".join(part for part in name.split(".") if part not in _WRAPPERS), module


def unwrapped(model: Any) -> nn.Module:
    """Return the model inside torch.compile's and the parallel wrappers."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif (inner := getattr(model, "_orig_mod", None)) is not None:
            model = inner
        else:
            return model  # type: ignore[no-any-return]
