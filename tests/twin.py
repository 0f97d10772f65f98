"""Asserts that `upshift.sqlite` does what the running interpreter's `sqlite3` does.

Imported as a plain module; the `conftest.py` of each folder puts `tests/` on the path.
"""

from __future__ import annotations

import sqlite3
import sys
import warnings

from upshift import sqlite

#: From Python 3.11 on exceptions carry SQLite's code, and callbacks of all kinds report alike.
NEW = sys.version_info >= (3, 11)


def outcome(module, scenario):
    """What `scenario(connection)` returns or raises with a connection of the module, and the warnings on the way."""
    connection = module.connect(":memory:")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = scenario(connection)
            except Exception as error:
                result = (type(error), str(error), getattr(error, "sqlite_errorcode", None) if NEW else None)
        return result, [(warning.category, str(warning.message)) for warning in caught]
    finally:
        connection.close()


def same(scenario):
    """Asserts that the scenario has the same outcome with both modules, and returns its result."""
    expected = outcome(sqlite3, scenario)
    assert outcome(sqlite, scenario) == expected
    return expected[0]


# Callables and values that callbacks meet.


def fail(*_):
    raise ZeroDivisionError("division by zero")


def out_of_memory(*_):
    raise MemoryError


def overflow(*_):
    raise OverflowError


class Index:
    def __index__(self):
        return 1

    def __repr__(self):  # in the names of tests, which are the same in every process
        return "Index()"


class Str(str):
    __slots__ = ()
