"""The policies port: version 1 of a new controller, and stored versions ready to decide."""

from __future__ import annotations

from agent_service.domain.specs import ControllerSpec
from agent_service.domain.store import AnyPolicy
from agent_service.domain.trials import TrialHistory, no_trials
from agent_service.learning import policy_file, trial_file
from agent_service.learning.snapshot import initial_snapshot


class SnapshotPolicies:
    """Snapshots as safetensors files, decided by in NumPy, and trials as JSON; never by torch."""

    def initial(self, spec: ControllerSpec) -> bytes | None:
        """See the port."""
        if spec.algorithm.learns_from_transitions:
            return policy_file.to_bytes(initial_snapshot(spec), spec, policy_version=1)
        if spec.algorithm.learns_from_scores:
            return self.dump(no_trials(len(spec.hyperparameters)), spec)
        return None

    def largest(self, spec: ControllerSpec) -> int:
        """See the port."""
        return (
            trial_file.largest(spec)
            if spec.algorithm.learns_from_scores
            else policy_file.largest(spec)
        )

    def adopted(self, data: bytes, spec: ControllerSpec) -> bytes:
        """See the port."""
        return policy_file.to_bytes(policy_file.from_bytes(data, spec), spec, policy_version=1)

    def load(self, data: bytes, spec: ControllerSpec) -> AnyPolicy:
        """See the port."""
        if spec.algorithm.learns_from_scores:
            return trial_file.from_bytes(data, spec)
        return policy_file.from_bytes(data, spec)

    def dump(self, history: TrialHistory, spec: ControllerSpec) -> bytes:
        """See the port."""
        return trial_file.to_bytes(history, spec)
