"""`pool.scan()`: one query read by several connections of a pool, as of one moment, into columns."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from upshift._native import ConnectionPool, ScanResult, sqlite_scan

if TYPE_CHECKING:
    from upshift._native import _Parameters, _ParameterSet


def scan(
    self: ConnectionPool,
    sql: str,
    parameters: _Parameters = (),
    partitions: int | Sequence[_ParameterSet] | None = None,
    *,
    timeout: float | timedelta | None = 10.0,
) -> ScanResult:
    """Read a query with several connections at once into columns.

    All of them see the same state of the database, whatever is committed meanwhile. The query is a SELECT from one
    table, with an alias and a WHERE at most; each connection reads ranges of its rowids, and the result has their
    order. Any other query is split by its parameters: `partitions` is a list of them, and the result has its order.

    Args:
        sql: The query.
        parameters: Its parameters; none if `partitions` is a list.
        partitions: How many connections read at once (default: one for each processor), or a list of parameters. As
            many of the pool's connections are used as are free, but at least one.
        timeout: Seconds to wait for the first connection (int, float or timedelta); None = without limit.

    Returns:
        The rows: `result.numpy()` for arrays, an Arrow stream for `pyarrow.table(result)` and others, `len(result)`.

    Raises:
        TimeoutError: No connection became free in time.
        ValueError: The query cannot be split; the message says why.
        ProgrammingError: The pool is closed, or parameters do not fit.

    Blocks until all is read, with the GIL released. In a coroutine: `await asyncio.to_thread(pool.scan, …)`.
    """
    if not isinstance(sql, str):
        raise TypeError(f"sql must be str, not {type(sql).__name__}")
    _check(parameters, "parameters")
    sets: list[Any] | None = None
    if partitions is None:
        wanted = os.cpu_count() or 1
    elif hasattr(partitions, "__index__"):
        wanted = operator.index(partitions)
        if wanted < 1:
            raise ValueError(f"partitions must be at least 1, not {wanted}")
    elif isinstance(partitions, (str, bytes, Mapping)) or not isinstance(partitions, Iterable):
        raise TypeError(f"partitions must be an int or a list of parameters, not {type(partitions).__name__}")
    else:
        sets = list(partitions)
        for place, entry in enumerate(sets):
            _check(entry, f"partitions[{place}]")
        wanted = min(len(sets), os.cpu_count() or 1)
    with ExitStack() as borrowed:
        connections = [borrowed.enter_context(self.connection(timeout)).conn]
        while len(connections) < wanted:
            another = self.acquire(timeout=0)
            if another is None:
                break
            borrowed.callback(another.close)
            connections.append(another.conn)
        given = None if sets is not None and not len(parameters) else parameters
        return sqlite_scan(connections, sql, given, sets)


def _check(parameters: object, name: str) -> None:
    if not hasattr(parameters, "__getitem__"):
        raise TypeError(f"{name} must be a sequence or a mapping, not {type(parameters).__name__}")
