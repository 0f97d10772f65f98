"""SQLite: a DB-API 2.0 module with the surface of the standard library's `sqlite3`, on native connections.

It uses the very SQLite library of the interpreter, raises the standard library's exceptions and shares its adapters
and converters, so that both may be used on one file in one process. What newer versions of Python added to `sqlite3`
(`autocommit`, `Blob`, `serialize`, `setconfig`, `iterdump(filter=…)` and so on) is here on every version.
"""

from __future__ import annotations

import sys
import types as _types
from collections.abc import Sequence as _Sequence
from sqlite3 import Binary as Binary
from sqlite3 import DatabaseError as DatabaseError
from sqlite3 import DataError as DataError
from sqlite3 import Date as Date
from sqlite3 import DateFromTicks as DateFromTicks
from sqlite3 import Error as Error
from sqlite3 import IntegrityError as IntegrityError
from sqlite3 import InterfaceError as InterfaceError
from sqlite3 import InternalError as InternalError
from sqlite3 import NotSupportedError as NotSupportedError
from sqlite3 import OperationalError as OperationalError
from sqlite3 import PrepareProtocol as PrepareProtocol
from sqlite3 import ProgrammingError as ProgrammingError
from sqlite3 import Time as Time
from sqlite3 import TimeFromTicks as TimeFromTicks
from sqlite3 import TimestampFromTicks as TimestampFromTicks
from sqlite3 import Warning as Warning  # noqa: A004
from sqlite3 import adapt as adapt
from sqlite3 import adapters as adapters
from sqlite3 import complete_statement as complete_statement
from sqlite3 import converters as converters
from sqlite3 import register_adapter as register_adapter
from sqlite3 import register_converter as register_converter
from sqlite3.dbapi2 import Timestamp as Timestamp
from typing import TYPE_CHECKING

from upshift import _native
from upshift._native import Blob as Blob
from upshift._native import Connection as Connection
from upshift._native import Cursor as Cursor
from upshift._native import Row as Row
from upshift._native import WriteResult as WriteResult
from upshift._native import connect as connect
from upshift._native import enable_callback_tracebacks as enable_callback_tracebacks
from upshift._native import sqlite_version as sqlite_version
from upshift.sqlite._constants import *  # noqa: F403
from upshift.sqlite._dump import iterdump as _iterdump
from upshift.sqlite._pool import ConnectionPool as ConnectionPool
from upshift.sqlite._pool import PooledConnection as PooledConnection

apilevel = "2.0"
paramstyle = "qmark"
#: Threads may share the module, connections and cursors (connections opened with `check_same_thread=False`).
threadsafety = 3
#: Of the library that this module uses.
sqlite_version_info = tuple(map(int, sqlite_version.split(".")))

#: Whether the engine uses the very SQLite library that the interpreter's `sqlite3` uses.
shares_interpreter_library = _native.shares_interpreter_library()

_Sequence.register(Row)

for _class in (
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
):
    setattr(Connection, _class.__name__, _class)
del _class
Connection.iterdump = _iterdump  # type: ignore[assignment, method-assign]

if sys.version_info < (3, 12):
    from sqlite3 import enable_shared_cache as enable_shared_cache
    from sqlite3 import version as version
    from sqlite3 import version_info as version_info

if sys.version_info < (3, 10):
    OptimizedUnicode = str

if not TYPE_CHECKING:

    def __getattr__(name):
        """Names that the standard library has deprecated, with its own warning."""
        message = None
        if name == "OptimizedUnicode" and (3, 10) <= sys.version_info < (3, 12):
            value = str
            message = "OptimizedUnicode is deprecated and will be removed in Python 3.12."
        elif name in ("version", "version_info") and (3, 12) <= sys.version_info < (3, 14):
            from _sqlite3 import _deprecated_version as text

            value = text if name == "version" else tuple(map(int, text.split(".")))
            message = f"{name} is deprecated and will be removed in Python 3.14"
        if message is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import warnings

        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return value


from upshift.sqlite import dbapi2 as dbapi2  # noqa: E402


def _public() -> list[str]:
    """Everything here, other modules and what is only for type checkers aside."""
    named = {name for name, value in globals().items() if not isinstance(value, _types.ModuleType)}
    named = (named | {"dbapi2"}) - {"Final", "TYPE_CHECKING", "annotations"}
    return sorted(name for name in named if not name.startswith("_"))


# Type checkers see the names themselves.
globals()["__all__"] = _public()
