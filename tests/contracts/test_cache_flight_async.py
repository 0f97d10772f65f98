"""Issue 2 §4: single flight among coroutines, in one event loop and in two."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from harness import Task, eventually

from upshift.exceptions import SingleFlightTimeout


def drive(coroutine, timeout=30):
    """Runs a coroutine in a fresh loop with a limit that makes a deadlock a failure."""

    async def limited():
        return await asyncio.wait_for(coroutine, timeout)

    return asyncio.run(limited())


async def settle():
    """Lets everything that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_one_coroutine_computes_for_all(cache):  # issue 2 §4, openclaw C17
    runs = []

    @cache.cached()
    async def f(x):
        runs.append(x)
        await asyncio.sleep(0.05)
        return [x]

    async def main():
        return await asyncio.gather(*(f(1) for _ in range(50)), f(2))

    results = drive(main())
    assert sorted(runs) == [1, 2]
    assert all(result is results[0] for result in results[:50])


def test_a_waiting_coroutine_does_not_block_its_loop(cache):
    async def main():
        release = asyncio.Event()

        @cache.cached()
        async def f():
            await release.wait()
            return 1

        tasks = [asyncio.create_task(f()) for _ in range(5)]
        await settle()
        assert not any(task.done() for task in tasks)
        release.set()
        return await asyncio.gather(*tasks)

    assert drive(main()) == [1] * 5


def test_a_failing_leader_hands_over(cache):  # issue 2 §4
    runs = []

    @cache.cached()
    async def f():
        runs.append(1)
        mine = len(runs)
        await asyncio.sleep(0.02)
        if mine == 1:
            raise ValueError("first")
        return "second"

    async def main():
        return await asyncio.gather(*(f() for _ in range(5)), return_exceptions=True)

    results = drive(main())
    assert [type(result) for result in results].count(ValueError) == 1
    assert results.count("second") == 4
    assert len(runs) == 2


def test_a_cancelled_leader_hands_over(cache):  # spec: "cancelled async leader hands over"
    runs = []

    async def main():
        release = asyncio.Event()

        @cache.cached()
        async def f():
            runs.append(1)
            await release.wait()
            return len(runs)

        leader = asyncio.create_task(f())
        await settle()
        followers = [asyncio.create_task(f()) for _ in range(4)]
        await settle()
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        await settle()
        release.set()
        return await asyncio.gather(*followers)

    assert drive(main()) == [2] * 4
    assert len(runs) == 2


def test_a_cancelled_waiter_disturbs_nobody(cache):
    runs = []

    async def main():
        release = asyncio.Event()

        @cache.cached()
        async def f():
            runs.append(1)
            await release.wait()
            return "value"

        leader = asyncio.create_task(f())
        await settle()
        waiters = [asyncio.create_task(f()) for _ in range(3)]
        await settle()
        waiters[1].cancel()
        await settle()
        assert waiters[1].cancelled()
        release.set()
        return await asyncio.gather(leader, waiters[0], waiters[2])

    assert drive(main()) == ["value"] * 3
    assert len(runs) == 1


def test_a_waiter_gives_up_at_its_deadline(cache):  # issue 2 §4 "waiters with a deadline"
    async def main():
        release = asyncio.Event()

        @cache.cached(wait_timeout=0.1)
        async def f():
            await release.wait()
            return 1

        leader = asyncio.create_task(f())
        await settle()
        start = time.monotonic()
        with pytest.raises(SingleFlightTimeout):
            await f()
        assert 0.05 < time.monotonic() - start < 10
        release.set()
        return await leader, await f()

    assert drive(main()) == (1, 1)


def test_a_loop_that_ends_leaves_no_flight_behind(cache):
    started = []

    @cache.cached()
    async def f():
        started.append(1)
        if len(started) == 1:
            await asyncio.sleep(3600)
        return "value"

    async def abandoned():
        task = asyncio.create_task(f())
        await settle()
        assert started == [1]
        return task  # asyncio.run cancels it

    asyncio.run(abandoned())
    assert drive(f()) == "value"


def test_a_coroutine_closed_by_hand_leaves_no_flight_behind(cache):
    started = []

    @cache.cached()
    async def f():
        started.append(1)
        if len(started) == 1:
            await Forever()
        return "value"

    class Forever:
        def __await__(self):
            yield

    coroutine = f()
    coroutine.send(None)
    assert started == [1]
    coroutine.close()
    assert drive(f()) == "value"


# --- two loops in two threads


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.thread = Task(self.loop.run_forever)

    def start(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.result()
        self.loop.close()


@pytest.fixture
def loops():
    pair = Loop(), Loop()
    yield pair
    for loop in pair:
        loop.close()


async def poll(event):
    while not event.is_set():
        await asyncio.sleep(0.005)


def test_two_loops_share_one_flight(cache, loops):  # issue 2 §4 "across two event loops in two threads"
    runs = []
    release = threading.Event()

    @cache.cached()
    async def f(x):
        runs.append(x)
        await poll(release)
        return [x]

    leader = loops[0].start(f(1))
    eventually(lambda: runs)
    waiting = [loop.start(f(1)) for loop in loops * 3]
    assert loops[1].start(asyncio.sleep(0.05, "alive")).result(30) == "alive"
    release.set()
    results = [future.result(30) for future in [leader, *waiting]]
    assert runs == [1]
    assert all(result is results[0] for result in results)


def test_a_cancelled_leader_hands_over_to_the_other_loop(cache, loops):
    runs = []
    release = threading.Event()

    @cache.cached()
    async def f():
        runs.append(threading.get_ident())
        await poll(release)
        return len(runs)

    leader = loops[0].start(f())
    eventually(lambda: runs)
    waiter = loops[1].start(f())
    loops[1].start(settle()).result(30)
    leader.cancel()
    eventually(lambda: len(runs) == 2)
    release.set()
    assert waiter.result(30) == 2
    assert runs[0] != runs[1]


def test_a_waiter_whose_loop_is_gone_disturbs_nobody(cache, loops):
    runs = []
    release = threading.Event()

    @cache.cached()
    async def f():
        runs.append(1)
        await poll(release)
        return "value"

    leader = loops[0].start(f())
    eventually(lambda: runs)

    async def briefly():
        task = asyncio.create_task(f())
        await settle()
        return task

    asyncio.run(briefly())  # cancels the waiter and closes its loop
    release.set()
    assert leader.result(30) == "value"
    assert len(runs) == 1


# --- recursion, cycles


def test_recursion_into_the_same_key(cache):  # openclaw §2.2 for coroutines
    runs = []

    @cache.cached()
    async def f(x):
        runs.append(x)
        await asyncio.sleep(0)
        return await f(x) + 1 if len(runs) < 4 else 0

    assert drive(f(1), 20) == 3
    assert len(runs) == 4


@pytest.mark.parametrize("spawn", ["gather", "create_task", "wait_for"])
def test_recursion_through_a_child_task(cache, spawn):  # issue 2 §4 "re-entrant": a child task is the same caller
    runs = []

    @cache.cached()
    async def f(x):
        runs.append(x)
        if len(runs) > 1:
            return 1
        if spawn == "gather":
            return sum(await asyncio.gather(f(x), f(x + 1))) * 10
        if spawn == "create_task":
            return await asyncio.create_task(f(x)) * 10
        return await asyncio.wait_for(f(x), 10) * 10

    assert drive(f(1), 20) == (20 if spawn == "gather" else 10)


@pytest.mark.parametrize("count", [2, 3])
def test_tasks_that_wait_for_each_other_do_not_deadlock(cache, count):  # spec: "cross-waiting pairs"
    async def main():
        inside = 0
        all_inside = asyncio.Event()
        runs = []

        @cache.cached()
        async def f(i):
            nonlocal inside
            runs.append(i)
            if runs.count(i) > 1:
                return (i, None)
            inside += 1
            if inside == count:
                all_inside.set()
            await all_inside.wait()
            return (i, (await f((i + 1) % count))[0])

        results = await asyncio.gather(*(f(i) for i in range(count)))
        assert [result[0] for result in results] == list(range(count))
        assert count < len(runs) <= 2 * count

    drive(main(), 20)


def test_loops_that_wait_for_each_other_do_not_deadlock(cache, loops):
    barrier = threading.Barrier(2)
    runs = []

    @cache.cached()
    async def f(i):
        runs.append(i)
        if runs.count(i) > 1:
            return (i, None)
        barrier.wait(30)
        await asyncio.sleep(0)
        return (i, (await f(1 - i))[0])

    futures = [loop.start(f(i)) for i, loop in enumerate(loops)]
    assert [future.result(20)[0] for future in futures] == [0, 1]


def test_single_flight_false_lets_all_compute(cache):
    async def main():
        inside = []
        both = asyncio.Event()

        @cache.cached(single_flight=False)
        async def f():
            inside.append(1)
            if len(inside) == 2:
                both.set()
            await both.wait()
            return 1

        assert await asyncio.gather(f(), f()) == [1, 1]

    drive(main())
