"""User code that the cache must run (`__eq__`, `__hash__`, `__del__`, pickling) misbehaves, or calls back into it."""

from __future__ import annotations

import pytest
from harness import Task, run_literal, together

from upshift import ResultCache

SIZES = (5, 1000)


class Key:
    """All keys of this kind collide; comparing them runs `hook`."""

    hook = None

    def __init__(self, name):
        self.name = name

    def __hash__(self):
        return 1

    def __eq__(self, other):
        if Key.hook is not None:
            Key.hook(self, other)
        return isinstance(other, Key) and self.name == other.name

    def __repr__(self):
        return f"Key({self.name!r})"


@pytest.fixture(autouse=True)
def _no_hook():
    yield
    Key.hook = None


def once(action):
    """A hook that runs `action` at its first call only."""

    def hook(*_):
        Key.hook = None
        action()

    return hook


def test_colliding_keys_are_told_apart():
    cache = ResultCache()
    for i in range(50):
        cache.set(Key(i), i)
    assert [cache.get(Key(i)) for i in range(50)] == list(range(50))
    assert [cache.delete(Key(i)) for i in range(50)] == [True] * 50
    assert len(cache) == 0


CALLBACKS = {
    "get": lambda cache: cache.get("other"),
    "get the same": lambda cache: cache.get(Key("b")),
    "set another": lambda cache: cache.set("new", 1),
    "set the same": lambda cache: cache.set(Key("b"), "inner"),
    "delete the same": lambda cache: cache.delete(Key("b")),
    "delete the compared": lambda cache: cache.delete(Key("a")),
    "clear": lambda cache: cache.clear(),
    "cleanup": lambda cache: cache.cleanup_expired(),
    "shrink": lambda cache: setattr(cache, "max_size", 0),
    "policy": lambda cache: setattr(cache, "policy", "fifo"),
    "fill": lambda cache: cache.warmup({f"fill{i}": i for i in range(3000)}),
    "close": lambda cache: cache.close(),
    "invalidate": lambda cache: cache.invalidate_by_tag("t"),
}

OPERATIONS = {
    "get": lambda cache: cache.get(Key("b")),
    "set": lambda cache: cache.set(Key("b"), "outer", tags=["t"]),
    "delete": lambda cache: cache.delete(Key("b")),
    "contains": lambda cache: Key("b") in cache,
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_eq_calls_back_into_the_cache(operation, callback, size):  # DESIGN §2.2
    cache = ResultCache(max_size=size)
    for name in "ab":
        cache.set(Key(name), name, tags=["t"])
    called = []
    Key.hook = once(lambda: called.append(CALLBACKS[callback](cache)))
    Task(OPERATIONS[operation], cache).result(20)
    assert len(called) == 1
    # Whatever won, the cache is sound: it holds what it is told from here on, within its limits.
    Key.hook = None
    limit = cache.max_size
    for i in range(20):
        cache.set(Key(i), i)
    assert cache.get_stats()["size"] == len(list(cache.cache)) <= limit
    if limit >= 5:
        assert [cache.get(Key(i)) for i in range(15, 20)] == list(range(15, 20))
    cache.clear()
    assert len(cache) == 0
    assert cache.get_stats()["tags_count"] == 0


def test_set_is_not_lost_to_a_callback_that_sets():
    cache = ResultCache()
    cache.set(Key("a"), "a")
    Key.hook = once(lambda: cache.set(Key("b"), "inner"))
    cache.set(Key("b"), "outer")
    assert cache.get(Key("b")) == "outer"
    assert len(cache.cache) == 2


@pytest.mark.parametrize("operation", OPERATIONS)
def test_eq_raises(operation):
    cache = ResultCache()
    cache.set(Key("a"), "a", tags=["t"])
    before = dict(cache.cache)

    def fail(*_):
        raise ZeroDivisionError

    Key.hook = fail
    with pytest.raises(ZeroDivisionError):
        OPERATIONS[operation](cache)
    Key.hook = None
    assert dict(cache.cache) == before
    assert cache.get(Key("a")) == "a"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_hash_raises(operation):
    class Bad(Key):
        def __hash__(self):
            raise ZeroDivisionError

    cache = ResultCache()
    key = Bad("b")
    calls = {
        "get": lambda: cache.get(key),
        "set": lambda: cache.set(key, 1, tags=["t"]),
        "delete": lambda: cache.delete(key),
        "contains": lambda: key in cache,
    }
    with pytest.raises(ZeroDivisionError):
        calls[operation]()
    assert len(cache) == 0
    assert cache.get_stats()["tags_count"] == 0


def test_hash_and_eq_of_arguments_raise():
    class Bad:
        def __hash__(self):
            raise ZeroDivisionError

        def __eq__(self, other):
            raise ZeroDivisionError

    f = ResultCache().cached()(lambda x: 5)  # arguments are known by their pickle or identity, not by their hash
    bad = Bad()
    assert f(bad) == f(bad) == 5
    g = ResultCache().cached(key_func=lambda x: x)(lambda x: 5)
    with pytest.raises(ZeroDivisionError):
        g(bad)


def test_eq_returns_odd_things():
    class Odd(Key):
        def __eq__(self, other):
            return []  # falsy, not a bool

        __hash__ = Key.__hash__

    cache = ResultCache()
    cache.set(Odd(1), 1)
    assert cache.get(Odd(1)) is None


# --- __del__


class Mortal:
    """Runs `action` when it dies."""

    def __init__(self, action):
        self.action = action

    def __del__(self):
        self.action()


WAYS_OUT = {
    "replace": lambda cache: cache.set("key", 1),
    "delete": lambda cache: cache.delete("key"),
    "clear": lambda cache: cache.clear(),
    "evict": lambda cache: cache.set("other", 1),
    "tag": lambda cache: cache.invalidate_by_tag("t"),
    "pattern": lambda cache: cache.invalidate_pattern("key"),
    "shrink": lambda cache: setattr(cache, "max_size", 0),
    "negative ttl": lambda cache: cache.set("key", 1, ttl=-1),
}


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("way", WAYS_OUT)
def test_del_calls_back_into_the_cache(way, callback):  # openclaw §1 "or dropping a user object"
    cache = ResultCache(max_size=1)
    died = []

    def action():
        CALLBACKS[callback](cache)
        died.append(Task(cache.get, "thread").result(20))

    cache.set("key", Mortal(action), tags=["t"])
    Task(WAYS_OUT[way], cache).result(20)
    assert died == [None]
    cache.max_size = 10
    cache.set("after", 1)
    assert cache.get("after") == 1


def test_del_of_a_key_calls_back():
    class MortalKey(Mortal):
        pass

    cache = ResultCache()
    died = []
    cache.set(MortalKey(lambda: died.append(cache.set("from del", 1))), 1)
    cache.clear()
    assert died == [None]
    assert cache.get("from del") == 1


def test_a_long_chain_of_dels():
    cache = ResultCache(max_size=1)
    died = []

    def link(n):
        def action():
            died.append(n)
            if n < 200:
                cache.set(f"k{n}", link(n + 1))

        return Mortal(action)

    cache.set("first", link(0))
    for i in range(400):
        cache.set(f"push{i}", i)
    assert died == list(range(201))


def test_an_error_in_del_is_reported_not_raised():
    program = """
    import sys
    from upshift import ResultCache
    seen = []
    sys.unraisablehook = lambda info: seen.append(type(info.exc_value).__name__)
    class Bad:
        def __del__(self):
            raise ValueError("del")
    cache = ResultCache(max_size=1)
    cache.set("a", Bad())
    cache.set("b", 1)
    print((seen, cache.get("b")))
    """
    assert run_literal(program) == (["ValueError"], 1)


# --- pickling


def test_pickling_calls_back_into_the_cache(tmp_path):  # DESIGN §2.2 "pickling"
    with ResultCache(enable_persistent=True, db_path=tmp_path / "cache.db") as cache:
        seen = []

        class Talkative:
            def __reduce__(self):
                cache.set("from reduce", 1)
                seen.append(Task(cache.get, "from reduce").result(20))
                return (int, (7,))

        Task(cache.set, "key", Talkative()).result(20)
        f = cache.cached()(lambda x: x)
        Task(f, Talkative()).result(20)
        assert cache.flush(30)
        assert seen
        assert set(seen) == {1}
    with ResultCache(enable_persistent=True, db_path=tmp_path / "cache.db") as cache:
        assert cache.get("key") == 7


@pytest.mark.parametrize("error", [ZeroDivisionError, RecursionError, KeyError, MemoryError])
def test_pickling_fails(tmp_path, error):  # openclaw §2.1 "an unpicklable value stays memory-only"
    class Bad:
        def __reduce__(self):
            raise error

    with ResultCache(enable_persistent=True, db_path=tmp_path / "cache.db") as cache:
        bad = Bad()
        cache.set("key", bad)
        cache.set("nested", [1, {"a": bad}])
        assert cache.get("key") is bad
        assert cache.get("nested")[1]["a"] is bad
        assert cache.flush()
        assert cache.cached()(lambda x: 1)(bad) == 1


# --- all of it at once


class Nasty:
    """Equal to nothing for long, raises now and then, talks to the cache from everywhere."""

    cache = None
    calls = 0

    def __init__(self, n):
        self.n = n

    def _act(self):
        Nasty.calls += 1
        turn = Nasty.calls
        if turn % 97 == 0:
            raise ZeroDivisionError
        if turn % 7 == 0:
            Nasty.cache.delete("shared")
        elif turn % 5 == 0:
            Nasty.cache.set("shared", turn, tags=["t"])
        elif turn % 501 == 0:
            Nasty.cache.clear()

    def __hash__(self):
        return self.n % 3

    def __eq__(self, other):
        self._act()
        return type(other) is Nasty and self.n == other.n

    def __del__(self):
        Nasty.cache.get("shared")


@pytest.mark.parametrize("policy", ["lru", "lfu", "fifo", "ttl", "adaptive", "cost"])
def test_stress_with_nasty_keys(policy):  # issue 2 §7 "thread stress with re-entrant __eq__"
    cache = Nasty.cache = ResultCache(max_size=20, policy=policy)

    def work(index):
        refused = 0
        for i in range(400):
            try:
                n = (i * (index + 3)) % 40
                cache.set(Nasty(n), Nasty(n), tags=[f"t{n % 4}"])
                cache.get(Nasty((n * 7) % 40))
                if i % 20 == 0:
                    cache.invalidate_by_tag(f"t{index % 4}")
                if i % 33 == 0:
                    cache.delete(Nasty(n))
            except ZeroDivisionError:
                refused += 1
        return refused

    assert sum(together(work, 4, timeout=50)) > 0
    stats = cache.get_stats()
    assert stats["size"] == len(list(cache.cache)) <= 20
    assert stats["total_requests"] == stats["hits"] + stats["misses"]
    cache.clear()
    assert cache.get_stats()["tags_count"] == 0
    assert list(cache.tags) == []
