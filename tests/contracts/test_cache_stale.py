"""Issue 2 §4: `stale_while_revalidate`, `stale_if_error`, and `ttl` and `tags` as functions of the result."""

from __future__ import annotations

import asyncio
import threading

import pytest
from harness import Task, eventually, stays, together

from upshift import ResultCache
from upshift.testing import travel


class Versions:
    """A function body that returns 1, 2, 3, …, waits when told to, and fails when told to."""

    def __init__(self):
        self.runs = 0
        self.threads = []
        self.error = None
        self.open = threading.Event()
        self.open.set()

    def __call__(self, *args):
        self.runs += 1
        self.threads.append(threading.get_ident())
        mine = self.runs
        assert self.open.wait(30)
        if self.error is not None:
            raise self.error
        return mine


@pytest.fixture
def body():
    versions = Versions()
    yield versions
    versions.open.set()


# --- stale_while_revalidate


def test_a_stale_value_is_served_at_once_and_renewed(cache, body):  # issue 2 §4 stale_while_revalidate
    f = cache.cached(ttl=100, stale_while_revalidate=50)(lambda x: body(x))
    assert f(1) == 1
    body.open.clear()
    travel(120)
    assert f(1) == 1  # returns although the renewal cannot finish
    eventually(lambda: body.runs == 2)
    assert f(1) == 1
    body.open.set()
    eventually(lambda: f(1) == 2)
    assert body.runs == 2
    assert body.threads[1] != threading.get_ident()


def test_a_fresh_value_is_not_renewed(cache, body):
    f = cache.cached(ttl=100, stale_while_revalidate=50)(lambda: body())
    f()
    travel(90)
    assert f() == 1
    stays(lambda: body.runs == 1, 0.1)


def test_beyond_the_window_the_caller_computes(cache, body):
    f = cache.cached(ttl=100, stale_while_revalidate=50)(lambda: body())
    f()
    travel(151)
    assert f() == 2
    assert body.threads[1] == threading.get_ident()


def test_the_renewed_value_has_a_full_lifetime(cache, body):
    f = cache.cached(ttl=100, stale_while_revalidate=50)(lambda: body())
    f()
    travel(120)
    f()
    eventually(lambda: f() == 2)
    travel(90)
    assert f() == 2
    stays(lambda: body.runs == 2, 0.1)


def test_many_callers_of_a_stale_value_renew_it_once(cache, body):
    f = cache.cached(ttl=100, stale_while_revalidate=50)(lambda: body())
    f()
    travel(120)
    body.open.clear()
    assert together(lambda i: f(), 8) == [1] * 8
    eventually(lambda: body.runs == 2)
    stays(lambda: body.runs == 2, 0.1)
    body.open.set()
    eventually(lambda: f() == 2)


def test_a_failing_renewal_leaves_the_stale_value(cache, body):
    f = cache.cached(ttl=100, stale_while_revalidate=50)(lambda: body())
    f()
    travel(120)
    body.error = ValueError("down")
    assert f() == 1
    eventually(lambda: body.runs >= 2)
    assert f() == 1
    travel(40)
    with pytest.raises(ValueError, match="down"):
        f()


def test_an_invalidated_value_is_never_served_stale(cache, body):
    f = cache.cached(ttl=100, stale_while_revalidate=50, tags=["t"])(lambda: body())
    f()
    travel(120)
    cache.invalidate_by_tag("t")
    cache.delete(f.cache_key())
    f.invalidate()
    assert f() == 2
    assert body.threads == [threading.get_ident()] * 2


def test_a_stale_value_is_expired_for_everyone_else(cache, body):  # openclaw §2.1 get
    f = cache.cached(ttl=100, stale_while_revalidate=50)(lambda: body())
    f()
    key = f.cache_key()
    assert cache.get(key) == 1
    travel(120)
    assert key not in cache
    assert cache.get(key, "default") == "default"
    assert cache.delete(key) is False


def test_a_stale_value_is_renewed_in_its_own_loop(cache):
    runs = []

    @cache.cached(ttl=100, stale_while_revalidate=50)
    async def f():
        runs.append(threading.get_ident())
        await asyncio.sleep(0)
        return len(runs)

    async def main():
        assert await f() == 1
        travel(120)
        assert await f() == 1
        for _ in range(500):
            await asyncio.sleep(0.01)
            if await f() == 2:
                return

    asyncio.run(main())
    assert runs == [threading.get_ident()] * 2


def test_a_renewal_does_not_outlive_its_loop(cache):
    started = []

    @cache.cached(ttl=100, stale_while_revalidate=50)
    async def f():
        started.append(1)
        if len(started) == 2:
            await asyncio.sleep(3600)
        return len(started)

    async def main():
        await f()
        travel(120)
        assert await f() == 1
        await asyncio.sleep(0.05)

    Task(asyncio.run, main()).result(20)
    travel(60)
    assert asyncio.run(asyncio.wait_for(f(), 20)) >= 2


# --- stale_if_error


def test_an_error_serves_the_stale_value(cache, style, body):  # issue 2 §4 stale_if_error
    f = cache.cached(ttl=100, stale_if_error=50)(style.form(lambda x: body(x)))
    assert style.call(f, 1) == 1
    travel(120)
    body.error = ConnectionError("down")
    assert style.call(f, 1) == 1
    assert style.call(f, 1) == 1
    assert body.runs == 3  # it tries each time
    body.error = None
    assert style.call(f, 1) == 4
    assert style.call(f, 1) == 4


def test_beyond_the_window_the_error_propagates(cache, style, body):
    f = cache.cached(ttl=100, stale_if_error=50)(style.form(lambda: body()))
    style.call(f)
    travel(151)
    body.error = ConnectionError("down")
    with pytest.raises(ConnectionError) as caught:
        style.call(f)
    assert caught.value is body.error


def test_without_an_old_value_the_error_propagates(cache, style, body):
    f = cache.cached(ttl=100, stale_if_error=50)(style.form(lambda: body()))
    body.error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        style.call(f)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_only_exceptions_are_errors(cache, body, error):
    f = cache.cached(ttl=100, stale_if_error=50)(lambda: body())
    f()
    travel(120)
    body.error = error
    with pytest.raises(type(error)):
        f()


def test_a_success_replaces_the_stale_value(cache, style, body):
    f = cache.cached(ttl=100, stale_if_error=50)(style.form(lambda: body()))
    style.call(f)
    travel(120)
    assert style.call(f) == 2


def test_both_windows_together(cache, body):
    f = cache.cached(ttl=100, stale_while_revalidate=50, stale_if_error=500)(lambda: body())
    f()
    travel(200)
    body.error = ConnectionError("down")
    assert f() == 1
    assert body.threads[-1] == threading.get_ident()
    travel(500)
    with pytest.raises(ConnectionError):
        f()


@pytest.mark.parametrize("name", ["stale_while_revalidate", "stale_if_error"])
def test_a_negative_window_is_refused(cache, name):
    with pytest.raises(ValueError, match=name):
        cache.cached(**{name: -1})


# --- ttl and tags as functions of the result


def test_ttl_of_the_result(cache, style):  # issue 2 §4
    runs = []
    f = cache.cached(ttl=lambda result: result)(style.form(lambda x: runs.append(x) or x))
    for ttl in (100, 1000, 0, -1):
        style.call(f, ttl)
    travel(500)
    for ttl in (100, 1000, 0, -1):
        style.call(f, ttl)
    assert runs == [100, 1000, 0, -1, 100, -1]


def test_ttl_none_of_the_result_is_the_default(make_cache, style):
    cache = make_cache(default_ttl=100)
    f = cache.cached(ttl=lambda result: None)(style.form(lambda: object()))
    first = style.call(f)
    assert style.call(f) is first
    travel(101)
    assert style.call(f) is not first


def test_tags_of_the_result(cache, style):  # issue 2 §4
    f = cache.cached(tags=lambda result: result["tags"])(style.form(lambda *tags: {"tags": tags}))
    style.call(f, "a", "b")
    style.call(f, "b")
    style.call(f)
    assert {tag: len(keys) for tag, keys in cache.tags.items()} == {"a": 1, "b": 2}
    assert cache.invalidate_by_tag("b") == 2


@pytest.mark.parametrize("name", ["ttl", "tags"])
def test_an_error_in_them_reaches_the_caller_and_stores_nothing(cache, style, name):
    f = cache.cached(**{name: lambda result: 1 // result})(style.form(lambda x: x))
    with pytest.raises(ZeroDivisionError):
        style.call(f, 0)
    assert len(cache) == 0
    with pytest.raises(ZeroDivisionError):
        style.call(f, 0)  # nobody waits for the failed flight


def test_the_policy_may_drop_a_stale_value(body):
    cache = ResultCache(max_size=1)
    f = cache.cached(ttl=100, stale_if_error=50)(lambda: body())
    f()
    travel(120)
    cache.set("other", 1)
    body.error = ConnectionError("down")
    with pytest.raises(ConnectionError):
        f()
