"""One sample of everything the dashboard shows, and the thread that takes one every two seconds."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from upshift.dashboard.records import TaskRecords
from upshift.dashboard.system import SystemMeter

__all__ = ["HISTORY", "INTERVAL", "Collector", "Sampler"]

logger = logging.getLogger("upshift.dashboard")

#: Seconds from one sample to the next.
INTERVAL = 2.0
#: Seconds to the first one: the load of the processors shows only over some time.
_FIRST = 0.25
#: Samples that are kept.
HISTORY = 100


class Collector:
    """Reads the observed objects.

    Args:
        task_manager: Observed manager.
        cache: Observed cache or None.
        db_pools: name → observed pool; read anew each time, so that pools may come and go.
    """

    def __init__(self, task_manager: Any, cache: Any, db_pools: Mapping[str, Any] | None) -> None:
        self._manager = task_manager
        self._records = TaskRecords(task_manager)
        self._cache = cache
        self._db_pools = {} if db_pools is None else db_pools
        self._system = SystemMeter()
        self._failing: set[str] = set()

    def collect(self) -> dict[str, Any]:
        """The stats object of the API. A part that cannot be read is None, and `errors` says why."""
        errors: dict[str, str] = {}

        def part(name: str, read: Callable[[], Any]) -> Any:
            try:
                value = read()
            except Exception as error:  # a closed store, a full disk: the other parts are still worth showing
                errors[name] = f"{type(error).__name__}: {error}"
                if name not in self._failing:
                    self._failing.add(name)
                    logger.warning("the dashboard cannot read %s: %s", name, errors[name])
                return None
            self._failing.discard(name)
            return value

        sample = {
            "system": self._system.measure(),
            "workers": part("workers", self._manager.get_worker_stats),
            "tasks": part("tasks", self._records.counts),
            "cache": None if self._cache is None else part("cache", self._cache.get_stats),
            "db_pools": {
                str(name): part(f"db_pools.{name}", pool.get_stats) for name, pool in dict(self._db_pools).items()
            },
        }
        if errors:
            sample["errors"] = errors
        # Last, so that a sample is as old as it says.
        now = time.time()
        return {"timestamp": datetime.fromtimestamp(now).isoformat(), "timestamp_epoch": now, **sample}

    def problems(self) -> list[str]:
        """What is wrong with the store and the workers; nothing, if they do their work."""
        found = []
        try:
            self._records.counts()
        except Exception as error:  # whatever the reason, the store does not answer
            found.append(f"store: {type(error).__name__}: {error}")
        try:
            stats = self._manager.get_worker_stats()
            if getattr(self._manager, "running", False) and stats["min_workers"] > 0 and stats["current_workers"] < 1:
                found.append("workers: started, but none is alive")
        except Exception as error:  # as above
            found.append(f"workers: {type(error).__name__}: {error}")
        return found


class Sampler:
    """Calls `take` of its owner every two seconds, in a thread, until cancelled or the owner is gone.

    The thread holds the owner weakly.
    """

    def __init__(self, take: Callable[[], None]) -> None:
        self._take = weakref.WeakMethod(take)
        self._end = threading.Event()
        self._thread = threading.Thread(
            target=_run, args=(self._take, self._end), name="upshift-dashboard-sampler", daemon=True
        )
        self._thread.start()

    def cancel(self) -> bool:
        """End it; whether it was running."""
        was_running = not self.done()
        self._end.set()
        return was_running

    def done(self) -> bool:
        """Whether it takes no more samples."""
        return self._end.is_set() or not self._thread.is_alive()

    def join(self, timeout: float | None = None) -> None:
        """Wait until its thread has ended."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def __del__(self) -> None:
        self._end.set()


def _run(take: weakref.WeakMethod[Callable[[], None]], end: threading.Event) -> None:
    due = time.monotonic() + _FIRST
    while not end.wait(max(due - time.monotonic(), 0)):
        call = take()
        if call is None:
            return
        try:
            call()
        except Exception:  # one sample is lost, the next may succeed
            logger.exception("a dashboard sample failed")
        del call
        # Counted from when it was due, so that they do not drift; after a suspension not one for each that was missed.
        due = max(due + INTERVAL, time.monotonic())
