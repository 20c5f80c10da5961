"""Random search over constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from trainer_service.study.methods.choosing import Searched

if TYPE_CHECKING:
    from trainer_service.study.spec import StudySpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSearch(Searched):
    """The best of uniformly drawn constants, by its one child's best validation score."""

    kind: Literal["random-search"] = "random-search"

    def tried(self, study: StudySpec) -> list[tuple[float, int]]:
        """Return constants drawn with the data seed."""
        rng = np.random.default_rng(study.training.data_seed)
        draws = rng.uniform(self.strength.low, self.strength.high, study.budget)
        return [(float(value), place) for place, value in enumerate(draws)]
