"""Trials: the values that ended runs trained under, and their final scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# NumPy is imported only inside functions, since the client imports this module.

BEST = 25
"""Number of best trials that are always kept: the most that TPE counts as good."""
KEPT = 256
"""Maximum number of trials in a history: the best ones, and the newest.

The dropped ones are the oldest bad trials, which TPE's density weighs least. A proposal for one
hyperparameter takes 1.1 ms from 10 trials, 1.5 from 100, 2.3 from 256 and 6.1 from 1,000; for 64
hyperparameters 32 ms from 256 and 80 from 1,000. And the total size of n runs' versions does not
grow with n squared: those of 1,000 runs take 8.6 MB.
"""


@dataclass(frozen=True, slots=True, eq=False)
class TrialHistory:
    """The policy of a controller that decides once per run: n trials of h hyperparameters."""

    samples: np.ndarray
    """float64[n, h]: the runs' values, in the policy's [-1, 1], in the order of their ends."""
    scores: np.ndarray
    """float64[n]: the runs' final scores, larger is better; NaN if a run diverged."""

    def __len__(self) -> int:
        """Return n, the number of trials."""
        return len(self.scores)

    @property
    def best(self) -> int | None:
        """Index of the first trial with the largest score; None if no trial has a score."""
        import numpy as np

        return None if np.isnan(self.scores).all() else int(np.nanargmax(self.scores))

    def with_trial(self, sample: tuple[float, ...], score: float) -> TrialHistory:
        """Return the history with one more run; beyond `KEPT` trials an old one is dropped.

        Args:
            sample: the run's values, h numbers in the policy's [-1, 1].
            score: its final score; NaN if it diverged.
        """
        import numpy as np

        samples = np.vstack([self.samples, np.clip(sample, -1.0, 1.0)])
        scores = np.append(self.scores, score)
        if len(scores) <= KEPT:
            return TrialHistory(samples, scores)
        # Stable, so that the earlier of equal scores ranks higher, as in Optuna; NaN comes last.
        best = np.argsort(-scores, kind="stable")[:BEST]
        oldest = np.setdiff1d(np.arange(len(scores)), best)[0]
        return TrialHistory(np.delete(samples, oldest, axis=0), np.delete(scores, oldest))


def no_trials(hyperparameters: int) -> TrialHistory:
    """Return an empty history."""
    import numpy as np

    return TrialHistory(np.zeros((0, hyperparameters)), np.zeros(0))
