"""`kill -9` of processes that work a task file: what was accepted is completed, and nothing is lost."""

from __future__ import annotations

import collections
import os
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from harness import Peer, child_env, eventually

from upshift.tasks import BackgroundTaskManager

WORKER = Path(__file__).with_name("task_worker.py")


class Worker:
    def __init__(self, database, ledger):
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), str(database), str(ledger)],
            stdout=subprocess.PIPE,
            env=child_env(),
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def kill(self):
        self.process.kill()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.mark.timeout(240)
def test_twenty_kills_lose_nothing(tmp_path):
    database, ledger = tmp_path / "tasks.db", tmp_path / "ledger"
    chance = random.Random(20)
    kills = 20
    with BackgroundTaskManager(database) as producer:
        accepted = []
        workers = [Worker(database, ledger) for _ in range(2)]
        try:
            for kill in range(kills):
                for _ in range(30):
                    seconds = chance.choice([0, 0.01, 0.1])
                    context = {"i": len(accepted), "seconds": seconds}
                    accepted.append(producer.queue_task("append", context=context))
                time.sleep(chance.uniform(0, 0.15))
                workers[kill % 2].kill()
                workers[kill % 2] = Worker(database, ledger)
            # Killed twice within its run, by chance, a task has failed and says so.
            ended = [producer.wait(task, 60) for task in accepted]
        finally:
            for worker in workers:
                worker.kill()
        statuses = collections.Counter(task["status"] for task in ended)
        crashed = {task["context"]["i"] for task in ended if task["status"] == "failed"}
        assert set(statuses) <= {"completed", "failed"}
        assert all("run 2 times" in task["error"] for task in ended if task["status"] == "failed")
        runs = collections.Counter(map(int, ledger.read_text().split()))
        lost = set(range(len(accepted))) - set(runs) - crashed
        assert lost == set()
        # Run twice only where a kill fell inside the run: each kill hits at most the three workers of a process.
        again = sum(count - 1 for count in runs.values())
        attempts = producer.conn.execute("SELECT count(*) FROM upshift_attempts WHERE outcome = 'crashed'").fetchone()[
            0
        ]
        assert 0 < again <= attempts <= 3 * kills
        assert max(runs.values()) <= 2
        assert producer.conn.execute("SELECT count(*) FROM upshift_leases").fetchone()[0] == 0
        assert producer.conn.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_producer_that_is_killed_keeps_its_promises(tmp_path):
    """Whatever number the killed process had been told is in the file."""
    database, promised = tmp_path / "tasks.db", tmp_path / "promised"
    code = f"""
        import os
        from upshift.tasks import BackgroundTaskManager
        manager = BackgroundTaskManager({str(database)!r})
        file = os.open({str(promised)!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        while True:
            os.write(file, b"%d\\n" % manager.queue_task("t", context={{"a": 1}}))
    """
    with Peer() as peer:
        peer.send(code)
        eventually(lambda: promised.exists() and promised.stat().st_size > 2000)
        peer.kill()
    told = list(map(int, promised.read_text().rsplit("\n", 1)[0].split()))
    with closing(sqlite3.connect(database)) as connection:
        stored = [row[0] for row in connection.execute("SELECT id FROM background_tasks ORDER BY id")]
    assert set(told) <= set(stored)
    with BackgroundTaskManager(database, 2, 1, False) as manager:
        manager.register_handler("t")(lambda context: context["a"])
        manager.start_workers()
        assert {manager.wait(task, 60)["result"] for task in told} == {1}


@pytest.mark.skipif(not hasattr(os, "kill"), reason="platform: no signals")
def test_a_lease_is_kept_while_a_long_call_holds_the_interpreter(tmp_path):
    """The sign of life comes from a native thread."""
    database = tmp_path / "tasks.db"
    with Peer() as peer:
        peer(f"""
            import ctypes, threading, time
            from upshift.tasks import BackgroundTaskManager
            manager = BackgroundTaskManager({str(database)!r})
            manager.queue_task("t")
        """)
        with closing(sqlite3.connect(database)) as connection:
            before = connection.execute("SELECT beat FROM upshift_managers").fetchone()[0]
            # PyDLL keeps the interpreter lock.
            peer.send("ctypes.PyDLL(None).sleep(7)")
            time.sleep(0.2)
            eventually(
                lambda: connection.execute("SELECT beat FROM upshift_managers").fetchone()[0] > before, timeout=8
            )
        peer.receive()
        peer("manager.close()")
