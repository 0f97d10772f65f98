"""Live views of a cache's insides: what `ResultCache.cache`, `.tags` and `.stats` return."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:
    from upshift._native import ResultCache

__all__ = ["EntriesView", "StatsView", "TagsView"]

#: Value, expiry epoch or None, creation epoch, access count.
Entry = tuple[Any, Optional[float], float, int]
COUNTERS = ("hits", "misses", "evictions", "expirations", "sets", "deletes")


class EntriesView(Mapping[Any, Entry]):
    """key -> (value, expiry epoch or None, creation epoch, access count), the next to be evicted first.

    Looking counts neither as an access nor as a hit. Iteration runs over a snapshot of the keys.
    """

    def __init__(self, cache: ResultCache) -> None:
        self._cache = cache

    def __getitem__(self, key: Any) -> Entry:
        entry = self._cache._peek(key)
        if entry is None:
            raise KeyError(key)
        return entry

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cache._keys())

    def __len__(self) -> int:
        return len(self._cache)

    # From one snapshot, so that other threads may change the cache meanwhile.
    def items(self) -> ItemsView[Any, Entry]:
        return dict(self._cache._entries()).items()

    def values(self) -> ValuesView[Entry]:
        return dict(self._cache._entries()).values()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self.items())!r})"


class TagsView(Mapping[str, "set[Any]"]):
    """tag -> set of the keys in memory that carry it."""

    def __init__(self, cache: ResultCache) -> None:
        self._cache = cache

    def __getitem__(self, tag: str) -> set[Any]:
        keys = self._cache._tagged(tag)
        if keys is None:
            raise KeyError(tag)
        return set(keys)

    def __iter__(self) -> Iterator[str]:
        return iter([tag for tag, _ in self._cache._tags()])

    def __len__(self) -> int:
        return len(self._cache._tags())

    # From one snapshot, so that other threads may change the cache meanwhile.
    def items(self) -> ItemsView[str, set[Any]]:
        return {tag: set(keys) for tag, keys in self._cache._tags()}.items()

    def values(self) -> ValuesView[set[Any]]:
        return {tag: set(keys) for tag, keys in self._cache._tags()}.values()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict(self.items())!r})"


class StatsView(MutableMapping[str, int]):
    """The six counters by name. They may be assigned (to start a new measurement at 0), not deleted."""

    def __init__(self, cache: ResultCache) -> None:
        self._cache = cache

    def __getitem__(self, name: str) -> int:
        if name not in COUNTERS:
            raise KeyError(name)
        count: int = self._cache._counts()[name]
        return count

    def __setitem__(self, name: str, value: int) -> None:
        self._cache._set_count(name, value)

    def __delitem__(self, name: str) -> None:
        raise TypeError("counters can be assigned but not deleted")

    def __iter__(self) -> Iterator[str]:
        return iter(COUNTERS)

    def __len__(self) -> int:
        return len(COUNTERS)

    def __repr__(self) -> str:
        return repr(dict(self))
