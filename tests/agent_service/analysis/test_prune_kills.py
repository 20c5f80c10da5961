"""A prune that is killed anywhere loses nothing and doubles nothing, and the next one ends it."""

import os
import subprocess
import sys
from pathlib import Path

from agent_service.app import verify_store
from agent_service.store.store import SqlStore
from tests.agent_service.analysis.killed import prune
from tests.agent_service.analysis.trainings import Trainings, in_archive, in_both, in_store

KILLS = int(os.environ.get("KILLS", "12"))
"""Prunes that are killed; `KILLS=100` takes minutes."""


def test_a_killed_prune_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Real SIGKILLs, evenly over all calls that a prune of three files makes."""
    path, folder = tmp_path / "agent.db", tmp_path / "killed"
    with SqlStore(f"sqlite:///{path}") as store:
        trainings = Trainings(store)
        trainings.create()
        for number in range(4):
            trainings.train(f"r{number}")
        trainings.start("abandoned")
        trainings.abandon()
        trainings.train("last", controller="constant")
        before = in_store(store)
    done = [sys.executable, "-m", "tests.agent_service.analysis.killed"]
    subprocess.run([*done, str(path), str(folder), str(KILLS)], check=True)

    left = set()
    for place in sorted(folder.iterdir(), key=lambda f: int(f.name)):
        path, archive = place / "agent.db", place / "archive"
        with SqlStore(f"sqlite:///{path}") as store:
            there = in_store(store)
            here = in_archive(archive)
            # Runs that are marked, and whose file has no name yet, are in neither until the next.
            parts = len(list(archive.glob("*.part")))
            assert parts or there | here == before, place.name
            assert not there.keys() & here.keys(), place.name
            left.add((len(there), len(here), parts))
        verify_store(f"sqlite:///{path}")

        with SqlStore(f"sqlite:///{path}") as store:
            prune(store, archive)

            assert in_both(store, archive) == before
            assert len(in_store(store)) == 3
            assert not store.read(lambda session: session.archives_left())
        assert not [f for f in archive.iterdir() if f.suffix not in (".parquet", ".lock", "")]
    # Not all at the same point: some before any mark, some with a part, some at the end.
    assert len(left) > 4
    assert {parts for _, _, parts in left} == {0, 1}
