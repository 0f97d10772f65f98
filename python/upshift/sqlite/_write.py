"""`await pool.awrite(…)`: single writes of coroutines, which share commits with all others."""

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from upshift._native import ConnectionPool, WriteOutbox
from upshift.sqlite._tasks import task_number

if TYPE_CHECKING:
    from upshift._native import PendingWrite, WriteResult


class _Outboxes(threading.local):
    """The outbox of the event loop that runs in this thread."""

    loop: asyncio.AbstractEventLoop | None = None
    outbox: WriteOutbox

    def of(self, loop: asyncio.AbstractEventLoop) -> WriteOutbox:
        if self.loop is not loop:
            self.loop, self.outbox = loop, WriteOutbox(loop.call_soon_threadsafe)
        return self.outbox


_outboxes = _Outboxes()


async def awrite(
    self: ConnectionPool,
    sql: str,
    parameters: Any = (),
    *,
    durability: str | None = None,
    timeout: float | timedelta | None = 30.0,
) -> WriteResult:
    """`write()` for coroutines: awaits the commit; no thread waits, and the event loop goes on.

    Cancelled before its turn, the write is taken back; cancelled later, it may have been written.

    Args:
        sql: An INSERT, UPDATE, DELETE or any other single statement, but none that manages transactions.
        parameters: Values in order, or a mapping of names.
        durability: What the write survives once this returns: "process" a killed process, "power" also a power loss;
            None = as the pool was told.
        timeout: Seconds to wait for a turn to write (int, float or timedelta); None = without limit.

    Returns:
        A `WriteResult` with `rowcount`, `lastrowid` and `rows` (of RETURNING).

    Raises:
        IntegrityError, OperationalError …: As `execute` would; the others in the group are not affected.
        WriteLaneTimeout: The turn did not come.
        WriteLaneDeadlock: The task itself has a transaction open through another connection.
        ProgrammingError: The pool is closed, or the statement or its parameters have no place here.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[WriteResult] = loop.create_future()
    outbox = _outboxes.of(loop)
    pending = self._write_later(sql, parameters, durability, timeout, task_number(), outbox, future)
    seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
    timer = None if seconds is None else loop.call_later(seconds, _expire, self, pending, future)
    try:
        return await future
    except (asyncio.CancelledError, GeneratorExit):
        pending.cancel()
        raise
    finally:
        if timer is not None:
            timer.cancel()


def _expire(pool: ConnectionPool, pending: PendingWrite, future: asyncio.Future[WriteResult]) -> None:
    if not future.done() and pending.cancel():
        future.set_exception(pool._write_timed_out())
