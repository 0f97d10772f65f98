"""SQLite: a DB-API 2.0 module with the surface of the standard library's `sqlite3`, on native connections.

It uses the very SQLite library of the interpreter, raises the standard library's exceptions and shares its adapters
and converters, so that both may be used on one file in one process.
"""

from __future__ import annotations

import sqlite3 as _stdlib
from sqlite3 import (
    Binary,
    DatabaseError,
    DataError,
    Date,
    DateFromTicks,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    PrepareProtocol,
    ProgrammingError,
    Time,
    TimeFromTicks,
    Timestamp,
    TimestampFromTicks,
    Warning,  # noqa: A004
    adapt,
    adapters,  # type: ignore[attr-defined]
    complete_statement,
    converters,  # type: ignore[attr-defined]
    register_adapter,
    register_converter,
    sqlite_version,
    sqlite_version_info,
)
from sqlite3.dump import _iterdump
from typing import TYPE_CHECKING, Any

from upshift import _native
from upshift._native import Connection, Cursor, Row

apilevel = "2.0"
paramstyle = "qmark"
#: Threads may share the module, connections and cursors (connections opened with `check_same_thread=False`).
threadsafety = 3

PARSE_DECLTYPES = 1
PARSE_COLNAMES = 2
#: The default of `autocommit`: transactions are controlled by `isolation_level`.
LEGACY_TRANSACTION_CONTROL = _native.sqlite_legacy_transaction_control

#: Whether the engine uses the very SQLite library that the interpreter's `sqlite3` uses.
shares_interpreter_library = _native.shares_interpreter_library()

# SQLite's constants: the standard library's, and result codes it does not name before Python 3.11.
_constants = {name: value for name, value in vars(_stdlib).items() if name.startswith("SQLITE_")}
globals().update({**_native.sqlite_codes, **_constants})

_EXCEPTIONS = (
    Warning,
    Error,
    InterfaceError,
    DatabaseError,
    DataError,
    OperationalError,
    IntegrityError,
    InternalError,
    ProgrammingError,
    NotSupportedError,
)
for _class in _EXCEPTIONS:
    setattr(Connection, _class.__name__, _class)


if TYPE_CHECKING:
    from upshift.sqlite._typing import connect
else:

    def connect(*args: Any, **kwargs: Any) -> Connection:
        """Open a connection to an SQLite database.

        Args:
            database: Path (str, bytes, path-like), `":memory:"`, or a URI if `uri` is true.
            timeout: Seconds to wait for a lock of another connection before `OperationalError`.
            detect_types: `PARSE_DECLTYPES | PARSE_COLNAMES`: which columns converters are looked up for.
            isolation_level: How transactions begin implicitly: `""`, `"DEFERRED"`, `"IMMEDIATE"`, `"EXCLUSIVE"`, None.
            check_same_thread: Only the thread that opened the connection may use it.
            factory: Subclass of `Connection` to make.
            cached_statements: Compiled statements kept for the next use of their text.
            uri: `database` is a URI, `file:…?mode=ro`.
            autocommit: True, False (PEP 249: a transaction is always open) or `LEGACY_TRANSACTION_CONTROL`, the default.

        Raises:
            OperationalError: The database cannot be opened.
        """
        factory = kwargs.get("factory") or (args[5] if len(args) > 5 else Connection)
        return factory(*args, **kwargs)


def _iterdump_of(self: Connection, **options: Any) -> Any:
    """An iterator over the SQL that makes this database again."""
    return _iterdump(self, **options)


Connection.iterdump = _iterdump_of


def __getattr__(name: str) -> Any:
    # Names that the standard library computes or has deprecated.
    if name in ("version", "version_info", "OptimizedUnicode", "enable_shared_cache"):
        return getattr(_stdlib, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
