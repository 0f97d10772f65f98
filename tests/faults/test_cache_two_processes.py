"""Several processes on one store: nothing raises, nothing acknowledged is lost, no reader sees half a write."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from harness import Peer, eventually, peers

OPEN = """
import os, random, time
from upshift import ResultCache
cache = ResultCache(max_size=10_000, enable_persistent=True, db_path={path!r}, {options})
"""


def opened(path, options=""):
    return OPEN.format(path=str(path), options=options)


def scalar(path, sql):
    with closing(sqlite3.connect(str(path), timeout=30)) as connection:
        return connection.execute(sql).fetchone()[0]


@pytest.mark.parametrize("durability", ["memory", "process"])
def test_all_write_at_once(db_path, durability):  # issue 2 §7 "two processes on one store"
    with peers(3, opened(db_path, f"durability={durability!r}")) as group:
        for i, peer in enumerate(group):
            peer.send(f"for n in range(400): cache.set(f'{i}:{{n}}', n, tags=['t{i}'])")
        for peer in group:
            peer.receive()
        assert [peer("(cache.flush(30), cache.get_stats()['disk_errors'])") for peer in group] == [(True, 0)] * 3
    assert scalar(db_path, "SELECT count(*) FROM result_cache") == 1200
    assert scalar(db_path, "PRAGMA integrity_check") == "ok"


def test_all_open_a_new_store_at_once(db_path):
    prelude = "from upshift import ResultCache"
    with peers(4, prelude) as group:
        for i, peer in enumerate(group):
            peer.send(
                f"cache = ResultCache(enable_persistent=True, db_path={str(db_path)!r})\n"
                f"cache.set('k{i}', range({i}))\ncache.flush(30)\ncache.get_stats()['disk_errors']"
            )
        assert [peer.receive() for peer in group] == [0] * 4
        assert [peer("[list(cache.get(f'k{i}')) for i in range(4)]") for peer in group] == [
            [[], [0], [0, 1], [0, 1, 2]]
        ] * 4


def test_readers_see_whole_values(db_path):
    with peers(2, opened(db_path, "coherence=0")) as (writer, reader):
        writer("cache.set('key', ['0'] * 1000); cache.flush()")
        writer.send("for i in range(1500): cache.set('key', [str(i)] * 1000, tags=[str(i)])")
        torn = reader(
            f"""
seen = set()
torn = 0
deadline = time.monotonic() + 1.5
small = ResultCache(max_size=0, enable_persistent=True, db_path={str(db_path)!r})
while time.monotonic() < deadline:
    value = small.get('key')
    seen.add(value[0])
    torn += len(value) != 1000 or len(set(value)) != 1
small.close()
torn
"""
        )
        writer.receive()
        assert torn == 0
        assert writer("cache.get_stats()['disk_errors']") == 0
    assert scalar(db_path, "SELECT count(*) FROM cache_tags") == 1


def test_mixed_work_raises_nothing(db_path):
    work = """
rng = random.Random(SEED)
for i in range(600):
    key = f"k{rng.randrange(60)}"
    turn = rng.randrange(10)
    if turn < 4: cache.set(key, [i] * rng.randrange(50), tags=[f"t{rng.randrange(5)}"])
    elif turn < 7: cache.get(key)
    elif turn == 7: cache.delete(key)
    elif turn == 8: cache.invalidate_by_tag(f"t{rng.randrange(5)}")
    else: cache.invalidate_pattern(key)
cache.flush(30)
cache.get_stats()['disk_errors']
"""
    with peers(3, opened(db_path, "coherence=0")) as group:
        for i, peer in enumerate(group):
            peer.send(work.replace("SEED", str(i)))
        assert [peer.receive() for peer in group] == [0] * 3
    assert scalar(db_path, "PRAGMA integrity_check") == "ok"
    orphans = "SELECT count(*) FROM cache_tags WHERE cache_key NOT IN (SELECT cache_key FROM result_cache)"
    assert scalar(db_path, orphans) == 0


def test_removals_count_what_the_other_wrote(db_path):  # openclaw C5
    with peers(2, opened(db_path)) as (one, two):
        one("for i in range(10): cache.set(f'x:{i}', i, tags=['t'])")
        one("cache.set('y', 1, tags=['u']); cache.flush()")
        assert two("cache.delete('x:0')") is True
        assert two("cache.invalidate_pattern('x:1')") == 1
        assert two("cache.invalidate_by_tag('t')") == 8
        assert two("cache.clear()") == 1


def test_a_process_killed_in_a_transaction_blocks_nobody(db_path):
    with Peer(opened(db_path)) as survivor:
        with Peer(opened(db_path)) as victim:
            victim.send("for i in range(10**6): cache.set(f'v{i}', 'x' * 5000, tags=['t'])")
            eventually(lambda: scalar(db_path, "SELECT count(*) FROM result_cache") > 0)
            victim.kill()
        assert survivor("cache.set('key', 1); cache.flush(20)") is True
        assert survivor("cache.get('v0')") == "x" * 5000
        assert survivor("cache.invalidate_by_tag('t') > 0") is True
        assert survivor("cache.get_stats()['disk_errors']") == 0


def test_one_closes_while_the_other_works(db_path, tmp_path):
    with Peer(opened(db_path)) as one:
        with Peer(opened(db_path)) as two:
            two("cache.set('two', 2); cache.close()")
            one("cache.set('one', 1)")
            assert one("cache.flush(20)") is True
            assert one("cache.get('two')") == 2
        one("cache.close()")
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(("-wal", "-shm"))] == []


def test_stdlib_users_of_the_same_file_in_the_same_process(db_path):  # openclaw §1.1
    with Peer(opened(db_path)) as peer:
        lost = peer(
            f"""
import sqlite3
cache.set('key', 1)
cache.flush()
for i in range(20):
    connection = sqlite3.connect({str(db_path)!r}, timeout=30)
    connection.execute("SELECT count(*) FROM result_cache").fetchone()
    connection.close()  # with another SQLite library this would drop the locks of the cache's own connections
    cache.set(f"k{{i}}", i)
    cache.flush()
connection = sqlite3.connect({str(db_path)!r}, timeout=30)
found = connection.execute("SELECT count(*) FROM result_cache").fetchone()[0]
connection.close()
(21 - found, cache.get_stats()['disk_errors'])
"""
        )
    assert lost == (0, 0)
