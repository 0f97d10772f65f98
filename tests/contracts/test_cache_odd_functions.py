"""What odd functions, keys and caches must not lead to: results of others, lost methods, leaks, waits without end."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from upshift import ResultCache
from upshift.testing import travel


class Scaled:
    def __init__(self, factor):
        self.factor = factor

    def times(self, x):
        return self.factor * x

    @classmethod
    def named(cls, x):
        return cls.__name__, x


class Other(Scaled):
    pass


def test_bound_methods_of_different_objects_share_nothing(open_cache, rows):
    cache = open_cache()
    two, three = cache.cached()(Scaled(2).times), cache.cached()(Scaled(3).times)
    assert (two(5), three(5), two(5)) == (10, 15, 10)
    scaled, other = cache.cached()(Scaled.named), cache.cached()(Other.named)
    assert (scaled(1), other(1)) == (("Scaled", 1), ("Other", 1))
    cache.flush()
    # The class that a method is named after identifies it; an object, or a subclass, does not.
    assert [key.rpartition(":")[0] for key in rows()] == [f"{__name__}.Scaled.named"]


def test_attributes_of_another_caching_decorator_do_not_hide_ours():
    def function(x):
        return x

    function.cache_clear = function.cache_info = function.invalidate = None
    cached = ResultCache().cached()(function)
    cached(1)
    assert cached.invalidate(1)
    assert cached.cache_clear() == 0
    assert cached.cache_info()["function_misses"] == 1


@pytest.mark.parametrize("ignore", ["args", "options"])
def test_ignore_covers_surplus_arguments(ignore):
    computed = []

    @ResultCache().cached(ignore=ignore)
    def function(x, *args, **options):
        computed.append((args, options))
        return x

    for args, options in [((1,), {"a": 1}), ((2,), {"a": 1}), ((1,), {"a": 2})]:
        function(0, *args, **options)
    assert len(computed) == 2


def test_an_object_with_an_async_call_is_a_coroutine_function():
    class Fetch:
        async def __call__(self, x):
            return x

    fetch = ResultCache().cached()(Fetch())

    async def main():
        return await fetch(1), await fetch(1)

    assert asyncio.run(main()) == (1, 1)
    assert fetch.cache_info()["function_hits"] == 1


def test_a_coroutine_is_no_result():
    async def inner(x):
        return x

    @ResultCache().cached()
    def function(x):
        return inner(x)

    async def main():
        return await function(1), await function(1)

    assert asyncio.run(main()) == (1, 1)


def test_a_wrapper_with_its_own_parameters_is_bound_by_them():
    calls = []

    def connected(function):
        @functools.wraps(function)
        def wrapper(x):
            calls.append(x)
            return function(x, "connection")

        return wrapper

    @ResultCache().cached()
    @connected
    def function(x, connection):
        return x

    assert [function(1), function(x=1)] == [1, 1]
    assert calls == [1]


def test_a_cache_dies_with_the_module_it_stands_in():
    source = "from upshift import ResultCache\ncache = ResultCache()\n@cache.cached()\ndef f(x):\n    return x\nf(1)\n"
    module = {"__name__": "throwaway"}
    exec(compile(source, "throwaway.py", "exec"), module)
    cache = weakref.ref(module["cache"])
    del module
    gc.collect()
    assert cache() is None


def test_caches_that_compare_equal_have_each_their_own_functions_and_connection(tmp_path):
    class Equal(ResultCache):
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

    class Unhashable(ResultCache):
        def __eq__(self, other):
            return True

        __hash__ = None

    for kind in (Equal, Unhashable):
        with kind(enable_persistent=True, db_path=tmp_path / "a.db") as one:
            with kind(enable_persistent=True, db_path=tmp_path / "b.db") as two:
                assert one.db_conn is not two.db_conn
                one.cached()(Scaled.named)(1)


def test_the_class_of_a_cache_can_be_assigned():
    class Sub(ResultCache):
        def get(self, key, default=None):
            return "from Sub"

    class Plain(ResultCache):
        pass

    cache = Plain()

    @cache.cached()
    def function(x):
        return x

    assert [function(1), function(1)] == [1, 1]
    cache.__class__ = ResultCache
    del Plain
    gc.collect()
    assert function(1) == 1
    cache.__class__ = Sub
    assert function(1) == "from Sub"


class Watched(ResultCache):
    def get(self, key, default=None):
        return super().get(key, default)


def test_private_functions_of_a_cache_with_overridden_methods_stay_off_the_disk(db_path, rows):
    def make(factor):
        return cache.cached()(lambda x: factor * x)

    with Watched(enable_persistent=True, db_path=db_path) as cache:
        double = make(2)
        assert [double(5), double(5)] == [10, 10]
        info = double.cache_info()
        assert (info["function_hits"], info["function_misses"]) == (1, 1)
        cache.flush()
        assert rows() == []


def test_private_names_differ_between_processes():
    program = "from upshift import ResultCache; print(ResultCache().cached()(lambda x: x).cache_key(1))"
    keys = {subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in range(2)}
    assert len(keys) == 2


def test_patterns_find_keys_that_are_no_text():
    cache = ResultCache()
    for key in ("\ud800x:y", "x:\ud800", "x:y"):
        cache.set(key, 1)
    assert cache.invalidate_pattern("x:") == 3


class Invalidating:
    """Invalidates the call whose result it is while it is written to disk."""

    def __reduce__(self):
        make_invalidating.invalidate(1)
        return (list, ())


def test_an_invalidation_while_the_result_is_encoded_counts(open_cache):
    global make_invalidating

    def make(x):
        return Invalidating()

    make.__qualname__ = "make"
    make_invalidating = open_cache().cached()(make)
    make_invalidating(1)
    assert make_invalidating._call.cache.get(make_invalidating.cache_key(1)) is None


class Suspension:
    def __await__(self):
        yield


def test_a_coroutine_closed_elsewhere_ends_its_flight():
    computed = []

    @ResultCache().cached()
    async def function(x):
        computed.append(x)
        if len(computed) == 1:
            await Suspension()
        return x

    coroutine = function(1)
    contextvars.copy_context().run(coroutine.send, None)
    coroutine.close()
    assert asyncio.run(asyncio.wait_for(function(1), 5)) == 1


def test_a_task_abandoned_with_its_loop_ends_its_flight():
    computed = []

    @ResultCache().cached()
    async def function(x):
        computed.append(x)
        if len(computed) == 1:
            await asyncio.sleep(3600)
        return x

    loop = asyncio.new_event_loop()
    task = loop.create_task(function(1))
    task._log_destroy_pending = False
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    del task, loop
    gc.collect()
    assert asyncio.run(asyncio.wait_for(function(1), 5)) == 1


def test_a_plain_function_does_not_wait_for_a_coroutine_of_its_own_thread():
    cache = ResultCache()

    @cache.cached(key_func=lambda: "key")
    async def slow():
        await asyncio.sleep(0.05)
        return "async"

    @cache.cached(key_func=lambda: "key")
    def quick():
        return "sync"

    results = []

    async def main():
        task = asyncio.create_task(slow())
        await asyncio.sleep(0.01)
        results.append(quick())
        results.append(await task)

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    thread.join(10)
    assert results == ["sync", "async"]


@pytest.mark.parametrize("single_flight", [True, False])
def test_a_burst_on_a_stale_coroutine_result_computes_once(single_flight):
    computed = []

    @ResultCache().cached(ttl=1, stale_while_revalidate=1000, single_flight=single_flight)
    async def function(x):
        computed.append(x)
        await asyncio.sleep(0)
        return len(computed)

    async def main():
        await function(1)
        travel(2)
        assert await asyncio.gather(*[function(1) for _ in range(10)]) == [1] * 10
        await asyncio.sleep(0.05)
        return await function(1)

    assert asyncio.run(main()) == 2
    assert len(computed) == 2


def test_a_burst_on_a_stale_result_computes_once():
    computed = []
    together = threading.Barrier(8)

    @ResultCache().cached(ttl=1, stale_while_revalidate=1000)
    def function(x):
        computed.append(x)
        time.sleep(0.001)
        return len(computed)

    function(1)
    travel(2)

    def caller():
        together.wait()
        function(1)

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.2)
    assert len(computed) == 2


def test_a_cached_coroutine_function_can_be_cached_again():
    @ResultCache().cached()
    @ResultCache().cached()
    async def function(x):
        return x

    async def main():
        return await function(1), await function(1)

    assert asyncio.run(main()) == (1, 1)
    assert function.cache_info()["function_hits"] == 1
