"""Fixtures of the contract suites: one cache per tier, sync and async forms of a function."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from upshift import ResultCache

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

POLICIES = ("lru", "lfu", "fifo", "ttl", "adaptive", "cost")


@pytest.fixture
def db_path(tmp_path):
    return tmp_path / "result_cache.db"


@pytest.fixture
def open_cache(db_path):
    """Makes persistent caches, on `db_path` unless told otherwise, and closes them at the end."""
    opened = []

    def make(*args, **options):
        options.setdefault("enable_persistent", True)
        options.setdefault("db_path", db_path)
        cache = ResultCache(*args, **options)
        opened.append(cache)
        return cache

    yield make
    for cache in opened:
        cache.close()


@pytest.fixture(params=["memory", "persistent"])
def tier(request):
    return request.param


@pytest.fixture
def make_cache(tier, open_cache):
    """Makes caches of the tier under test."""

    def make(*args, **options):
        if tier == "memory":
            options["enable_persistent"] = False
            options["db_path"] = None
        return open_cache(*args, **options)

    return make


@pytest.fixture
def cache(make_cache):
    return make_cache()


@pytest.fixture(params=POLICIES)
def policy(request):
    return request.param


@pytest.fixture
def rows(db_path):
    """Reads the store from outside, with the standard library, as its users do."""

    def read(sql="SELECT cache_key FROM result_cache ORDER BY cache_key", *args):
        with closing(sqlite3.connect(str(db_path), timeout=30)) as connection:
            found = connection.execute(sql, args).fetchall()
        return [row[0] if len(row) == 1 else row for row in found]

    return read


@pytest.fixture
def pool_path(tmp_path):
    return tmp_path / "pool.db"


@pytest.fixture
def make_pool(pool_path):
    """Makes connection pools, on `pool_path` unless told otherwise, and closes them at the end."""
    from upshift.sqlite import ConnectionPool

    opened = []

    def make(path=pool_path, *args, **options):
        pool = ConnectionPool(path, *args, **options)
        opened.append(pool)
        return pool

    yield make
    for pool in opened:
        pool.close_all(timeout=1)


@pytest.fixture
def pool(make_pool):
    return make_pool()


class Sync:
    """Plain functions."""

    name = "sync"

    @staticmethod
    def form(body):
        return body

    @staticmethod
    def call(function, *args, **kwargs):
        return function(*args, **kwargs)


class Async:
    """The same bodies as coroutine functions, awaited in a loop of their own."""

    name = "async"

    @staticmethod
    def form(body):
        @functools.wraps(body)
        async def coroutine(*args, **kwargs):
            return body(*args, **kwargs)

        return coroutine

    @staticmethod
    def call(function, *args, **kwargs):
        async def main():
            return await function(*args, **kwargs)

        return asyncio.run(main())


@pytest.fixture(params=[Sync, Async], ids=lambda style: style.name)
def style(request):
    return request.param


@pytest.fixture
def task_path(tmp_path):
    return tmp_path / "tasks.db"


@pytest.fixture
def make_manager(task_path):
    """Makes task managers, on `task_path` unless told otherwise, and closes them at the end."""
    from upshift.tasks import BackgroundTaskManager

    opened = []

    def make(path=task_path, *args, **options):
        manager = BackgroundTaskManager(path, *args, **options)
        opened.append(manager)
        return manager

    yield make
    for manager in opened:
        manager.stop_workers(timeout=5)
        manager.close()


@pytest.fixture
def manager(make_manager):
    return make_manager()


@pytest.fixture
def make_dashboard(manager):
    """Makes started dashboards on free ports; of `manager`, unless told otherwise."""
    from dashboards import dashboards

    with dashboards() as make:
        yield lambda of=None, **options: make(of or manager, **options)


@pytest.fixture
def dashboard(make_dashboard):
    return make_dashboard()
