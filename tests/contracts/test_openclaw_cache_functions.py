"""Contract openclaw §2.2: a decorated function behaves like a plain one: binding, metadata, coroutines, subclasses."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys

import pytest

from upshift import ResultCache

# --- binding


def test_binds_as_method_static_and_class_method(cache, style):  # openclaw §2.2
    class Service:
        def __init__(self, name):
            self.name = name

    def named(self, x):
        return (self.name, x)

    def static(x):
        return ("static", x)

    def klass(cls, x):
        return (cls.__name__, x)

    Service.method = cache.cached()(style.form(named))
    Service.static = staticmethod(cache.cached()(style.form(static)))
    Service.klass = classmethod(cache.cached()(style.form(klass)))

    class Derived(Service):
        pass

    a, b = Service("a"), Derived("b")
    for _ in range(2):
        assert style.call(a.method, 1) == ("a", 1)
        assert style.call(b.method, 1) == ("b", 1)
        assert style.call(Service.method, a, 1) == ("a", 1)
        assert style.call(a.static, 1) == style.call(Service.static, 1) == ("static", 1)
        assert style.call(a.klass, 1) == ("Service", 1)
        assert style.call(Derived.klass, 1) == ("Derived", 1)
    assert cache.get_stats()["misses"] == 5


def test_a_bound_method_is_a_bound_method(cache):  # openclaw §2.2
    class Service:
        @cache.cached()
        def method(self, x):
            """Doc."""
            return x

    service = Service()
    bound = service.method
    assert bound.__self__ is service
    assert bound.__doc__ == "Doc."
    assert str(inspect.signature(bound)) == "(x)"
    assert bound == service.method
    assert service.method.cache_info()["misses"] == 0


# --- metadata


def test_wraps_metadata(cache, style):  # openclaw §2.2
    def original(a: int, b: str = "x", *args, c, d=4, **kwargs) -> bool:
        """What it does."""

    original.extra = "attribute"
    function = style.form(original)
    f = cache.cached()(function)
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        assert getattr(f, name) == getattr(original, name)
    assert f.__wrapped__ is function
    assert f.extra == "attribute"
    assert inspect.signature(f) == inspect.signature(original)
    assert callable(f)
    f.own = 1
    assert f.own == 1


def test_looks_like_a_function(cache):  # openclaw §2.2, DESIGN §2.5
    def original(a, b=2, *, c=3) -> int:
        return a

    f = cache.cached()(original)
    assert f.__code__ is original.__code__
    assert f.__defaults__ == (2,)
    assert f.__kwdefaults__ == {"c": 3}
    assert f.__annotations__ == original.__annotations__
    assert not inspect.iscoroutinefunction(f)


def test_may_be_decorated_again(cache):  # openclaw §2.2 "behaves like a plain function"
    f = functools.lru_cache(functools.partial(cache.cached()(lambda x, y: [x, y]), 1))
    assert f(2) == [1, 2]
    assert f(2) is f(2)


@pytest.mark.parametrize(
    ("target", "argument"),
    [(len, "abc"), (functools.partial(max, 5), 9), (str.upper, "abc"), (int, "7")],
    ids=["len", "partial", "method", "class"],
)
def test_any_callable_may_be_decorated(cache, target, argument):  # openclaw §2.2
    f = cache.cached()(target)
    assert f(argument) == f(argument) == target(argument)
    assert cache.get_stats()["hits"] == 1


# --- coroutine functions


@pytest.mark.skipif(sys.version_info < (3, 10), reason="platform: inspect of 3.9 knows plain functions only")
def test_a_decorated_coroutine_function_is_one(cache):  # openclaw §2.2 [X], C16
    async def original(x):
        """Doc."""
        await asyncio.sleep(0)
        return [x]

    f = cache.cached()(original)
    assert inspect.iscoroutinefunction(f)
    if sys.version_info < (3, 14):  # deprecated from there on
        assert asyncio.iscoroutinefunction(f)

    async def main():
        waiting = f(1)
        assert inspect.iscoroutine(waiting)
        first = await waiting
        assert await asyncio.create_task(f(1)) is first
        assert await asyncio.wait_for(f(1), 10) is first
        return first

    assert asyncio.run(main()) == [1]
    assert cache.get_stats()["hits"] == 2


def test_a_coroutine_that_is_never_awaited_does_nothing(cache):  # openclaw §2.2: as of a plain coroutine function
    runs = []

    @cache.cached()
    async def f():
        runs.append(1)

    f().close()
    assert runs == []
    assert len(cache) == 0
    assert cache.get_stats()["total_requests"] == 0


@pytest.mark.skipif(sys.version_info < (3, 10), reason="platform: inspect of 3.9 knows plain functions only")
def test_async_methods(cache):  # openclaw §2.2
    class Service:
        @cache.cached()
        async def method(self, x):
            await asyncio.sleep(0)
            return [x]

    service = Service()
    assert inspect.iscoroutinefunction(service.method)

    async def main():
        return await service.method(1) is await service.method(x=1)

    assert asyncio.run(main())


def test_context_variables_reach_the_function(cache):
    user = contextvars.ContextVar("user")

    @cache.cached(key_func=lambda: f"for:{user.get()}")
    async def f():
        await asyncio.sleep(0)
        return user.get()

    async def as_user(name):
        user.set(name)
        return await f()

    async def main():
        return await asyncio.gather(as_user("a"), as_user("b"), as_user("a"))

    assert asyncio.run(main()) == ["a", "b", "a"]


# --- subclasses


def test_overridden_methods_are_used(style):  # DESIGN §3 "only while the stock methods are not overridden"
    seen = []

    class Logged(ResultCache):
        def get(self, key, default=None):
            seen.append(("get", key))
            return super().get(key, default)

        def set(self, key, value, ttl=None, tags=None, **options):
            seen.append(("set", key))
            return super().set(key, value, ttl, tags, **options)

        def generate_key(self, func_name, args, kwargs):
            return f"mine:{args[0]}"

    f = Logged().cached()(style.form(lambda x: x * 2))
    assert style.call(f, 3) == style.call(f, 3) == 6
    assert seen.count(("set", "mine:3")) == 1
    assert seen.count(("get", "mine:3")) >= 2


def test_a_subclass_may_prefix_keys(cache):  # openclaw §1 "can be subclassed"
    class Prefixed(ResultCache):
        def __init__(self, prefix):
            super().__init__(max_size=5)
            self.prefix = prefix

        def get(self, key, default=None):
            return super().get(self.prefix + key, default)

        def set(self, key, value, ttl=None, tags=None, **options):
            super().set(self.prefix + key, value, ttl, tags, **options)

    mine = Prefixed("p:")
    assert mine.cached(key_func=str)(lambda x: x)(1) == 1
    assert list(mine.cache) == ["p:1"]
    assert mine.max_size == 5
