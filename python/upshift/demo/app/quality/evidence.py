"""The database of evidence: what the last scan found, in tables that anybody can ask with SQL.

It is written through a connection pool, and only where a scan found something else than the one before.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from core.db_pool import ConnectionPool, get_pool

from . import metrics
from .sources import Problem, Source, printable

BATCH_FILES = 200  # written in one transaction
CONNECTIONS = 3  # as many as there are questions to ask at once

# Files have the name below the root of the tree, with forward slashes; bytes where it is no text. A version stands for
# size and time of change of the file, and for what measured it.
SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS files (
        name PRIMARY KEY, package NOT NULL, version TEXT NOT NULL, size INTEGER NOT NULL, lines INTEGER NOT NULL,
        classes INTEGER NOT NULL, functions INTEGER NOT NULL, complexity INTEGER NOT NULL,
        module_complexity INTEGER NOT NULL, documented INTEGER NOT NULL, documentable INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE IF NOT EXISTS functions (
        file NOT NULL REFERENCES files, line INTEGER NOT NULL, name TEXT NOT NULL, length INTEGER NOT NULL,
        complexity INTEGER NOT NULL, documented INTEGER NOT NULL
    )
    """,
    "CREATE INDEX IF NOT EXISTS functions_of_file ON functions (file)",
    "CREATE TABLE IF NOT EXISTS problems (file NOT NULL, kind TEXT NOT NULL, detail TEXT NOT NULL)",
)


class Evidence:
    """The database at `path`, created if need be. The caller closes it."""

    def __init__(self, path: str) -> None:
        self.pool: ConnectionPool = get_pool(path, min_size=1, max_size=CONNECTIONS)
        self.rows_written = 0
        with self.pool.connection() as connection:
            for statement in SCHEMA:
                connection.execute(statement)
            versions = connection.execute("SELECT name, version FROM files").fetchall()
            problems = connection.execute("SELECT file, kind, detail FROM problems ORDER BY rowid").fetchall()
        self.versions: dict[str, str] = {loaded(name): version for name, version in versions}
        self.problems = [Problem(loaded(file), kind, detail) for file, kind, detail in problems]

    def update(self) -> Update:
        """To be told of everything that a scan finds."""
        return Update(self)

    def close(self) -> None:
        """Take all connections back and close the database."""
        self.pool.close_all()

    def write(self, found: list[tuple[Source, str, dict[str, Any]]], gone: list[str], problems: list[Problem]) -> None:
        """Replace the evidence of files `found` in another version than before, remove that of files `gone`, and make
        `problems` the table of them: all of it, or after an error nothing."""
        old = [(stored(source.name),) for source, _, _ in found] + [(stored(name),) for name in gone]
        files = [_file_row(*each) for each in found]
        functions = [
            (stored(source.name), line, name, length, complexity, documented)
            for source, _, measured in found
            for complexity, line, length, name, documented in measured["functions"]
        ]
        troubles = [] if problems == self.problems else [(stored(name), *rest) for name, *rest in problems]
        with self.pool.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany("DELETE FROM functions WHERE file = ?", old)
            connection.executemany("DELETE FROM files WHERE name = ?", old)
            connection.executemany("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", files)
            connection.executemany("INSERT INTO functions VALUES (?, ?, ?, ?, ?, ?)", functions)
            if problems != self.problems:
                connection.execute("DELETE FROM problems")
                connection.executemany("INSERT INTO problems VALUES (?, ?, ?)", troubles)
        # The pool has committed.
        for name in gone:
            del self.versions[name]
        self.versions.update((source.name, version) for source, version, _ in found)
        self.problems = problems
        self.rows_written += len(files) + len(functions) + len(troubles)


class Update:
    """Takes the findings of one scan, and writes those that are new, a batch in one transaction."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._measured_by = f"{metrics.VERSION} {sys.implementation.cache_tag}"
        self._seen: set[str] = set()
        self._batch: list[tuple[Source, str, dict[str, Any]]] = []

    def add(self, source: Source, measured: dict[str, Any]) -> None:
        """Evidence of one file."""
        version = f"{source.size} {source.mtime_ns} {self._measured_by}"
        self._seen.add(source.name)
        if self._evidence.versions.get(source.name) == version:
            return
        self._batch.append((source, version, measured))
        if len(self._batch) >= BATCH_FILES:
            self._evidence.write(self._batch, [], self._evidence.problems)
            self._batch = []

    def finish(self, problems: list[Problem]) -> None:
        """The scan is over: what it did not find is there no more."""
        problems = [Problem(name, kind, printable(detail)) for name, kind, detail in problems]
        gone = sorted(self._evidence.versions.keys() - self._seen)
        if self._batch or gone or problems != self._evidence.problems:
            self._evidence.write(self._batch, gone, problems)


def _file_row(source: Source, version: str, measured: dict[str, Any]) -> tuple[Any, ...]:
    counts = (measured["lines"], measured["classes"], len(measured["functions"]))
    complexity = (measured["complexity"], measured["module_complexity"])
    documented = (measured["documented"], measured["documentable"])
    return (stored(source.name), stored(source.package), version, source.size, *counts, *complexity, *documented)


def stored(name: str) -> str | bytes:
    """A file name as it is kept: a database takes text, which the system's names need not be."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name)
    return name


def loaded(name: str | bytes) -> str:
    """The name that was kept."""
    return os.fsdecode(name)
