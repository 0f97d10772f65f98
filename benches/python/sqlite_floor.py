"""The floor of the SQLite rows: the system's library called from C, compiled here. None where there is no compiler.

It is the library that the interpreter has loaded, so its numbers are also what a bundled build competes with.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import subprocess
from ctypes import byref, c_char_p, c_long, c_longlong, c_void_p
from pathlib import Path

from sqlite_peers import PRAGMAS, Bench

NAME = "sqlite3_step"
SOURCE = Path(__file__).with_suffix(".c")


class Floor:
    """A statement on a connection of its own."""

    def __init__(self, library: ctypes.CDLL, bench: Bench, sql: str, before: str = "") -> None:
        self._library = library
        self._db, self._statement = c_void_p(), c_void_p()
        self.path = bench.file()
        _check(library.floor_open(c_char_p(self.path.encode()), byref(self._db)))
        bench.callback(self._close)
        pragmas = "".join(f"PRAGMA {name}={value};" for name, value in PRAGMAS.items())
        self.execute(pragmas + before)
        self.prepare(sql)

    def prepare(self, sql: str) -> None:
        self._library.floor_finalize(self._statement)
        _check(self._library.floor_prepare(self._db, c_char_p(sql.encode()), byref(self._statement)))

    def execute(self, sql: str) -> None:
        _check(self._library.floor_exec(self._db, c_char_p(sql.encode())))

    def run(self, first: int, count: int) -> int:
        return int(self._library.floor_run(self._statement, c_longlong(first), c_long(count)))

    def insert(self, count: int) -> int:
        return int(self._library.floor_insert(self._statement, c_long(count)))

    def _close(self) -> None:
        self._library.floor_finalize(self._statement)
        self._library.floor_close(self._db)


def floor(bench: Bench, sql: str, before: str = "") -> Floor | None:
    library = _library()
    return Floor(library, bench, sql, before) if library else None


@functools.cache
def _library() -> ctypes.CDLL | None:
    compiler = shutil.which("cc")
    if not compiler:
        return None
    with Bench(rows=1) as bench:
        built = bench.folder / "floor.so"
        command = [compiler, "-O2", "-shared", "-fPIC", str(SOURCE), "-o", str(built), "-lsqlite3"]
        if subprocess.run(command, capture_output=True).returncode:
            return None
        library = ctypes.CDLL(str(built))
    for name in ("floor_run", "floor_insert"):
        getattr(library, name).restype = c_long
    return library


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"SQLite says {code} to the floor's statement")
