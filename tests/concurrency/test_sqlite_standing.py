"""Pooled connections share a transaction from read to read: nobody may notice."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from upshift import sqlite


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data.db"
    with sqlite3.connect(path) as made:
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("CREATE TABLE t (x)")
        made.execute("INSERT INTO t VALUES (0)")
    made.close()
    return path


@pytest.fixture
def pool(path):
    with sqlite.ConnectionPool(path, min_size=1, max_size=4) as pool:
        yield pool


def read(pool):
    with pool.connection() as connection:
        return connection.execute("SELECT x FROM t").fetchone()[0]


def stand(pool):
    """Reads as often as it takes for a read to stand."""
    for _ in range(500):
        read(pool)


def test_commits_of_the_standard_library_are_seen_at_once(path, pool):
    other = sqlite3.connect(path, isolation_level=None)
    for value in range(1, 100):
        stand(pool)
        other.execute("UPDATE t SET x = ?", (value,))
        assert read(pool) == value
    other.close()


def test_commits_of_other_connections_of_the_pool_are_seen_at_once(pool):
    with pool.connection() as writer:
        for value in range(1, 100):
            stand(pool)
            writer.execute("UPDATE t SET x = ?", (value,))
            assert read(pool) == value


def test_commits_of_another_process_are_seen_at_once(path, pool):
    # It counts, and tells each number after the commit.
    source = f"""
        import sqlite3, sys, time
        connection = sqlite3.connect({str(path)!r}, isolation_level=None)
        for value in range(1, 1500):
            connection.execute("UPDATE t SET x = ?", (value,))
            sys.stdout.write(f"{{value}}\\n")
            sys.stdout.flush()
            if value % 50 == 0:
                time.sleep(0.003)
    """
    told, done = [0], threading.Event()
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(source)], stdout=subprocess.PIPE, text=True)

    def listen():
        for line in writer.stdout:
            told[0] = int(line)
        done.set()

    threading.Thread(target=listen).start()
    while not done.is_set():
        least = told[0]
        assert read(pool) >= least
    assert writer.wait() == 0
    writer.stdout.close()
    assert read(pool) == 1499


def test_a_transaction_begins_with_what_is_committed(pool):
    with pool.connection() as one, pool.connection() as other:
        for value in range(1, 50):
            for _ in range(50):
                one.execute("SELECT x FROM t").fetchall()
            other.execute("UPDATE t SET x = ?", (value,))
            one.execute("BEGIN")
            assert one.execute("SELECT x FROM t").fetchone()[0] == value
            # An older snapshot could not be written on.
            one.execute("UPDATE t SET x = x")
            one.execute("COMMIT")


def test_an_unread_result_does_not_outlive_the_borrowing(pool):
    stand(pool)
    connection = pool.acquire()
    connection.execute("INSERT INTO t VALUES (1), (2)")
    for _ in range(50):
        connection.execute("SELECT x FROM t").fetchall()
    cursor = connection.execute("SELECT x FROM t")
    cursor.fetchone()
    raw = connection.conn
    connection.close()
    with pool.connection() as again:
        assert again.conn is raw
        with pytest.raises(sqlite3.ProgrammingError):
            cursor.fetchone()


def test_callbacks_hear_of_their_own_statements_only(pool):
    with pool.connection() as connection:
        for _ in range(50):
            connection.execute("SELECT x FROM t").fetchall()
        seen = []
        connection.set_trace_callback(seen.append)
        for _ in range(50):
            connection.execute("SELECT x FROM t").fetchall()
        connection.set_trace_callback(None)
        assert seen == ["SELECT x FROM t"] * 50
        asked = []
        connection.set_authorizer(lambda *what: asked.append(what[0]) or sqlite3.SQLITE_OK)
        for _ in range(50):
            connection.execute("SELECT x FROM t").fetchall()
        connection.set_authorizer(None)
        assert len(asked) <= 4


def test_functions_may_write_within_a_read(pool):
    with pool.connection() as connection:
        for _ in range(50):
            connection.execute("SELECT x FROM t").fetchall()
        connection.create_function("put", 1, lambda x: connection.execute("INSERT INTO t VALUES (?)", (x,)).rowcount)
        assert [tuple(row) for row in connection.execute("SELECT put(7)")] == [(1,)]
        assert connection.execute("SELECT count(*) FROM t WHERE x = 7").fetchone()[0] == 1


def test_the_log_can_be_emptied_shortly_after(path, pool):
    stand(pool)
    other = sqlite3.connect(path, isolation_level=None, timeout=10)
    other.execute("UPDATE t SET x = 5")
    assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    other.close()


def test_reads_without_end_let_checkpoints_pass(path, pool):
    """As reads of the standard library do: another process that waits for 50 ms only can empty the log."""
    child = """
        import sqlite3, sys, time
        connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0.05)
        busy = 0
        for _ in range(40):
            connection.execute("UPDATE t SET x = x + 1")
            busy += connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            time.sleep(0.01)
        print(busy)
    """
    done = threading.Event()

    def look():
        while not done.is_set():
            read(pool)

    reader = threading.Thread(target=look)
    reader.start()
    try:
        command = [sys.executable, "-c", textwrap.dedent(child), str(path)]
        busy = int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    finally:
        done.set()
        reader.join()
    assert busy <= 3


def test_an_idle_pool_keeps_no_transaction_open(path, pool):
    stand(pool)
    time.sleep(0.2)
    other = sqlite3.connect(path, isolation_level=None, timeout=0)
    other.execute("UPDATE t SET x = 5")
    assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    other.close()


def test_interrupts_do_not_stay(pool):
    with pool.connection() as connection:
        for _ in range(20):
            for _ in range(50):
                connection.execute("SELECT x FROM t").fetchall()
            connection.interrupt()
            assert connection.execute("SELECT x FROM t").fetchone()[0] == 0


def test_readers_and_writers_in_threads(pool):
    committed = [0]
    wrong = []
    done = threading.Event()

    def look():
        while not done.is_set():
            least = committed[0]
            found = read(pool)
            if found < least:
                wrong.append((least, found))

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for value in range(1, 400):
        with pool.connection() as writer:
            writer.execute("UPDATE t SET x = ?", (value,))
        committed[0] = value
    done.set()
    for reader in readers:
        reader.join()
    assert wrong == []
