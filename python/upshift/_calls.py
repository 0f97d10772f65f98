"""The paths of a decorated call that are not hot: coroutines, several processes, overridden caches, refreshing.

The native `Call` answers hits and plain misses by itself. What needs an event loop, waits for other processes or must
go through methods that a subclass overrides is driven from here, with the same native parts: `resolve` (key), `look`
(both tiers), `join`/`end` (single flight), `store`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import itertools
import logging
import os
import threading
import time
import types
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from upshift._native import ResultCache

if TYPE_CHECKING:
    from upshift._native import Call, Flight, Lease, Request

__all__: list[str] = []

logger = logging.getLogger("upshift.cache")

#: Seconds between looks at what another process is doing. Processes have no shared wake-up; a look is one indexed read.
PROCESS_POLL = 0.02
#: Seconds a lease lives without renewal. The leader renews it natively three times in that span.
LEASE_SECONDS = 3.0

_MISSING = object()
#: Methods as they are before anybody replaces them.
_STOCK = {"set": ResultCache.set}
_numbers = itertools.count(1)
_NONCE = os.urandom(6).hex()
_shared: weakref.WeakSet[Call] = weakref.WeakSet()
#: Flights that the current coroutine, or one it was started from, is computing.
_leading: contextvars.ContextVar[tuple[Flight, ...]] = contextvars.ContextVar("upshift_leading", default=())
#: Which flights a flight's computation is waiting for.
_waits_for: dict[Flight, list[Flight]] = {}
_graph_lock = threading.Lock()
#: Keeps background refreshes alive while they run.
_refreshing: set[asyncio.Task[Any]] = set()


def private_namespace() -> str:
    """A prefix of keys that nothing else has, in this process or another: a key that a user writes to disk must not be
    met again by another process's private function."""
    return f"#{_NONCE}{os.getpid():x}.{next(_numbers)}"


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether calling it makes a coroutine: a coroutine function, or an object whose class has an async `__call__`."""
    # `inspect` of Python 3.9 knows plain functions only.
    if any(getattr(function, name, None) is mark for name, mark in coroutine_marks().items()):
        return True
    # Not `function.__call__`: what a call runs is the class's.
    return any(inspect.iscoroutinefunction(called) for called in (function, type(function).__call__))


def absolute(path: str) -> Path:
    """The path with links resolved, so that one script has one name."""
    return Path(os.path.realpath(path))


def coroutine_marks() -> dict[str, Any]:
    """Attributes by which `asyncio` and `inspect` recognise a coroutine function that is not a plain function."""
    marks: dict[str, Any] = {}
    asyncio_mark = getattr(asyncio.coroutines, "_is_coroutine", None)
    if asyncio_mark is not None:
        marks["_is_coroutine"] = asyncio_mark
    inspect_mark = getattr(inspect, "_is_coroutine_mark", None)
    if inspect_mark is not None:
        marks["_is_coroutine_marker"] = inspect_mark
    return marks


def share_across_processes(call: Call) -> None:
    """From now on a miss of this function takes a lease in the store before it computes."""
    _shared.add(call)


class _Stock:
    """Lookup and store through the native engine."""

    def __init__(self, call: Call, request: Request) -> None:
        self.call, self.request = call, request

    def look(self, count: bool = True) -> tuple[str, Any]:
        return self.call.look(self.request, count)

    def store(self, flight: Flight | None, value: Any, seconds: float) -> None:
        self.call.store(self.request, flight, value, seconds)


class _Overridden:
    """Lookup and store through the cache's own `get` and `set`, which a subclass or a test replaced."""

    def __init__(self, call: Call, request: Request, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.call, self.request = call, request
        if call.has_key_func:
            self.key = request.key
        else:
            self.key = call.cache.generate_key(call.name, *call.arguments(args, kwargs))

    def look(self, count: bool = True) -> tuple[str, Any]:
        value = self.call.cache.get(self.key, _MISSING)
        if count:
            self.call.count(value is not _MISSING)
        return ("absent", None) if value is _MISSING else ("fresh", value)

    def store(self, flight: Flight | None, value: Any, seconds: float) -> None:
        if flight is not None and flight.doomed:
            return
        cache = self.call.cache
        if self.request.memory_only and self.key == self.request.key and not _overrides(cache, "set"):
            # `set` would write it to disk, where the key means nothing.
            self.call.store(self.request, flight, value, seconds)
        else:
            cache.set(self.key, value, *self.call.terms(value))


def _overrides(cache: ResultCache, name: str) -> bool:
    return name in vars(cache) or getattr(type(cache), name) is not _STOCK[name]


def _tiers(call: Call, request: Request, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Stock | _Overridden:
    return _Stock(call, request) if call.is_stock() else _Overridden(call, request, args, kwargs)


# Plain functions


def run_overridden(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call on a cache with overridden methods."""
    return _run(call, args, kwargs)


def run_across_processes(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A call with `single_flight="processes"`."""
    return _run(call, args, kwargs)


def _run(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    request = call.resolve(args, kwargs)
    if request is None:
        return call.function(*args, **kwargs)
    tiers = _tiers(call, request, args, kwargs)
    state, value = tiers.look()
    if state == "fresh":
        return value
    if state == "revalidate":
        refresh_later(call, args, kwargs)
        return value
    stale = value if state == "stale" else _MISSING
    return _compute_once(call, request, tiers, stale, args, kwargs)


def _compute_once(
    call: Call,
    request: Request,
    tiers: _Stock | _Overridden,
    stale: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    background: bool = False,
) -> Any:
    if not call.single_flight and not background:
        return _compute(call, tiers, None, stale, args, kwargs)
    deadline = None if call.wait_timeout is None else time.monotonic() + call.wait_timeout
    while True:
        leads, flight = call.join(request)
        if not leads:
            landed, value = call.wait(flight, _left(deadline))
            if landed == "value":
                return value
            if landed == "timeout":
                raise call.timed_out()
            if landed == "deadlock":
                return _compute(call, tiers, None, stale, args, kwargs)
            continue
        succeeded, value = False, None
        lease = None
        try:
            state, value = tiers.look(False)
            if state != "fresh":
                lease, state, value = _lease(call, request, tiers, deadline)
            if state != "fresh":
                value = _compute(call, tiers, flight, stale, args, kwargs)
                if lease is not None:
                    call.cache.flush()
            # A coroutine can be awaited once: every caller needs its own.
            succeeded = not isinstance(value, types.CoroutineType)
            return value
        finally:
            call.end(request, flight, succeeded, value)
            if lease is not None:
                lease.release()


def _compute(
    call: Call,
    tiers: _Stock | _Overridden,
    flight: Flight | None,
    stale: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    started = time.perf_counter()
    try:
        value = call.function(*args, **kwargs)
    except Exception as error:
        return _rescue(call, error, stale)
    if not isinstance(value, types.CoroutineType):
        tiers.store(flight, value, time.perf_counter() - started)
    return value


def _rescue(call: Call, error: Exception, stale: Any) -> Any:
    """The expired value that `stale_if_error` permits, or the error itself."""
    if stale is _MISSING or not call.stale_if_error:
        raise error
    logger.error("%s failed, serving its expired result", call.name, exc_info=error)
    return stale


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


# Several processes


def _take_lease(call: Call, request: Request) -> Lease | Literal[False] | None:
    """The lease, False if another process holds it, None if this call takes no leases."""
    if call not in _shared:
        return None
    return call.cache._lease(request.key, LEASE_SECONDS)


def _lease_now(
    call: Call, request: Request, tiers: _Stock | _Overridden, deadline: float | None
) -> tuple[Lease | None, str, Any] | float:
    """This process may compute (the lease), or another has (a fresh value); else the seconds until the next look."""
    lease = _take_lease(call, request)
    if lease is None:
        return None, "absent", None
    state, value = tiers.look(False)
    if state == "fresh":
        if lease is not False:
            lease.release()
        return None, state, value
    if lease is not False:
        return lease, state, value
    left = _left(deadline)
    if left == 0.0:
        raise call.timed_out()
    return PROCESS_POLL if left is None else min(PROCESS_POLL, left)


def _lease(
    call: Call, request: Request, tiers: _Stock | _Overridden, deadline: float | None
) -> tuple[Lease | None, str, Any]:
    """Waits until this process may compute or another has."""
    pause = threading.Event()
    while isinstance(outcome := _lease_now(call, request, tiers, deadline), float):
        pause.wait(outcome)
    return outcome


# Coroutine functions


async def run_async(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The coroutine behind a decorated `async def` function. A hit never suspends."""
    request = call.resolve(args, kwargs)
    if request is None:
        return await call.function(*args, **kwargs)
    tiers = _tiers(call, request, args, kwargs)
    state, value = tiers.look()
    if state == "fresh":
        return value
    if state == "revalidate":
        refresh_later(call, args, kwargs)
        return value
    stale = value if state == "stale" else _MISSING
    return await _compute_once_async(call, request, tiers, stale, args, kwargs)


async def _compute_once_async(
    call: Call,
    request: Request,
    tiers: _Stock | _Overridden,
    stale: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    background: bool = False,
) -> Any:
    if not call.single_flight and not background:
        return await _compute_async(call, tiers, None, stale, args, kwargs)
    deadline = None if call.wait_timeout is None else time.monotonic() + call.wait_timeout
    while True:
        leads, flight = call.join(request)
        if not leads:
            mine = _leading.get()
            if not _may_wait(flight, mine):
                return await _compute_async(call, tiers, None, stale, args, kwargs)
            try:
                await _landing(call, flight, deadline)
            finally:
                _waited(flight, mine)
            _ended, succeeded, value = flight.outcome()
            if succeeded:
                return value
            continue
        succeeded, value = False, None
        lease = None
        token = _leading.set((*_leading.get(), flight))
        try:
            state, value = tiers.look(False)
            if state != "fresh":
                lease, state, value = await _lease_async(call, request, tiers, deadline)
            if state != "fresh":
                value = await _compute_async(call, tiers, flight, stale, args, kwargs)
                if lease is not None:
                    await asyncio.to_thread(call.cache.flush)
            succeeded = True
            return value
        finally:
            call.end(request, flight, succeeded, value)
            if lease is not None:
                lease.release()
            # An abandoned coroutine is closed by the collector, in another context, where there is nothing to reset.
            with contextlib.suppress(ValueError):
                _leading.reset(token)


async def _compute_async(
    call: Call,
    tiers: _Stock | _Overridden,
    flight: Flight | None,
    stale: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    started = time.perf_counter()
    try:
        value = await call.function(*args, **kwargs)
    except Exception as error:
        return _rescue(call, error, stale)
    seconds = time.perf_counter() - started
    if call.cache._waits_for_disk():
        await asyncio.to_thread(tiers.store, flight, value, seconds)
    else:
        tiers.store(flight, value, seconds)
    return value


async def _lease_async(
    call: Call, request: Request, tiers: _Stock | _Overridden, deadline: float | None
) -> tuple[Lease | None, str, Any]:
    while isinstance(outcome := _lease_now(call, request, tiers, deadline), float):
        await asyncio.sleep(outcome)
    return outcome


async def _landing(call: Call, flight: Flight, deadline: float | None) -> None:
    """Suspends until the flight has ended, on whichever loop or thread it is led."""
    loop = asyncio.get_running_loop()
    landed: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not landed.done():
            landed.set_result(None)

    def notify() -> None:
        # A loop that was closed meanwhile has nobody left to wake.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(wake)

    flight.add_done_callback(notify)
    try:
        await asyncio.wait_for(landed, _left(deadline))
    except asyncio.TimeoutError:
        raise call.timed_out() from None


def _may_wait(flight: Flight, mine: tuple[Flight, ...]) -> bool:
    """Notes that the current computation, which leads `mine`, waits for `flight`; False if that could never end.

    It could not if `flight` is being computed by a caller of this very coroutine, or by one that, through others, waits
    for such a caller. Tasks inherit the context they were created in, so this sees through `gather` and `create_task`.
    """
    with _graph_lock:
        reached, pending = set(), [flight]
        while pending:
            current = pending.pop()
            if current in mine:
                return False
            if current not in reached:
                reached.add(current)
                pending.extend(_waits_for.get(current, ()))
        for led in mine:
            _waits_for.setdefault(led, []).append(flight)
    return True


def _waited(flight: Flight, mine: tuple[Flight, ...]) -> None:
    with _graph_lock:
        for led in mine:
            waits = _waits_for[led]
            waits.remove(flight)
            if not waits:
                del _waits_for[led]


# Refreshing


def refresh(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Computes and stores now; a coroutine for a coroutine function."""
    if is_asynchronous(call.function):
        return _refresh_async(call, args, kwargs)
    request = call.resolve(args, kwargs)
    if request is None:
        return call.function(*args, **kwargs)
    return _compute(call, _tiers(call, request, args, kwargs), None, _MISSING, args, kwargs)


async def _refresh_async(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    request = call.resolve(args, kwargs)
    if request is None:
        return await call.function(*args, **kwargs)
    return await _compute_async(call, _tiers(call, request, args, kwargs), None, _MISSING, args, kwargs)


def refresh_later(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Recomputes a stale result in the background: a task for coroutine functions, else a daemon thread.

    One at a time per key; a failure is logged and leaves the stale value in place.
    """
    request = call.resolve(args, kwargs)
    if request is None or call.is_computing(request):
        return
    tiers = _tiers(call, request, args, kwargs)
    if is_asynchronous(call.function):
        work = _compute_once_async(call, request, tiers, _MISSING, args, kwargs, background=True)
        task = asyncio.get_running_loop().create_task(_logged(call, work))
        _refreshing.add(task)
        task.add_done_callback(_refreshing.discard)
        return

    def work_in_thread() -> None:
        try:
            _compute_once(call, request, tiers, _MISSING, args, kwargs, background=True)
        except Exception:
            logger.exception("background refresh of %s failed", call.name)

    try:
        threading.Thread(target=work_in_thread, name="upshift-refresh", daemon=True).start()
    except RuntimeError:
        # No more threads, as at interpreter exit: the stale value is served all the same.
        logger.exception("background refresh of %s could not be started", call.name)


async def _logged(call: Call, work: Coroutine[Any, Any, Any]) -> None:
    try:
        await work
    except Exception:
        logger.exception("background refresh of %s failed", call.name)


def after_fork_child() -> None:
    """In a forked child: what threads of the parent held or waited for is nobody's."""
    global _graph_lock
    _graph_lock = threading.Lock()
    _waits_for.clear()
