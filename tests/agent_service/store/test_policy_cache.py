"""Cached policies are always those of the store."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from agent_service.controllers.bayesian import BayesianSettings
from agent_service.domain.errors import NotFound
from agent_service.domain.runs import Mode
from agent_service.domain.store import Origin, PolicyVersion
from agent_service.domain.trials import TrialHistory, no_trials
from agent_service.learning import policies
from agent_service.rules import policy_cache
from agent_service.rules.policy_cache import PolicyCache
from agent_service.store.rows.session import Session
from agent_service.store.store import SqlStore
from tests.agent_service.specs import spec


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    with SqlStore(f"sqlite:///{tmp_path}/agent.db") as store:
        yield store


def add(session: Session, name: str, score: float) -> None:
    """Store a controller, and version 1 of its policy with one trial."""
    of = replace(spec(algorithm=BayesianSettings()), name=name)
    controller = session.add_controller(of, mode=Mode.LEARNING, now=1.0)
    data = policies.dump(no_trials(1).with_trial((0.5,), score), of)
    session.add_policy(
        controller,
        PolicyVersion(version=1, data=data, origin=Origin.LEARNED, statistics={}, created_at=1.0),
    )


def get(session: Session, cache: PolicyCache, name: str) -> TrialHistory:
    controller = session.find_controller(name)
    assert controller is not None
    history = cache.get(session, controller, 1)
    assert isinstance(history, TrialHistory)
    return history


def test_a_version_that_was_rolled_back_is_not_kept(store: SqlStore) -> None:
    """Another one with its number decides, once that is stored."""
    cache = PolicyCache()

    def add_and_get(session: Session, score: float) -> list[float]:
        add(session, "c", score)
        return list(get(session, cache, "c").scores)

    def fails(session: Session) -> None:
        add_and_get(session, 0.25)
        raise NotFound("changed its mind")

    with pytest.raises(NotFound):
        store.write(fails).result()

    assert store.write(lambda session: add_and_get(session, 0.75)).result() == [0.75]


def test_a_durable_version_is_read_once(store: SqlStore, tmp_path: Path) -> None:
    """From then on it decides without the store, as the very same object."""
    cache = PolicyCache()
    store.write(partial(add, name="c", score=0.5)).result()
    first = store.write(partial(get, cache=cache, name="c")).result()
    with closing(sqlite3.connect(tmp_path / "agent.db")) as connection, connection:
        connection.execute("DELETE FROM policies")

    assert store.write(partial(get, cache=cache, name="c")).result() is first


def test_versions_are_kept_by_their_bytes(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """If two are too large together, only the one used last is kept."""
    monkeypatch.setattr(policy_cache, "KEPT_BYTES", 10)
    cache = PolicyCache()
    for name in "ab":
        store.write(partial(add, name=name, score=0.5)).result()

    first, second, third, fourth, last = (
        store.write(partial(get, cache=cache, name=name)).result() for name in "aabba"
    )

    assert second is first
    assert fourth is third
    assert last is not first
