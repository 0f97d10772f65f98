"""The SQLite rows: `make bench ARGS="--rows sqlite"`, and with the bundled library `make bench-bundled`."""

from __future__ import annotations

import sqlite_bulk
import sqlite_calls
import sqlite_writers
from report import Case


def cases() -> list[Case]:
    return [*sqlite_calls.cases(), *sqlite_bulk.cases(), *sqlite_writers.cases()]
