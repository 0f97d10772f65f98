"""Arguments that are of the wrong kind: the error names the argument, and says what it may be."""

from __future__ import annotations

import asyncio
import math

import pytest

from upshift import sqlite
from upshift.sqlite import ConnectionPool
from upshift.systems.openclaw import get_pool

PATH = "db_path must be str, bytes or a path-like object, not "


@pytest.fixture
def pool(tmp_path):
    with ConnectionPool(tmp_path / "a.db", min_size=0) as pool:
        pool.write("CREATE TABLE t (x)")
        yield pool


def refused(error, message, call, *arguments, **options):
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    assert type(caught.value) is error
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("error", "message", "options"),
    [
        (TypeError, "min_size must be an int, not str", {"min_size": "2"}),
        (TypeError, "min_size must be an int, not float", {"min_size": 1.5}),
        (ValueError, "min_size must be 0 or more, not -1", {"min_size": -1}),
        (ValueError, "min_size must not exceed max_size", {"min_size": 2**70}),
        (ValueError, f"max_size must be 1 or more, not {-(2**70)}", {"max_size": -(2**70)}),
        (TypeError, "max_size must be an int, not NoneType", {"max_size": None}),
        (ValueError, "max_size must be 1 or more, not 0", {"max_size": 0}),
        (TypeError, "durability must be 'process' or 'power', not NoneType", {"durability": None}),
        (TypeError, "durability must be 'process' or 'power', not int", {"durability": 1}),
        (ValueError, "durability must be 'process' or 'power', not 'full'", {"durability": "full"}),
        (ValueError, "check_interval must be 0.001 or more seconds, not 0", {"check_interval": 0}),
        (ValueError, "check_interval must be 0.001 or more seconds, not", {"check_interval": 1e-9}),
        (ValueError, "check_interval must be 0.001 or more seconds, not -1", {"check_interval": -1}),
        (TypeError, "check_interval must be a number of seconds", {"check_interval": None}),
        (ValueError, "max_idle_time must be 0 or more seconds", {"max_idle_time": -1}),
        (TypeError, "leak_after must be a number of seconds", {"leak_after": "x"}),
    ],
)
def test_of_a_pool(tmp_path, error, message, options):
    refused(error, message, ConnectionPool, tmp_path / "a.db", **options)


def test_of_a_pool_that_is_there(pool):
    for value in ("2", 1.5, None):
        refused(TypeError, "min_size must be an int", setattr, pool, "min_size", value)
        refused(TypeError, "max_size must be an int", setattr, pool, "max_size", value)
    refused(ValueError, "check_interval must be", setattr, pool, "check_interval", 0)
    pool.max_size = 2**70
    assert pool.max_size > 2**31
    pool.check_interval = 0.001


def test_paths():
    refused(TypeError, PATH + "NoneType", ConnectionPool, None)
    refused(TypeError, PATH + "int", ConnectionPool, 1)
    refused(TypeError, PATH + "int", get_pool, 1)
    refused(TypeError, PATH + "NoneType", get_pool, None)
    refused(TypeError, "database must be str, bytes or a path-like object, not NoneType", sqlite.connect, None)
    refused(TypeError, "database must be str, bytes or a path-like object, not float", sqlite.connect, 1.5)

    class Odd:
        def __fspath__(self):
            return 1

    refused(TypeError, "__fspath__() to return str or bytes, not int", sqlite.connect, Odd())


@pytest.mark.filterwarnings("ignore:Passing more than 1 positional:DeprecationWarning")
def test_of_connect():
    refused(TypeError, "timeout must be a number of seconds, not str", sqlite.connect, ":memory:", timeout="1")
    refused(TypeError, "timeout must be a number of seconds, not NoneType", sqlite.connect, ":memory:", timeout=None)
    refused(ValueError, "timeout must be seconds", sqlite.connect, ":memory:", timeout=math.nan)
    message = "factory must make an upshift.sqlite.Connection, not <class 'list'>"
    refused(TypeError, message, sqlite.connect, ":memory:", factory=list)
    refused(TypeError, "factory must make an upshift.sqlite.Connection, not 1", sqlite.connect, ":memory:", factory=1)
    made = sqlite.connect(":memory:", factory=lambda *arguments, **_options: sqlite.Connection(*arguments))
    made.close()


def test_of_write(pool):
    async def awrite(*arguments, **options):
        await pool.awrite(*arguments, **options)

    for write in (pool.write, lambda *arguments, **options: asyncio.run(awrite(*arguments, **options))):
        refused(TypeError, "sql must be str, not NoneType", write, None)
        refused(TypeError, "durability must be 'process' or 'power', not int", write, "SELECT 1", durability=1)
        refused(ValueError, "durability must be 'process' or 'power', not 'x'", write, "SELECT 1", durability="x")
        refused(TypeError, "timeout must be a number of seconds", write, "SELECT 1", timeout="x")
        write("INSERT INTO t VALUES (1)", durability=None)


def test_of_scan(pool):
    scan, sql = pool.scan, "SELECT x FROM t"
    refused(TypeError, "sql must be str, not int", scan, 1)
    for partitions in (1.5, "2", {"a": 1}, b"2"):
        refused(TypeError, "partitions must be an int or a list of parameters", scan, sql, partitions=partitions)
    refused(TypeError, "partitions[1] must be a sequence or a mapping, not int", scan, sql, partitions=[(), 1])
    refused(TypeError, "parameters must be a sequence or a mapping, not int", scan, sql, 1)
    refused(ValueError, "partitions must be at least 1, not 0", scan, sql, partitions=0)
    refused(ValueError, "partitions is an empty list", scan, sql, partitions=iter(()))
    assert len(scan(sql, partitions=True)) == 0
    assert len(scan(sql + " WHERE x > ?", partitions=iter([(1,), [2]]))) == 0
    result = scan(sql)
    refused(TypeError, "text must be 'object' or 'fixed', not NoneType", result.numpy, text=None)
    refused(TypeError, "nulls must be 'masked' or 'nan', not float", result.numpy, nulls=math.nan)


def test_of_columns():
    connection = sqlite.connect(":memory:")
    cursor = connection.execute("VALUES (1), (2)")
    refused(TypeError, "size must be an int, not str", cursor.fetchnumpy, size="1")
    refused(ValueError, "size must be 0 or more, not -1", cursor.fetchnumpy, -1)
    for fetch in (cursor.fetchnumpy, cursor.fetchnumpy_batches):
        refused(TypeError, "text must be 'object' or 'fixed', not NoneType", fetch, text=None)
        refused(ValueError, "text must be 'object' or 'fixed', not 'bytes'", fetch, text="bytes")
        refused(TypeError, "nulls must be 'masked' or 'nan', not float", fetch, nulls=math.nan)
    for size in (0, -1):
        refused(ValueError, f"size must be 1 or more, not {size}", cursor.fetchnumpy_batches, size)
    refused(TypeError, "size must be an int, not str", cursor.fetchnumpy_batches, "1")
    assert [len(array) for array in cursor.fetchnumpy(0).values()] == [0]
    assert [array.tolist() for array in cursor.fetchnumpy(None).values()] == [[1, 2]]
    connection.close()


def test_negative_times_mean_at_once(pool):
    pool.max_size = 1
    with pool.connection(-1):
        assert pool.acquire(-5) is None
        refused(TimeoutError, "no connection became free", pool.connection(-1).__enter__)
