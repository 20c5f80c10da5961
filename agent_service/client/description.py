"""The result of `Run.describe`: the rates that a run drives or leaves alone; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_SHOWN = 8
"""Maximum number of rates named in a line; a deep network has hundreds."""


@dataclass(frozen=True, slots=True)
class Found:
    """A module's rate."""

    module: str
    """The module's name in the model; empty for the model itself."""
    attribute: str
    """The attribute that holds the rate; empty for a regularizer that `sites` added."""
    own: float
    """The user's value, which is restored at the run's end."""
    hyperparameter: str = ""
    """The hyperparameter that drives it; empty if it is left alone."""
    reason: str = ""
    """Why it is left alone; or, if it is driven because `drives` names it, why it may not act."""

    def __str__(self) -> str:
        """Return it in the form of `drives=`, with its own value."""
        if not self.attribute:
            return f"{self.module} (added by sites=)"
        return f"{self.module}:{self.attribute} ({self.own:g})"


@dataclass(frozen=True, slots=True)
class Description:
    """The rates of a run's model; prints as a list."""

    driven: tuple[Found, ...] = ()
    left_alone: tuple[Found, ...] = ()
    """Rates that look like drop rates and are not driven, each with the reason."""
    is_shadow: bool = False
    """Whether the rates are only read, since a shadow run changes nothing."""
    nothing: str = "no model is driven"
    """The text if nothing is driven."""

    def __str__(self) -> str:
        """Return one line per rate."""
        if not self.driven:
            return self.nothing
        lines = []
        for heading, found in self._by_hyperparameter():
            lines += [heading, *map(_line, found)]
        if self.left_alone:
            lines += ["left alone", *map(_line, self.left_alone)]
        return "\n".join(lines)

    def summary(self) -> str:
        """Return one line for the log."""
        parts = [f"{heading} {some(found)}" for heading, found in self._by_hyperparameter()]
        if self.left_alone:
            parts.append(f"left alone {some(self.left_alone)}")
        return "; ".join(parts)

    def _by_hyperparameter(self) -> Iterator[tuple[str, tuple[Found, ...]]]:
        verb = "would drive" if self.is_shadow else "drives"
        for name in dict.fromkeys(rate.hyperparameter for rate in self.driven):
            yield f"{name} {verb}", tuple(r for r in self.driven if r.hyperparameter == name)


def _line(rate: Found) -> str:
    return f"  {rate}: {rate.reason}" if rate.reason else f"  {rate}"


def some(found: tuple[Found, ...]) -> str:
    """Return the first rates in one line, and the number of the others."""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(map(str, found[:_SHOWN])) + more
