"""The workers of a manager: started, stopped, and as many as the load asks for."""

from __future__ import annotations

import functools
import logging
import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Optional

from upshift import _native
from upshift._tasks_worker import work

__all__ = ["Crew"]

logger = logging.getLogger("upshift.tasks")

#: Seconds a worker counts as active after its last activity.
_ACTIVE = 10.0
#: Seconds between looks at signals while stopping.
_SLICE = 0.1


class Crew:
    """What `BackgroundTaskManager` does with workers."""

    min_workers: int
    max_workers: int
    enable_auto_scaling: bool
    scale_up_queue_depth: float
    scale_down_idle_time: float
    cpu_threshold: float
    last_scaling_check: float
    running: bool
    worker_lock: threading.RLock
    _scaling_check_interval: float
    _cpu_is_unknown: bool
    _lifecycle: threading.RLock
    _generation: int
    _threads: dict[int, threading.Thread]
    _engine: _native.TaskCore

    @property
    @abstractmethod
    def _core(self) -> _native.TaskCore:
        """The engine, open; `BackgroundTaskManager` raises if it is closed."""

    def get_worker_stats(self) -> dict[str, Any]:
        """Workers and queue as one snapshot.

        Returns:
            `current_workers`, `min_workers`, `max_workers`, `auto_scaling_enabled`, `queue_depth` (tasks that wait),
            `active_workers` (executing, or active in the last ten seconds) and `worker_activity` (name -> epoch).
        """
        core, now = self._core, time.time()
        activity = core.activity() if self.running else []
        return {
            "current_workers": len(activity),
            "min_workers": self.min_workers,
            "max_workers": self.max_workers,
            "auto_scaling_enabled": bool(self.enable_auto_scaling),
            "queue_depth": core.depth(),
            "active_workers": sum(executes or now - at < _ACTIVE for _, at, executes in activity),
            "worker_activity": {f"worker-{number}": at for number, at, _ in activity},
        }

    @property
    def current_workers(self) -> int:
        """Workers alive; 0 while stopped."""
        return self._core.load()[0] if self.running else 0

    @property
    def worker_activity(self) -> dict[str, float]:
        """Epoch of the last activity of each worker."""
        return {f"worker-{number}": at for number, at, _ in self._core.activity()}

    @property
    def workers(self) -> list[threading.Thread]:
        """Threads of the workers."""
        return [thread for thread in list(self._threads.values()) if thread.is_alive()]

    # ---- workers ----

    def start_workers(self) -> None:
        """Start workers; without effect if they run. Tasks that managers left that are gone are taken over."""
        core = self._core
        with self._lifecycle:
            if self.running:
                return
            core.start()
            self.running = True
            self._generation += 1
            try:
                self._grow(self.min_workers if self.enable_auto_scaling else max(self.max_workers, self.min_workers))
            except BaseException:
                self.stop_workers(timeout=0)
                raise
            core.cpu_percent()  # from here on
            self._evaluate_later()

    def stop_workers(self, drain: bool = False, timeout: Optional[float] = 30.0) -> None:
        """Stop workers. What runs may end, what is queued stays in the file and runs after the next start.

        Args:
            drain: First run what is queued.
            timeout: Seconds to wait at most; None = without limit. Handlers that still run then end by themselves.
        """
        core = self._core
        if threading.current_thread() in self._threads.values():
            timeout = 0  # a handler would wait for itself
        with self._lifecycle:
            if not self.running and not self._threads:
                return
            until = None if timeout is None else time.monotonic() + timeout
            if drain:
                _in_slices(core.drain, until)
            self.running = False
            self._generation += 1
            if _in_slices(core.stop, until):
                for thread in list(self._threads.values()):
                    thread.join(None if until is None else max(0.1, until - time.monotonic()))
            self._forget_ended()

    def _grow(self, to: int) -> None:
        core = self._engine
        with self.worker_lock:
            self._forget_ended()
            while core.load()[0] < to:
                number = core.hire()
                thread = threading.Thread(target=work, args=(self, core, number), name=f"worker-{number}", daemon=True)
                self._threads[number] = thread
                try:
                    thread.start()
                except BaseException:
                    core.dismiss(number)
                    del self._threads[number]
                    raise

    def _forget_ended(self) -> None:
        live = {number for number, _, _ in self._engine.activity()}
        for number in [number for number in self._threads if number not in live]:
            thread = self._threads[number]
            if thread is not threading.current_thread():
                # It has signed off and is returning.
                thread.join(1)
            if not thread.is_alive():
                del self._threads[number]

    # ---- scaling ----

    @property
    def scaling_check_interval(self) -> float:
        """Seconds between evaluations. May be assigned while workers run."""
        return self._scaling_check_interval

    @scaling_check_interval.setter
    def scaling_check_interval(self, seconds: float) -> None:
        self._scaling_check_interval = seconds
        if self.running:
            self._generation += 1
            self._evaluate_later()

    def _evaluate_later(self) -> None:
        delay = max(0.01, self._scaling_check_interval)
        job = functools.partial(_evaluate, weakref.ref(self), self._generation)
        _native.tasks_call_later(delay, job)

    def _scale(self) -> None:
        """One evaluation."""
        if not self._lifecycle.acquire(blocking=False):
            return  # just being started or stopped
        try:
            if not (self.running and self.enable_auto_scaling):
                return
            core = self._engine
            cpu = core.cpu_percent()
            if cpu is None and not self._cpu_is_unknown:
                self._cpu_is_unknown = True
                logger.warning("the load of the processors cannot be measured; it is taken for 0")
            workers, executing, idle = core.load()
            decision = _native.tasks_decide(
                *(core.depth(), workers, executing, idle, cpu or 0.0, self.min_workers, self.max_workers),
                *(self.scale_up_queue_depth, self.scale_down_idle_time, self.cpu_threshold),
            )
            self.last_scaling_check = time.time()
            if decision > 0:
                logger.debug("growing from %d to %d workers", workers, decision)
                self._grow(decision)
            elif decision < 0:
                core.retire_one()
        finally:
            self._lifecycle.release()


def _in_slices(step: Callable[[float], bool], until: float | None) -> bool:
    """Calls `step` with short times until it is done or the time is over: signals are served in between."""
    while True:
        left = _SLICE if until is None else until - time.monotonic()
        if step(max(0.0, min(_SLICE, left))):
            return True
        if left <= 0:
            return False


def _evaluate(reference: weakref.ref[Crew], generation: int) -> None:
    manager = reference()
    if manager is None or manager._generation != generation or not manager.running:
        return
    try:
        manager._scale()
    except Exception:
        logger.exception("an evaluation of the number of workers failed")
    if manager._generation == generation and manager.running:
        manager._evaluate_later()
