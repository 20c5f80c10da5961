"""Policies kept in memory: never others than the store's."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent_service.controllers.bayesian import BayesianSettings
from agent_service.domain.errors import NotFound
from agent_service.domain.runs import Mode
from agent_service.domain.store import Origin, PolicyVersion, Session
from agent_service.domain.trials import TrialHistory, no_trials
from agent_service.learning import policies
from agent_service.rules import policy_cache
from agent_service.rules.policy_cache import PolicyCache
from agent_service.store.store import SqlStore
from tests.agent_service.specs import spec

SPEC = spec(algorithm=BayesianSettings())


def add_and_get(session: Session, cache: PolicyCache, score: float) -> np.ndarray:
    """Store version 1 with one trial, and return the scores of that version in the cache."""
    controller = session.find_controller("c") or session.add_controller(
        SPEC, mode=Mode.LEARNING, now=1.0
    )
    data = policies.dump(no_trials(1).with_trial((0.5,), score), SPEC)
    session.add_policy(
        controller,
        PolicyVersion(version=1, data=data, origin=Origin.LEARNED, statistics={}, created_at=1.0),
    )
    history = cache.get(session, controller, 1)
    assert isinstance(history, TrialHistory)
    return history.scores


def test_a_version_that_was_taken_back_is_not_kept(tmp_path: Path) -> None:
    """Another one with its number decides, once that is stored."""
    cache = PolicyCache()

    def fails(session: Session) -> None:
        add_and_get(session, cache, 0.25)
        raise NotFound("changed its mind")

    with SqlStore(f"sqlite:///{tmp_path}/agent.db") as store:
        with pytest.raises(NotFound):
            store.write(fails).result()

        assert store.write(lambda session: add_and_get(session, cache, 0.75)).result() == [0.75]


def test_a_durable_version_is_read_once(tmp_path: Path) -> None:
    """From then on it decides without the store, as the very same object."""
    cache = PolicyCache()

    def get(session: Session) -> object:
        controller = session.find_controller("c")
        assert controller is not None
        return cache.get(session, controller, 1)

    with SqlStore(f"sqlite:///{tmp_path}/agent.db") as store:
        store.write(lambda session: add_and_get(session, cache, 0.5)).result()
        first = store.write(get).result()
        with closing(sqlite3.connect(tmp_path / "agent.db")) as connection, connection:
            connection.execute("DELETE FROM policies")
        second = store.write(get).result()

    assert first is second


def test_versions_are_kept_by_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two are too large together, the one used last is there and the other is read again."""
    monkeypatch.setattr(policy_cache, "KEPT_BYTES", 10)
    cache = PolicyCache()

    def get(session: Session) -> list[object]:
        for name in "ab":
            of = replace(SPEC, name=name)
            controller = session.find_controller(name)
            if controller is None:
                controller = session.add_controller(of, mode=Mode.LEARNING, now=1.0)
                data = policies.dump(no_trials(1), of)
                initial = PolicyVersion(
                    version=1, data=data, origin=Origin.INITIAL, statistics={}, created_at=1.0
                )
                session.add_policy(controller, initial)
        a, b = (session.find_controller(name) for name in "ab")
        assert a is not None
        assert b is not None
        return [cache.get(session, of, 1) for of in (a, a, b, b, a)]

    with SqlStore(f"sqlite:///{tmp_path}/agent.db") as store:
        store.write(get).result()
        first, second, third, fourth, last = store.write(get).result()

    assert second is first
    assert fourth is third
    assert last is not first
