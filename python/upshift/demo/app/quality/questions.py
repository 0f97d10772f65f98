"""Questions to the evidence, each answered by one query."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .evidence import CONNECTIONS, Evidence, loaded

# A mean of a handful of functions says little: packages with fewer than ten come after the others.
COMPLEX_PACKAGES = """
    SELECT package, avg(functions.complexity) AS mean, count(*) AS functions
    FROM functions JOIN files ON files.name = functions.file
    GROUP BY package
    ORDER BY count(*) >= 10 DESC, mean DESC, package
    LIMIT :top
"""
UNDOCUMENTED = """
    SELECT file, line, name, length, complexity
    FROM functions
    WHERE NOT documented
    ORDER BY length DESC, file, line
    LIMIT :top
"""
# `needed` is how many files, most complex first, have half of all complexity.
HALF = """
    WITH ranked AS (
        SELECT name AS file, complexity,
               sum(complexity) OVER (ORDER BY complexity DESC, name) AS so_far,
               sum(complexity) OVER () AS total
        FROM files
        WHERE complexity > 0
    )
    SELECT file, complexity, 100.0 * so_far / total AS percent,
           count(*) FILTER (WHERE 2 * (so_far - complexity) < total) OVER () AS needed
    FROM ranked
    ORDER BY complexity DESC, file
    LIMIT :top
"""
QUESTIONS = {"packages": COMPLEX_PACKAGES, "undocumented": UNDOCUMENTED, "half": HALF}


def ask(evidence: Evidence, top: int) -> dict[str, Any]:
    """`answers` to all questions, at most `top` rows each, and the `seconds` that took. Asked at once, each on a
    connection of its own."""
    started = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        rows = threads.map(lambda query: _rows(evidence, query, top), QUESTIONS.values())
        answers = dict(zip(QUESTIONS, rows))
    return {"answers": answers, "seconds": time.perf_counter() - started}


def _rows(evidence: Evidence, query: str, top: int) -> list[dict[str, Any]]:
    with evidence.pool.connection() as connection:
        rows = [dict(row) for row in connection.execute(query, {"top": top})]
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    return loaded(value) if isinstance(value, bytes) else value
