"""Policies as they are stored: version 1 of a new controller, and versions ready to decide.

PPO's are safetensors files that decide in NumPy, those of Bayesian optimization trials as JSON;
torch is never needed.
"""

from __future__ import annotations

from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import AnyPolicy
from agent_service.domain.trials import TrialHistory, no_trials
from agent_service.learning import policy_file, trial_file
from agent_service.learning.snapshot import initial_snapshot


def initial(spec: ControllerSpec) -> bytes | None:
    """Return policy version 1 of a new controller; None where the algorithm has no policy."""
    if spec.algorithm.learns_from_transitions:
        return policy_file.to_bytes(initial_snapshot(spec), spec, policy_version=1)
    if spec.algorithm.learns_from_scores:
        return dump(no_trials(len(spec.hyperparameters)), spec)
    return None


def largest(spec: ControllerSpec) -> int:
    """Return how many bytes a policy file of `spec` has at the most."""
    if spec.algorithm.learns_from_scores:
        return trial_file.largest(spec)
    return policy_file.largest(spec)


def adopted(data: bytes, spec: ControllerSpec) -> bytes:
    """Return another controller's policy as version 1 of a new one; raises InvalidArgument."""
    return policy_file.to_bytes(policy_file.from_bytes(data, spec), spec, policy_version=1)


def load(data: bytes, spec: ControllerSpec) -> AnyPolicy:
    """Return a stored or imported policy; raises InvalidArgument if it is not of `spec`."""
    if spec.algorithm.learns_from_scores:
        return trial_file.from_bytes(data, spec)
    return policy_file.from_bytes(data, spec)


def dump(history: TrialHistory, spec: ControllerSpec) -> bytes:
    """Return the data of the policy version that holds these trials."""
    return trial_file.to_bytes(history, spec)
