"""Contract openclaw §2.2: the `cached` decorator, sync and async, on both tiers."""

from __future__ import annotations

import functools

import pytest

from upshift import ResultCache
from upshift.testing import travel


@pytest.fixture
def counted(cache, style):
    """Decorates a body in the style under test; the result counts its runs and is called like a plain function."""

    class Counted:
        def __init__(self, body, options):
            self.runs = []

            @functools.wraps(body)
            def recording(*args, **kwargs):
                self.runs.append((args, kwargs))
                return body(*args, **kwargs)

            self.function = cache.cached(**options)(style.form(recording))

        def __call__(self, *args, **kwargs):
            return style.call(self.function, *args, **kwargs)

    def decorate(body, **options):
        return Counted(body, options)

    return decorate


# --- hits and misses


def test_the_first_call_misses_and_later_ones_hit(cache, counted):  # openclaw §2.2
    f = counted(lambda x: [x])
    first = f(1)
    assert first == [1]
    stats = cache.get_stats()
    assert (stats["hits"], stats["misses"], stats["sets"]) == (0, 1, 1)
    assert f(1) is first
    assert f(1) is first
    stats = cache.get_stats()
    assert (stats["hits"], stats["misses"], stats["sets"]) == (2, 1, 1)
    assert len(f.runs) == 1


def test_other_arguments_are_other_entries(counted):  # openclaw §2.2
    f = counted(lambda x, y=0: (x, y))
    assert [f(1), f(2), f(1, 1), f(1, y=2)] == [(1, 0), (2, 0), (1, 1), (1, 2)]
    assert len(f.runs) == 4


def test_runs_again_after_expiry(cache, counted):  # openclaw §2.2
    f = counted(lambda: object(), ttl=100)
    first = f()
    travel(90)
    assert f() is first
    travel(10)
    assert f() is not first
    assert cache.get_stats()["expirations"] == 1


def test_the_default_ttl_applies(make_cache, style):  # openclaw §2.2
    cache = make_cache(default_ttl=100)
    runs = []
    f = cache.cached()(style.form(lambda: runs.append(1)))
    style.call(f)
    travel(101)
    style.call(f)
    assert len(runs) == 2


def test_runs_again_after_eviction(style):  # openclaw §2.2
    cache = ResultCache(max_size=2)  # on disk an evicted entry would still be a hit
    runs = []
    f = cache.cached()(style.form(lambda x: runs.append(x)))
    for x in (1, 2, 3, 1):
        style.call(f, x)
    assert runs == [1, 2, 3, 1]


def test_runs_again_after_invalidation(cache, counted):  # openclaw §2.2
    f = counted(lambda x: x, tags=["numbers"])
    f(1)
    assert cache.invalidate_by_tag("numbers") == 1
    f(1)
    cache.clear()
    f(1)
    assert len(f.runs) == 3


def test_tags_of_the_decorator(cache, counted):  # openclaw §2.2
    f = counted(lambda x: x, tags=["a", "b"])
    g = counted(lambda x: x, tags="single")
    f(1)
    f(2)
    g(1)
    assert {tag: len(keys) for tag, keys in cache.tags.items()} == {"a": 2, "b": 2, "single": 1}


def test_a_none_result_is_cached(cache, counted):  # openclaw §2.2, C1
    f = counted(lambda x: None)
    assert f(1) is None
    assert f(1) is None
    assert len(f.runs) == 1
    assert cache.get_stats()["hits"] == 1


def test_an_exception_is_not_cached_and_propagates_unchanged(cache, counted):  # openclaw §2.2
    class Failed(Exception):
        pass

    error = Failed("once")

    def body(x):
        if len(f.runs) == 1:
            raise error
        return x

    f = counted(body)
    with pytest.raises(Failed) as caught:
        f(1)
    assert caught.value is error
    assert error.__cause__ is None
    assert error.__context__ is None
    assert len(cache) == 0
    assert f(1) == 1
    assert len(f.runs) == 2


def test_wrong_arguments_raise_as_the_function_does(cache, counted):  # openclaw §2.2 "behaves like a plain function"
    f = counted(lambda x, *, y: (x, y))
    for args, kwargs in [((), {}), ((1,), {}), ((1, 2), {"y": 1}), ((1,), {"y": 1, "z": 1}), ((1,), {"x": 1, "y": 1})]:
        with pytest.raises(TypeError):
            f(*args, **kwargs)
    assert len(cache) == 0


# --- key_func


def test_key_func_is_the_sole_source_of_the_key(cache, counted):  # openclaw §2.2
    f = counted(lambda x, y: (x, y), key_func=lambda x, y: f"my:{x}")
    assert f(1, 2) == (1, 2)
    assert f(1, y=3) == (1, 2)
    assert f(2, 3) == (2, 3)
    assert cache.get("my:1") == (1, 2)
    assert set(cache.cache) == {"my:1", "my:2"}


def test_key_func_gets_the_arguments_as_passed(counted):  # openclaw §2.2 "key_func(*args, **kwargs)"
    seen = []
    f = counted(lambda x, y=5: x, key_func=lambda *args, **kwargs: seen.append((args, kwargs)) or "k")
    f(1)
    f(2, y=3)
    f(x=4)
    assert seen == [((1,), {}), ((2,), {"y": 3}), ((), {"x": 4})]


def test_key_func_may_return_any_hashable(cache, counted):  # openclaw §2.1, §2.2
    f = counted(lambda x: x * 2, key_func=lambda x: ("tuple", x))
    assert f(4) == 8
    assert cache.get(("tuple", 4)) == 8


def test_an_error_in_key_func_propagates(cache, counted):  # openclaw §2.2 "propagates unchanged"
    f = counted(lambda x: x, key_func=lambda x: 1 // x)
    with pytest.raises(ZeroDivisionError):
        f(0)
    assert f.runs == []
    assert f(1) == 1


# --- cache_clear and cache_info


def test_cache_info_is_the_stats_of_the_cache(cache, counted):  # openclaw §2.2
    f = counted(lambda x: x)
    f(1)
    f(1)
    info = f.function.cache_info()
    stats = cache.get_stats()
    assert {name: info[name] for name in stats} == stats


def test_cache_clear_removes_exactly_this_functions_entries(cache, style):  # openclaw §2.2, C2
    def load(x):
        return x

    def load_all(x):
        return x

    def reload(x):
        return x

    functions = [cache.cached()(style.form(body)) for body in (load, load_all, reload)]
    cache.set("load:user", 1)
    for x in range(4):
        for f in functions:
            style.call(f, x)
    assert functions[0].cache_clear() == 4
    assert len(cache) == 9
    assert functions[0].cache_clear() == 0
    assert cache.get("load:user") == 1
    style.call(functions[0], 0)
    assert functions[2].cache_clear() == functions[1].cache_clear() == 4
    assert functions[0].cache_clear() == 1


def test_cache_clear_knows_key_func_entries(cache, style):  # openclaw §2.2
    f = cache.cached(key_func=lambda x: f"shared:{x}")(style.form(lambda x: x))
    g = cache.cached(key_func=lambda x: ("g", x))(style.form(lambda x: x))
    cache.set("shared:user", 1)
    for x in range(3):
        style.call(f, x)
        style.call(g, x)
    assert f.cache_clear() == 3
    assert cache.get("shared:user") == 1
    assert g.cache_clear() == 3


def test_cache_clear_of_two_closures_is_separate(cache, style):  # openclaw §2.2, §2.3
    def factory(n):
        return cache.cached()(style.form(lambda x: x + n))

    f, g = factory(1), factory(2)
    style.call(f, 1)
    style.call(f, 2)
    style.call(g, 1)
    assert f.cache_clear() == 2
    assert g.cache_clear() == 1
