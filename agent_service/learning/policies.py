"""Policies as they are stored: version 1 of a new controller, and versions ready to decide.

PPO's are safetensors files that decide in NumPy, those of Bayesian optimization trials as JSON;
torch is never needed.
"""

from __future__ import annotations

from dataclasses import replace

from agent_service.domain.checks import quoted
from agent_service.domain.errors import about, invalid
from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import AnyPolicy
from agent_service.domain.trials import TrialHistory, no_trials
from agent_service.learning import policy_file, shipped_policies, trial_file
from agent_service.learning.snapshot import initial_snapshot


def initial(spec: ControllerSpec) -> bytes | None:
    """Return policy version 1 of a new controller; None where the algorithm has no policy.

    Raises:
        InvalidArgument: field `policy`: the package has none of this name, or one of another range.
    """
    if name := spec.algorithm.shipped_policy:
        with about("policy", quoted(name)):
            return shipped(name, spec)
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
    return _first_version(data, spec, spec)


def shipped(name: str, spec: ControllerSpec) -> bytes:
    """Return a policy of the package as version 1 of a new controller.

    The controller's hyperparameter may have another name than the policy's.

    Raises:
        InvalidArgument: field `policy`: there is none of this name, or it does not fit the spec.
    """
    data = shipped_policies.read(name)
    (own,) = policy_file.hyperparameters(data)
    if [replace(h, name=own.name) for h in spec.hyperparameters] != [own]:
        raise invalid(
            "policy",
            f"decides one hyperparameter in [{own.low}, {own.high}], {own.scale}; give one of that "
            "range and scale, and `limits=` to a run to keep its values narrower",
        )
    return _first_version(data, replace(spec, hyperparameters=(own,)), spec)


def _first_version(data: bytes, made_for: ControllerSpec, spec: ControllerSpec) -> bytes:
    """Return a policy file of the spec `made_for` as version 1 of a controller of `spec`."""
    policy_file.fitting_manifest(data, made_for)  # what differs says more than the file's size
    return policy_file.to_bytes(policy_file.from_bytes(data, made_for), spec, policy_version=1)


def load(data: bytes, spec: ControllerSpec) -> AnyPolicy:
    """Return a stored or imported policy; raises InvalidArgument if it is not of `spec`."""
    if spec.algorithm.learns_from_scores:
        return trial_file.from_bytes(data, spec)
    return policy_file.from_bytes(data, spec)


def dump(history: TrialHistory, spec: ControllerSpec) -> bytes:
    """Return the data of the policy version that holds these trials."""
    return trial_file.to_bytes(history, spec)
