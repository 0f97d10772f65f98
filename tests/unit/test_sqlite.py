"""The module itself: the surface of the running interpreter's `sqlite3`, and what newer ones have."""

from __future__ import annotations

import collections.abc
import contextlib
import importlib
import inspect
import sqlite3
import subprocess
import sys
import types
import warnings

import pytest

import upshift.sqlite as sqlite

CLASSES = ["Connection", "Cursor", "Row", "Blob"]


def public(thing):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return {
            name
            for name in dir(thing)
            if not name.startswith("_") and not isinstance(getattr(thing, name), types.ModuleType)
        }


def test_every_public_name_of_the_module_is_there():
    assert sorted(name for name in public(sqlite3) if not hasattr(sqlite, name)) == []


def test_import_star_takes_all_of_them():
    everything = {}
    exec("from upshift.sqlite import *", everything)
    assert sorted(public(sqlite3) - set(everything)) == []


@pytest.mark.parametrize("name", CLASSES)
def test_every_attribute_of_a_class_is_there(name):
    theirs = getattr(sqlite3, name, None)
    if theirs is None:
        pytest.skip("platform: this Python's sqlite3 has no such class")
    ours = getattr(sqlite, name)
    # Attributes of its own that `object` does not have, special methods included.
    wanted = {attribute for attribute in vars(theirs) if not hasattr(object, attribute)}
    # `__del__` only warns; ours does so where the object dies.
    assert sorted(wanted - set(dir(ours)) - {"__del__"}) == []


@pytest.mark.parametrize("name", CLASSES[:2])
def test_methods_have_the_signatures_of_the_standard_library(name):
    theirs, ours = getattr(sqlite3, name), getattr(sqlite, name)
    differ = {}
    for method in public(theirs):
        try:
            wanted = inspect.signature(getattr(theirs, method))
        except (TypeError, ValueError):
            continue
        found = inspect.signature(getattr(ours, method))
        kinds = [(parameter.name, parameter.kind) for parameter in wanted.parameters.values()]
        # More optional keywords are no difference.
        more = {parameter.name for parameter in found.parameters.values() if parameter.kind == parameter.KEYWORD_ONLY}
        more -= set(wanted.parameters)
        ours_kinds = [(part.name, part.kind) for part in found.parameters.values() if part.name not in more]
        if [part for part in kinds if part[0] != "self"] != [part for part in ours_kinds if part[0] != "self"]:
            differ[method] = (str(wanted), str(found))
    assert differ == {}


def test_constants_have_the_values_of_the_standard_library():
    theirs = {name: value for name, value in vars(sqlite3).items() if isinstance(value, int) and name.isupper()}
    assert len(theirs) > 30
    assert {name: getattr(sqlite, name) for name in theirs} == theirs


def test_constants_of_newer_versions_are_there_on_all():
    names = ["SQLITE_LIMIT_SQL_LENGTH", "SQLITE_DBCONFIG_DEFENSIVE", "SQLITE_BUSY_SNAPSHOT"]
    assert [getattr(sqlite, name) for name in names] == [1, 1010, 517]
    assert sqlite.LEGACY_TRANSACTION_CONTROL == -1


def test_exceptions_adapters_and_converters_are_the_standard_librarys_own():
    assert issubclass(sqlite.Error, Exception)
    for name in ("Warning", "Error", "OperationalError", "IntegrityError", "ProgrammingError", "NotSupportedError"):
        assert getattr(sqlite, name) is getattr(sqlite3, name)
        assert getattr(sqlite.Connection, name) is getattr(sqlite3, name)
    assert sqlite.adapters is sqlite3.adapters
    assert sqlite.converters is sqlite3.converters
    assert sqlite.register_adapter is sqlite3.register_adapter


def test_pep_249_globals():
    assert (sqlite.apilevel, sqlite.paramstyle, sqlite.threadsafety) == ("2.0", "qmark", 3)
    with contextlib.closing(sqlite.connect(":memory:")) as connection:
        assert connection.execute("SELECT sqlite_version()").fetchone() == (sqlite.sqlite_version,)
    assert sqlite.shares_interpreter_library
    assert sqlite.sqlite_version_info == sqlite3.sqlite_version_info


def test_dbapi2_is_the_module_under_another_name():
    dbapi2 = importlib.import_module("upshift.sqlite.dbapi2")
    assert sqlite.dbapi2 is dbapi2
    assert [name for name in public(sqlite) if getattr(dbapi2, name) is not getattr(sqlite, name)] == []


def test_either_name_may_be_imported_first():
    for first in ("upshift.sqlite.dbapi2", "upshift.sqlite"):
        code = f"import {first} as module; module.connect(':memory:').close()"
        subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("name", ["version", "version_info", "OptimizedUnicode", "no_such_name"])
@pytest.mark.parametrize("module", [sqlite, sqlite.dbapi2], ids=["sqlite", "dbapi2"])
def test_deprecated_names_are_those_of_the_running_interpreter(name, module):
    def outcome(owner):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value = getattr(owner, name)
            except AttributeError:
                return "absent"
        return value, [warning.category for warning in caught], [warning.filename for warning in caught]

    assert outcome(module) == outcome(sqlite3)


def test_isinstance_holds_with_the_standard_librarys_classes():
    connection = sqlite.connect(":memory:")
    connection.row_factory = sqlite.Row
    cursor = connection.execute("SELECT 1 AS a")
    row = cursor.fetchone()
    assert isinstance(connection, sqlite3.Connection)
    assert isinstance(cursor, sqlite3.Cursor)
    assert isinstance(row, sqlite3.Row)
    for thing, name in ((connection, "Connection"), (cursor, "Cursor"), (row, "Row")):
        assert isinstance(thing, getattr(sqlite, name))
        assert type(thing) is getattr(sqlite, name)
    assert isinstance(row, collections.abc.Sequence)
    assert not isinstance(connection, sqlite3.Cursor)
    connection.close()


def test_a_subclass_passes_for_itself():
    class Own(sqlite.Connection):
        pass

    connection = sqlite.connect(":memory:", factory=Own)
    assert connection.__class__ is Own
    assert isinstance(connection, sqlite.Connection)
    connection.close()


@pytest.mark.skipif(sys.version_info < (3, 13), reason="platform: deprecated from Python 3.13 on")
def test_positional_arguments_of_connect_are_deprecated():

    def messages(make):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            make(":memory:", 1.0).close()
        assert {warning.filename for warning in caught} == {__file__}
        return [(warning.category, str(warning.message)) for warning in caught]

    class Ours(sqlite.Connection):
        def __init__(self, *args):
            super().__init__(*args)

    class Theirs(sqlite3.Connection):
        def __init__(self, *args):
            super().__init__(*args)

    assert messages(sqlite.connect) == messages(sqlite3.connect)
    assert messages(sqlite.Connection) == messages(sqlite3.Connection)
    assert messages(Ours) == messages(Theirs)


def test_connect_takes_its_arguments_by_position_and_by_name():
    class Own(sqlite.Connection):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for connection in (
            sqlite.connect(":memory:", 1.0, 0, "IMMEDIATE", False, Own, 16, False),
            sqlite.connect(":memory:", isolation_level="IMMEDIATE", factory=Own),
        ):
            assert type(connection) is Own
            assert connection.isolation_level == "IMMEDIATE"
            connection.close()
    connection = sqlite.connect(":memory:", factory=None)
    assert type(connection) is sqlite.Connection
    connection.close()
    with pytest.raises(TypeError, match="unexpected keyword"):
        sqlite.connect(":memory:", no_such_option=1)
    with pytest.raises(TypeError, match="database"):
        sqlite.connect()
