"""Pooled connections for coroutines: statements run on the engine's background threads, one at a time for a connection.

There is no thread per connection: threads come for statements that run at the same time and end when idle; waiting for
a connection or for the write lane takes none. Cancelling interrupts the statement, waits until it has ended, and only
then raises, so that the connection is never left with a statement of somebody who has gone.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Union

from upshift import _native
from upshift.sqlite._tasks import task_number

if TYPE_CHECKING:
    from upshift._native import Connection, Cursor, PooledConnection, _ManyParameters

#: Rows that are fetched together with the first one; taking them needs no other thread.
PREFETCH = 64
#: Seconds between attempts to interrupt a statement whose task was cancelled.
_INTERRUPT_INTERVAL = 0.01

Parameters = Union[Sequence[Any], Mapping[str, Any]]


class _Job:
    """A call on a background thread, for one coroutine."""

    __slots__ = ("_calls", "_has_ended", "_loop", "_thread", "future")

    def __init__(self, call: Callable[[], Any]) -> None:
        self._loop = asyncio.get_running_loop()
        #: The call, until somebody takes it: who runs it, and then answers, or who withdraws it.
        self._calls = [call]
        self._thread: int | None = None
        self._has_ended = False
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def _take(self) -> Callable[[], Any] | None:
        try:
            return self._calls.pop()
        except IndexError:
            return None

    def withdraw(self) -> bool:
        """True if the call has not begun; then it never will."""
        return self._take() is not None

    def abandon(self, connection: Connection) -> None:
        """Return when the call has ended, for a coroutine that was closed and cannot wait in any other way."""
        if self.withdraw():
            return
        while not self._has_ended and not sys.is_finalizing():
            _stop(connection)
            if self._thread == threading.get_ident():
                break  # collected in the middle of it
            time.sleep(_INTERRUPT_INTERVAL)

    def run(self) -> None:
        call = self._take()
        if call is None:
            return
        self._thread = threading.get_ident()
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # delivered to the coroutine that waits
            error = raised
        self._has_ended = True
        try:
            self._loop.call_soon_threadsafe(self._deliver, result, error)
        except RuntimeError:
            # The loop was closed while the statement ran: nobody is there to be told.
            if not self._loop.is_closed():
                raise

    def _deliver(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


async def run(connection: Connection, call: Callable[[], Any]) -> Any:
    """The result of `call()`, which uses `connection`, from a background thread.

    A cancellation interrupts it and is raised when it has ended. Where it has to wait for its turn to write, the task
    waits and the thread is free for others; then it is called again.
    """
    deadline: float | None = None
    while True:
        try:
            return await _run_once(connection, call)
        except _native.LaneBusy as busy:
            loop = asyncio.get_running_loop()
            if deadline is None:
                deadline = loop.time() + connection._timeout
            await _await_turn(connection, busy.args[0], deadline - loop.time())


async def _run_once(connection: Connection, call: Callable[[], Any]) -> Any:
    job = _Job(call)
    _native.sqlite_spawn(job.run, task_number())
    try:
        # `wait` leaves the future alone when it is cancelled.
        await asyncio.wait((job.future,))
    except asyncio.CancelledError:
        if not job.withdraw():
            await _interrupt(connection, job)
        raise
    except GeneratorExit:
        job.abandon(connection)
        raise
    return job.future.result()


async def _await_turn(connection: Connection, write: bool, timeout: float) -> None:
    """Return once the connection has the lane of its database."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()

    def tell() -> None:
        try:
            loop.call_soon_threadsafe(came.set)
        except RuntimeError:
            # The loop was closed; the turn is passed on when `turn` dies with the task.
            if not loop.is_closed():
                raise

    turn = _native.sqlite_lane_turn(connection, write, task_number(), tell)
    if turn is None:
        return
    try:
        if not turn.granted:
            await asyncio.wait_for(came.wait(), timeout)
    except asyncio.TimeoutError:
        if turn.cancel():
            connection._lane_timeout()
    except BaseException:
        if not turn.cancel():
            # It came at the same moment; the next one's turn.
            turn.accept(connection)
            connection._settle_lane()
        raise
    turn.accept(connection)


def _stop(connection: Connection) -> bool:
    """Interrupt a connection; False if it is closed."""
    try:
        connection.interrupt()
    except sqlite3.ProgrammingError:
        return False
    return True


async def _interrupt(connection: Connection, job: _Job) -> None:
    while not job.future.done():
        # Again and again: a statement that is about to begin does not notice.
        if not _stop(connection):
            break
        try:
            await asyncio.wait((job.future,), timeout=_INTERRUPT_INTERVAL)
        except asyncio.CancelledError:
            # Cancelled once more; the first cancellation is on its way.
            continue
    if job.future.done() and not job.future.cancelled():
        job.future.exception()  # retrieved: that it was interrupted is known


def _check_prefetch(prefetch: object) -> None:
    if not isinstance(prefetch, int) or prefetch < 0:
        raise ValueError(f"prefetch must be an int of 0 or more, not {prefetch!r}")


class AsyncCursor:
    """Rows of one statement. Made by `AsyncConnection.execute()` or `AsyncConnection.cursor()`.

    Iterate with `async for`, or use the fetch methods, which are those of `Cursor` as coroutines. The first rows come
    with the statement, so that short results need no further waiting; for columns ask for none of them:
    `await cursor.execute(sql, prefetch=0)`, then `await cursor.fetchnumpy()`.
    """

    __slots__ = ("__weakref__", "_connection", "_cursor", "_exhausted", "_rows")

    def __init__(self, connection: AsyncConnection, cursor: Cursor) -> None:
        self._connection = connection
        self._cursor = cursor
        self._rows: deque[Any] = deque()
        self._exhausted = True

    @property
    def connection(self) -> AsyncConnection:
        """The connection it belongs to."""
        return self._connection

    @property
    def description(self) -> Any:
        """Of each column its name and six times None; None after a statement that returns no columns."""
        return self._cursor.description

    @property
    def rowcount(self) -> int:
        """Rows that the last INSERT, UPDATE, DELETE or REPLACE changed, once it has ended; -1 for other statements."""
        return self._cursor.rowcount

    @property
    def lastrowid(self) -> int | None:
        """Rowid of the row that the connection had inserted last when `execute()` ended; None before."""
        return self._cursor.lastrowid

    @property
    def arraysize(self) -> int:
        """How many rows `fetchmany()` returns by default; 1 at first. May be assigned."""
        return self._cursor.arraysize

    @arraysize.setter
    def arraysize(self, size: int) -> None:
        self._cursor.arraysize = size

    @property
    def row_factory(self) -> Any:
        """What a row becomes: None for tuples, `Row`, or a callable of cursor and tuple. May be assigned."""
        return self._cursor.row_factory

    @row_factory.setter
    def row_factory(self, factory: Any) -> None:
        self._cursor.row_factory = factory

    async def execute(self, sql: str, parameters: Parameters = (), /, *, prefetch: int = PREFETCH) -> AsyncCursor:
        """Run one statement; returns the cursor itself. Up to `prefetch` rows of its result come with it.

        Args:
            sql: One statement.
            parameters: A sequence for `?`, or a mapping for `:name`.
            prefetch: Rows to fetch together with the first one; 0 if columns are wanted.

        Raises what `Cursor.execute` raises. Cancelled, the statement is interrupted.
        """
        _check_prefetch(prefetch)
        cursor = self._cursor

        def call() -> list[Any]:
            cursor.execute(sql, parameters)
            return cursor.fetchmany(prefetch) if prefetch and cursor.description is not None else []

        await self._start(call, prefetch)
        return self

    async def executemany(self, sql: str, seq_of_parameters: _ManyParameters, /) -> AsyncCursor:
        """Run one statement for each set of parameters, in one go; returns the cursor itself.

        Args:
            sql: An INSERT, UPDATE, DELETE or REPLACE.
            seq_of_parameters: An iterable of sequences or mappings, which a background thread advances, or columns, as
                `Cursor.executemany` takes them.
        """

        def call() -> list[Any]:
            self._cursor.executemany(sql, seq_of_parameters)
            return []

        await self._start(call)
        return self

    async def executescript(self, sql_script: str, /) -> AsyncCursor:
        """Run all statements of a text, after committing an open transaction; returns the cursor itself."""

        def call() -> list[Any]:
            self._cursor.executescript(sql_script)
            return []

        await self._start(call)
        return self

    async def _start(self, call: Callable[[], list[Any]], prefetch: int = PREFETCH) -> None:
        self._rows.clear()
        self._exhausted = True
        rows = await self._connection._run(call)
        self._rows.extend(rows)
        self._exhausted = len(rows) < prefetch

    async def _more(self, size: int) -> None:
        """Fetch up to `size` further rows."""
        rows = await self._connection._run(lambda: self._cursor.fetchmany(size))
        self._exhausted = len(rows) < size
        self._rows.extend(rows)

    async def fetchone(self) -> Any:
        """The next row, or None."""
        if not self._rows and not self._exhausted:
            await self._more(PREFETCH)
        self._connection._check()
        return self._rows.popleft() if self._rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Up to `size` rows, by default `arraysize`; all that are left if that is 0 or less."""
        size = self.arraysize if size is None else size
        if size <= 0:
            return await self.fetchall()
        if len(self._rows) < size and not self._exhausted:
            await self._more(max(size - len(self._rows), PREFETCH))
        self._connection._check()
        return [self._rows.popleft() for _ in range(min(size, len(self._rows)))]

    async def fetchall(self) -> list[Any]:
        """All rows that are left."""
        if not self._exhausted:
            rows = await self._connection._run(self._cursor.fetchall)
            self._exhausted = True
            self._rows.extend(rows)
        self._connection._check()
        rows = list(self._rows)
        self._rows.clear()
        return rows

    async def fetchnumpy(
        self,
        size: int | None = None,
        *,
        text: Literal["object", "fixed"] = "object",
        nulls: Literal["masked", "nan"] = "masked",
    ) -> dict[str, Any]:
        """What is left of the result, or `size` rows of it, as a dict of arrays; after `execute(…, prefetch=0)`."""
        self._refuse_rows("fetchnumpy")
        found: dict[str, Any] = await self._connection._run(
            lambda: self._cursor.fetchnumpy(size, text=text, nulls=nulls)
        )
        return found

    async def fetchnumpy_batches(
        self,
        size: int = 65536,
        *,
        text: Literal["object", "fixed"] = "object",
        nulls: Literal["masked", "nan"] = "masked",
    ) -> AsyncIterator[dict[str, Any]]:
        """What is left of the result, in dicts of arrays with `size` rows each. Needs `execute(…, prefetch=0)`."""
        self._refuse_rows("fetchnumpy_batches")
        batches = self._cursor.fetchnumpy_batches(size, text=text, nulls=nulls)
        while (batch := await self._connection._run(lambda: next(batches, None))) is not None:
            yield batch

    def _refuse_rows(self, method: str) -> None:
        if self._rows:
            raise sqlite3.ProgrammingError(
                f"{method}() would miss rows that came with the statement; run it with execute(…, prefetch=0)"
            )

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self._rows:
            if not self._exhausted:
                await self._more(PREFETCH)
            if not self._rows:
                raise StopAsyncIteration
        return self._rows.popleft()

    async def close(self) -> None:
        """Give the statement up. Rows that were not fetched are lost."""
        self._rows.clear()
        self._exhausted = True
        await self._connection._run(self._cursor.close)

    async def __aenter__(self) -> AsyncCursor:
        """The cursor itself; leaving the block closes it."""
        return self

    async def __aexit__(self, *_exception: object) -> None:
        """Closes the cursor, after an exception as well."""
        await self.close()


class AsyncConnection:
    """A pooled connection, for one task at a time: what `async with pool.aconnection()` yields.

    Coroutines: `execute`, `executemany`, `executescript`, `commit`, `rollback`, `backup`, `create_function`,
    `create_aggregate`, `create_window_function`, `create_collation`, `set_authorizer`, `set_progress_handler`,
    `set_trace_callback`, `getlimit`, `setlimit`. `iterdump` is an asynchronous generator. They take what those of
    `Connection` take, and run one after the other, in the order in which they were awaited. Functions and other
    callbacks are called by background threads.

    Plain: `cursor()`, `interrupt()`, and the attributes `in_transaction`, `total_changes`, `row_factory`,
    `text_factory`, `isolation_level`, `autocommit`; to assign the last two may end a transaction, which blocks.
    Everything else is on `conn`, the `Connection` itself, whose methods block.
    """

    __slots__ = ("__weakref__", "_lent", "_raw", "_turn")

    def __init__(self, raw: Connection, lent: PooledConnection | None = None) -> None:
        self._raw: Connection | None = raw
        #: Keeps the loan alive, and knows when it has ended.
        self._lent = lent
        self._turn = asyncio.Lock()

    @property
    def conn(self) -> Connection:
        """The connection itself, for what is not here. Its methods block."""
        return self._check()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._check().in_transaction

    @property
    def total_changes(self) -> int:
        """Number of rows changed since the connection was opened, by its earlier borrowers as well."""
        return self._check().total_changes

    @property
    def row_factory(self) -> Any:
        """What rows of later cursors become: None for tuples, `Row`, or a callable of cursor and tuple; may be set."""
        return self._check().row_factory

    @row_factory.setter
    def row_factory(self, factory: Any) -> None:
        self._check().row_factory = factory

    @property
    def text_factory(self) -> Any:
        """How TEXT becomes an object, as `Connection.text_factory`."""
        return self._check().text_factory

    @text_factory.setter
    def text_factory(self, factory: Any) -> None:
        self._check().text_factory = factory

    @property
    def isolation_level(self) -> str | None:
        """How transactions begin implicitly; None in a pool: not at all. To assign None commits, which blocks."""
        return self._check().isolation_level

    @isolation_level.setter
    def isolation_level(self, level: Any) -> None:
        self._check().isolation_level = level

    @property
    def autocommit(self) -> Any:
        """Transaction control, as `Connection.autocommit`. To assign it may end a transaction, which blocks."""
        return self._check().autocommit

    @autocommit.setter
    def autocommit(self, autocommit: Any) -> None:
        self._check().autocommit = autocommit

    def cursor(self) -> AsyncCursor:
        """A cursor to run several statements on."""
        return AsyncCursor(self, self._check().cursor())

    async def execute(self, sql: str, parameters: Parameters = (), /, *, prefetch: int = PREFETCH) -> AsyncCursor:
        """Run one statement on a new cursor, which is returned. It is a transaction of its own unless one was begun.

        Args:
            sql: One statement.
            parameters: A sequence for `?`, or a mapping for `:name`.
            prefetch: Rows to fetch together with the first one; 0 if columns are wanted.

        Raises:
            ProgrammingError: The connection was given back, or `Connection.execute` raises it.
            WriteLaneTimeout: The turn to write did not come within the busy timeout of 30 s; no thread waits for it.

        Cancelled, the statement is interrupted.
        """
        return await self.cursor().execute(sql, parameters, prefetch=prefetch)

    async def executemany(self, sql: str, seq_of_parameters: _ManyParameters, /) -> AsyncCursor:
        """Run one statement for each set of parameters on a new cursor, which is returned.

        Args:
            sql: An INSERT, UPDATE, DELETE or REPLACE.
            seq_of_parameters: An iterable of sequences or mappings, which a background thread advances, or columns, as
                `Connection.executemany` takes them.
        """
        return await self.cursor().executemany(sql, seq_of_parameters)

    async def executescript(self, sql_script: str, /) -> AsyncCursor:
        """Run all statements of a text on a new cursor, which is returned, after committing an open transaction."""
        return await self.cursor().executescript(sql_script)

    async def commit(self) -> None:
        """Commit the open transaction, if there is one."""
        if self._check().in_transaction:
            await self._run(self._check().commit)

    async def rollback(self) -> None:
        """Roll the open transaction back, if there is one."""
        if self._check().in_transaction:
            await self._run(self._check().rollback)

    async def backup(self, target: Connection | PooledConnection | AsyncConnection, **options: Any) -> None:
        """Copy the database into another connection, which must not be used meanwhile."""
        into = target._check() if isinstance(target, AsyncConnection) else target
        await self._run(lambda: self._check().backup(into, **options))

    async def iterdump(self, **options: Any) -> AsyncIterator[str]:
        """The database as SQL text, line by line; all of it is made before the first."""
        for line in await self._run(lambda: list(self._check().iterdump(**options))):
            yield line

    async def create_function(self, name: str, narg: int, func: Callable[..., Any] | None, **options: Any) -> None:
        """Make a Python callable a function of SQL; None removes it."""
        await self._run(lambda: self._check().create_function(name, narg, func, **options))

    async def create_aggregate(self, name: str, n_arg: int, aggregate_class: Any) -> None:
        """Make a class an aggregate function of SQL; None removes it."""
        await self._run(lambda: self._check().create_aggregate(name, n_arg, aggregate_class))

    async def create_window_function(self, name: str, num_params: int, aggregate_class: Any) -> None:
        """Make a class a window function of SQL; None removes it."""
        await self._run(lambda: self._check().create_window_function(name, num_params, aggregate_class))

    async def create_collation(self, name: str, callback: Callable[[str, str], int] | None) -> None:
        """Make a callable that compares two texts a collation; None removes it."""
        await self._run(lambda: self._check().create_collation(name, callback))

    async def set_authorizer(self, authorizer_callback: Callable[..., Any] | None) -> None:
        """Have a callable asked what statements may do; None ends that."""
        await self._run(lambda: self._check().set_authorizer(authorizer_callback))

    async def set_progress_handler(self, progress_handler: Callable[[], Any] | None, n: int) -> None:
        """Have a callable called every `n` instructions; None ends that."""
        await self._run(lambda: self._check().set_progress_handler(progress_handler, n))

    async def set_trace_callback(self, trace_callback: Callable[[str], Any] | None) -> None:
        """Have a callable told of each statement that runs; None ends that."""
        await self._run(lambda: self._check().set_trace_callback(trace_callback))

    async def getlimit(self, category: int) -> int:
        """A limit of the connection."""
        limit: int = await self._run(lambda: self._check().getlimit(category))
        return limit

    async def setlimit(self, category: int, limit: int) -> int:
        """Set a limit of the connection; returns the one before."""
        before: int = await self._run(lambda: self._check().setlimit(category, limit))
        return before

    def interrupt(self) -> None:
        """Make the running statement fail with `OperationalError`."""
        self._check().interrupt()

    async def _run(self, call: Callable[[], Any]) -> Any:
        async with self._turn:
            return await run(self._check(), call)

    def _check(self) -> Connection:
        if self._raw is None or (self._lent is not None and not self._lent._is_live):
            raise sqlite3.ProgrammingError("this connection was given back to its pool")
        return self._raw

    async def _finish(self, commit: bool) -> None:
        """End the transaction, whatever becomes of the task; afterwards the object refuses to be used."""
        raw = self._check()
        ending = asyncio.ensure_future(self._end(raw, commit))
        cancelled: asyncio.CancelledError | None = None
        while not ending.done():
            try:
                await asyncio.wait((ending,))
            except asyncio.CancelledError as error:
                cancelled = error
        self._raw = self._lent = None
        if cancelled is not None:
            ending.exception()
            raise cancelled
        ending.result()

    async def _end(self, raw: Connection, commit: bool) -> None:
        async with self._turn:
            if raw.in_transaction:
                await run(raw, raw.commit if commit else raw.rollback)
