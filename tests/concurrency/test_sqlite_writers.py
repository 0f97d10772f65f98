"""Many writers and readers on one file, in this process and others: nothing raised, every acknowledged row there."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from contextlib import closing

import pytest
from harness import Task, peers

from upshift import sqlite

#: Seconds; a minute is what the claim is made for.
DURATION = float(os.environ.get("UPSHIFT_SOAK_SECONDS", "5"))
WRITERS, READERS, PROCESSES = 8, 4, 2

PEER = """
import os, sys, time
from upshift import sqlite

def write(path, seconds):
    connection = sqlite.connect(path, isolation_level=None, timeout=30)
    connection.execute("PRAGMA synchronous = NORMAL")
    acknowledged, slowest, end = 0, 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        connection.execute("INSERT INTO t VALUES (?, ?)", (os.getpid(), acknowledged))
        acknowledged += 1
        slowest = max(slowest, time.monotonic() - started)
    connection.close()
    return os.getpid(), acknowledged, slowest
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "shared.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (writer, n, PRIMARY KEY (writer, n))")
    return path


@pytest.fixture(autouse=True)
def _frequent_switches():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(interval)


def open_(path, **options):
    connection = sqlite.connect(path, timeout=30, **{"isolation_level": None, **options})
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


class Writing:
    """What one writer did."""

    def __init__(self, number):
        self.number = number
        self.acknowledged = 0
        self.slowest = 0.0


def write(path, number, end):
    """Writes in the ways there are: single statements, immediate and deferred transactions, rolled back ones."""
    done = Writing(number)
    with closing(open_(path)) as connection, closing(open_(path, isolation_level="")) as legacy:
        turn = 0
        while time.monotonic() < end:
            started = time.monotonic()
            row = (number, done.acknowledged)
            if turn % 4 == 0:
                connection.execute("INSERT INTO t VALUES (?, ?)", row)
            elif turn % 4 == 1:
                with legacy:
                    legacy.execute("INSERT INTO t VALUES (?, ?)", row)
            elif turn % 4 == 2:
                connection.execute("BEGIN IMMEDIATE")
                (count,) = connection.execute("SELECT count(*) FROM t WHERE writer = ?", (number,)).fetchone()
                assert count == done.acknowledged
                connection.execute("INSERT INTO t VALUES (?, ?)", row)
                connection.execute("COMMIT")
            else:
                legacy.execute("INSERT INTO t VALUES (?, -1)", (number,))
                legacy.rollback()
                done.acknowledged -= 1
            done.acknowledged += 1
            done.slowest = max(done.slowest, time.monotonic() - started)
            turn += 1
    return done


def read(path, end):
    rounds, last = 0, 0
    with closing(open_(path)) as connection:
        while time.monotonic() < end:
            connection.execute("BEGIN")
            (count,) = connection.execute("SELECT count(*) FROM t").fetchone()
            (again,) = connection.execute("SELECT count(*) FROM t").fetchone()
            connection.execute("COMMIT")
            assert last <= count == again
            last = count
            rounds += 1
    return rounds


@pytest.mark.timeout(DURATION + 100)
def test_nothing_is_raised_and_every_acknowledged_row_is_there(path):
    with peers(PROCESSES, PEER) as others:
        for peer in others:
            peer.send(f"write({str(path)!r}, {DURATION})")
        end = time.monotonic() + DURATION
        writers = [Task(write, path, number, end) for number in range(WRITERS)]
        readers = [Task(read, path, end) for _ in range(READERS)]
        limit = DURATION + 60
        done = [writer.result(limit) for writer in writers]
        rounds = [reader.result(limit) for reader in readers]
        apart = [peer.receive(limit) for peer in others]
    assert all(rounds)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = dict(connection.execute("SELECT writer, count(*) FROM t GROUP BY writer"))
        assert connection.execute("SELECT count(*) FROM t WHERE n < 0").fetchone() == (0,)
    expected = {writing.number: writing.acknowledged for writing in done}
    expected.update((pid, acknowledged) for pid, acknowledged, _ in apart)
    assert found == expected
    slowest = max(writing.slowest for writing in done)
    print(f"\n{sum(expected.values())} rows in {DURATION:.0f} s, {sum(rounds)} reads")
    print(f"here {[writing.acknowledged for writing in done]}, slowest write {slowest:.3f} s")
    print(f"apart {[acknowledged for _, acknowledged, _ in apart]}, {max(slowest for *_, slowest in apart):.3f} s")
