"""The policies port: version 1 of a new controller, and stored versions ready to decide."""

from __future__ import annotations

from agent_service.domain.ports import Policy
from agent_service.domain.specs import ControllerSpec, PPOSettings
from agent_service.learning.policy_file import from_bytes, largest, to_bytes
from agent_service.learning.snapshot import initial_snapshot


class SnapshotPolicies:
    """Policies as safetensors files, decided by in NumPy; torch is never imported."""

    def initial(self, spec: ControllerSpec) -> bytes | None:
        """See the port."""
        if not isinstance(spec.algorithm, PPOSettings):
            return None
        return to_bytes(initial_snapshot(spec), spec, policy_version=1)

    def largest(self, spec: ControllerSpec) -> int:
        """See the port."""
        return largest(spec)

    def load(self, data: bytes, spec: ControllerSpec) -> Policy:
        """See the port."""
        return from_bytes(data, spec)
