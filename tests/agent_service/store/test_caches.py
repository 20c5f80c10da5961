"""Caches that are bounded by what they hold."""

import pytest

from agent_service.domain.caches import SizedCache
from agent_service.store.rows import rows
from tests.agent_service.specs import spec


def test_what_was_used_last_is_kept_within_both_bounds() -> None:
    """The one unused for longest goes, by number or by size; what is put again counts once."""
    cache: SizedCache[str, int] = SizedCache(entries=3, size=100)
    for number, name in enumerate("abc"):
        cache.put(name, number, 10)
    assert cache.get("a") == 0

    cache.put("d", 3, 10)
    assert [cache.get(name) for name in "abcd"] == [0, None, 2, 3]

    cache.put("a", 4, 60)
    cache.put("c", 5, 60)
    assert [cache.get(name) for name in "acd"] == [None, 5, None]


def test_the_newest_is_kept_however_large() -> None:
    """Alone: what is used must be there, and is not made again for each use."""
    cache: SizedCache[str, int] = SizedCache(entries=3, size=100)
    cache.put("small", 1, 10)
    cache.put("large", 2, 1000)
    assert (cache.get("small"), cache.get("large")) == (None, 2)

    cache.put("small", 1, 10)
    assert (cache.get("small"), cache.get("large")) == (1, None)
    cache.drop("small")
    assert cache.get("small") is None


def test_specs_are_kept_by_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few long ones push each other out, where a thousand short ones would stay."""
    monkeypatch.setattr(rows, "_SPECS", SizedCache(entries=1024, size=1000))
    texts = [rows.spec_to_text(spec(f"c{number}")) for number in range(3)]
    assert len(texts[0]) > 500

    first, again = rows._cached_spec(texts[0]), rows._cached_spec(texts[0])
    for text in texts:
        rows._cached_spec(text)

    assert first is again
    assert rows._cached_spec(texts[2]) is rows._cached_spec(texts[2])
    assert rows._cached_spec(texts[0]) == first
    assert rows._cached_spec(texts[0]) is not first
