"""The pool's views, its maintenance handle and its coroutine form.

`ConnectionPool` and `PooledConnection` are native; this module attaches what runs rarely.
"""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import upshift._process  # noqa: F401
from upshift._native import Connection, ConnectionPool, PooledConnection
from upshift.sqlite._scan import scan
from upshift.sqlite._write import awrite

if TYPE_CHECKING:
    from upshift.sqlite._aio import AsyncConnection

__all__ = ["ConnectionPool", "PooledConnection"]

logger = logging.getLogger("upshift.sqlite")

COUNTERS = ("total_created", "total_closed", "current_size", "acquisitions", "releases", "timeouts", "errors")
#: Frames kept of the stack that borrowed a connection.
_STACK_LIMIT = 16
#: Seconds after which a thread that joins looks whether the pool itself is gone.
_LOOK_AGAIN = 0.5

_numbers = itertools.count(1)


class StatsView(Mapping[str, int]):
    """The seven counters by name, live."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def __getitem__(self, name: str) -> int:
        if name not in COUNTERS:
            raise KeyError(name)
        count: int = self._pool.get_stats()[name]
        return count

    def __iter__(self) -> Iterator[str]:
        return iter(COUNTERS)

    def __len__(self) -> int:
        return len(COUNTERS)

    def __repr__(self) -> str:
        stats = self._pool.get_stats()
        return repr({name: stats[name] for name in COUNTERS})


class MetadataView(Mapping[Connection, "dict[str, Any]"]):
    """raw connection → `created_at` and `last_used` (epochs), `use_count`; every open connection, live."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def _all(self) -> dict[Connection, dict[str, Any]]:
        return {
            raw: {"created_at": created, "last_used": used, "use_count": uses}
            for raw, created, used, uses, _ in self._pool._members()
        }

    def __getitem__(self, raw: Connection) -> dict[str, Any]:
        return self._all()[raw]

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._all())

    def __len__(self) -> int:
        return sum(self._pool._sizes())

    def __repr__(self) -> str:
        return repr(self._all())


class AvailableView:
    """How many connections are idle."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def qsize(self) -> int:
        """Number of idle connections."""
        return self._pool._sizes()[0]

    def empty(self) -> bool:
        """Whether no connection is idle; `acquire()` may still open one."""
        return self.qsize() == 0

    __len__ = qsize

    def __repr__(self) -> str:
        return f"<{self.qsize()} idle connections>"


class InUseView(AbstractSet[Connection]):
    """The raw connections that are lent, live."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def _all(self) -> list[Connection]:
        return [raw for raw, *_, is_lent in self._pool._members() if is_lent]

    def __contains__(self, raw: object) -> bool:
        return any(lent is raw for lent in self._all())

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._all())

    def __len__(self) -> int:
        return self._pool._sizes()[1]

    @classmethod
    def _from_iterable(cls, raws: Any) -> Any:
        return set(raws)

    def __repr__(self) -> str:
        return f"<{len(self)} lent connections>"


class MaintenanceThread:
    """What looks after a pool: one of the engine's background jobs, which all pools share a few threads for."""

    daemon = True

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = weakref.ref(pool)
        self.name = f"upshift-pool-{next(_numbers)}"

    def is_alive(self) -> bool:
        """Whether maintenance takes place; it ends with the pool or when that is closed."""
        pool = self._pool()
        return pool is not None and pool._is_kept_up

    def join(self, timeout: float | None = None) -> None:
        """Wait until maintenance has ended, at most `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LOOK_AGAIN if end is None else min(_LOOK_AGAIN, end - time.monotonic())
            pool = self._pool()
            if pool is None or pool._join_upkeep(max(left, 0)) or left <= 0:
                return
            del pool

    def __repr__(self) -> str:
        return f"<{self.name}: {'running' if self.is_alive() else 'ended'}>"


def _maintenance_thread(self: ConnectionPool) -> MaintenanceThread:
    """A handle with `name`, `daemon`, `is_alive()` and `join()`."""
    if "_maintenance_thread" not in self.__dict__:
        self.__dict__.setdefault("_maintenance_thread", MaintenanceThread(self))
    thread: MaintenanceThread = self.__dict__["_maintenance_thread"]
    return thread


class AsyncBorrowing:
    """`pool.aconnection()`: borrows when it is entered with `async with`, once."""

    def __init__(self, pool: ConnectionPool, timeout: float | timedelta | None) -> None:
        self._pool: ConnectionPool | None = pool
        self._timeout = pool._seconds(timeout)
        self._wrapper: PooledConnection | None = None
        self._connection: AsyncConnection | None = None

    async def __aenter__(self) -> AsyncConnection:
        """Borrows; waits as long as `timeout` allows."""
        from upshift.sqlite._aio import AsyncConnection

        pool, self._pool = self._pool, None
        if pool is None:
            raise Connection.ProgrammingError("aconnection() may be entered once")
        self._wrapper = await _acquire(pool, self._timeout)
        self._connection = AsyncConnection(self._wrapper.conn, self._wrapper)
        return self._connection

    async def __aexit__(self, exc_type: object, *_exception: object) -> None:
        """Commits, or rolls back after an exception, and gives the connection back."""
        wrapper, connection = self._wrapper, self._connection
        self._wrapper = self._connection = None
        if wrapper is None or connection is None or not wrapper._is_live:
            return
        if not _can_await(exc_type):
            # Giving it back rolls back.
            wrapper.close()
            return
        try:
            await connection._finish(exc_type is None)
        finally:
            wrapper.close()


def _can_await(exc_type: object) -> bool:
    """False in a coroutine that is being closed, or whose event loop is gone."""
    if exc_type is GeneratorExit:
        return False
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _acquire(pool: ConnectionPool, timeout: float | None) -> PooledConnection:
    """Borrow without blocking the event loop; no thread waits."""
    import asyncio

    loop = asyncio.get_running_loop()
    future: asyncio.Future[PooledConnection | None] = loop.create_future()

    def granted(wrapper: PooledConnection | None) -> None:
        # From whichever thread returned the connection.
        try:
            loop.call_soon_threadsafe(deliver, wrapper)
        except RuntimeError:  # the loop is closed: nobody waits any more
            if wrapper is not None:
                wrapper.close()

    def deliver(wrapper: PooledConnection | None) -> None:
        if not future.done():
            future.set_result(wrapper)
        elif wrapper is not None:
            wrapper.close()

    begun = pool._acquire_later(granted)
    if isinstance(begun, PooledConnection):
        return begun
    try:
        # `wait` leaves the future alone when it is cancelled.
        await asyncio.wait((future,), timeout=None if timeout is None else max(timeout, 0))
    except BaseException:
        pool._cancel(begun, False)
        if not future.cancel():
            late = future.result()
            if late is not None:
                late.close()
        raise
    if not future.done() and pool._cancel(begun, True):
        raise pool._timed_out(timeout)
    # If it could not be cancelled, it is on its way.
    wrapper = await future
    if wrapper is None:
        raise Connection.ProgrammingError("Cannot operate on a closed pool.")
    return wrapper


def aconnection(self: ConnectionPool, timeout: float | timedelta | None = 10.0) -> AsyncBorrowing:
    """Borrow a connection for an `async with` block; its methods are coroutines.

    Waiting blocks neither the event loop nor a thread. Leaving the block commits an open transaction, or rolls it back
    after an exception, and gives the connection back. Cancelling interrupts a running statement and gives the
    connection back clean.

    Args:
        timeout: Seconds to wait (int, float or timedelta); None = without limit.

    Returns:
        What `async with` takes, once; it yields an `AsyncConnection`.

    Raises (when the block is entered):
        TimeoutError: No connection became free in time; chained to what opening one failed with.
        ProgrammingError: The pool is closed.
    """
    return AsyncBorrowing(self, timeout)


def holders(self: ConnectionPool) -> list[dict[str, Any]]:
    """Who has connections now, the longest first.

    Returns:
        For each `held` (seconds), `thread` (its name) and `stack` (a `traceback.StackSummary`); the last two are None
        unless the pool was made with `leak_after`.
    """
    return [{"held": held, "thread": thread, "stack": stack} for held, thread, stack in self._holders()]


def _enter(self: ConnectionPool) -> ConnectionPool:
    """The pool itself; leaving the block closes it."""
    if not self.running:
        raise Connection.ProgrammingError("Cannot operate on a closed pool.")
    return self


def _exit(self: ConnectionPool, *_exception: object) -> None:
    """Calls `close_all()`, after an exception as well."""
    self.close_all()


def _here() -> tuple[str, traceback.StackSummary]:
    """The thread and the stack that are about to borrow a connection; source lines are read when it is printed."""
    frames = traceback.walk_stack(sys._getframe(1))
    stack = traceback.StackSummary.extract(frames, limit=_STACK_LIMIT, lookup_lines=False)
    stack.reverse()
    return threading.current_thread().name, stack


def _report_overdue(
    path: str | None, number: int, held: float, origin: tuple[str, traceback.StackSummary] | None
) -> None:
    name = path or ":memory:"
    if origin is None:
        logger.warning("connection %d of %s was borrowed %.1f s ago", number, name, held)
        return
    thread, stack = origin
    text = "".join(stack.format())
    logger.warning("connection %d of %s was borrowed %.1f s ago by thread %s:\n%s", number, name, held, thread, text)


def _attach(target: type, members: dict[str, Any]) -> None:
    for name, member in members.items():
        function: Any = member.fget if isinstance(member, property) else member
        function.__name__ = name
        function.__qualname__ = f"{target.__name__}.{name}"
        setattr(target, name, member)


_attach(
    ConnectionPool,
    {
        "aconnection": aconnection,
        "awrite": awrite,
        "holders": holders,
        "scan": scan,
        "__enter__": _enter,
        "__exit__": _exit,
        "stats": property(lambda self: StatsView(self), doc=StatsView.__doc__),
        "metadata": property(lambda self: MetadataView(self), doc=MetadataView.__doc__),
        "available": property(lambda self: AvailableView(self), doc=AvailableView.__doc__),
        "in_use": property(lambda self: InUseView(self), doc=InUseView.__doc__),
        "maintenance_thread": property(_maintenance_thread, doc=_maintenance_thread.__doc__),
    },
)
