"""The learner: turns full rollouts into policy versions, each transition consumed exactly once.

It reads from the store, updates outside any transaction, and then stores the new version and marks
what it consumed in one: whatever dies when, both are there or neither.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import numpy as np

from agent_service.domain.draws import generator
from agent_service.domain.ports import LearnableTransition, Origin, PolicyVersion, Session, Store
from agent_service.domain.runs import Controller, Mode
from agent_service.domain.specs import PPOSettings
from agent_service.learning.policy_file import from_bytes, to_bytes
from agent_service.learning.process import Heartbeat
from agent_service.learning.rollout import Update, UpdateError, segments

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
"""How often the store is asked for full rollouts."""
_EVERY = 1_000_000


@dataclass(frozen=True, slots=True)
class _Rollout:
    controller: Controller
    policy: PolicyVersion
    transitions: Sequence[LearnableTransition]


def learn(store: Store, heartbeat: Heartbeat) -> NoReturn:
    """Update every learning controller whose rollout is full, for ever."""
    while not store.read(_learning):
        heartbeat.beat()
        time.sleep(POLL_SECONDS)
    # 3 s and 300 MB, which a service of baselines never needs, and which no first update is to wait
    # for, in the midst of the reports that filled its rollout.
    importlib.import_module("agent_service.learning.sb3")
    while True:
        heartbeat.beat()
        if not learn_once(store):
            time.sleep(POLL_SECONDS)


def learn_once(store: Store) -> int:
    """Update each controller that has a full rollout, and no other learner, once; return how many.

    Several replicas of a service have a learner each: one at a time learns for a controller.
    """
    learned = 0
    for controller in store.read(with_full_rollouts):
        with store.learning_for(controller) as is_alone:
            if is_alone:
                learned += _learn_for(store, controller)
    return learned


def _learn_for(store: Store, controller: Controller) -> bool:
    """Learn from a controller's rollout; return whether there is one."""
    # Read only here: another learner may have learned from it until just now, and it is large.
    rollout = store.read(partial(_full_rollout, of=controller))
    if rollout is None:
        return False
    _learn_from(store, rollout)
    return True


def with_full_rollouts(session: Session) -> list[Controller]:
    """Return the controllers that learn and whose rollout is full."""
    # Asked many times a second: what waits is read only when there is enough of it.
    by_size: dict[int, list[Controller]] = defaultdict(list)
    for controller in _learning(session):
        assert isinstance(controller.spec.algorithm, PPOSettings)
        by_size[controller.spec.algorithm.rollout_size].append(controller)
    full = {size: session.with_ready(count=size) for size in by_size}
    return [c for size, controllers in by_size.items() for c in controllers if c.id in full[size]]


def _learning(session: Session) -> list[Controller]:
    """Return the controllers that learn."""
    return [
        controller
        for controller in session.list_controllers(after="", limit=_EVERY)
        if isinstance(controller.spec.algorithm, PPOSettings) and controller.mode is Mode.LEARNING
    ]


def _full_rollout(session: Session, *, of: Controller) -> _Rollout | None:
    """Return the oldest ready transitions of a controller, if they fill a rollout."""
    controller = next((c for c in with_full_rollouts(session) if c.id == of.id), None)
    if controller is None:
        return None
    settings = controller.spec.algorithm
    assert isinstance(settings, PPOSettings)
    transitions = session.ready_transitions(controller, limit=settings.rollout_size)
    policy = session.find_policy(controller, controller.policy_version)
    assert policy is not None, "a PPO controller has its newest policy"
    return _Rollout(controller, policy, transitions)


def _learn_from(store: Store, rollout: _Rollout) -> None:
    name = rollout.controller.spec.name
    of = {"controller": name}
    if stale := _stale(rollout):
        store.write(lambda session: session.mark_recorded(stale)).result()
        text = "controller %s: %d transitions are too stale to learn from"
        log.warning(text, name, len(stale), extra=of)
        return
    try:
        new = _next_version(rollout)
    except UpdateError as error:
        # Left waiting, the same transitions would fail again for ever.
        store.write(lambda session: session.mark_recorded(rollout.transitions)).result()
        text = "controller %s: a rollout is skipped, the policy stays: %s"
        log.error(text, name, error, extra=of)
        return
    if store.write(lambda session: _publish(session, rollout, new)).result():
        log.info("controller %s: policy version %d", name, new.version, extra=of)
    else:
        text = "controller %s: an update is dropped, since the policy changed or froze"
        log.info(text, name, extra=of)


def _stale(rollout: _Rollout) -> list[LearnableTransition]:
    """Return the transitions whose action too old a policy decided."""
    settings = rollout.controller.spec.algorithm
    assert isinstance(settings, PPOSettings)
    oldest = rollout.policy.version - settings.max_staleness
    return [t for t in rollout.transitions if t.transition.decision.policy_version < oldest]


def _next_version(rollout: _Rollout) -> PolicyVersion:
    """Return the policy version that a rollout makes; raises UpdateError."""
    # Not before something learns; see learn().
    from agent_service.learning.sb3 import update

    started = time.perf_counter()
    controller, version = rollout.controller, rollout.policy.version + 1
    made = update(
        from_bytes(rollout.policy.data, controller.spec),
        controller.spec,
        segments(rollout.transitions),
        seed=_seed(controller, version),
    )
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
