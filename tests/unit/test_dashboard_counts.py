"""Counting tasks by state: always what a full count says, without doing one."""

from __future__ import annotations

import random
import sqlite3

import pytest

from upshift.dashboard.counts import StatusCounts

STATUSES = ("queued", "running", "completed", "failed", "cancelled")


class Table:
    def __init__(self, rows=0):
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute("CREATE TABLE background_tasks (id INTEGER PRIMARY KEY AUTOINCREMENT, status TEXT)")
        self.connection.executemany("INSERT INTO background_tasks (status) VALUES (?)", [("completed",)] * rows)
        self.read = []

    def query(self, sql, values):
        self.read.append((sql, *values))
        return self.connection.execute(sql, values).fetchall()

    def count(self):
        found = dict(self.connection.execute("SELECT status, count(*) FROM background_tasks GROUP BY status"))
        return {status: found.get(status, 0) for status in STATUSES}

    def add(self, status="queued"):
        return self.connection.execute("INSERT INTO background_tasks (status) VALUES (?)", (status,)).lastrowid

    def set(self, task, status):
        self.connection.execute("UPDATE background_tasks SET status = ? WHERE id = ?", (status, task))


@pytest.fixture
def clock(monkeypatch):
    """Stands still unless moved."""
    now = [1000.0]
    monkeypatch.setattr("upshift.dashboard.counts.time.monotonic", lambda: now[0])
    return now


def counted(counts):
    found = counts.get()
    return {status: found.get(status, 0) for status in STATUSES}


def long_table(clock, rows=50):
    """A table whose full count seems to take ten seconds."""
    table = Table(rows)

    def slow(sql, values):
        clock[0] += 10 / 3
        return table.query(sql, values)

    counts = StatusCounts(slow)
    counts.get()
    counts._query = table.query
    table.read.clear()
    return table, counts


def test_empty_table():
    assert counted(StatusCounts(Table().query)) == dict.fromkeys(STATUSES, 0)


@pytest.mark.parametrize("seed", range(20))
def test_it_says_what_a_full_count_says(clock, seed):
    random.seed(seed)
    table, counts = long_table(clock)
    active = []
    for _ in range(300):
        action = random.random()
        if action < 0.4 or not active:
            active.append(table.add())
        else:
            # Any order: priorities let later ones end first.
            task = active.pop(random.randrange(len(active)))
            status = random.choice(STATUSES[1:])
            table.set(task, status)
            if status == "running":
                active.append(task)
        if action > 0.7:
            assert counted(counts) == table.count()
    assert not any(call[1:2] == (0,) for call in table.read)  # never from the start


def test_what_has_ended_is_read_once(clock):
    table, counts = long_table(clock, rows=50)
    first = table.add()
    counts.get()
    assert {call[1] for call in table.read if len(call) == 3} == {first}
    assert counted(counts)["completed"] == 50


def test_a_row_that_is_active_again(clock):
    table, counts = long_table(clock)
    table.set(10, "queued")
    assert counted(counts) == table.count()


def test_deleted_rows_are_noticed_by_the_next_full_count(clock):
    table, counts = long_table(clock, rows=50)
    table.connection.execute("DELETE FROM background_tasks WHERE id <= 20")
    assert counted(counts)["completed"] == 50
    clock[0] += 10_000
    assert counted(counts)["completed"] == 30


def test_small_tables_are_always_counted_anew(clock):
    table = Table(5)
    counts = StatusCounts(table.query)
    assert counted(counts) == table.count()
    table.connection.execute("DELETE FROM background_tasks WHERE id <= 3")
    assert counted(counts) == table.count()


def test_a_long_rest_is_not_counted_all_the_time(clock):
    table, counts = long_table(clock)
    stuck = table.add()
    for _ in range(20):
        table.add("completed")

    def slow(sql, values):
        clock[0] += 1
        return table.query(sql, values)

    counts._query = slow
    assert counted(counts) == table.count()
    table.read.clear()
    table.add("completed")
    running = table.add("running")
    found = counted(counts)
    assert (found["queued"], found["running"], found["completed"]) == (1, 1, 70)  # active ones are exact
    assert not any(call[1:] for call in table.read)
    clock[0] += 500
    assert counted(counts) == table.count()
    assert stuck < running
