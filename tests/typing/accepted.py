"""User code that must type-check as it stands. test_typing.py runs it as well."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, TypeVar

import upshift
from upshift import CachedFunction, ResultCache, get_cache
from upshift.exceptions import SingleFlightTimeout, UpshiftError
from upshift.sqlite import Connection, ConnectionPool, Cursor, PooledConnection, Row, WriteResult
from upshift.testing import travel

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value, _kind):
        return value


T = TypeVar("T")
evicted: list[tuple[str, str]] = []


def note(key: str, value: object, reason: str) -> None:
    evicted.append((key, reason))


def configuration(folder: Path) -> None:
    version: str = upshift.__version__
    assert version
    with ResultCache(
        100,
        60.5,
        True,
        folder / "cache.db",
        max_bytes=1 << 20,
        policy="adaptive",
        sizeof=len,
        ttl_jitter=0.1,
        durability="process",
        coherence=None,
        allow_pickle=False,
        trust_legacy=True,
        on_evict=note,
        on_hit=lambda key: None,
        on_miss=print,
    ) as cache:
        assert_type(cache, ResultCache)
        cache.max_size = 10
        cache.max_bytes = None
        cache.policy = "cost"
        cache.default_ttl = timedelta(minutes=1)
        connection = cache.db_conn
        if connection is not None:
            connection.execute("SELECT 1").fetchone()
    ResultCache(default_ttl=0, db_path=str(folder / "other.db"))


def methods(cache: ResultCache) -> None:
    cache.set("a", 1)
    cache.set(("b", 2), "two", 60, ["x", "y"], cost=0.5)
    cache.set("c", None, ttl=timedelta(hours=1), tags="single")
    a: int = cache.get("a")
    assert a == 1
    assert_type(cache.get("nothing", 0), Any)
    assert_type(cache.delete("c"), bool)
    assert_type(cache.invalidate_by_tag("x"), int)
    assert_type(cache.invalidate_pattern("nothing"), int)
    assert_type(cache.cleanup_expired(), int)
    assert_type(cache.preload(), int)
    assert_type(cache.flush(timeout=1.5), bool)
    assert_type(cache.generate_key("f", (1, 2), {"x": 3}), str)
    assert_type(cache.get_stats()["hits"], Any)
    cache.warmup({"w": 1}, ttl=5)
    assert_type("w" in cache, bool)
    assert_type(len(cache), int)
    for key, (value, expires, created, accesses) in cache.cache.items():
        assert_type(expires, Optional[float])
        assert_type(accesses, int)
        assert created > 0 and (key, value) != (None, None)
    assert_type(cache.tags.get("x", set()), set[Any])
    assert_type(cache.stats["hits"], int)
    cache.stats["hits"] = 0
    with cache.lock:
        assert_type(cache.lock.acquire(timeout=1), bool)
        cache.lock.release()
    assert_type(cache.clear(), int)
    cache.close()


class Counting(ResultCache):
    """A subclass may have its own signature."""

    def __init__(self, name: str) -> None:
        super().__init__(max_size=50)
        self.name = name

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key, default)


def functions(cache: ResultCache) -> None:
    @cache.cached(ttl=300, tags=["numbers"], version=2, wait_timeout=5, stale_while_revalidate=10, stale_if_error=60)
    def add(x: int, y: int = 2, *rest: int, scale: float = 1.0) -> float:
        """Adds."""
        return (x + y + sum(rest)) * scale

    assert_type(add(1), float)
    assert_type(add(1, 2, 3, scale=0.5), float)
    assert_type(add.refresh(1, y=3), float)
    assert_type(add.invalidate(1), bool)
    assert_type(add.cache_clear(), int)
    assert_type(add.cache_info(), dict[str, Any])
    assert_type(add.__name__, str)
    cache.get(add.cache_key(1))
    original: Callable[..., float] = add.__wrapped__
    plain: Callable[[int, int], float] = add
    assert original(1) == plain(1, 2) == 3
    assert_type(list(map(add, [1, 2])), list[float])

    @cache.cached(ttl=lambda result: len(result), tags=lambda result: result or None, key_func=lambda word: ("w", word))
    def letters(word: str) -> list[str]:
        return list(word)

    assert_type(letters("ab"), list[str])

    @cache.cached(ttl=timedelta(seconds=1), single_flight=False)
    def either(number: int) -> str | None:
        return str(number) if number else None

    assert_type(either(0), Optional[str])


def accepts(function: CachedFunction[[int], str]) -> str:
    function.invalidate(1)
    return function(1)


def passed_on(cache: ResultCache) -> None:
    @cache.cached(single_flight="processes")
    def text(number: int) -> str:
        return str(number)

    assert_type(accepts(text), str)


def coroutines(cache: ResultCache) -> None:
    @cache.cached(ttl=5)
    async def fetch(url: str, *, retries: int = 3) -> bytes:
        return url.encode() * retries

    def run(job: Callable[[str], Awaitable[T]]) -> Awaitable[T]:
        return job("x")

    async def main() -> None:
        assert_type(await fetch("a"), bytes)
        assert_type(await fetch.refresh("a", retries=1), bytes)
        assert_type(await asyncio.create_task(fetch("a")), bytes)
        assert_type(await asyncio.wait_for(fetch("a"), 1), bytes)
        one, two = await asyncio.gather(fetch("a"), fetch("b"))
        assert_type(one, bytes)
        assert_type(two, bytes)
        assert_type(await run(fetch), bytes)
        assert_type(fetch.invalidate("a"), bool)

    asyncio.run(main())


cache = ResultCache()


class Service:
    """Methods keep what is left of the signature once they are bound."""

    @cache.cached(ignore=("self",))
    def price(self, item: str, discount: float = 0.0) -> float:
        return len(item) * (1 - discount)

    @cache.cached()
    async def stock(self, item: str) -> int:
        return len(item)

    @property
    @cache.cached()
    def name(self) -> str:
        return "service"

    @staticmethod
    @cache.cached()
    def double(number: int) -> int:
        return 2 * number

    @cache.cached()
    @staticmethod
    def triple(number: int) -> int:
        return 3 * number


class Special(Service):
    pass


def bound() -> None:
    for service in (Service(), Special()):
        assert_type(service.price("x"), float)
        assert_type(service.price("x", discount=0.5), float)
        assert_type(service.price.refresh("x"), float)
        assert_type(service.price.invalidate("x"), bool)
        assert_type(service.price.cache_clear(), int)
        assert_type(service.name, str)
        assert_type(asyncio.run(service.stock("x")), int)
        assert_type(asyncio.run(service.stock.refresh("x")), int)
    assert_type(Service.price(Special(), "x"), float)
    assert_type(Service.price.invalidate(Service(), "x"), bool)
    assert_type(Service.double(2), int)
    assert_type(Service.triple(2), int)
    prices: Callable[[str], float] = Service().price
    assert prices("abc") == 3


class Columns:
    """What speaks Arrow: a data frame, a table."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._stream.__arrow_c_stream__(requested_schema)


def pooled(wrapper: PooledConnection) -> None:
    """A borrowed connection has what the connection behind it has."""
    insert = "INSERT INTO t VALUES (?)"
    assert_type(wrapper.execute("CREATE TABLE IF NOT EXISTS t (x)"), Cursor)
    assert_type(wrapper.executemany(insert, [(1,), (2,)]).rowcount, int)
    wrapper.executemany("INSERT INTO t VALUES (:x)", ({"x": number} for number in range(2)))
    wrapper.executemany(insert, Columns(wrapper.execute("SELECT 1")))
    assert_type(wrapper.in_transaction, bool)
    wrapper.row_factory = Row
    wrapper.create_function("twice", 1, lambda value: value * 2)
    assert_type(wrapper.conn, Connection)
    wrapper.executescript("DELETE FROM t")


def pools(folder: Path) -> None:
    with ConnectionPool(folder / "pool.db", 1, 3, check_interval=timedelta(seconds=30)) as pool:
        borrowed = pool.acquire(timeout=1)
        assert_type(borrowed, Optional[PooledConnection])
        pool.release(borrowed)
        pool.release(None)
        with pool.connection() as wrapper:
            pooled(wrapper)
        assert_type(pool.write("INSERT INTO t VALUES (?)", (1,)), WriteResult)
        assert_type(len(pool.scan("SELECT x FROM t", partitions=1)), int)
        assert_type(len(pool.scan("SELECT x FROM t WHERE x = ?", partitions=[(1,), [2]])), int)

        async def main() -> None:
            async with pool.aconnection() as connection:
                await connection.executemany("INSERT INTO t VALUES (?)", Columns(connection.conn.execute("SELECT 1")))
                await connection.executemany("INSERT INTO t VALUES (:x)", [{"x": 1}])
                async for row in await connection.execute("SELECT x FROM t"):
                    assert row["x"] == 1
            assert_type(await pool.awrite("DELETE FROM t"), WriteResult)

        asyncio.run(main())


def errors() -> None:
    try:
        raise SingleFlightTimeout("late")
    except TimeoutError as error:
        assert isinstance(error, UpshiftError)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        configuration(Path(folder))
    for each in (ResultCache(policy="lfu"), get_cache(), Counting("mine")):
        methods(each)
        functions(each)
        passed_on(each)
        coroutines(each)
    with tempfile.TemporaryDirectory() as folder:
        pools(Path(folder))
    bound()
    errors()
    travel(0.5)


if __name__ == "__main__":
    main()
