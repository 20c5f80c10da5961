"""The uniform draw from the whole range: A_0 of learning runs (Eq. 4), and all of random ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from agent_service.controllers.draws import generator
from agent_service.domain.runs import Choice
from agent_service.domain.specs import ControllerSpec

if TYPE_CHECKING:
    from agent_service.domain.store import Situation


def uniform_choice(spec: ControllerSpec, situation: Situation) -> Choice:
    """Return an action drawn from U(-1, 1)^h, with that law's own log density, -h log 2."""
    draws = generator(seed=spec.seed, run_id=situation.run_id, chunk=situation.chunk)
    h = len(spec.hyperparameters)
    sample = tuple(float(u) for u in draws.uniform(-1.0, 1.0, size=h))
    return Choice(sample, log_probability=-h * math.log(2.0), explored=True)
