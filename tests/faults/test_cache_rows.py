"""Rows and values that cannot be trusted or stored, in a store that is otherwise sound."""

from __future__ import annotations

import pickle
import random
import sqlite3
import threading
from contextlib import closing

import pytest
from harness import run, run_literal

from upshift import ResultCache


@pytest.fixture
def store(db_path):
    with ResultCache(enable_persistent=True, db_path=db_path) as cache:
        cache.set("plain", {"a": [1, 2.5, "x", b"y", None], "t": (1, {2})})
        cache.set("pickled", range(10))
        cache.set("other", "untouched")
    return db_path


def change(path, sql, *args):
    with closing(sqlite3.connect(str(path))) as connection, connection:
        connection.execute(sql, args)


def blob(path, key):
    with closing(sqlite3.connect(str(path))) as connection:
        return connection.execute("SELECT cache_value FROM result_cache WHERE cache_key = ?", (key,)).fetchone()[0]


def look(path, key):
    """What a fresh cache finds under `key`: the value, its counters, and whether the row is still there."""
    with ResultCache(enable_persistent=True, db_path=path) as cache:
        found = cache.get(key, "absent")
        assert cache.get("other") == "untouched"
        stats = cache.get_stats()
    with closing(sqlite3.connect(str(path))) as connection:
        left = connection.execute("SELECT count(*) FROM result_cache WHERE cache_key = ?", (key,)).fetchone()[0]
    return found, stats, left


@pytest.mark.parametrize("key", ["plain", "pickled"])
@pytest.mark.parametrize(
    "replacement", [b"", b"\0", b"garbage" * 100, 5, "text"], ids=["empty", "nul", "noise", "int", "text"]
)
def test_a_blob_that_is_none_is_dropped(store, key, replacement):  # openclaw C14 "deleted and counts as a miss"
    change(store, "UPDATE result_cache SET cache_value = ? WHERE cache_key = ?", replacement, key)
    found, stats, left = look(store, key)
    assert found == "absent"
    assert (stats["misses"], stats["hits"]) == (1, 1)
    assert stats["disk_errors"] >= 1
    assert left == 0


@pytest.mark.parametrize("key", ["plain", "pickled"])
def test_every_truncation_is_noticed(store, key):
    whole = blob(store, key)
    with ResultCache(max_size=0, enable_persistent=True, db_path=store) as cache:
        expected = cache.get(key)
    assert expected is not None
    for end in range(len(whole)):
        change(
            store,
            "INSERT OR REPLACE INTO result_cache (cache_key, cache_value) VALUES (?, ?)",
            f"cut{end}",
            whole[:end],
        )
    with ResultCache(enable_persistent=True, db_path=store) as cache:
        assert {cache.get(f"cut{end}", "absent") for end in range(len(whole))} == {"absent"}
        assert cache.get(key) == expected


def test_every_flipped_byte_of_a_pickled_value_is_noticed(store):  # DESIGN §3 "a row whose hash does not verify"
    whole = blob(store, "pickled")
    for i in range(len(whole)):
        flipped = bytearray(whole)
        flipped[i] ^= 1 + i % 255
        sql = "INSERT OR REPLACE INTO result_cache (cache_key, cache_value) VALUES (?, ?)"
        change(store, sql, f"flip{i}", bytes(flipped))
    with ResultCache(enable_persistent=True, db_path=store) as cache:
        found = {repr(cache.get(f"flip{i}", "absent")) for i in range(len(whole))}
    assert "absent" in {text.strip("'") for text in found}
    assert not any(text.startswith("range(") and text != "range(0, 10)" for text in found)


def test_flipped_bytes_of_plain_values_never_crash(store):
    whole = blob(store, "plain")
    rng = random.Random(4711)
    sql = "INSERT OR REPLACE INTO result_cache (cache_key, cache_value) VALUES (?, ?)"
    with closing(sqlite3.connect(str(store))) as connection, connection:
        for i in range(400):
            noise = bytearray(whole)
            for _ in range(rng.randrange(1, 6)):
                noise[rng.randrange(len(noise))] = rng.randrange(256)
            connection.execute(sql, (f"noise{i}", bytes(noise)))
    with ResultCache(enable_persistent=True, db_path=store) as cache:
        for i in range(400):
            cache.get(f"noise{i}")
        assert cache.get("plain") == {"a": [1, 2.5, "x", b"y", None], "t": (1, {2})}


def test_a_length_that_lies_does_not_eat_the_memory(store):
    whole = blob(store, "plain")
    program = """
    import resource, sys
    from upshift import ResultCache
    cache = ResultCache(enable_persistent=True, db_path=sys.argv[1])
    cache.get("other")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i in range(64):
        cache.get(f"lie{i}")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    cache.close()
    """
    # Every place of the blob in turn becomes the header of a msgpack object with four billion members.
    for i in range(min(64, len(whole))):
        lie = whole[:i] + (b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9")[i % 5] + b"\xff\xff\xff\xff" + whole[i:]
        change(store, "INSERT OR REPLACE INTO result_cache (cache_key, cache_value) VALUES (?, ?)", f"lie{i}", lie)
    assert run_literal(program, store) < 200_000


def test_nesting_that_lies_does_not_overflow(store):
    whole = blob(store, "plain")
    for i in range(1, 24):
        deep = whole[:i] + b"\x91" * 200_000
        change(store, "INSERT OR REPLACE INTO result_cache (cache_key, cache_value) VALUES (?, ?)", f"deep{i}", deep)
    program = """
    import sys
    from upshift import ResultCache
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        print({cache.get(f"deep{i}", "absent") for i in range(1, 24)})
    """
    assert run_literal(program, store) == {"absent"}


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("expires_at", "not a time"),
        ("expires_at", "9999-99-99 99:99:99"),
        ("expires_at", 12345),
        ("expires_at", b"\xff"),
        ("created_at", "not a time"),
        ("created_at", None),
        ("last_accessed", "x"),
        ("access_count", "many"),
        ("access_count", None),
        ("ttl_seconds", "x"),
        ("size_bytes", -5),
    ],
)
def test_odd_columns_do_not_raise(store, column, value):  # openclaw §2.1 "Never raises for disk trouble"
    change(store, f"UPDATE result_cache SET {column} = ?", value)
    with ResultCache(enable_persistent=True, db_path=store) as cache:
        cache.get("plain")
        cache.preload()
        cache.set("plain", 1)
        assert cache.get("plain") == 1
        cache.cleanup_expired()
        cache.invalidate_pattern("o")
        cache.flush(10)
        cache.clear()


def test_times_without_microseconds_are_read(store):  # openclaw "DB-time"
    change(store, "UPDATE result_cache SET expires_at = '2999-01-01 00:00:00' WHERE cache_key = 'plain'")
    change(store, "UPDATE result_cache SET expires_at = '2001-01-01 00:00:00' WHERE cache_key = 'pickled'")
    assert look(store, "plain")[0] != "absent"
    assert look(store, "pickled")[0] == "absent"


# --- values


class Unpicklable:
    def __reduce__(self):
        raise TypeError("not picklable")


UNPICKLABLE = {
    "lambda": lambda: lambda: 1,
    "lock": threading.Lock,
    "generator": lambda: (i for i in range(3)),
    "module": lambda: threading,
    "nested": lambda: {"a": [1, (Unpicklable(),)]},
    "local class": lambda: type("Local", (), {}),
    "file": lambda: open("/dev/null"),  # noqa: SIM115
}


@pytest.mark.parametrize("make", UNPICKLABLE.values(), ids=UNPICKLABLE)
def test_values_that_cannot_be_pickled(db_path, make):  # issue 2 §7, openclaw §2.1, C6
    value = make()
    try:
        with ResultCache(enable_persistent=True, db_path=db_path) as cache:
            cache.set("key", "old", tags=["t"])
            assert cache.flush()
            cache.set("key", value, tags=["t"])
            assert cache.get("key") is value
            assert cache.flush()
            assert cache.invalidate_by_tag("t") == 1
            cache.set("key", value)
            assert cache.get_stats()["disk_errors"] == 0
    finally:
        if hasattr(value, "close"):
            value.close()
    with ResultCache(enable_persistent=True, db_path=db_path) as cache:
        assert cache.get("key", "absent") == "absent"


def test_a_value_that_pickles_but_does_not_unpickle(db_path):  # openclaw C14
    program = """
    import sys
    from upshift import ResultCache
    class Broken:
        def __reduce__(self):
            return (int, ("no number",))
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        cache.set("key", Broken())
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        first = (cache.get("key", "absent"), cache.get_stats()["misses"], cache.get_stats()["disk_errors"])
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        print((first, cache.clear()))
    """
    assert run_literal(program, db_path) == (("absent", 1, 1), 0)


def test_a_class_that_is_gone(db_path, tmp_path):  # openclaw C14
    (tmp_path / "shapes.py").write_text("class Point:\n    pass\n")
    write = """
    import shapes, sys
    from upshift import ResultCache
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        cache.set("key", shapes.Point())
        cache.set("other", 1)
    """
    run(write, db_path, cwd=tmp_path)
    (tmp_path / "shapes.py").unlink()
    read = """
    import sys
    from upshift import ResultCache
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        print((cache.get("key", "absent"), cache.get("other")))
    """
    assert run_literal(read, db_path, cwd=tmp_path) == ("absent", 1)


def test_huge_values(db_path):
    value = {"bytes": random.Random(1).randbytes(20_000_000), "text": "ü" * 5_000_000}
    with ResultCache(enable_persistent=True, db_path=db_path) as cache:
        cache.set("key", value, tags=["t"] + [f"t{i}" for i in range(2000)])
        assert cache.flush(30)
    with ResultCache(enable_persistent=True, db_path=db_path) as cache:
        assert cache.get("key") == value
        assert cache.get_stats()["tags_count"] == 2001


def test_deeply_nested_values(db_path):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with ResultCache(enable_persistent=True, db_path=db_path) as cache:
        cache.set("key", deep)
        assert cache.get("key") is deep
        assert cache.flush()
    with ResultCache(enable_persistent=True, db_path=db_path) as cache:
        found = cache.get("key", "absent")  # too deep to be stored, so gone; or stored whole
        depth = 0
        while isinstance(found, list) and found:
            found = found.pop()
            depth += 1
        assert depth in (0, 100_000)
    while deep:
        deep = deep.pop()


def test_values_changed_after_set_are_stored_as_they_were(db_path):  # openclaw §2.1: set stores, not close
    value = [1]
    with ResultCache(enable_persistent=True, db_path=db_path) as cache:
        cache.set("key", value)
        value.append(2)
        assert cache.get("key") == [1, 2]
    with ResultCache(enable_persistent=True, db_path=db_path) as cache:
        assert cache.get("key") == [1]


def test_pickle_is_only_used_where_needed(store):  # DESIGN §3 "chosen per value"
    assert pickle.loads(pickle.dumps(range(10))) == range(10)
    seen = run_literal(
        """
        import sys
        events = []
        sys.addaudithook(lambda event, args: events.append(args[1]) if event == "pickle.find_class" else None)
        from upshift import ResultCache
        with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
            cache.get("plain")
            plain = list(events)
            cache.get("pickled")
        print((plain, events))
        """,
        store,
    )
    assert seen == ([], ["range"])
