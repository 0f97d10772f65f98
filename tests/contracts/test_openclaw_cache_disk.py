"""Contract openclaw §2.5 and §2.6: the tables of the disk tier as their users see them, and the shared cache."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from contextlib import closing

import pytest
from harness import run, run_literal

from upshift.testing import travel

NOW = """
    import datetime
    def parse(text):
        return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.timezone.utc)
    def age(text):
        return (datetime.datetime.now(datetime.timezone.utc) - parse(text)).total_seconds()
"""


def columns(rows, table):
    return {
        name: (kind.upper(), bool(notnull), pk) for _, name, kind, notnull, _, pk in rows(f"PRAGMA table_info({table})")
    }


@pytest.fixture
def stored(open_cache):
    """A store with two entries, closed."""
    cache = open_cache()
    cache.set("tagged", {"a": [1, 2.5, None]}, ttl=100, tags=["x", "y"])
    cache.set("immortal", "text", ttl=0)
    cache.close()


def test_the_table_of_values(stored, rows):  # openclaw §2.5
    found = columns(rows, "result_cache")
    assert set(found) >= {
        "cache_key",
        "cache_value",
        "ttl_seconds",
        "created_at",
        "expires_at",
        "access_count",
        "last_accessed",
        "size_bytes",
    }
    assert found["cache_key"][0] == "TEXT"
    assert found["cache_key"][2] == 1
    assert found["cache_value"] == ("BLOB", True, 0)
    for name in ("ttl_seconds", "access_count", "size_bytes"):
        assert found[name][0] == "INTEGER"
    for name in ("created_at", "expires_at", "last_accessed"):
        assert found[name][0] == "TIMESTAMP"


def test_the_table_of_tags(stored, rows):  # openclaw §2.5
    found = columns(rows, "cache_tags")
    assert found == {"cache_key": ("TEXT", True, 1), "tag": ("TEXT", True, 2)}
    (foreign,) = rows("PRAGMA foreign_key_list(cache_tags)")
    assert foreign[2:5] == ("result_cache", "cache_key", "cache_key")
    assert foreign[6] == "CASCADE"
    assert rows("SELECT cache_key, tag FROM cache_tags ORDER BY tag") == [("tagged", "x"), ("tagged", "y")]


def test_the_indexes(stored, rows):  # openclaw §2.5
    assert [row[2] for row in rows("PRAGMA index_info(idx_cache_expires)")] == ["expires_at"]
    assert [row[2] for row in rows("PRAGMA index_info(idx_cache_tags)")] == ["tag"]


def test_a_foreign_writer_gets_the_defaults(stored, db_path, rows):  # openclaw §2.5 "DEFAULT now", "DEFAULT 0"
    with closing(sqlite3.connect(str(db_path))) as connection, connection:
        connection.execute("INSERT INTO result_cache (cache_key, cache_value) VALUES ('k', x'00')")
    for column in ("created_at", "last_accessed"):
        age = f"strftime('%s', 'now') - strftime('%s', {column}) < 60"
        assert rows(f"SELECT access_count, expires_at, {age} FROM result_cache WHERE cache_key = 'k'") == [(0, None, 1)]


def test_a_row(stored, rows):  # openclaw §2.5
    columns = "cache_value, ttl_seconds, expires_at, access_count, size_bytes, typeof(cache_value)"
    query = f"SELECT {columns} FROM result_cache WHERE cache_key = ?"
    ((value, ttl, expires, accesses, size, kind),) = rows(query, "tagged")
    assert kind == "blob"
    assert (ttl, accesses, size) == (100, 0, len(value))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", expires)
    ((_, _, expires, _, _, _),) = rows(query, "immortal")
    assert expires is None


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
def test_every_time_column_is_utc(zone, db_path):  # openclaw §2.5, C9
    program = (
        NOW
        + """
    import sqlite3, sys
    from upshift import ResultCache
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        cache.set("key", 1, ttl=1000)
    connection = sqlite3.connect(sys.argv[1])
    created, expires, accessed = connection.execute(
        "SELECT created_at, expires_at, last_accessed FROM result_cache").fetchone()
    connection.close()
    print([age(created), age(expires), age(accessed)])
    """
    )
    created, expires, accessed = run_literal(program, db_path, env={"TZ": zone})
    assert -1 <= created < 30
    assert -1 <= accessed < 30
    assert -1001 <= expires < -970


@pytest.mark.parametrize("zones", [("America/New_York", "Asia/Tokyo"), ("Asia/Tokyo", "America/New_York")])
def test_a_store_is_read_alike_in_every_zone(zones, db_path):  # openclaw §2.5, C9
    header = """
    import sys
    from upshift import ResultCache
    from upshift.testing import travel
    cache = ResultCache(enable_persistent=True, db_path=sys.argv[1])
    """
    run(
        header + "cache.set('key', 1, ttl=1000); cache.set('gone', 1, ttl=1); cache.close()",
        db_path,
        env={"TZ": zones[0]},
    )
    program = (
        header
        + """
    travel(10)
    first = (cache.cleanup_expired(), cache.get("key"), cache.get("gone"))
    travel(1000)
    print((first, cache.get("key")))
    cache.close()
    """
    )
    assert run_literal(program, db_path, env={"TZ": zones[1]}) == ((1, 1, None), None)


def test_the_new_convention_is_marked(stored, rows):  # openclaw §2.5 "PRAGMA user_version"
    assert rows("PRAGMA user_version")[0] > 0


def test_an_empty_file_is_a_valid_start(db_path, open_cache, rows):  # openclaw §2.5
    db_path.touch(mode=0o600)
    cache = open_cache()
    cache.set("key", 1)
    cache.close()
    assert rows() == ["key"]


def test_the_file_is_private(stored, db_path, tmp_path):  # openclaw C14 "create the file with mode 0600"
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE(db_path.stat().st_mode) == 0o600


def test_the_mode_does_not_depend_on_the_umask(tmp_path):  # openclaw C14
    program = """
    import os, stat, sys
    os.umask(0)
    from upshift import ResultCache
    path = sys.argv[1]
    cache = ResultCache(enable_persistent=True, db_path=path)
    cache.set("key", object)
    cache.flush()
    print({entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(os.path.dirname(path))})
    cache.close()
    """
    modes = run_literal(program, tmp_path / "cache.db")
    assert "cache.db" in modes
    assert {mode & 0o077 for mode in modes.values()} == {0}


def test_missing_folders(tmp_path):  # openclaw §2.1 "never raises for disk trouble", C13
    from upshift import ResultCache

    with ResultCache(enable_persistent=True, db_path=tmp_path / "a" / "b" / "cache.db") as cache:
        cache.set("key", 1)
        assert cache.get("key") == 1


VALUES = """
    import datetime, decimal, uuid, collections, enum, math
    class Point:
        def __init__(self, x): self.x = x
        def __eq__(self, other): return type(other) is Point and self.x == other.x
        __hash__ = None
    values = [None, True, False, 0, -1, 2**64, -(2**100), 1.5, float("inf"), "", "é\\U0001f680", "\\ud800",
        b"", b"\\x00", bytearray(b"x"), [], (), {}, set(), frozenset({1}), [1, (2, [3, {4: {5}}])],
        {"a": 1, 2: "b", (1, 2): None, None: 1.0}, {1, "a", (1,)},
        datetime.datetime(2024, 1, 2, 3, 4, 5, 6), datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc),
        datetime.date(2024, 1, 2), datetime.time(1, 2, 3, 4), datetime.timedelta(days=-1, microseconds=5),
        decimal.Decimal("1.10"), uuid.UUID(int=7), complex(1, -2), range(5),
        collections.OrderedDict(a=1), collections.Counter("abca"),
        collections.deque([1, 2], maxlen=5), Point(3), [Point(1), Point(2)], int, len, math.pi, ..., NotImplemented]
"""


def test_every_value_comes_back_in_a_new_process(db_path):  # openclaw §2.1, §2.5, DESIGN §3 "two codecs"
    header = (
        VALUES
        + """
    import sys
    from upshift import ResultCache
    cache = ResultCache(enable_persistent=True, db_path=sys.argv[1])
    """
    )
    run(header + "cache.warmup({str(i): value for i, value in enumerate(values)}); cache.close()", db_path)
    program = (
        header
        + """
    missing = object()
    wrong = []
    for i, value in enumerate(values):
        found = cache.get(str(i), missing)
        if type(found) is not type(value) or found != value:
            wrong.append((repr(value), repr(found)))
    print((wrong, cache.get_stats()["hits"] - len(values)))
    cache.close()
    """
    )
    assert run_literal(program, db_path) == ([], 0)


def test_nan_and_identity_inside_a_value_survive(open_cache):  # openclaw §2.5: as with pickle
    shared = [1]
    cyclic = []
    cyclic.append(cyclic)
    cache = open_cache()
    cache.warmup({"nan": float("nan"), "shared": [shared, shared], "cyclic": cyclic, "order": {"b": 1, "a": 2}})
    cache.close()
    cache = open_cache()
    assert cache.get("nan") != cache.get("nan")
    a, b = cache.get("shared")
    assert a == b == [1]
    found = cache.get("cyclic", cyclic)
    assert found[0] is found
    assert list(cache.get("order")) == ["b", "a"]


def test_a_decorated_function_hits_after_restart(tmp_path):  # openclaw §2.3 "really hits after restart", C4
    (tmp_path / "app.py").write_text(
        "from upshift import ResultCache\n"
        "cache = ResultCache(enable_persistent=True, db_path='store.db')\n"
        "@cache.cached(tags=['t'])\n"
        "def work(items, *, options=None):\n"
        "    return sum(items)\n"
        "@cache.cached(key_func=lambda x: f'own:{x}')\n"
        "def keyed(x):\n"
        "    return x * 2\n"
        "async def slow(x):\n"
        "    return x\n"
        "slow = cache.cached()(slow)\n"
    )
    calls = """
    import asyncio, app
    app.work([1, 2], options={"a": {1, 2}, "b": None}); app.work([3], options=None); app.work([3])
    app.keyed(1); app.keyed(2); asyncio.run(app.slow(1))
    stats = app.cache.get_stats()
    """
    env = {"PYTHONHASHSEED": "1"}
    assert run_literal(calls + "print((stats['hits'], stats['misses'])); app.cache.close()", cwd=tmp_path, env=env) == (
        1,
        5,
    )
    again = calls + "print((stats['hits'], stats['misses'], sorted(app.cache.tags))); app.cache.close()"
    assert run_literal(again, cwd=tmp_path, env={"PYTHONHASHSEED": "2"}) == (6, 0, ["t"])
    clear = """
    import app
    print([f.cache_clear() for f in (app.work, app.keyed, app.slow)] + [app.cache.clear()])
    """
    assert run_literal(clear, cwd=tmp_path) == [2, 2, 1, 0]  # openclaw §2.2 cache_clear "in both tiers"


def test_access_counts_reach_the_disk_in_the_end(open_cache, rows):  # openclaw §2.5 access_count, C10 "batch"
    cache = open_cache()
    cache.set("key", 1)
    for _ in range(7):
        cache.get("key")
    cache.close()
    assert rows("SELECT access_count FROM result_cache") == [7]


def test_the_sweeper_needs_no_memory_entry(open_cache, rows):  # openclaw §2.1 cleanup_expired "both tiers"
    cache = open_cache(max_size=0)
    cache.set("dead", 1, ttl=10, tags=["t"])
    cache.set("live", 1, ttl=100)
    travel(50)
    assert cache.cleanup_expired() == 1
    cache.close()
    assert rows() == ["live"]
    assert rows("SELECT tag FROM cache_tags") == []


GET_CACHE = """
    import os, threading
    from upshift import get_cache, ResultCache
    barrier = threading.Barrier(8)
    made = []
    def make(i):
        barrier.wait(30)
        made.append(get_cache(100 + i, 50 + i, True))
    threads = [threading.Thread(target=make, args=(i,)) for i in range(8)]
    [thread.start() for thread in threads]; [thread.join(30) for thread in threads]
    cache = get_cache()
    same = len(made) == 8 and all(one is cache for one in made) and type(cache) is ResultCache
    consistent = cache.max_size - 100 == cache.default_ttl - 50
    later = get_cache(7, 7, False)
    cache.set("key", 1)
    cache.close()
    workspace = os.environ.get("OPENCLAW_WORKSPACE", ".")
    print((same, consistent, later is cache, later.max_size >= 100, sorted(os.listdir(workspace))))
"""


@pytest.mark.parametrize("explicit", [True, False])
def test_get_cache_is_one_cache_in_the_workspace(explicit, tmp_path):  # openclaw §2.6, §1 "Workspace", C18
    workspace, elsewhere = tmp_path / "workspace", tmp_path / "elsewhere"
    workspace.mkdir()
    elsewhere.mkdir()
    env = {"OPENCLAW_WORKSPACE": str(workspace) if explicit else None}
    *same, files = run_literal(GET_CACHE, cwd=elsewhere if explicit else workspace, env=env)
    assert same == [True] * 4
    assert "result_cache.db" in files
    assert os.listdir(elsewhere) == []


def test_get_cache_defaults():  # openclaw §2.6
    program = """
    from upshift import get_cache
    cache = get_cache()
    print((cache.max_size, cache.default_ttl, cache.enable_persistent, cache.db_conn))
    """
    assert run_literal(program) == (1000, 3600, False, None)
