"""Tests of CPython's sqlite suite that `upshift.sqlite` cannot pass, each with what makes it impossible.

A key is the id of a test, with `*` as a wildcard; in front of it may stand the Python versions it is about
(`3.9-3.11 `, `3.13- `). The list only gets shorter: an entry that no failing test needs is an error, on every
interpreter it is about.
"""

from __future__ import annotations

KNOWN: dict[str, str] = {
    # The test compares with the number 1.
    "3.9-3.10 dbapi.ModuleTests.*hread*afety": "threads may share these connections, and PEP 249 has 3 for that",
    # The test wants the converter of the first row to run within execute().
    "3.9-3.10 regression.RecursiveUseOfCursors.test_recursive_cursor_close": (
        "a value is converted when its row is fetched, so that an error belongs to its row, as from Python 3.11 on"
    ),
    "3.9-3.10 regression.RecursiveUseOfCursors.test_recursive_cursor_init": (
        "a value is converted when its row is fetched, so that an error belongs to its row, as from Python 3.11 on"
    ),
}
