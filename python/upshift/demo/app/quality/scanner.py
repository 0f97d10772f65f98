"""Scan a tree: evidence of every source, remembered from run to run."""

from __future__ import annotations

import sys
from bisect import insort
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from core.result_cache import ResultCache

from . import metrics
from .evidence import Evidence
from .sources import Problem, Source, reason

KEPT_SECONDS = 30 * 24 * 3600  # evidence of versions that nobody asks for any more goes after that time
MEMORY_ENTRIES = 100_000

_SUMMED = ("lines", "classes", "documented", "documentable", "complexity")


class Function(NamedTuple):
    """Where a function is, and its size."""

    file: str
    complexity: int
    line: int
    length: int
    name: str
    documented: bool


def open_cache(path: str) -> ResultCache:
    """The evidence store at `path`, created if need be. The caller closes it."""
    return ResultCache(max_size=MEMORY_ENTRIES, default_ttl=KEPT_SECONDS, enable_persistent=True, db_path=path)


class Scanner:
    """Measures sources through a cache; each result carries the tags of the packages that the file is in.

    What a scan found is left in the database of evidence.
    """

    def __init__(self, cache: ResultCache, evidence: Evidence) -> None:
        self.cache = cache
        self.evidence = evidence
        self._measures: dict[str, Callable[[str, int, int], dict[str, Any]]] = {}

    def measure(self, source: Source) -> dict[str, Any]:
        """Evidence of one source, computed only if this version of it is not known. Raises `OSError` if unreadable."""
        measure = self._measures.get(source.package)
        if measure is None:
            decorate = self.cache.cached(tags=package_tags(source.package), key_func=self._key)
            measure = self._measures[source.package] = decorate(_measure)
        return measure(source.path, source.size, source.mtime_ns)

    def forget(self, package: str) -> int:
        """Drop the evidence of a package and of those inside it; returns how many files that were."""
        count: int = self.cache.invalidate_by_tag(package_tag(package))
        return count

    def _key(self, path: str, size: int, mtime_ns: int) -> str:
        # Size and time of change stand for the content, as they do for .pyc files and for make: a known file is not
        # even opened, and touching one recomputes that one. A digest of the content would mean to read every file each
        # time. The interpreter belongs to the key because its grammar decides what parses.
        version = (metrics.VERSION, sys.implementation.cache_tag)
        key: str = self.cache.generate_key("quality.metrics.measure", (*version, path, size, mtime_ns), {})
        return key

    def scan(
        self, sources: Iterable[Source], problems: Iterable[Problem], top: int, advance: Callable[[], None]
    ) -> dict[str, Any]:
        """Totals over `sources` as plain data, with the `top` most complex functions. `problems` are those of finding
        the sources. Calls `advance` after each source."""
        total = Totals(top)
        files = 0
        update = self.evidence.update()
        for source in sources:
            files += 1
            try:
                measured = self.measure(source)
            except OSError as error:  # not cached: rights and disks recover without the file changing
                total.problems.append(Problem(source.name, "unreadable", reason(error)))
            else:
                total.add(source, measured)
                update.add(source, measured)
            advance()
        total.problems.extend(problems)
        update.finish(total.problems)
        return total.summary(files)


def _measure(path: str, size: int, mtime_ns: int) -> dict[str, Any]:
    """What is cached: `size` and `mtime_ns` say which version of the file, for the key."""
    return metrics.measure_file(path)


def package_tag(package: str) -> str:
    """The tag of all evidence inside a dotted package name."""
    return f"package:{package}"


def package_tags(package: str) -> list[str]:
    """Tags of a package and of those around it: `xml.etree` goes when `xml` is forgotten."""
    parts = package.split(".") if package else []
    return [package_tag(".".join(parts[: count + 1])) for count in range(len(parts))] or [package_tag("")]


class Totals:
    """Adds up evidence."""

    def __init__(self, top: int) -> None:
        self.problems: list[Problem] = []
        self._sums = dict.fromkeys(("files", "functions", *_SUMMED), 0)
        self._packages: set[str] = set()
        self._longest: Function | None = None
        self._top = top
        self._complex: list[tuple[int, str, int, int, str, bool]] = []  # (-complexity, file, line, …), sorted

    def add(self, source: Source, evidence: dict[str, Any]) -> None:
        """Count one file."""
        sums, name = self._sums, source.name
        for key in _SUMMED:
            sums[key] += evidence[key]
        sums["functions"] += len(evidence["functions"])
        self._packages.add(source.package)
        if evidence["failure"] is not None:
            self.problems.append(Problem(name, *evidence["failure"]))
        longest = evidence["longest"]
        if longest is not None and (self._longest is None or longest[2] > self._longest.length):
            self._longest = Function(name, *longest)
        best = self._complex
        for complexity, line, length, function, documented in evidence["functions"]:
            entry = (-complexity, name, line, length, function, documented)
            if len(best) >= self._top and (not best or entry >= best[-1]):
                break  # the rest of the file is less complex still
            insort(best, entry)
            del best[self._top :]

    def summary(self, files: int) -> dict[str, Any]:
        """Plain data, as written to JSON, for `files` sources examined."""
        return {
            **self._sums,
            "files": files,
            "packages": len(self._packages),
            "longest": self._longest and self._longest._asdict(),
            "most_complex": [
                Function(file, -negative, line, length, name, documented)._asdict()
                for negative, file, line, length, name, documented in self._complex
            ],
            "problems": [problem._asdict() for problem in self.problems],
        }
