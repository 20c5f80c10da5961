"""Actions: the values that a policy's output leads to, as places or as changes of the last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent_service.domain.hyperparameters import named_values
from agent_service.domain.specs import ControllerSpec


def places_of(spec: ControllerSpec, values: Mapping[str, float]) -> tuple[float, ...]:
    """Return where values, clipped to their ranges, lie in the policy's [-1, 1], h places."""
    # Rounded as values are: logarithms differ between machines in the last bits of float64.
    return tuple(round(h.unit(values[h.name]), 12) for h in spec.hyperparameters)


def action_values(
    spec: ControllerSpec,
    sample: Sequence[float],
    *,
    before: Mapping[str, float] | None,
) -> dict[str, float]:
    """Return the values, by name, that a controller's output leads to.

    Args:
        spec: of the controller.
        sample: the output in [-1, 1], h numbers, not clipped.
        before: what the chunk before ran under; None for a run's first chunk, whose action is a
            place even where later ones are changes: there is nothing to change.
    """
    limit = spec.algorithm.max_change
    if limit is None or before is None:
        return named_values(spec.hyperparameters, sample)
    moved = [
        place + limit * min(max(share, -1.0), 1.0)
        for place, share in zip(places_of(spec, before), sample, strict=True)
    ]
    return named_values(spec.hyperparameters, moved)
