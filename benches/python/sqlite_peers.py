"""Files to measure on, and the libraries that open them.

Every contender has a file of its own: some peers carry a copy of SQLite, and two copies on one file in one process
would break its locks. All connections get the pragmas of upshift's pool, so that only the drivers differ.
"""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import apsw
from dbutils.pooled_db import PooledDB
from playhouse.pool import PooledSqliteDatabase
from sqlalchemy.pool import QueuePool

from upshift import sqlite

ROWS = 100_000
#: Of the pool, contract openclaw §3.1.
PRAGMAS = {
    "journal_mode": "WAL",
    "synchronous": "NORMAL",
    "cache_size": -64000,
    "temp_store": "MEMORY",
    "mmap_size": 268435456,
}
ITEMS = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL, stock INTEGER, note TEXT)"
SAMPLES = "CREATE TABLE sample (id INTEGER PRIMARY KEY, a REAL, b REAL, c INTEGER, d INTEGER)"
LOG = "CREATE TABLE log (id INTEGER PRIMARY KEY, writer INTEGER, note TEXT)"


def items(count: int) -> list[tuple[Any, ...]]:
    """Rows of the table `item`."""
    return [(i, f"item {i}", i * 1.25, i % 977, "in stock" if i % 3 else None) for i in range(count)]


def samples(count: int) -> list[tuple[Any, ...]]:
    """Rows of the table `sample`, numbers only."""
    return [(i, i * 0.5, i / 7, i % 977, i * 1_000_003) for i in range(count)]


class Bench(contextlib.ExitStack):
    """A folder of files with the same rows, and the connections to them; closing it takes all away."""

    def __init__(self, rows: int = ROWS) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="upshift-bench-"))
        self.callback(shutil.rmtree, self.folder)
        self._template = self.folder / "template.db"
        self._files = 0
        with contextlib.closing(sqlite3.connect(self._template, isolation_level=None)) as made:
            made.execute("BEGIN")
            for table in (ITEMS, SAMPLES, LOG):
                made.execute(table)
            made.executemany("INSERT INTO item VALUES (?, ?, ?, ?, ?)", items(rows))
            made.executemany("INSERT INTO sample VALUES (?, ?, ?, ?, ?)", samples(rows))
            made.execute("COMMIT")

    def file(self) -> str:
        """A new copy of the template, which nobody has open."""
        self._files += 1
        return str(shutil.copy(self._template, self.folder / f"{self._files}.db"))

    # ---- one connection ----

    def sqlite3(self, path: str | None = None, **options: Any) -> sqlite3.Connection:
        return self._with_pragmas(
            sqlite3.connect(path or self.file(), isolation_level=None, check_same_thread=False, **options)
        )

    def upshift(self, path: str | None = None, **options: Any) -> sqlite.Connection:
        return self._with_pragmas(
            sqlite.connect(path or self.file(), isolation_level=None, check_same_thread=False, **options)
        )

    def apsw(self, path: str | None = None, timeout: float = 5.0) -> apsw.Connection:
        connection = apsw.Connection(path or self.file())
        connection.set_busy_timeout(round(timeout * 1000))
        return self._with_pragmas(connection)

    def _with_pragmas(self, connection: Any) -> Any:
        for name, value in PRAGMAS.items():
            connection.execute(f"PRAGMA {name}={value}").fetchall()
        self.callback(connection.close)
        return connection

    # ---- pools ----

    def pool(self, size: int = 4, path: str | None = None, **options: Any) -> sqlite.ConnectionPool:
        pool = sqlite.ConnectionPool(path or self.file(), min_size=size, max_size=size, **options)
        self.callback(pool.close_all)
        return pool

    def dbutils(self, size: int = 4) -> PooledDB:
        pool = PooledDB(self._creator(), size, size, maxconnections=size, blocking=True)
        self.callback(pool.close)
        return pool

    def queue_pool(self, size: int = 4) -> QueuePool:
        pool = QueuePool(self._creator(), pool_size=size, max_overflow=0)
        self.callback(pool.dispose)
        return pool

    def peewee(self, size: int = 4) -> PooledSqliteDatabase:
        database = PooledSqliteDatabase(
            self.file(), max_connections=size, timeout=60, pragmas=PRAGMAS, check_same_thread=False
        )
        self.callback(database.close_all)
        return database

    def _creator(self) -> Any:
        path = self.file()

        def connect(**_: Any) -> sqlite3.Connection:
            connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            for name, value in PRAGMAS.items():
                connection.execute(f"PRAGMA {name}={value}").fetchall()
            return connection

        # DBUtils asks the module behind the function for its exceptions.
        connect.dbapi = sqlite3  # type: ignore[attr-defined]
        return connect


def libraries() -> dict[str, str]:
    """By who uses it, the version of each SQLite in this process."""
    shared = "sqlite3, DBUtils, SQLAlchemy, peewee, pandas, polars"
    own = apsw.using_amalgamation
    found = {"apsw (its own copy)" if own else "apsw": apsw.sqlite_lib_version()}
    if sqlite.shares_interpreter_library:
        return {f"upshift, {shared}": sqlite3.sqlite_version, **found}
    return {"upshift (bundled)": sqlite.sqlite_version, shared: sqlite3.sqlite_version, **found}
