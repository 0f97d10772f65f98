"""Load on one database file from `sqlite3` and `upshift.sqlite` in one process; then counts what is left.

    python tests/faults/mixed_sqlite.py [--seconds 10] [--writers 3] [--folder FOLDER]

Writers of both modules insert rows, a transaction each, and open and close their connections all the time; readers
compare what they find. All the while the process has the file open through `sqlite3`. Ends with status 0 if no row was
lost or damaged and the integrity check is clean.

With an ordinary build both are one SQLite library, and nothing may happen to the file. Two libraries in one process do
not see each other's locks. A wheel built with `--features bundled-sqlite` therefore refuses the file:

    maturin build --profile quick --features bundled-sqlite --compatibility linux --auditwheel skip --out dist-bundled
    python -m venv --without-pip venv-bundled
    python -m pip --python venv-bundled/bin/python install --no-index --no-deps dist-bundled/*.whl
    venv-bundled/bin/python tests/faults/mixed_sqlite.py

What it is kept from by that is seen with the refusal switched off, which only a test may do:

    UPSHIFT_TEST_SHARE_FILES=1 venv-bundled/bin/python tests/faults/mixed_sqlite.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

TIMEOUT = 60.0  # of the busy handlers: nobody is to give up
ROWS_PER_CONNECTION = 20
DATABASE, ACKNOWLEDGED = "mixed.db", "acknowledged"


def content(number):
    """What belongs to a row: up to two pages that can be told from those of any other."""
    return struct.pack("<q", number) * (16 + number * 7919 % 1000)


def load(folder, seconds, writers):
    """The process under test. Prints how many errors of each kind were raised."""
    import upshift.sqlite

    path = os.path.join(folder, DATABASE)
    deadline = time.monotonic() + seconds
    errors = Counter()
    # Written at each acknowledgement, so that it counts also if the process does not live on.
    acknowledged = os.open(os.path.join(folder, ACKNOWLEDGED), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(library, numbers):
        with closing(library.connect(path, timeout=TIMEOUT, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous=NORMAL")
            for _ in range(ROWS_PER_CONNECTION):
                number = next(numbers)
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("INSERT INTO t VALUES (?, ?)", (number, content(number)))
                connection.execute("COMMIT")
                os.write(acknowledged, struct.pack("<q", number))

    def read(library, numbers):
        with closing(library.connect(path, timeout=TIMEOUT, isolation_level=None)) as connection:
            for number, data in connection.execute("SELECT id, data FROM t ORDER BY id DESC LIMIT 200"):
                if data != content(number):
                    raise ValueError("a reader found a damaged row")
            time.sleep(0.001)

    def repeat(job, library, numbers):
        while time.monotonic() < deadline:
            try:
                job(library, numbers)
            except Exception as error:
                name = type(error).__name__ + ": " + str(error).replace(path, "the file")
                errors[library.__name__, name] += 1
                time.sleep(random.random() / 100)

    jobs = [(write, library) for library in (sqlite3, upshift.sqlite) for _ in range(writers)]
    jobs += [(read, library) for library in (sqlite3, upshift.sqlite)]
    threads = [
        threading.Thread(target=repeat, args=(job, library, iter(range(index, 1 << 40, len(jobs)))))
        for index, (job, library) in enumerate(jobs)
    ]
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT * FROM t").fetchall()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    os.close(acknowledged)
    counted = [[library, error, count] for (library, error), count in errors.most_common()]
    print(json.dumps({"shared": upshift.sqlite.shares_interpreter_library, "errors": counted, "jobs": len(jobs)}))


def run(folder, seconds, writers):
    """Runs the load in a process of its own and looks at what it leaves. The result is plain data."""
    path = os.path.join(folder, DATABASE)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB NOT NULL)")
    command = [sys.executable, __file__, "--load", "--folder", folder, f"--seconds={seconds}", f"--writers={writers}"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 300)
    result = {"status": process.returncode, "shared": None, "errors": [], "stderr": process.stderr[-2000:]}
    if process.returncode == 0:
        result.update(json.loads(process.stdout))
    numbers = Path(folder, ACKNOWLEDGED).read_bytes()
    acknowledged = {number for (number,) in struct.iter_unpack("<q", numbers)}
    result["acknowledged"] = len(acknowledged)
    with closing(sqlite3.connect(path)) as connection:
        rows, checked = [], []
        try:
            rows.extend(connection.execute("SELECT id, data FROM t"))  # keeps what can be read before an error
            checked.extend(line for (line,) in connection.execute("PRAGMA integrity_check"))
        except sqlite3.DatabaseError as error:
            checked.append(str(error))
    result["lost"] = len(acknowledged - {number for number, _ in rows})
    result["damaged"] = sum(data != content(number) for number, data in rows)
    result["integrity"] = checked
    return result


def is_clean(result):
    damage = (result["status"], result["lost"], result["damaged"])
    return damage == (0, 0, 0) and result["integrity"] == ["ok"]


def describe(result):
    refusal = "off" if os.environ.get("UPSHIFT_TEST_SHARE_FILES") == "1" else "on"
    if result["shared"] is not None:
        yield "one SQLite library" if result["shared"] else f"two SQLite libraries, refusal {refusal}"
    if result["status"]:
        yield f"the process ended with status {result['status']}"
    lost, damaged = result["lost"], result["damaged"]
    yield f"rows acknowledged: {result['acknowledged']:,}, of these lost: {lost:,}; damaged: {damaged:,}"
    checked = result["integrity"]
    yield f"integrity check: {checked[0]}" + (f" and {len(checked) - 1:,} more" if checked[1:] else "")
    for library, error, count in result["errors"]:
        yield f"{count:6,} × {library}: {error}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--writers", type=int, default=3, help="threads of each library that write")
    parser.add_argument("--folder", help="where to leave the file")
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.folder, options.seconds, options.writers)
        return 0
    folder = options.folder or tempfile.mkdtemp(prefix="upshift-mixed-")
    try:
        result = run(folder, options.seconds, options.writers)
    finally:
        if not options.folder:
            shutil.rmtree(folder, ignore_errors=True)
    print(*describe(result), sep="\n")
    return 0 if is_clean(result) else 1


if __name__ == "__main__":
    raise SystemExit(main())
