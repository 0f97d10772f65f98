"""Issue 2 §4 between processes: coherence, durability levels, single flight with a lease.

Every process here is a child with a clock of its own: the parent may have travelled in time.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest
from harness import Peer, eventually, peers

OPEN = """
import os, time
from upshift import ResultCache
cache = ResultCache(enable_persistent=True, db_path={path!r}, {options})
"""


def opened(path, **options):
    return OPEN.format(path=str(path), options=", ".join(f"{name}={value!r}" for name, value in options.items()))


REMOVALS = {
    "delete": "cache.delete('x:key')",
    "clear": "cache.clear()",
    "invalidate_by_tag": "cache.invalidate_by_tag('t')",
    "invalidate_pattern": "cache.invalidate_pattern('x:')",
}


# --- coherence


@pytest.mark.parametrize("removal", REMOVALS)
def test_coherence_zero_is_checked_on_each_hit(db_path, removal):  # issue 2 §4 coherence "0 = checked on each hit"
    with peers(2, opened(db_path, coherence=0)) as (one, two):
        one("cache.set('x:key', 1, tags=['t']); cache.set('y:other', 2, tags=['u']); cache.flush()")
        for _ in range(3):
            assert two("cache.get('x:key')") == 1
            assert one("cache.get('x:key')") == 1
            assert two(REMOVALS[removal])
            assert one("cache.get('x:key')") is None
            assert one("'x:key' in cache") is False
            if removal != "clear":
                assert one("cache.get('y:other')") == 2
            one("cache.set('x:key', 1, tags=['t']); cache.flush()")


@pytest.mark.parametrize("removal", REMOVALS)
def test_coherence_within_a_second_by_default(db_path, removal):  # issue 2 §4 "within a stated bound (default 1 s)"
    with peers(2, opened(db_path)) as (one, two):
        one("cache.set('x:key', 1, tags=['t']); cache.set('y:other', 2, tags=['u']); cache.flush()")
        assert one("cache.get('x:key')") == 1
        assert two(REMOVALS[removal])
        # Half a second on top of the bound is for the scheduler of a busy machine.
        waited = one("""
start = time.monotonic()
while cache.get('x:key') is not None and time.monotonic() - start < 10:
    time.sleep(0.005)
time.monotonic() - start
""")
        assert waited < 1.5
        if removal != "clear":
            assert one("cache.get('y:other')") == 2


def test_coherence_reaches_decorated_functions(db_path):
    define = """
runs = []
@cache.cached(tags=["t"])
def f(x):
    runs.append(x)
    return os.getpid()
f.__name__
"""
    with peers(2, opened(db_path, coherence=0)) as (one, two):
        for peer in (one, two):
            peer("__name__ = 'app'")
            peer(define)
        assert one("f(1)") == one.pid
        one("cache.flush()")
        assert two("f(1)") == one.pid
        assert two("f.cache_clear()") == 1
        assert one("f(1)") == one.pid
        assert one("len(runs)") == 2


def test_coherence_none_keeps_the_memory_tier_to_itself(db_path):  # spec: "None = off"
    with peers(2, opened(db_path, coherence=None)) as (one, two):
        one("cache.set('key', 1); cache.flush()")
        assert two("cache.delete('key')") is True
        assert one("time.sleep(1.5); cache.get('key')") == 1


def test_own_removals_do_not_come_back_as_foreign_ones(db_path):
    with peers(2, opened(db_path, coherence=0)) as (one, two):
        one("cache.set('key', 1); cache.flush(); cache.delete('key'); cache.set('key', 2); cache.flush()")
        assert one("[cache.get('key') for _ in range(3)]") == [2, 2, 2]
        assert two("cache.get('key')") == 2


def test_a_write_of_another_process_is_seen_on_a_miss(db_path):
    with peers(2, opened(db_path)) as (one, two):
        assert two("cache.get('key')") is None
        one("cache.set('key', [1, 'two']); cache.flush()")
        assert two("cache.get('key')") == [1, "two"]


# --- durability


def stored(path):
    """Keys in the store as a fresh process's stdlib finds them; fails on a damaged file."""
    with closing(sqlite3.connect(str(path), timeout=30)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        orphans = "SELECT count(*) FROM cache_tags WHERE cache_key NOT IN (SELECT cache_key FROM result_cache)"
        assert connection.execute(orphans).fetchone() == (0,)
        return {key for (key,) in connection.execute("SELECT cache_key FROM result_cache")}


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_set_acknowledged_survives_kill_9(db_path, durability):  # issue 2 §4 durability
    with Peer(opened(db_path, durability=durability)) as peer:
        for i in range(30):
            peer(f"cache.set('k{i}', {i}, tags=['t{i}'])")
        peer.kill()
    assert stored(db_path) >= {f"k{i}" for i in range(30)}
    with Peer(opened(db_path)) as peer:
        assert peer("[cache.get(f'k{i}') for i in range(30)]") == list(range(30))


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_delete_acknowledged_survives_kill_9(db_path, durability):
    with Peer(opened(db_path, durability=durability)) as peer:
        peer("cache.warmup({f'k{i}': i for i in range(10)})")
        peer("cache.delete('k0'); cache.invalidate_pattern('k1')")
        peer.kill()
    assert stored(db_path) == {f"k{i}" for i in range(2, 10)}


def test_memory_durability_survives_kill_9_up_to_the_flush(db_path):  # issue 2 §4 "states what survives what"
    with Peer(opened(db_path, durability="memory")) as peer:
        peer("cache.warmup({f'k{i}': i for i in range(300)})")
        assert peer("cache.flush()") is True
        peer.send("for i in range(10**6): cache.set(f'late{i}', 'x' * 100)")
        time.sleep(0.2)
        peer.kill()
    assert stored(db_path) >= {f"k{i}" for i in range(300)}


def test_memory_durability_commits_in_the_background(db_path):  # "loses at most the last unwritten moments"
    with Peer(opened(db_path, durability="memory")) as peer:
        peer("cache.set('key', 1)")
        eventually(lambda: "key" in stored(db_path), 10)
        peer.kill()
    assert stored(db_path) == {"key"}


def test_kill_9_in_the_middle_of_writing_damages_nothing(db_path):
    for turn in range(4):
        with Peer(opened(db_path, durability="process")) as peer:
            peer.send(f"for i in range(10**6): cache.set(f'{turn}:{{i}}', 'x' * 2000, tags=['t', f't{{i}}'])")
            eventually(lambda turn=turn: any(key.startswith(f"{turn}:") for key in stored(db_path)))
            peer.kill()
    keys = stored(db_path)
    with Peer(opened(db_path)) as peer:
        assert peer("cache.get('0:0')") == "x" * 2000
        assert peer("cache.invalidate_by_tag('t')") == len(keys)


# --- single flight across processes

COMPUTE = """
@cache.cached(single_flight="processes", key_func=lambda x: f"work:{{x}}", ttl={ttl})
def work(x):
    with open({log!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    {body}
    return os.getpid()
"""


def computing(path, log, body, ttl=100):
    return opened(path) + COMPUTE.format(log=str(log), body=body, ttl=ttl)


def runs(log):
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def test_one_process_computes_for_all(db_path, tmp_path):  # issue 2 §4 single_flight="processes"
    log, gate = tmp_path / "log", tmp_path / "gate"
    body = f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    with peers(3, computing(db_path, log, body)) as group:
        for peer in group:
            peer.send("work(1)")
        eventually(lambda: runs(log))
        time.sleep(0.3)  # the others have time to line up; the outcome does not depend on it
        gate.touch()
        results = [peer.receive() for peer in group]
    assert len(runs(log)) == 1
    assert results == runs(log) * 3


def test_a_killed_leader_is_replaced(db_path, tmp_path):  # issue 2 §4 "a lease that survives a killed leader"
    log, gate = tmp_path / "log", tmp_path / "gate"
    body = f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    with peers(2, computing(db_path, log, body)) as (leader, follower):
        leader.send("work(1)")
        eventually(lambda: runs(log))
        follower.send("work(1)")
        time.sleep(0.3)
        assert runs(log) == [leader.pid]
        leader.kill()
        gate.touch()
        assert follower.receive(40) == follower.pid
    assert runs(log) == [leader.pid, follower.pid]


def test_a_failing_leader_hands_over_to_another_process(db_path, tmp_path):
    log, gate = tmp_path / "log", tmp_path / "gate"
    body = f"""while not os.path.exists({str(gate)!r}): time.sleep(0.01)
    if os.environ.get("FAIL") == str(x): raise ValueError("leader")"""
    with (
        Peer(computing(db_path, log, body), env={"FAIL": "1"}) as leader,
        Peer(computing(db_path, log, body)) as follower,
    ):
        leader.send("work(1)")
        eventually(lambda: runs(log))
        follower.send("work(1)")
        time.sleep(0.2)
        gate.touch()
        with pytest.raises(AssertionError, match="ValueError: leader"):
            leader.receive()
        assert follower.receive() == follower.pid


def test_processes_do_not_wait_for_other_keys(db_path, tmp_path):
    log, gate = tmp_path / "log", tmp_path / "gate"
    body = f"while x == 1 and not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    with peers(2, computing(db_path, log, body)) as (one, two):
        one.send("work(1)")
        eventually(lambda: runs(log))
        assert two("work(2)", timeout=20) == two.pid
        gate.touch()
        assert one.receive() == one.pid


def test_a_waiting_process_gives_up_at_its_deadline(db_path, tmp_path):
    log, gate = tmp_path / "log", tmp_path / "gate"
    body = f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    prelude = computing(db_path, log, body).replace("ttl=100", "ttl=100, wait_timeout=0.3")
    with peers(2, prelude) as (one, two):
        one.send("work(1)")
        eventually(lambda: runs(log))
        with pytest.raises(AssertionError, match="SingleFlightTimeout"):
            two("work(1)", timeout=30)
        gate.touch()
        assert one.receive() == one.pid


def test_processes_mode_on_a_memory_cache_is_single_flight_of_one_process():
    with Peer("from upshift import ResultCache; cache = ResultCache()") as peer:
        assert peer("cache.cached(single_flight='processes')(lambda: 5)()", timeout=20) == 5
