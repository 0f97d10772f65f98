"""User code that must not type-check: each line marked `# E` has an error (of that code), and no other has."""

from __future__ import annotations

import upshift
from upshift import CachedFunction, ConnectionPool, ResultCache

cache = ResultCache(policy="lur")  # E: arg-type
ResultCache(max_sise=3)  # E: call-arg
ResultCache(durability="disk")  # E: arg-type
ResultCache(10, 60, True, "file.db", 1 << 20)  # E: call-arg
ResultCache(on_evict=lambda key, value: None)  # E: arg-type
ResultCache(sizeof=str)  # E: arg-type
upshift.ResultCash  # E: attr-defined

cache.policy = "newest"  # E: assignment
cache.max_size = 1.5  # E: assignment
cache.enable_persistent = True  # E
cache.cache["a"] = 1  # E: index
cache.get(["unhashable"])  # E: arg-type
cache.set("key")  # E: call-arg
cache.set("key", 1, tags=5)  # E: arg-type
cache.set("key", 1, ttl="1h")  # E: arg-type
cache.invalidate_by_tag(3)  # E: arg-type


@cache.cached(ttl=60)
def square(number: int, *, verbose: bool = False) -> int:
    return number * number


square("4")  # E: arg-type
square()  # E: call-arg
square(1, True)  # E: call-arg
square(1, loud=True)  # E: call-arg
square(2).upper()  # E: attr-defined
square.refresh("4")  # E: arg-type
square.invalidate(1, 2)  # E: call-arg
square.cache_key(verbose=True)  # E: call-arg
square.cache_size()  # E: attr-defined
wrong: CachedFunction[[str], int] = square  # E: assignment


@cache.cached(single_flight="threads")  # E: arg-type
def other() -> None: ...


@cache.cached  # E: arg-type
def without_parentheses(number: int) -> str:
    return str(number)


@cache.cached(time_to_live=5)  # E: call-arg
def misspelt() -> None: ...


@cache.cached()
async def fetch(url: str) -> bytes:
    return url.encode()


async def user() -> None:
    fetch("a").decode()  # E: attr-defined
    fetch("a")  # E: unused-coroutine
    await fetch(1)  # E: arg-type
    text: str = await fetch("a")  # E: assignment
    await fetch.refresh(1)  # E: arg-type
    await fetch.invalidate("a")  # E


class Service:
    @cache.cached()
    def price(self, item: str) -> float:
        return len(item)


Service().price(1)  # E: arg-type
Service().price("a", "b")  # E: call-arg
Service().price.invalidate(Service(), "a")  # E: call-arg
Service.price("a")  # E: call-arg


pool = ConnectionPool("pool.db", min_sise=1)  # E: call-arg
pool.scan("SELECT x FROM t", partitions="2")  # E: arg-type
pool.scan("SELECT x FROM t", partitions=["12", "3"])  # E: list-item
pool.release(1)  # E: arg-type
pool.write("DELETE FROM t", durability="disk")  # E: arg-type
with pool.connection() as connection:
    connection.nosuch()  # E: attr-defined
    connection.row_factory = 3  # E: assignment
    connection.executemany("INSERT INTO t VALUES (:a)", {"a": 1})  # E: arg-type
    connection.conn.executemany("INSERT INTO t VALUES (:a)", {"a": 1})  # E: arg-type
    connection.cursor().executemany("INSERT INTO t VALUES (?)", "abc")  # E: arg-type


async def coroutine() -> None:
    async with pool.aconnection() as connection:
        await connection.executemany("INSERT INTO t VALUES (:a)", {"a": 1})  # E: arg-type
    pool.awrite("DELETE FROM t")  # E: unused-coroutine
