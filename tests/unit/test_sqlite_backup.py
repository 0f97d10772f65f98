"""`backup`, `serialize`, `deserialize` and `iterdump`."""

from __future__ import annotations

import sqlite3
import threading
import time

import pytest

import upshift.sqlite as sqlite
from upshift.sqlite import ConnectionPool


def filled(path=":memory:", rows=200, **options):
    connection = sqlite.connect(path, **options)
    connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b)")
    connection.executemany("INSERT INTO t (b) VALUES (?)", [(b"x" * 500,) for _ in range(rows)])
    connection.commit()
    return connection


def count(connection):
    return connection.execute("SELECT count(*) FROM t").fetchone()[0]


@pytest.fixture
def source():
    made = filled()
    yield made
    made.close()


@pytest.fixture
def target():
    made = sqlite.connect(":memory:")
    yield made
    made.close()


def test_copies_between_files_page_by_page(tmp_path):
    source, target = filled(tmp_path / "source.db"), sqlite.connect(tmp_path / "target.db")
    steps = []
    source.backup(target, pages=5, progress=lambda *step: steps.append(step))
    assert count(target) == 200
    total = steps[-1][2]
    assert steps[-1] == (sqlite.SQLITE_DONE, 0, total)
    assert [remaining for _, remaining, _ in steps] == [max(total - 5 * (i + 1), 0) for i in range(len(steps))]
    source.close()
    target.close()


def test_a_target_of_the_standard_library_is_impossible_and_says_why(source):
    other = sqlite3.connect(":memory:")
    with pytest.raises(TypeError, match=r"one of the standard library's sqlite3 gives nobody its handle"):
        source.backup(other)
    other.close()
    with pytest.raises(TypeError, match=r"must be upshift\.sqlite\.Connection, not str"):
        source.backup("file.db")


def test_arguments_are_checked(source, target):
    with pytest.raises(ValueError, match="same connection"):
        source.backup(source)
    with pytest.raises(TypeError, match="callable"):
        source.backup(target, progress=1)
    with pytest.raises(ValueError, match="sleep"):
        source.backup(target, sleep=-1)
    with pytest.raises(ValueError, match="embedded null"):
        source.backup(target, name="ma\0in")
    with pytest.raises(sqlite.OperationalError, match="unknown database nowhere"):
        source.backup(target, name="nowhere")
    source.backup(target, pages=0)
    assert count(target) == 200


def test_progress_may_raise_and_the_target_is_usable_afterwards(source, target):
    def stop(*_):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        source.backup(target, pages=1, progress=stop)
    target.execute("CREATE TABLE u (a)")
    source.backup(target)
    assert count(target) == 200


def test_progress_may_use_the_source_but_close_neither(source, target):
    messages = []

    def progress(*_):
        assert count(source) >= 200
        for connection in (source, target):
            try:
                connection.close()
            except sqlite.Error as error:
                messages.append(str(error).split(";")[0])

    source.backup(target, pages=20, progress=progress)
    assert set(messages) == {
        "cannot close the connection while a backup of it is running",
        "a backup is writing into this database",
    }
    assert count(target) == 200


def test_the_source_may_be_written_meanwhile(source, target):
    written = []

    def progress(*_):
        if len(written) < 3:
            with source:
                written.append(source.execute("INSERT INTO t (b) VALUES (?)", (b"y" * 500,)).lastrowid)

    source.backup(target, pages=5, progress=progress)
    assert written == [201, 202, 203]
    assert count(target) == 203


def test_the_source_may_be_opened_anew_meanwhile(source, target):
    opened = []

    def progress(*_):
        if not opened:
            opened.append(source.__init__(":memory:"))

    source.backup(target, pages=20, progress=progress)
    assert count(target) == 200
    with pytest.raises(sqlite.OperationalError, match="no such table"):
        count(source)


def test_the_target_may_belong_to_another_thread(source):
    made = []
    thread = threading.Thread(target=lambda: made.append(sqlite.connect(":memory:", check_same_thread=False)))
    thread.start()
    thread.join()
    source.backup(made[0])
    assert count(made[0]) == 200
    made[0].close()


def test_two_threads_that_copy_into_each_others_source_do_not_block_each_other(tmp_path):
    options = {"check_same_thread": False, "timeout": 30}
    one, other = filled(tmp_path / "one.db", 20, **options), filled(tmp_path / "other.db", 20, **options)
    failures = []

    def copy(source, target):
        for _ in range(30):
            try:
                source.backup(target, pages=3, sleep=0.001)
            except sqlite.OperationalError as error:
                failures.append(str(error))

    threads = [threading.Thread(target=copy, args=pair) for pair in ((one, other), (other, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # SQLite itself refuses a target that is being read; one that is being written is refused as well.
    assert all(any(word in failure for word in ("in use", "locked", "backup")) for failure in failures), failures
    assert (count(one), count(other)) == (20, 20)
    one.close()
    other.close()


def test_other_threads_run_while_pages_are_copied(tmp_path):
    source, target = filled(tmp_path / "source.db", 20_000), sqlite.connect(tmp_path / "target.db")
    done = threading.Event()
    beats = []

    def beat():
        while not done.is_set():
            beats.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=beat)
    thread.start()
    started = time.perf_counter()
    source.backup(target)
    ended = time.perf_counter()
    done.set()
    thread.join()
    inside = [moment for moment in beats if started < moment < ended]
    assert len(inside) > (ended - started) / 0.001 / 20
    source.close()
    target.close()


def test_waits_for_a_locked_target(tmp_path):
    source = filled()
    path = tmp_path / "target.db"
    target = sqlite.connect(path, timeout=0)
    blocker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    blocker.execute("CREATE TABLE b (a)")
    blocker.execute("BEGIN EXCLUSIVE")
    statuses = []

    def progress(status, *_):
        statuses.append(status)
        if len(statuses) == 3:
            blocker.execute("ROLLBACK")

    source.backup(target, progress=progress, sleep=0.001)
    assert {sqlite.SQLITE_BUSY, sqlite.SQLITE_DONE} <= set(statuses)
    assert count(target) == 200
    for connection in (source, target, blocker):
        connection.close()


def test_writers_of_the_target_wait_for_the_backup(tmp_path):
    source = filled()
    path = tmp_path / "target.db"
    target, writer = sqlite.connect(path), sqlite.connect(path, check_same_thread=False)
    writer.execute("PRAGMA journal_mode = WAL")
    writer.execute("CREATE TABLE u (a)")
    order = []

    def write():
        with writer:
            writer.execute("CREATE TABLE IF NOT EXISTS v (a)")
        order.append("written")

    thread = threading.Thread(target=write)

    def progress(_status, remaining, _total):
        if thread.ident is None:
            thread.start()
            time.sleep(0.05)
        if not remaining:
            order.append("copied")

    source.backup(target, pages=5, progress=progress)
    thread.join()
    assert order == ["copied", "written"]
    for connection in (source, target, writer):
        connection.close()


# ---- serialize, deserialize


def test_bytes_of_a_database_make_it_again(source, target):
    data = source.serialize()
    assert data[:16] == b"SQLite format 3\0"
    target.deserialize(data)
    assert count(target) == 200
    # It is a copy, and may grow.
    target.executemany("INSERT INTO t (b) VALUES (?)", [(b"y" * 5000,)] * 100)
    target.commit()
    assert (count(source), count(target)) == (200, 300)
    assert target.serialize() != data


def test_bytes_of_a_file_are_the_file(tmp_path):
    source = filled(tmp_path / "file.db")
    assert source.serialize() == (tmp_path / "file.db").read_bytes()
    source.close()


def test_other_databases_by_name(source, target):
    target.execute("ATTACH ':memory:' AS other")
    target.deserialize(bytearray(source.serialize()), name="other")
    assert target.execute("SELECT count(*) FROM other.t").fetchone() == (200,)
    assert target.serialize(name="other") == source.serialize()
    with pytest.raises(sqlite.OperationalError, match="unable to serialize 'nowhere'"):
        target.serialize(name="nowhere")
    with pytest.raises(sqlite.OperationalError):
        target.deserialize(b"", name="nowhere")


def test_kept_statements_do_not_know_the_old_tables(target):
    """The schema cookies of both databases are alike."""
    for kind in ("a", "b"):
        other = sqlite.connect(":memory:")
        if kind == "b":
            other.execute("CREATE TABLE filler (x)")
        other.execute("CREATE TABLE t (x)")
        if kind == "a":
            other.execute("CREATE TABLE filler (x)")
        other.execute("INSERT INTO t VALUES (?)", (kind,))
        other.commit()
        data = other.serialize()
        other.close()
        target.deserialize(data)
        assert target.execute("SELECT x FROM t").fetchall() == [(kind,)]


def test_bad_bytes_are_refused_when_they_are_used(target):
    target.deserialize(b"no database at all")
    with pytest.raises(sqlite.DatabaseError, match="file is not a database"):
        target.execute("SELECT * FROM t")
    for wrong, error in ((None, TypeError), ("text", TypeError), (memoryview(b"abcd")[::2], BufferError)):
        with pytest.raises(error):
            target.deserialize(wrong)


# ---- iterdump


def test_the_dump_makes_the_database_again(target):
    source = sqlite.connect(":memory:")
    source.executescript("""
        CREATE TABLE "odd ""name" ("a 'b'" INTEGER PRIMARY KEY AUTOINCREMENT, "c" BLOB);
        INSERT INTO "odd ""name" VALUES (7, x'00ff'), (8, 'it''s'), (9, NULL), (10, 1.5);
        CREATE VIEW v AS SELECT c FROM "odd ""name";
        CREATE INDEX i ON "odd ""name" (c);
        CREATE TRIGGER g AFTER INSERT ON "odd ""name" BEGIN SELECT 1; END;
    """)
    script = "\n".join(source.iterdump())
    target.executescript(script)
    assert "\n".join(target.iterdump()) == script
    tables = 'SELECT * FROM "odd ""name" ORDER BY 1'
    assert target.execute(tables).fetchall() == source.execute(tables).fetchall()
    source.close()


def test_a_filter_chooses_by_name(source):
    source.execute("CREATE TABLE other (a)")
    assert list(source.iterdump(filter="oth%")) == ["BEGIN TRANSACTION;", "CREATE TABLE other (a);", "COMMIT;"]
    assert list(source.iterdump(filter=None)) == list(source.iterdump())


def test_violated_foreign_keys_are_not_enforced_on_the_way_back(target):
    source = sqlite.connect(":memory:")
    source.executescript("""
        CREATE TABLE parent (a PRIMARY KEY);
        CREATE TABLE child (a REFERENCES parent);
        INSERT INTO child VALUES (1);
    """)
    statements = list(source.iterdump())
    assert statements[:2] == ["PRAGMA foreign_keys=OFF;", "BEGIN TRANSACTION;"]
    target.execute("PRAGMA foreign_keys = ON")
    target.executescript("\n".join(statements))
    source.close()


def test_factories_of_the_connection_do_not_matter(source):
    plain = list(source.iterdump())
    source.row_factory = sqlite.Row
    assert list(source.iterdump()) == plain
    source.row_factory = lambda *_: None
    assert list(source.iterdump()) == plain


def test_a_closed_connection_is_refused_at_once(target):
    target.close()
    with pytest.raises(sqlite.ProgrammingError):
        target.iterdump()
    with pytest.raises(sqlite.ProgrammingError):
        target.serialize()


def test_a_borrowed_connection_is_a_target(tmp_path):
    source = sqlite.connect(":memory:")
    source.execute("CREATE TABLE t (x)")
    with ConnectionPool(tmp_path / "target.db") as pool:
        with pool.connection() as target:
            source.backup(target)
            assert target.execute("SELECT count(*) FROM t").fetchone()[0] == 0
        with pytest.raises(sqlite3.ProgrammingError, match="given back"):
            source.backup(target)
    source.close()


@pytest.mark.parametrize("database", [":memory:", "pool.db"])
def test_the_database_of_a_pool_is_not_replaced(tmp_path, monkeypatch, database):
    monkeypatch.chdir(tmp_path)
    with sqlite.connect(":memory:") as other:
        other.execute("CREATE TABLE other (x)")
    data = other.serialize()
    with sqlite.ConnectionPool(database, 2, 2) as pool:
        with pool.connection() as one, pool.connection() as two:
            one.execute("CREATE TABLE t (x)")
            for target in (one, one.conn):
                with pytest.raises(sqlite.ProgrammingError, match=r"deserialize.*one of a pool.*backup"):
                    target.deserialize(data)
            with pytest.raises(sqlite.ProgrammingError, match="one of a pool"):
                one.deserialize(data, name="MAIN")
            assert two.execute("SELECT count(*) FROM t").fetchone()[0] == 0
            one.execute("ATTACH ':memory:' AS private")
            one.deserialize(data, name="private")
            assert one.execute("SELECT count(*) FROM private.other").fetchone()[0] == 0
            one.execute("DETACH private")
            # For all connections of the pool.
            other.backup(one.conn)
            assert two.execute("SELECT count(*) FROM other").fetchone()[0] == 0
    other.close()
