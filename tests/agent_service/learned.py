"""Learning in a test's own process, when the test says so."""

from agent_service.learning.learner import Learner
from agent_service.store.store import SqlStore


def learn_once(store: SqlStore) -> int:
    """Update each controller that has a full rollout, once; return how many."""
    learner = Learner()
    return sum(learner._learn_alone(store, c) for c in store.read(learner.with_full_rollouts))
