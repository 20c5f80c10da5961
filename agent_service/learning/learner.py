"""The learner: turns full rollouts into policy versions, each transition consumed exactly once.

It reads from the store, updates outside any transaction, and then stores the new version and marks
what it consumed in one: whatever dies when, both are there or neither.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import numpy as np

from agent_service.controllers.draws import generator
from agent_service.controllers.ppo import ppo_settings
from agent_service.domain.errors import AgentError
from agent_service.domain.runs import Controller, Mode
from agent_service.domain.store import LearnableTransition, Origin, PolicyVersion
from agent_service.learning.policy_file import from_bytes, to_bytes
from agent_service.learning.process import Heartbeat
from agent_service.learning.rollout import Update, UpdateError, segments
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
"""How often the store is asked for full rollouts."""
UPDATE_SECONDS = 60.0
"""That one update may train: twice what the largest spec takes of a whole core."""
STALE_AT_ONCE = 1000
"""Maximum number of stale transitions dropped in one transaction, since reports wait for it."""
REST_SECONDS = 10.0
"""For how long a controller is left alone of which something in the store cannot be read."""


@dataclass(frozen=True, slots=True)
class _Rollout:
    controller: Controller
    policy: PolicyVersion
    transitions: Sequence[LearnableTransition]


class Learner:
    """Updates controllers in turn: whoever's updates took the least time is the next.

    What it has seen of specs it keeps, as they never change, so that those of controllers which
    never learn are read once and not again.
    """

    def __init__(self) -> None:
        """Know no controller yet."""
        self._last_seen = 0
        self._sizes: dict[int, int] = {}
        self._spent: dict[int, float] = {}
        self._least = 0.0
        self._rests_until: dict[int, float] = {}

    def learn(self, store: SqlStore, heartbeat: Heartbeat) -> NoReturn:
        """Update every learning controller whose rollout is full, for ever."""
        self._last_seen, self._sizes = 0, {}
        while not store.read(self._has_learning):
            heartbeat.beat()
            time.sleep(POLL_SECONDS)
        # 3 s and 300 MB, which a service of baselines never needs, and which no first update is to
        # wait for, in the midst of the reports that filled its rollout.
        importlib.import_module("agent_service.learning.sb3")
        while True:
            heartbeat.beat()
            if not self.take_turn(store):
                time.sleep(POLL_SECONDS)

    def take_turn(self, store: SqlStore) -> bool:
        """Update the next controller that has a full rollout; return whether there was one."""
        now = time.monotonic()
        full = [c for c in store.read(self.with_full_rollouts) if self._is_awake(c, now)]
        return any(self._learn_alone(store, c) for c in sorted(full, key=self._time_of))

    def with_full_rollouts(self, session: Session) -> list[Controller]:
        """Return the controllers that learn and whose rollout is full."""
        # Asked many times a second: what waits is read only when there is enough of it.
        self._look_for_new(session)
        full: set[int] = set()
        for size in set(self._sizes.values()):
            full |= {c for c in session.with_ready(count=size) if self._sizes.get(c) == size}
        return list(session.learning_controllers(full))

    def _has_learning(self, session: Session) -> bool:
        self._look_for_new(session)
        return bool(session.learning_controllers(self._sizes))

    def _look_for_new(self, session: Session) -> None:
        for controller in session.newer_controllers(than=self._last_seen):
            self._last_seen = controller.id
            if size := controller.spec.algorithm.rollout_size:
                self._sizes[controller.id] = size

    def _learn_alone(self, store: SqlStore, controller: Controller) -> bool:
        """Learn for a controller unless another process does; return whether something was done.

        Several replicas of a service have a learner each: one at a time learns for a controller.
        """
        began, before = time.monotonic(), self._time_of(controller)
        try:
            with store.learning_for(controller) as is_alone:
                return is_alone and _learn_for(store, controller)
        except AgentError:
            self._rests_until[controller.id] = time.monotonic() + REST_SECONDS
            raise
        finally:
            self._least = before
            self._spent[controller.id] = before + time.monotonic() - began

    def _is_awake(self, controller: Controller, now: float) -> bool:
        return now >= self._rests_until.get(controller.id, now)

    def _time_of(self, controller: Controller) -> float:
        """Return the seconds spent on a controller; a new one starts level with the last served."""
        return max(self._spent.get(controller.id, 0.0), self._least)


def _learn_for(store: SqlStore, controller: Controller) -> bool:
    """Learn from a controller's rollout; return whether there is one."""
    # Read only here: another learner may have learned from it until just now, and it is large.
    rollout = store.read(partial(_full_rollout, of=controller))
    if rollout is None:
        return False
    _learn_from(store, rollout)
    return True


def _full_rollout(session: Session, *, of: Controller) -> _Rollout | None:
    """Return the oldest ready transitions of a controller, if they fill a rollout."""
    size = of.spec.algorithm.rollout_size
    found = session.learning_controllers([of.id])
    if not found or of.id not in session.with_ready(count=size):
        return None
    (controller,) = found
    transitions = session.ready_transitions(controller, limit=size)
    policy = session.find_policy(controller, controller.policy_version)
    assert policy is not None, "a PPO controller has its newest policy"
    return _Rollout(controller, policy, transitions)


def _learn_from(store: SqlStore, rollout: _Rollout) -> None:
    name = rollout.controller.spec.name
    of = {"controller": name}
    if _is_stale(rollout):
        # All of them, not only this rollout's: reports come in faster than a learner that is behind
        # could drop them rollout by rollout, and it would never learn again.
        stale = store.write(partial(_record_stale, rollout=rollout)).result()
        log.warning(
            "controller %s: %d transitions are too stale to learn from", name, stale, extra=of
        )
        return
    try:
        new = _next_version(rollout)
    except Exception as error:  # whatever it is, the other controllers are to learn
        # Left waiting, the same transitions would fail again for ever.
        store.write(lambda session: session.mark_recorded(rollout.transitions)).result()
        kind = "" if isinstance(error, UpdateError) else f"{type(error).__name__}: "
        text = "controller %s: a rollout is skipped, the policy stays: %s%s"
        log.error(text, name, kind, error, extra=of)
        return
    if store.write(lambda session: _publish(session, rollout, new)).result():
        log.info("controller %s: policy version %d", name, new.version, extra=of)
    else:
        text = "controller %s: an update is dropped, since the policy changed or froze"
        log.info(text, name, extra=of)


def _oldest_version(rollout: _Rollout) -> int:
    """Return the oldest policy version whose decisions are still learned from."""
    return rollout.policy.version - ppo_settings(rollout.controller.spec).max_staleness


def _is_stale(rollout: _Rollout) -> bool:
    """Whether too old a policy decided some of a rollout."""
    oldest = _oldest_version(rollout)
    return any(t.transition.decision.policy_version < oldest for t in rollout.transitions)


def _record_stale(session: Session, *, rollout: _Rollout) -> int:
    return session.record_stale(
        rollout.controller, decided_before=_oldest_version(rollout), limit=STALE_AT_ONCE
    )


def _next_version(rollout: _Rollout) -> PolicyVersion:
    """Return the policy version that a rollout makes; raises UpdateError, or what torch does."""
    # Not before something learns; see learn().
    from agent_service.learning.sb3 import update

    started = time.perf_counter()
    controller, version = rollout.controller, rollout.policy.version + 1
    made = update(
        from_bytes(rollout.policy.data, controller.spec),
        controller.spec,
        segments(rollout.transitions, controller.spec),
        seed=_seed(controller, version),
        seconds=UPDATE_SECONDS,
    )
    if made.restarted:
        text = "controller %s: its optimizer is started anew, as an update failed with it: %s"
        name = controller.spec.name
        log.warning(text, name, made.restarted, extra={"controller": name})
    return PolicyVersion(
        version=version,
        data=to_bytes(made.snapshot, controller.spec, policy_version=version),
        origin=Origin.LEARNED,
        learned_transitions=len(rollout.transitions),
        statistics=_statistics(rollout, made, seconds=time.perf_counter() - started),
        created_at=time.time(),
    )


def _publish(session: Session, rollout: _Rollout, new: PolicyVersion) -> bool:
    """Store a version and what it consumed, unless the policy moved on meanwhile (an import)."""
    current = session.find_controller(rollout.controller.spec.name)
    if current is None or current.policy_version != rollout.policy.version:
        return False
    if current.mode is not Mode.LEARNING:
        return False
    session.add_policy(current, new)
    session.mark_learned(rollout.transitions, version=new.version)
    return True


def _seed(controller: Controller, version: int) -> int:
    """Return the seed of an update's shuffling, the same whenever it is made again."""
    # Run ids are never empty, so no decision shares these draws.
    draws = generator(seed=controller.spec.seed, run_id="", chunk=version)
    return int(draws.integers(2**63))


def _statistics(rollout: _Rollout, made: Update, *, seconds: float) -> Mapping[str, float]:
    versions = [t.transition.decision.policy_version for t in rollout.transitions]
    staleness = rollout.policy.version - float(np.mean(versions))
    return made.statistics | {"seconds": seconds, "staleness": staleness}
