"""How many tasks are in each state, without reading a table of millions of ended ones every two seconds."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

__all__ = ["StatusCounts"]

#: Counting may take one part in so many of the time, if it takes more than so many seconds at all.
_SHARE = 100
_FREE = 0.005
_BY_STATUS = "SELECT status, count(*) FROM background_tasks WHERE id >= ? AND id < ? GROUP BY status"
# Both conditions as in the store's index of active rows, so that it is used.
_FIRST_ACTIVE = "SELECT min(id) FROM background_tasks WHERE status = 'queued' OR status = 'running'"
_ACTIVE = "SELECT status, count(*) FROM background_tasks WHERE status = 'queued' OR status = 'running' GROUP BY status"
_LAST = "SELECT max(id) FROM background_tasks"
_END = 2**63 - 1


class StatusCounts:
    """Counts with `query`, which takes SQL and values and returns rows.

    Below the first active row everything has ended and is counted once. Whatever that misses (somebody deletes old
    rows) is made good by counting all anew, for small tables every time. Where even the rest is long, because some old
    task never ends, those that ended are as of some seconds ago.
    """

    def __init__(self, query: Callable[[str, list[Any]], list[Any]]) -> None:
        self._query = query
        self._lock = threading.Lock()
        self._settled: Counter[str] = Counter()
        self._low = 0
        self._counts: Counter[str] = Counter()
        # When the next count of all, and of what is above `_low`, may take place.
        self._all_due = self._rest_due = 0.0

    def get(self) -> dict[str, int]:
        """status → number of rows."""
        with self._lock:
            begun = time.monotonic()
            first = self._query(_FIRST_ACTIVE, [])[0][0]
            # A row that is active again may be settled already.
            is_full = begun >= self._all_due or (first is not None and first < self._low)
            if is_full:
                self._settled, self._low = Counter(), 0
            elif begun < self._rest_due:
                active = dict.fromkeys(("queued", "running"), 0)
                return {**self._counts, **active, **self._grouped(_ACTIVE)}
            low = (self._query(_LAST, [])[0][0] or 0) + 1 if first is None else first
            if low > self._low:
                self._settled.update(self._grouped(_BY_STATUS, self._low, low))
                self._low = low
            self._counts = self._settled + Counter(self._grouped(_BY_STATUS, self._low, _END))
            now = time.monotonic()
            due = now + _SHARE * (now - begun) if now - begun > _FREE else now
            self._all_due, self._rest_due = (due, 0.0) if is_full else (self._all_due, due)
            return dict(self._counts)

    def _grouped(self, sql: str, *values: int) -> dict[str, int]:
        return {row[0]: row[1] for row in self._query(sql, list(values))}
