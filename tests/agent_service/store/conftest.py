from pathlib import Path

import pytest

from tests.given import new_store


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new store, of each kind."""
    if request.param == "sqlite":
        return new_store(tmp_path / "agent.db")
    url: str = request.getfixturevalue("postgresql").new_database()
    return url
