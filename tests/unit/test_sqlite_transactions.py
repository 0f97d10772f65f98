"""Transactions in both styles, on every version of Python."""

from __future__ import annotations

import sqlite3

import pytest

import upshift.sqlite as sqlite

LEGACY = sqlite.LEGACY_TRANSACTION_CONTROL


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "transactions.db"
    made = sqlite.connect(path)
    made.execute("CREATE TABLE t (a UNIQUE)")
    made.close()
    return path


@pytest.fixture
def connect(file):
    made = []

    def connect(**options):
        made.append(sqlite.connect(file, **options))
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


def committed(file):
    """What others see."""
    other = sqlite3.connect(file)
    rows = [row[0] for row in other.execute("SELECT a FROM t ORDER BY a")]
    other.close()
    return rows


# ---- autocommit, which the standard library has from Python 3.12 on


def test_autocommit_off_keeps_a_transaction_open(connect, file):
    connection = connect(autocommit=False)
    assert connection.autocommit is False
    assert connection.in_transaction
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()
    assert connection.in_transaction
    connection.execute("INSERT INTO t VALUES (2)")
    assert committed(file) == [1]
    connection.rollback()
    assert connection.in_transaction
    # DDL belongs to the transaction too.
    connection.execute("CREATE TABLE u (a)")
    connection.rollback()
    with pytest.raises(sqlite.OperationalError, match="no such table"):
        connection.execute("SELECT * FROM u")


def test_autocommit_off_rolls_back_what_is_open_at_the_end(connect, file):
    connection = connect(autocommit=False)
    connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    assert committed(file) == []


def test_autocommit_on_leaves_transactions_to_sql(connect, file):
    connection = connect(autocommit=True)
    assert connection.autocommit is True
    connection.execute("INSERT INTO t VALUES (1)")
    assert not connection.in_transaction
    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (2)")
    # Nothing but SQL ends it.
    connection.commit()
    connection.rollback()
    with connection:
        pass
    assert connection.in_transaction
    connection.execute("COMMIT")
    assert committed(file) == [1, 2]


def test_autocommit_may_be_changed(connect, file):
    connection = connect()
    assert connection.autocommit == LEGACY
    connection.execute("INSERT INTO t VALUES (1)")
    connection.autocommit = True
    assert not connection.in_transaction
    assert committed(file) == [1]
    connection.autocommit = False
    assert connection.in_transaction
    connection.execute("INSERT INTO t VALUES (2)")
    connection.autocommit = LEGACY
    assert connection.in_transaction
    connection.rollback()
    assert not connection.in_transaction
    assert committed(file) == [1]
    for wrong in ("True", 2, None, 1.0):
        with pytest.raises(ValueError, match="autocommit must be True, False, or"):
            connection.autocommit = wrong
    with pytest.raises(ValueError, match="autocommit must be"):
        sqlite.connect(":memory:", autocommit="yes")


def test_a_script_leaves_the_transaction_of_autocommit_alone(connect, file):
    connection = connect(autocommit=False)
    connection.executescript("INSERT INTO t VALUES (1); INSERT INTO t VALUES (2);")
    assert committed(file) == []
    connection.rollback()
    assert connection.execute("SELECT * FROM t").fetchall() == []


# ---- isolation_level


@pytest.mark.parametrize("level", ["", "DEFERRED", "IMMEDIATE", "EXCLUSIVE", "deferred", "Immediate"])
def test_changes_of_rows_begin_a_transaction(connect, level):
    connection = connect(isolation_level=level)
    assert connection.isolation_level == level.upper()
    for sql in ("SELECT 1", "CREATE TABLE u (a)", "DROP TABLE u", "PRAGMA user_version = 3", "EXPLAIN DELETE FROM t"):
        connection.execute(sql).fetchall()
        assert not connection.in_transaction, sql
    for sql in (
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 2",
        "DELETE FROM t",
        "REPLACE INTO t VALUES (1)",
        " /* so */ -- so\n insert INTO t VALUES (5)",
    ):
        connection.execute(sql)
        assert connection.in_transaction, sql
        connection.rollback()
        assert not connection.in_transaction


def test_how_strictly_a_transaction_begins(connect):
    connection, other = connect(isolation_level="IMMEDIATE", timeout=0), connect(timeout=0)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite.OperationalError, match="locked"):
        connection.execute("DELETE FROM t WHERE 0")
    connection.isolation_level = "DEFERRED"
    # Nothing to delete is still a write for SQLite.
    with pytest.raises(sqlite.OperationalError, match="locked"):
        connection.execute("DELETE FROM t WHERE 0")
    other.rollback()


def test_no_level_no_transactions(connect, file):
    connection = connect(isolation_level=None)
    connection.execute("INSERT INTO t VALUES (1)")
    assert not connection.in_transaction
    assert committed(file) == [1]
    connection.isolation_level = ""
    connection.execute("INSERT INTO t VALUES (2)")
    # As ever: leaving implicit transactions commits.
    connection.isolation_level = None
    assert committed(file) == [1, 2]


def test_wrong_levels(connect):
    connection = connect()
    for wrong, error in (
        ("BOGUS", ValueError),
        ("", None),
        (1, TypeError),
        (b"", TypeError),
        ("IMMEDIATE\0", ValueError),
    ):
        if error is None:
            connection.isolation_level = wrong
            continue
        with pytest.raises(error):
            connection.isolation_level = wrong
        with pytest.raises(error):
            sqlite.connect(":memory:", isolation_level=wrong)
    with pytest.raises(AttributeError):
        del connection.isolation_level


def test_statements_of_their_own_are_followed(connect, file):
    connection = connect()
    connection.execute("BEGIN")
    assert connection.in_transaction
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute("SAVEPOINT s")
    connection.execute("INSERT INTO t VALUES (2)")
    connection.execute("ROLLBACK TO s")
    connection.execute("RELEASE s")
    connection.commit()
    assert committed(file) == [1]
    # Nothing to do is no error.
    connection.commit()
    connection.rollback()


def test_scripts_commit_first(connect, file):
    connection = connect()
    connection.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(sqlite.OperationalError):
        connection.executescript("INSERT INTO t VALUES (2); SELECT * FROM nowhere; INSERT INTO t VALUES (3);")
    assert committed(file) == [1, 2]


# ---- with


def test_with_commits_or_rolls_back(connect, file):
    connection = connect()
    with connection as entered:
        assert entered is connection
        connection.execute("INSERT INTO t VALUES (1)")
    assert committed(file) == [1]

    def run(*statements):
        with connection:
            for sql in statements:
                connection.execute(sql)
            raise LookupError

    with pytest.raises(LookupError):
        run("INSERT INTO t VALUES (2)")
    assert committed(file) == [1]
    with pytest.raises(sqlite.IntegrityError):
        run("INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (1)")
    assert committed(file) == [1]
    # It stays open.
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_commit_that_fails_leaves_nothing_open(connect):
    connection = connect()
    connection.execute("PRAGMA foreign_keys = ON")
    connection.executescript("""
        CREATE TABLE parent (a PRIMARY KEY);
        CREATE TABLE child (a REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
    """)
    with pytest.raises(sqlite.IntegrityError, match="FOREIGN KEY"):
        with connection:
            connection.execute("INSERT INTO child VALUES (1)")
    assert not connection.in_transaction


def test_with_does_not_call_the_methods_of_a_subclass(file):
    """As in every version of the standard library's module that is supported."""

    def calls_of(module):
        calls = []

        class Own(module.Connection):
            def commit(self):
                calls.append("commit")
                super().commit()

            def rollback(self):
                calls.append("rollback")
                super().rollback()

        connection = module.connect(file, factory=Own)
        with connection:
            connection.execute("INSERT INTO t VALUES (?)", (module.__name__,))
        with pytest.raises(sqlite3.IntegrityError):
            with connection:
                connection.execute("INSERT INTO t VALUES (?), (?)", (module.__name__, module.__name__))
        connection.close()
        return calls

    assert calls_of(sqlite) == calls_of(sqlite3) == []
    assert sorted(committed(file)) == ["sqlite3", "upshift.sqlite"]


def test_closing_does_not_commit(connect, file):
    connection = connect()
    connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    assert committed(file) == []


def test_total_changes_and_rowcount(connect):
    connection = connect()
    before = connection.total_changes
    cursor = connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(5)])
    assert (cursor.rowcount, connection.total_changes - before) == (5, 5)
    assert connection.execute("UPDATE t SET a = a + 10 WHERE a > 2").rowcount == 2
    assert connection.execute("DELETE FROM t WHERE 0").rowcount == 0
    assert connection.execute("SELECT * FROM t").rowcount == -1
    assert connection.execute("CREATE TABLE u (a)").rowcount == -1
