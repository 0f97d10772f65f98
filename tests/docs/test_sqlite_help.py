"""`help()` and `inspect.signature()` answer for everything public of `upshift.sqlite`."""

from __future__ import annotations

import inspect
import re
import sqlite3
from pathlib import Path

import pytest

from upshift import exceptions, sqlite
from upshift.sqlite import ConnectionPool, dbapi2
from upshift.sqlite._aio import AsyncConnection, AsyncCursor
from upshift.sqlite._pool import (
    AsyncBorrowing,
    AvailableView,
    InUseView,
    MaintenanceThread,
    MetadataView,
    StatsView,
)

#: Of the standard library, which has no docstring or no signature for them on some version of Python.
STANDARD = {
    "Binary",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "OptimizedUnicode",
    "PrepareProtocol",
    "ProgrammingError",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
    "adapt",
    "enable_shared_cache",
}
SPECIAL = ("__aenter__", "__aexit__", "__enter__", "__exit__")


def callables():
    for name in sqlite.__all__:
        value = getattr(sqlite, name)
        if name not in STANDARD and (inspect.isclass(value) or inspect.isroutine(value)):
            yield name, value


def kinds():
    found = {value for _, value in callables() if inspect.isclass(value)}
    found |= {AsyncConnection, AsyncCursor, AsyncBorrowing}
    found |= {AvailableView, InUseView, MaintenanceThread, MetadataView, StatsView}
    connection = sqlite.connect(":memory:")
    cursor = connection.execute("SELECT 1 AS one")
    found.add(type(cursor.fetchnumpy_batches()))
    connection.close()
    with ConnectionPool(":memory:") as pool:
        pool.write("CREATE TABLE t (x)")
        found |= {type(pool.scan("SELECT x FROM t")), type(pool.connection())}
    return sorted(found, key=lambda kind: kind.__name__)


def members():
    for kind in kinds():
        for name, member in sorted(vars(kind).items(), key=lambda item: item[0]):
            described = inspect.isroutine(member) or inspect.isdatadescriptor(member)
            if described and (name in SPECIAL or not name.startswith("_")):
                yield kind, name, member


EVERYTHING = [pytest.param(value, id=name) for name, value in callables()]
MEMBERS = [pytest.param(member, id=f"{kind.__name__}.{name}") for kind, name, member in members()]


@pytest.mark.parametrize("value", [*EVERYTHING, *MEMBERS])
def test_is_described(value):
    assert (value.__doc__ or "").strip()


def is_called(value):
    return inspect.isclass(value) or (inspect.isroutine(value) and not inspect.isdatadescriptor(value))


@pytest.mark.parametrize("value", [param for param in [*EVERYTHING, *MEMBERS] if is_called(param.values[0])])
def test_has_a_signature(value):
    inspect.signature(value)


def test_the_lists_are_not_empty():
    names = {param.id for param in [*EVERYTHING, *MEMBERS]}
    assert {"connect", "Blob.read", "Row.keys", "WriteResult.rows", "Cursor.connection", "Connection.execute"} <= names
    assert {"ConnectionPool.awrite", "PooledConnection.cursor", "AsyncConnection.in_transaction"} <= names
    assert {"AvailableView.qsize", "ScanResult.numpy"} <= names


@pytest.mark.parametrize("name", sorted(STANDARD))
def test_exceptions_from_the_rule_are_the_standard_library_s(name):
    if name not in sqlite.__all__:
        pytest.skip("platform: not in this version of Python")
    assert getattr(sqlite, name) is getattr(sqlite3, name)


@pytest.mark.parametrize("module", [sqlite, dbapi2])
def test_no_name_of_typing_is_exported(module):
    assert not {"Final", "TYPE_CHECKING", "annotations"} & set(module.__all__)


@pytest.mark.parametrize(
    ("value", "signature"),
    [
        (sqlite.Cursor, "(connection, /)"),
        (sqlite.PooledConnection, "(conn, pool)"),
        (sqlite.Connection.cursor, "(self, /, factory=Ellipsis)"),
        (sqlite.PooledConnection.cursor, "(self, /, factory=Ellipsis)"),
    ],
)
def test_signatures(value, signature):
    assert str(inspect.signature(value)) == signature


def test_arguments_are_explained():
    """Of what upshift adds, and of what takes more than one argument."""
    added = [
        (ConnectionPool.acquire, ["timeout"]),
        (ConnectionPool.aconnection, ["timeout"]),
        (ConnectionPool.awrite, ["sql", "parameters", "durability", "timeout"]),
        (ConnectionPool.close_all, ["timeout"]),
        (ConnectionPool.connection, ["timeout"]),
        (ConnectionPool.release, ["conn"]),
        (ConnectionPool.scan, ["sql", "parameters", "partitions", "timeout"]),
        (ConnectionPool.write, ["sql", "parameters", "durability", "timeout"]),
        (sqlite.Cursor.fetchnumpy, ["size", "text", "nulls"]),
        (sqlite.Cursor.fetchnumpy_batches, ["size", "text", "nulls"]),
        (sqlite.Connection.create_function, ["name", "narg", "func", "deterministic"]),
        (sqlite.Connection.create_aggregate, ["name", "n_arg", "aggregate_class"]),
        (sqlite.Connection.create_window_function, ["name", "num_params", "aggregate_class"]),
        (sqlite.Connection.set_progress_handler, ["progress_handler", "n"]),
        (sqlite.Connection.load_extension, ["name", "entrypoint"]),
        (sqlite.Connection.setlimit, ["category", "limit"]),
    ]
    for function, names in added:
        unexplained = [name for name in names if not re.search(rf"(?m)^ *(\w+, )*{name}(, \w+)*: ", function.__doc__)]
        assert unexplained == [], function
        assert list(inspect.signature(function).parameters)[1:] == names


def test_the_holder_of_the_lane_is_in_the_help():
    assert "holder" in exceptions.WriteLaneError.__doc__


def test_the_guide_tells_the_defaults():
    guide = (Path(__file__).resolve().parents[2] / "docs" / "sqlite.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"`ConnectionPool\(path, (.*)\)` are the defaults", guide)
    told = {name: int(value) for name, _, value in (each.partition("=") for each in shown.split(", "))}
    defaults = {name: each.default for name, each in inspect.signature(ConnectionPool).parameters.items()}
    assert told == {name: defaults[name] for name in ("min_size", "max_size", "max_idle_time", "check_interval")}
    rows = re.findall(r"(?m)^\| (`.*`) \| .* \| (\d+) s \|$", guide)
    waits = {name: float(seconds) for names, seconds in rows for name in re.findall(r"`(\w+)`", names)}
    assert len(waits) == 7
    for name, seconds in waits.items():
        assert inspect.signature(getattr(ConnectionPool, name)).parameters["timeout"].default == seconds, name
