"""Garbage collection: cycles through the cache die, and the collector may strike at any moment."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
from harness import Task, run_literal

from upshift import ResultCache


class Thing:
    """Something weakly referenceable to put into cycles."""


def dies(build):
    """Whether what `build` returns is collected once nobody holds it."""
    reference = weakref.ref(build())
    gc.collect()
    gc.collect()
    return reference() is None


@pytest.fixture(params=["memory", "persistent"])
def make(request, tmp_path):
    def make_cache(**options):
        if request.param == "persistent":
            options.update(enable_persistent=True, db_path=tmp_path / "cache.db")
        return ResultCache(**options)

    return make_cache


def through_value(make):
    cache = make()
    cache.set("self", cache)
    return cache


def through_key(make):
    class Key:
        pass

    cache, key = make(), Key()
    key.cache = cache
    cache.set(key, 1)
    return cache


def through_attribute(make):
    cache = make()
    cache.me = cache
    return cache


def through_bound_method(make):
    cache = make()
    cache.set("method", cache.get)
    return cache


def through_view(make):
    cache = make()
    cache.set("views", [cache.cache, cache.tags, cache.stats, cache.lock])
    return cache


def through_decorated(make):
    cache = make()
    cache.function = cache.cached()(lambda x: x)
    cache.function(1)
    return cache


def through_closure(make):
    cache = make()

    @cache.cached()
    def f(x):
        return cache.get("x"), f

    f(1)
    return cache


def through_key_func(make):
    cache = make()
    cache.function = cache.cached(key_func=lambda x: (id(cache), x))(lambda x: x)
    cache.function(1)
    return cache


def through_options(make):
    cache = make()
    cache.function = cache.cached(ttl=lambda r: len(cache) + 5, tags=lambda r: [str(len(cache))])(lambda x: x)
    cache.function(1)
    return cache


def through_listener(make):
    thing = Thing()
    thing.cache = make(max_size=1, on_evict=lambda *_: thing, on_hit=lambda *_: thing, on_miss=lambda *_: thing)
    thing.cache.set("a", 1)
    thing.cache.set("b", 1)
    return thing


def through_sizeof(make):
    thing = Thing()
    thing.cache = make(sizeof=lambda value: 1 if thing else 2)
    thing.cache.set("a", thing)
    return thing


def through_argument(make):
    cache = make()
    thing = Thing()
    thing.f = cache.cached()(lambda x: x)
    thing.f(thing)
    return thing


def through_stale(make):
    thing = Thing()
    thing.f = make().cached(ttl=100, stale_while_revalidate=50, stale_if_error=50)(lambda: thing)
    thing.f()
    return thing


def through_bound_decorated(make):
    cache = make()

    class Service:
        @cache.cached()
        def method(self):
            return self

    service = Service()
    service.bound = service.method
    service.method()
    return service


BUILDERS = [
    through_value,
    through_key,
    through_attribute,
    through_bound_method,
    through_view,
    through_decorated,
    through_closure,
    through_key_func,
    through_options,
    through_listener,
    through_sizeof,
    through_argument,
    through_stale,
    through_bound_decorated,
]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_a_cycle_dies(make, build):  # openclaw §1 "take part in cyclic GC", DESIGN §2.4
    assert dies(lambda: build(make))


@pytest.mark.parametrize(
    "build", [through_decorated, through_closure, through_key_func], ids=lambda build: build.__name__
)
def test_a_decorated_function_in_a_cycle_dies(make, build):
    def function():
        cache = build(make)
        made = getattr(cache, "function", None)
        if made is None:
            made = cache.cached()(lambda: made)
            made()
        cache.set("function", made)
        return made

    assert dies(function)


def test_a_cache_without_cycles_dies_at_once(make):
    gc.disable()
    try:
        cache = make()
        thing = Thing()
        cache.set("key", thing)
        references = weakref.ref(cache), weakref.ref(thing)
        del cache, thing
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


def test_removed_values_are_let_go(make):
    cache = make(max_size=1)
    references = []
    for remove in (cache.clear, lambda: cache.delete("key"), lambda: cache.set("key", 1), lambda: cache.set("b", 1)):
        thing = Thing()
        thing.thread = threading.Lock()  # not picklable
        references.append(weakref.ref(thing))
        cache.set("key", thing)
        del thing
        assert references[-1]() is not None
        remove()
        gc.collect()
        assert references[-1]() is None
    cache.close()


def test_everything_inside_is_visible_to_the_collector():  # DESIGN §2.4 "implements traverse"
    key, value, extra = ("key", 1), Thing(), Thing()
    cache = ResultCache(on_hit=print)
    cache.set(key, value)
    cache.extra = extra
    seen = gc.get_referents(cache)
    reachable = {id(item) for item in seen} | {id(item) for one in seen if type(one) is dict for item in one.values()}
    assert {id(key), id(value), id(extra), id(print)} <= reachable
    f = cache.cached(key_func=len)(extra_function)
    assert id(f._call) in {id(item) for item in gc.get_referents(f)}
    assert {id(cache), id(extra_function), id(len)} <= {id(item) for item in gc.get_referents(f._call)}


def extra_function(x):
    return x


def test_the_collector_strikes_during_every_operation():
    program = """
    import gc, threading
    from upshift import ResultCache
    gc.set_threshold(1)
    class Node:
        def __init__(self):
            self.me = self
        def __del__(self):
            cache.get("x")
            cache.set("from del", 1)
    cache = ResultCache(max_size=20)
    f = cache.cached(tags=lambda r: ["t", str(id(r) % 3)])(lambda x: Node())
    def work(n):
        for i in range(300):
            cache.set(f"k{i % 40}", Node(), tags=["t", f"u{i % 3}"])
            cache.get(f"k{(i + n) % 40}")
            f(i % 30)
            if i % 50 == 0:
                cache.invalidate_by_tag("u1")
                cache.invalidate_pattern("k1")
                dict(cache.tags), list(cache.cache.items())
    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    [thread.start() for thread in threads]
    [thread.join(50) for thread in threads]
    print((any(thread.is_alive() for thread in threads), len(list(cache.cache)) <= 20))
    """
    assert run_literal(program) == (False, True)


def test_collection_while_the_user_holds_the_lock(make):
    cache = make()
    cache.set("self", [cache])
    with cache.lock:
        assert Task(gc.collect).result(20) >= 0
    cache.close()
