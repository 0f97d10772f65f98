"""Issue 2 §4: what a decorated function offers beyond the contract: invalidate, cache_key, refresh, counts, ignore."""

from __future__ import annotations

import pytest
from harness import Task, eventually

from upshift import ResultCache
from upshift.testing import travel


class Counter:
    """Counts the runs of a body that returns a new number each time."""

    def __init__(self):
        self.runs = 0

    def __call__(self):
        self.runs += 1
        return self.runs


@pytest.fixture
def counter():
    return Counter()


# --- cache_key


def test_cache_key_is_where_the_entry_is(cache, style):  # DESIGN §3 "cache.get(f.cache_key(x)) hits"
    f = cache.cached()(style.form(lambda x, y=2: [x, y]))
    result = style.call(f, 1)
    key = f.cache_key(1)
    assert type(key) is str
    assert key == f.cache_key(1, 2) == f.cache_key(x=1, y=2) != f.cache_key(1, 3)
    assert cache.get(key) is result
    assert key in cache
    assert list(cache.cache) == [key]
    assert cache.delete(key) is True
    assert style.call(f, 1) is not result


def test_an_entry_set_under_the_cache_key_is_a_hit(cache, style):
    f = cache.cached()(style.form(lambda x: pytest.fail("computed")))
    cache.set(f.cache_key(1), "planted")
    assert style.call(f, 1) == "planted"


def test_cache_key_of_a_method(cache):
    class Service:
        @cache.cached(ignore=("self",))
        def method(self, x):
            return x

    service = Service()
    service.method(1)
    assert service.method.cache_key(1) in cache


def test_cache_key_with_key_func(cache):
    f = cache.cached(key_func=lambda x: f"my:{x}")(lambda x: x)
    assert f.cache_key(3) == "my:3"


def test_cache_key_refuses_wrong_arguments(cache):
    f = cache.cached()(lambda x: x)
    with pytest.raises(TypeError):
        f.cache_key()
    with pytest.raises(TypeError):
        f.cache_key(1, 2)


# --- invalidate


def test_invalidate_removes_one_call(cache, style, counter):  # issue 2 §4
    f = cache.cached(tags=["t"])(style.form(lambda x, y=2: counter()))
    style.call(f, 1)
    style.call(f, 5)
    assert f.invalidate(x=1) is True
    assert f.invalidate(1) is False
    assert f.invalidate(99) is False
    assert style.call(f, 5) == 2
    assert style.call(f, 1) == 3


def test_invalidate_reaches_the_disk(open_cache, counter):
    cache = open_cache(max_size=1)
    f = cache.cached(key_func=lambda x: f"k{x}")(lambda x: counter())
    f(1)
    f(2)
    assert f.invalidate(1) is True
    assert f(1) == 3


# --- refresh


def test_refresh_computes_and_stores(cache, style, counter):  # issue 2 §4
    f = cache.cached(ttl=100, tags=["t"])(style.form(lambda x: counter()))
    assert style.call(f, 1) == 1
    assert style.call(f.refresh, 1) == 2
    assert style.call(f, 1) == 2
    assert counter.runs == 2
    travel(90)
    assert style.call(f.refresh, x=1) == 3
    travel(90)
    assert style.call(f, 1) == 3
    assert cache.invalidate_by_tag("t") == 1


def test_refresh_without_an_entry(cache, style, counter):
    f = cache.cached()(style.form(lambda: counter()))
    assert style.call(f.refresh) == 1
    assert style.call(f) == 1


def test_a_failing_refresh_keeps_the_entry(cache, style):
    fail = []

    def body():
        if fail:
            raise ValueError("down")
        return "old"

    f = cache.cached()(style.form(body))
    style.call(f)
    fail.append(1)
    with pytest.raises(ValueError, match="down"):
        style.call(f.refresh)
    assert style.call(f) == "old"


def test_refresh_on_a_method(cache, counter):
    class Service:
        @cache.cached(ignore=("self",))
        def method(self, x):
            return counter()

    service = Service()
    assert [service.method(1), service.method.refresh(1), service.method(1)] == [1, 2, 2]
    assert service.method.invalidate(1) is True


# --- counts of its own


def test_each_function_counts_for_itself(cache, style):  # issue 2 §4 function_hits, function_misses
    f = cache.cached()(style.form(lambda x: x))
    g = cache.cached()(style.form(lambda x: x))
    for x in (1, 1, 2, 1):
        style.call(f, x)
    style.call(g, 1)
    cache.get("unrelated")
    one, two = f.cache_info(), g.cache_info()
    assert (one["function_hits"], one["function_misses"]) == (2, 2)
    assert (two["function_hits"], two["function_misses"]) == (0, 1)
    assert one["hits"] == two["hits"] == 2
    assert one["misses"] == two["misses"] == 4


def test_counts_survive_cache_clear(cache):
    f = cache.cached()(lambda: 1)
    f()
    f()
    f.cache_clear()
    f()
    info = f.cache_info()
    assert (info["function_hits"], info["function_misses"]) == (1, 2)


def test_counts_with_key_func(cache):
    f = cache.cached(key_func=lambda x: x % 2)(lambda x: x)
    for x in range(6):
        f(x)
    info = f.cache_info()
    assert (info["function_hits"], info["function_misses"]) == (4, 2)


# --- ignore


def test_ignored_parameters_do_not_separate(cache, style, counter):  # issue 2 §4 ignore=
    f = cache.cached(ignore=("verbose", "log"))(style.form(lambda x, verbose=False, *, log=None: counter()))
    assert style.call(f, 1) == 1
    assert style.call(f, 1, True) == 1
    assert style.call(f, 1, verbose=5, log=object()) == 1
    assert style.call(f, 2) == 2


def test_ignore_self_shares_among_instances(cache, style, counter):  # issue 2 §4 ignore=("self",)
    class Service:
        __slots__ = ()  # not weak-referenceable, not hashable, not picklable: must not matter
        __hash__ = None

        def __reduce__(self):
            raise TypeError("not picklable")

    def method(self, x):
        return counter()

    Service.method = cache.cached(ignore=("self",))(style.form(method))
    a, b = Service(), Service()
    assert [style.call(a.method, 1), style.call(b.method, 1), style.call(b.method, x=1)] == [1, 1, 1]
    assert style.call(b.method, 2) == 2


def test_without_ignore_instances_are_apart(cache, counter):  # openclaw §2.3
    class Service:
        @cache.cached()
        def method(self, x):
            return counter()

    a, b = Service(), Service()
    assert [a.method(1), b.method(1), a.method(1), b.method(1)] == [1, 2, 1, 2]


def test_ignore_accepts_one_name(cache, counter):
    f = cache.cached(ignore="y")(lambda x, y: counter())
    assert [f(1, 1), f(1, 2), f(2, 1)] == [1, 1, 2]


def test_ignoring_an_unknown_parameter_is_refused(cache):
    with pytest.raises((ValueError, TypeError), match="nope"):
        cache.cached(ignore=("nope",))(lambda x: x)


# --- robustness


def test_an_unknown_option_is_refused(cache):
    with pytest.raises(TypeError):
        cache.cached(nope=1)
    with pytest.raises(TypeError):
        cache.cached(1, [], None, "version")  # the additions are keyword-only


def test_a_decorated_function_keeps_its_cache_alive():
    def make():
        return ResultCache().cached()(lambda x: [x])

    f = make()
    assert f(1) is f(1)
    assert f.cache_info()["hits"] == 1


def test_hits_from_many_threads(cache):
    f = cache.cached()(lambda x: [x])
    results = {x: f(x) for x in range(20)}

    def work():
        return all(f(i % 20) is results[i % 20] for i in range(5000))

    tasks = [Task(work) for _ in range(4)]
    assert all(task.result() for task in tasks)
    assert f.cache_info()["function_hits"] == 20_000
    eventually(lambda: cache.get_stats()["hits"] == 20_000, 1)
