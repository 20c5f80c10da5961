"""A study's controllers at the agent service, and their frozen policies in the study's folder."""

from __future__ import annotations

import hashlib
import time

from agent_service.client import AgentClient
from agent_service.domain.errors import AgentError, NotFound
from agent_service.domain.runs import Mode
from agent_service.domain.specs import ControllerSpec
from trainer_service.study.results.results import ResultsFolder

LEARNER_SECONDS = 120.0
"""How long the learner may take for what waits when the last child has ended."""


class Controllers:
    """Creates controllers, freezes them when they have learned, and brings their policies along."""

    def __init__(self, agent: AgentClient, folder: ResultsFolder) -> None:
        """The client stays the caller's."""
        self._agent = agent
        self._folder = folder

    def check_agent(self) -> None:
        """Ask the agent service for what needs no controller; raises AgentError."""
        next(self._agent.list_controllers(), None)

    def decide_only(self, spec: ControllerSpec) -> None:
        """Create a controller that learns nothing: a schedule, random draws, a replay."""
        self._agent.create_controller(spec, Mode.FROZEN)

    def learn(self, method: str, spec: ControllerSpec, *, is_new: bool) -> None:
        """Create a controller that learns; `is_new` if no child has been trained for it.

        Raises:
            AgentError: children were, and this agent service does not know it.
        """
        if not is_new:
            try:
                self._agent.get_controller(spec.name)
            except NotFound:
                raise AgentError(
                    f"{method} has learned on some of its children, but controller {spec.name} is "
                    "not at this agent service; give the one that it learned at, or remove its "
                    f"lines from {self._folder.path / 'results.jsonl'} to begin anew"
                ) from None
        self._agent.create_controller(spec)

    def freeze(self, method: str, spec: ControllerSpec, *, rollout_size: int) -> None:
        """Let the learner finish what waits, freeze the policy for good, and keep it as a file.

        `rollout_size` is the number of transitions of one update; 0 if none are learned from.

        Raises:
            AgentError: the learner does not finish, or the policy is still the initial one.
        """
        deadline = time.monotonic() + LEARNER_SECONDS
        while self._agent.get_controller(spec.name).ready_transitions >= rollout_size > 0:
            if time.monotonic() > deadline:
                raise AgentError(f"the learner of {spec.name} is stuck; see the agent's log")
            time.sleep(0.1)
        version = self._agent.set_mode(spec.name, Mode.FROZEN).policy_version
        if version == 1:
            raise AgentError(
                f"{method} learned nothing: its children brought fewer transitions than one update "
                f"takes, {rollout_size}; give a smaller rollout_size or a larger budget, and a new "
                "folder"
            )
        self._folder.add_policy(method, self._agent.export_policy(spec.name, version))

    def frozen(self, method: str, spec: ControllerSpec) -> str:
        """Create a method's controller with the policy of its file; return the file's SHA-256.

        So a study goes on at another agent service, and a policy decides in another study.
        """
        data = self._folder.policy(method)
        assert data is not None, method
        # At an agent service where it has not learned, it has its first policy.
        if self._agent.create_controller(spec).policy_version <= 1:
            self._agent.import_policy(spec.name, data)
        self._agent.set_mode(spec.name, Mode.FROZEN)
        return hashlib.sha256(data).hexdigest()
