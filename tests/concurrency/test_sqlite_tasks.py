"""Connections that coroutines borrow: they end with their loan, with their task, and keep nobody waiting."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import threading
import time

import pytest
from harness import TIMEOUT, eventually

from upshift.sqlite import ConnectionPool, _aio

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


@pytest.fixture
def pools(tmp_path):
    opened = []

    def make(**options):
        pool = ConnectionPool(str(tmp_path / f"{len(opened)}.db"), **{"min_size": 1, **options})
        pool.write("CREATE TABLE t (a)")
        opened.append(pool)
        return pool

    yield make
    for pool in opened:
        pool.close_all()


def in_use(pool):
    return pool.get_stats()["in_use"]


def test_a_connection_is_lent_while_somebody_has_it(pools):
    """Not as long as what `aconnection()` returned."""
    pool = pools(max_size=1)

    async def main():
        connection = await pool.aconnection().__aenter__()
        gc.collect()
        assert in_use(pool) == 1
        await connection.execute("BEGIN")
        await connection.execute("INSERT INTO t VALUES (1)")
        assert pool.acquire(timeout=0) is None
        with pytest.warns(ResourceWarning, match="dropped"):
            del connection
        with pool.connection(timeout=0) as other:
            assert not other.in_transaction

    asyncio.run(main())


def test_a_connection_refuses_after_its_loan(pools):
    pool = pools()

    async def main():
        async with pool.aconnection() as connection:
            cursor = await connection.execute("SELECT 1")
            pool.release(connection.conn)
            for use in (
                connection.execute("SELECT 1"),
                connection.commit(),
                cursor.fetchall(),
                cursor.execute("SELECT 1"),
            ):
                with pytest.raises(sqlite3.ProgrammingError, match="given back"):
                    await use
            with pytest.raises(sqlite3.ProgrammingError, match="given back"):
                _ = connection.in_transaction
            assert in_use(pool) == 0

    asyncio.run(main())


@pytest.mark.parametrize("sql", ["BEGIN", "BEGIN IMMEDIATE"])
def test_a_transaction_of_nobody_is_rolled_back(pools, sql):
    """Neither what a borrower left begun, nor what somebody began who kept the raw connection."""
    pool = pools(max_size=1)
    lent = pool.acquire()
    lent.execute(sql)
    lent.close()
    with pool.connection() as connection:
        assert not connection.in_transaction
    raw = connection.conn
    raw.execute(sql)
    with pool.connection() as connection:
        assert connection.conn is raw
        assert not connection.in_transaction
    raw.execute(sql)

    async def main():
        async with pool.aconnection() as connection:
            assert connection.conn is raw
            assert not connection.in_transaction

    asyncio.run(main())
    raw.close()
    asyncio.run(main_with_another(pool, raw))


async def main_with_another(pool, raw):
    async with pool.aconnection() as connection:
        assert connection.conn is not raw
        await connection.execute("SELECT 1")


def test_cancelling_as_the_statement_begins(pools, monkeypatch):
    """Between taking the call and running it, a cancellation is neither too early nor too late."""
    pool = pools()
    taken, go_on = threading.Event(), threading.Event()
    run = _aio._Job.run

    def trace(frame, event, _argument):
        return pause if frame.f_code is run.__code__ and event == "call" else None

    def pause(frame, event, _argument):
        # The line after the one that took the call.
        if event == "line" and frame.f_locals.get("call") is not None:
            sys.settrace(None)
            frame.f_trace = None
            taken.set()
            go_on.wait(TIMEOUT)
        return pause

    def run_traced(job):
        sys.settrace(trace)
        run(job)

    async def main():
        loop = asyncio.get_running_loop()
        async with pool.aconnection() as connection:
            monkeypatch.setattr(_aio._Job, "run", run_traced)
            task = asyncio.create_task(connection.execute("SELECT 1"))
            assert await loop.run_in_executor(None, taken.wait, TIMEOUT)
            monkeypatch.undo()
            task.cancel()
            await asyncio.sleep(0.05)
            go_on.set()
            done, _ = await asyncio.wait({task}, timeout=TIMEOUT)
            assert done
            assert task.cancelled()
            assert tuple(await (await connection.execute("SELECT 2")).fetchone()) == (2,)

    asyncio.run(main())


@pytest.mark.parametrize("body", ["idle", "running", "transaction"])
@pytest.mark.parametrize("loop_is", ["closed", "stopped", "another"])
def test_a_coroutine_that_is_closed(pools, body, loop_is):
    """It gives its connection back, though nobody will ever await anything for it."""
    pool = pools(max_size=1)

    async def use():
        async with pool.aconnection() as connection:
            if body == "transaction":
                await connection.execute("BEGIN")
                await connection.execute("INSERT INTO t VALUES (1)")
            if body == "running":
                await connection.execute(ENDLESS)
            await asyncio.sleep(60)

    loop = asyncio.new_event_loop()
    coroutine = use()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0.1))
    assert in_use(pool) == 1
    task._log_destroy_pending = False
    if loop_is == "closed":
        loop.close()
    started = time.monotonic()
    if loop_is == "another":

        async def close():
            coroutine.close()

        asyncio.run(close())
    else:
        coroutine.close()
    assert time.monotonic() - started < 10
    assert in_use(pool) == 0
    loop.close()
    with pool.connection(timeout=0) as connection:
        assert not connection.in_transaction
        assert connection.execute("SELECT count(*) FROM t").fetchone()[0] == 0


def test_a_coroutine_that_is_closed_while_it_waits_for_a_connection(pools):
    pool = pools(max_size=1)
    lent = pool.acquire()

    async def use():
        async with pool.aconnection():
            pass

    loop = asyncio.new_event_loop()
    coroutine = use()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0.05))
    assert pool.get_stats()["waiting"] == 1
    task._log_destroy_pending = False
    loop.close()
    coroutine.close()
    assert pool.get_stats()["waiting"] == 0
    lent.close()
    assert in_use(pool) == 0


def test_long_statements_keep_nobody_waiting(pools):
    """Neither other coroutines, nor the writes of all, nor the maintenance of pools."""
    busy = pools(max_size=20)
    other = pools(max_size=5, max_idle_time=0.05, check_interval=0.05)

    async def run_endless():
        async with busy.aconnection() as connection:
            await connection.execute(ENDLESS)

    async def main():
        tasks = [asyncio.create_task(run_endless()) for _ in range(10)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in tasks)
        async with other.aconnection() as connection:
            rows = await asyncio.wait_for(connection.execute("SELECT 1"), 30)
            assert tuple(await rows.fetchone()) == (1,)
        await asyncio.wait_for(other.awrite("INSERT INTO t VALUES (1)"), 30)
        lent = [other.acquire() for _ in range(5)]
        for connection in lent:
            connection.close()
        await asyncio.to_thread(eventually, lambda: other.get_stats()["current_size"] == 1)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=30)
        assert all(task.cancelled() for task in tasks)

    asyncio.run(main())
