"""Issue 2 §4: single flight among threads. Coroutines and processes have files of their own."""

from __future__ import annotations

import threading
import time

import pytest
from harness import Task, eventually, stays, together

from upshift import ResultCache
from upshift.exceptions import SingleFlightTimeout, UpshiftError


class Gate:
    """A function body that reports its start, waits to be released, and then returns or raises as told."""

    def __init__(self):
        self.runs = []
        self.release = threading.Event()

    def __call__(self, key=0):
        self.runs.append(key)
        assert self.release.wait(30)
        return [key]


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.release.set()


def lead(f, *args, gate):
    """A thread inside `f(*args)`."""
    before = len(gate.runs)
    task = Task(f, *args)
    eventually(lambda: len(gate.runs) > before)
    return task


def follow(f, *args, count=4):
    """Threads that came after; they have had time to line up, which no outcome depends on."""
    tasks = [Task(f, *args) for _ in range(count)]
    time.sleep(0.05)
    return tasks


def test_one_thread_computes_and_the_others_get_its_object(cache, gate):  # issue 2 §4, openclaw C17
    f = cache.cached()(lambda key: gate(key))
    tasks = [lead(f, 1, gate=gate), *follow(f, 1)]
    gate.release.set()
    results = [task.result() for task in tasks]
    assert gate.runs == [1]
    assert all(result is results[0] for result in results)
    assert cache.get_stats()["sets"] == 1


def test_other_keys_do_not_wait(cache, gate):
    f = cache.cached()(lambda key: gate(key) if key == 1 else [key])
    leader = lead(f, 1, gate=gate)
    assert f(2) == [2]
    assert cache.get("anything") is None
    gate.release.set()
    assert leader.result() == [1]


def test_no_lock_is_held_while_the_function_runs(cache, gate):  # issue 2 §4 "never a lock held while user code runs"
    f = cache.cached(tags=["t"])(lambda key: gate(key))
    leader = lead(f, 1, gate=gate)
    cache.set("a", 1)
    with cache.lock:
        assert cache.get("a") == 1
    assert cache.invalidate_by_tag("t") == 0
    assert cache.invalidate_pattern("a") == 1
    assert f.cache_clear() == 0
    assert cache.clear() == 0
    assert cache.get_stats()["misses"] >= 1
    gate.release.set()
    assert leader.result() == [1]


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
def test_a_failing_leader_hands_over(cache, gate, error):  # issue 2 §4 "a failing leader hands over"
    def body():
        value = gate()
        if len(gate.runs) == 1:
            raise error
        return value

    f = cache.cached()(body)
    leader = lead(f, gate=gate)
    followers = follow(f)
    gate.release.set()
    with pytest.raises(type(error)) as caught:
        leader.result()
    assert caught.value is error
    assert [task.result() for task in followers] == [[0]] * 4
    assert len(gate.runs) == 2


def test_when_all_fail_each_gets_its_own_error(cache, gate):
    def body():
        gate()
        raise ValueError(len(gate.runs))

    f = cache.cached()(body)
    tasks = [lead(f, gate=gate), *follow(f)]
    gate.release.set()
    for task in tasks:
        with pytest.raises(ValueError, match=r"[1-5]"):
            task.result()
    assert len(gate.runs) == 5
    assert len(cache) == 0


def test_a_result_that_may_not_stay_still_reaches_the_waiters(gate):  # max_size=0, ttl<0: nothing is kept
    for cache, options in ((ResultCache(max_size=0), {}), (ResultCache(), {"ttl": -1})):
        gate.runs.clear()
        gate.release.clear()
        f = cache.cached(**options)(lambda: gate())
        tasks = [lead(f, gate=gate), *follow(f)]
        gate.release.set()
        assert [task.result() for task in tasks] == [[0]] * 5
        assert len(gate.runs) <= 5
        assert len(cache) == 0


def test_single_flight_false_lets_all_compute(cache):  # issue 2 §4
    barrier = threading.Barrier(4)

    @cache.cached(single_flight=False)
    def f():
        barrier.wait(30)  # passes only if all four are inside at once
        return 1

    assert together(lambda i: f(), 4) == [1] * 4
    assert f() == 1


def test_an_unknown_mode_is_refused(cache):
    with pytest.raises(ValueError, match="single_flight"):
        cache.cached(single_flight="threads")


# --- deadlines


def test_a_waiter_gives_up_at_its_deadline(cache, gate):  # issue 2 §4 "waiters with a deadline"
    f = cache.cached(wait_timeout=0.2)(lambda: gate())
    leader = lead(f, gate=gate)
    start = time.monotonic()
    with pytest.raises(SingleFlightTimeout) as caught:
        f()
    assert 0.15 < time.monotonic() - start < 10
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value, UpshiftError)
    gate.release.set()
    assert leader.result() == [0]
    assert f() == [0]
    assert len(gate.runs) == 1


def test_the_leader_has_no_deadline(cache):
    f = cache.cached(wait_timeout=0.01)(lambda: time.sleep(0.1) or 7)
    assert f() == 7


def test_wait_timeout_zero_does_not_wait(cache, gate):
    f = cache.cached(wait_timeout=0)(lambda: gate())
    lead(f, gate=gate)
    with pytest.raises(SingleFlightTimeout):
        f()


def test_a_waiter_lets_other_threads_run(cache, gate):  # DESIGN §2.3 "waits detach"
    f = cache.cached()(lambda: gate())
    leader = lead(f, gate=gate)
    followers = follow(f)
    spins = 0
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        spins += 1
    assert spins > 1000
    assert not any(task.done() for task in followers)
    gate.release.set()
    assert [task.result() for task in [leader, *followers]] == [[0]] * 5


# --- recursion, cycles


def test_recursion(cache):  # issue 2 §4 "re-entrant"
    runs = []

    @cache.cached()
    def fib(n):
        runs.append(n)
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(80) == 23416728348467685
    assert len(runs) == 81


def test_recursion_into_the_same_key(cache):  # openclaw §2.2 "also with the same key in the same thread"
    runs = []

    @cache.cached()
    def f(x):
        runs.append(x)
        return f(x) + 1 if len(runs) < 4 else 0

    assert Task(f, 1).result(20) == 3
    assert len(runs) == 4
    assert f(1) == 3


def test_recursion_while_others_wait(cache, gate):
    @cache.cached()
    def f(x):
        if len(gate.runs) == 0:
            gate()
            return f(x) * 2
        gate.runs.append("inner")
        return 21

    leader = lead(f, 1, gate=gate)
    followers = follow(f, 1)
    gate.release.set()
    assert leader.result(20) == 42
    assert {task.result(20) for task in followers} <= {21, 42}
    assert gate.runs == [0, "inner"]


def test_through_key_func_ttl_and_tags(cache):
    def key_func(x):
        return f"k{x}:{g(x)}"

    g = cache.cached()(lambda x: x * 2)
    f = cache.cached(key_func=key_func, ttl=lambda r: g(r) + 100, tags=lambda r: [f"t{g(r)}"])(lambda x: x + g(x))
    assert Task(f, 1).result(20) == 3
    assert cache.get("k1:2") == 3
    assert set(cache.tags) == {"t6"}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_threads_that_wait_for_each_other_do_not_deadlock(cache, count):  # issue 2 §4 "cross-waiting pairs"
    barrier = threading.Barrier(count)
    first = threading.local()
    runs = []

    @cache.cached()
    def f(i, depth=0):
        runs.append(i)
        if not getattr(first, "done", False):
            first.done = True
            barrier.wait(30)  # every thread leads its own key …
            return (i, f((i + 1) % count)[0])  # … and now needs its neighbour's
        return (i, None)

    results = together(lambda i: f(i), count, timeout=30)
    assert [result[0] for result in results] == list(range(count))
    assert count < len(runs) <= 2 * count
    assert [f(i)[0] for i in range(count)] == list(range(count))


def test_cross_waiting_through_two_caches(gate):
    one, two = ResultCache(), ResultCache()
    barrier = threading.Barrier(2)
    first = threading.local()

    def enter():
        if not getattr(first, "done", False):
            first.done = True
            barrier.wait(30)
            return True
        return False

    f = one.cached()(lambda: "f" + (g() if enter() else ""))
    g = two.cached()(lambda: "g" + (f() if enter() else ""))
    results = together(lambda i: (f, g)[i](), 2, timeout=30)
    assert results[0][0] == "f"
    assert results[1][0] == "g"


# --- what happens to the cache meanwhile


def test_a_clear_during_the_computation_is_harmless(cache, gate):
    f = cache.cached(tags=["t"])(lambda: gate())
    leader = lead(f, gate=gate)
    cache.clear()
    gate.release.set()
    assert leader.result() == [0]
    assert f() == [0]  # either computed again or stored after the clear; never an error, never a hang


def test_close_during_the_computation(make_cache, gate):
    cache = make_cache()
    f = cache.cached()(lambda: gate())
    tasks = [lead(f, gate=gate), *follow(f)]
    cache.close()
    gate.release.set()
    assert [task.result() for task in tasks] == [[0]] * 5


def test_nothing_is_left_of_a_flight(cache, gate):
    import gc
    import weakref

    class Result:
        pass

    f = cache.cached(key_func=lambda: "key")(lambda: gate() and Result())
    tasks = [lead(f, gate=gate), *follow(f)]
    gate.release.set()
    references = {id(task.result()): weakref.ref(task.result()) for task in tasks}
    assert len(references) == 1
    tasks.clear()
    cache.clear()
    cache.flush()
    gc.collect()
    (reference,) = references.values()
    eventually(lambda: reference() is None, 5)


def test_locked_by_the_user(cache):  # DESIGN §3 "lock held by a user makes other threads' operations wait"
    f = cache.cached()(lambda: 1)
    f()
    with cache.lock:
        other = Task(f)
        stays(lambda: not other.done())
    assert other.result() == 1
