"""Trials: what ended runs trained under, and how well each went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# NumPy is imported inside functions alone: the client imports this for the settings above it.

BEST = 25
"""The best trials that are always kept: as many as TPE ever calls good."""
KEPT = 256
"""Trials in a history at the most: the best ones, and the newest.

Of the others TPE's density of bad trials loses the oldest, which it weighs least. A proposal for
one hyperparameter takes 1.1 ms from 10 trials, 1.5 from 100, 2.3 from 256 and 6.1 from 1,000; for
64 of them 32 ms from 256 and 80 from 1,000. And the versions of n runs do not grow with n squared:
those of 1,000 runs take 8.6 MB.
"""


@dataclass(frozen=True, slots=True, eq=False)
class TrialHistory:
    """The policy of a controller that decides one value a run: n trials of h hyperparameters."""

    samples: np.ndarray
    """float64[n, h]: what each run trained under, in the policy's [-1, 1]; by the runs' ends."""
    scores: np.ndarray
    """float64[n]: the runs' final scores, larger is better; NaN where a run diverged."""

    def __len__(self) -> int:
        """Return n, the number of trials."""
        return len(self.scores)

    @property
    def best(self) -> int | None:
        """The place of the first trial with the largest score; None where none has one."""
        import numpy as np

        return None if np.isnan(self.scores).all() else int(np.nanargmax(self.scores))

    def with_trial(self, sample: tuple[float, ...], score: float) -> TrialHistory:
        """Return the history after one more run; past `KEPT` trials one of the others goes.

        Args:
            sample: what the run trained under, h values in the policy's [-1, 1].
            score: its final score; NaN where it diverged.
        """
        import numpy as np

        samples = np.vstack([self.samples, np.clip(sample, -1.0, 1.0)])
        scores = np.append(self.scores, score)
        if len(scores) <= KEPT:
            return TrialHistory(samples, scores)
        # Stable, so that of equal scores the earlier is the better, as in Optuna; NaN comes last.
        best = np.argsort(-scores, kind="stable")[:BEST]
        oldest = np.setdiff1d(np.arange(len(scores)), best)[0]
        return TrialHistory(np.delete(samples, oldest, axis=0), np.delete(scores, oldest))


def no_trials(hyperparameters: int) -> TrialHistory:
    """Return the history of a controller of which no run has ended."""
    import numpy as np

    return TrialHistory(np.zeros((0, hyperparameters)), np.zeros(0))
