"""Group commit when things go wrong: writers killed, full disks, forks, the end of the interpreter."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest
from harness import Task, child_env, run, run_literal

#: How many writers are killed; 200 is what the claim is made for.
KILLS = int(os.environ.get("UPSHIFT_TEST_KILLS", "12"))
#: Files whose writers are killed at the same time.
FILES = 2

# Threads and tasks write through one pool; each acknowledged key is told in one piece.
WRITER = """
import asyncio, itertools, os, sys, threading
from upshift.sqlite import ConnectionPool

pool = ConnectionPool(sys.argv[1], min_size=0)
keys = itertools.count(os.getpid() << 32)
SQL = "INSERT INTO t VALUES (?, ?)"

def told(key):
    os.write(1, b"%d\\n" % key)

def write(durability):
    while True:
        key = next(keys)
        pool.write(SQL, (key, "x" * (key % 500)), durability=durability)
        told(key)

def borrow():
    while True:
        with pool.connection() as connection:
            connection.execute("BEGIN IMMEDIATE")
            mine = [next(keys), next(keys)]
            connection.executemany(SQL, [(key, None) for key in mine])
        for key in mine:
            told(key)

async def awrite():
    while True:
        key = next(keys)
        await pool.awrite(SQL, (key, None))
        told(key)

async def main():
    await asyncio.gather(*(awrite() for _ in range(4)))

for target, arguments in [(write, ("process",)), (write, ("process",)), (write, ("power",)), (borrow, ())]:
    threading.Thread(target=target, args=arguments, daemon=True).start()
asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path):
    return make(tmp_path / "group.db")


def make(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, x)")
    return path


def keys(path):
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {key for (key,) in connection.execute("SELECT k FROM t")}


def kill_writers(path, kills, seed):
    chance = random.Random(seed)
    acknowledged = set()
    for turn in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=child_env()
        ) as writer:
            for _ in range(chance.randrange(1, 60)):
                line = writer.stdout.readline()
                assert line, writer.stderr.read().decode()
                acknowledged.add(int(line))
            writer.kill()
            # What it told before it died; the last line may be cut.
            acknowledged.update(int(line) for line in writer.stdout.read().splitlines(True) if line.endswith(b"\n"))
        # Not each time, so that logs also outlive several deaths.
        if turn % 5 == 4 or turn == kills - 1:
            assert acknowledged - keys(path) == set()
    return len(acknowledged)


@pytest.mark.timeout(60 + 5 * KILLS)
def test_acknowledged_rows_survive_kill_9(tmp_path):
    files = [make(tmp_path / f"{number}.db") for number in range(FILES)]
    tasks = [Task(kill_writers, path, KILLS // FILES, number) for number, path in enumerate(files)]
    assert all(task.result(30 + 5 * KILLS) for task in tasks)


def test_a_full_disk_is_told_to_all_whose_commit_failed(path):
    code = """
        import asyncio, os, resource, signal, sqlite3, sys
        from upshift.sqlite import ConnectionPool

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
        pool = ConnectionPool(sys.argv[1], min_size=0)
        written, failed = [], []

        async def write(key):
            try:
                await pool.awrite("INSERT INTO t VALUES (?, randomblob(3000))", (key,))
                written.append(key)
            except sqlite3.OperationalError as error:
                assert error.sqlite_errorname.startswith(("SQLITE_FULL", "SQLITE_IOERR")), error.sqlite_errorname
                failed.append(key)

        async def main():
            for turn in range(10):
                await asyncio.gather(*(write(100 * turn + n) for n in range(30)))

        asyncio.run(main())
        assert len(failed) > 60
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        asyncio.run(write(5000))
        pool.close_all()
        print(written)
    """
    written = run_literal(code, path)
    assert written[-1] == 5000
    assert sorted(written) == sorted(keys(path))


def test_a_file_that_is_no_database(tmp_path):
    from upshift.sqlite import ConnectionPool

    path = tmp_path / "text.db"
    path.write_text("no database " * 1000)
    with ConnectionPool(path, min_size=0) as pool:
        for _ in range(2):
            with pytest.raises(sqlite3.DatabaseError, match="not a database"):
                pool.write("CREATE TABLE t (k)", timeout=0)


def test_a_forked_child_writes_by_a_connection_of_its_own(path):
    code = """
        import os, sys, threading
        from upshift.sqlite import ConnectionPool

        pool = ConnectionPool(sys.argv[1], min_size=1)
        pool.write("INSERT INTO t VALUES (0, NULL)")
        running = True

        def write():
            key = 1000
            while running:
                pool.write("INSERT INTO t VALUES (?, NULL)", (key,))
                key += 1

        threads = [threading.Thread(target=write)]
        threads[0].start()
        children = []
        for number in range(1, 6):
            pid = os.fork()
            if pid == 0:
                try:
                    pool.write("INSERT INTO t VALUES (?, NULL)", (number,))
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(pid)
        failed = [status for status in (os.waitpid(pid, 0)[1] for pid in children) if status]
        running = False
        threads[0].join()
        pool.close_all()
        print(failed)
    """
    assert run_literal(code, path) == []
    assert set(range(6)) <= keys(path)


@pytest.mark.parametrize("way", ["daemon threads", "tasks", "open transaction"])
def test_the_end_of_the_interpreter(path, way):
    code = {
        "daemon threads": """
            def work(number):
                for key in range(number * 1_000_000, (number + 1) * 1_000_000):
                    pool.write("INSERT INTO t VALUES (?, NULL)", (key,))
                    told(key)
            for number in range(4):
                threading.Thread(target=work, args=(number,), daemon=True).start()
            time.sleep(0.2)
        """,
        "tasks": """
            async def work(number):
                for key in range(number * 1_000_000, (number + 1) * 1_000_000):
                    await pool.awrite("INSERT INTO t VALUES (?, NULL)", (key,))
                    told(key)
            async def main():
                tasks = [asyncio.ensure_future(work(number)) for number in range(50)]
                await asyncio.sleep(0.2)
            asyncio.run(main())
        """,
        "open transaction": """
            held = pool.acquire()
            held.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                write = lambda: pool.write("INSERT INTO t VALUES (1, NULL)", timeout=30)
                threading.Thread(target=write, daemon=True).start()
            time.sleep(0.2)
        """,
    }[way]
    header = """
        import asyncio, os, sys, threading, time
        from upshift.sqlite import ConnectionPool

        pool = ConnectionPool(sys.argv[1], min_size=0)
        def told(key):
            os.write(1, b"%d\\n" % key)
    """
    acknowledged = run(textwrap.dedent(header) + textwrap.dedent(code), path, timeout=30).split()
    assert {int(key) for key in acknowledged} - keys(path) == set()
    assert bool(acknowledged) == (way != "open transaction")
