"""Scan a tree of Python sources for quality evidence: python main.py PATH"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from quality.evidence import Evidence
from quality.progress import Progress
from quality.questions import ask
from quality.report import report
from quality.scanner import Scanner, open_cache
from quality.sources import find_sources, printable, reason

ANSWERS_SHOWN = 5


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="quality", description="Quality evidence of a tree of Python sources.")
    parser.add_argument("path", help="folder or file to scan")
    parser.add_argument("--cache", default="quality_cache.db", help="where measurements are kept from run to run")
    parser.add_argument("--evidence", default="quality.db", help="database that the last scan is left in")
    parser.add_argument("--forget", metavar="PACKAGE", help="measure this package anew")
    parser.add_argument("--limit", type=int, metavar="N", help="scan only the first N files")
    parser.add_argument("--list", action="store_true", help="only list the files")
    parser.add_argument("--name", metavar="PATH", help="what the report calls the tree, if it is a copy")
    parser.add_argument("--passes", type=int, default=1, metavar="N", help="scan N times in this process")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many functions to name")
    parser.add_argument("--json", metavar="FILE", help="write results and cache statistics here")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    try:
        outcome = listing(options) if options.list else scan(options)
    except (sqlite3.Error, TimeoutError) as error:  # the pool names the cause of a connection that it could not open
        print(f"quality: {printable(options.evidence)}: {error.__cause__ or error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        message = reason(error) if isinstance(error, OSError) else str(error)
        print(f"quality: {printable(options.path)}: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("quality: interrupted", file=sys.stderr)
        return 130
    write(outcome, options)
    return 0


def listing(options: argparse.Namespace) -> dict[str, Any]:
    """Names of what would be scanned, relative to the path."""
    sources, problems = find_sources(options.path, options.limit)
    return {"files": [source.name for source in sources], "problems": [problem._asdict() for problem in problems]}


def scan(options: argparse.Namespace) -> dict[str, Any]:
    """Scan as often as asked, then ask the evidence. The seconds of a pass are those from looking for files to the
    summary; the first pass includes opening cache and database. `before` and `after` it are the cache's own counts."""
    started = time.perf_counter()
    with closing(open_cache(options.cache)) as cache, closing(Evidence(options.evidence)) as evidence:
        try:
            passes = list(_passes(Scanner(cache, evidence), options, started))
            questions = ask(evidence, min(options.top, ANSWERS_SHOWN))
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not disturb closing
            raise
        started = time.perf_counter()
    return {"passes": passes, "questions": questions, "closing": time.perf_counter() - started}


def _passes(scanner: Scanner, options: argparse.Namespace, started: float) -> Iterator[dict[str, Any]]:
    if options.forget is not None:
        scanner.forget(options.forget)
    for number in range(1, options.passes + 1):
        before, rows_before = scanner.cache.get_stats(), scanner.evidence.rows_written
        sources, problems = find_sources(options.path, options.limit)
        label = f"pass {number} of {options.passes}" if options.passes > 1 else "scanning"
        with Progress(label, len(sources), sys.stderr) as progress:
            summary = scanner.scan(sources, problems, options.top, progress.advance)
        seconds = time.perf_counter() - started
        rows = scanner.evidence.rows_written - rows_before
        yield {
            "seconds": seconds,
            "rows": rows,
            "before": before,
            "after": scanner.cache.get_stats(),
            "summary": summary,
        }
        started = time.perf_counter()


def write(outcome: dict[str, Any], options: argparse.Namespace) -> None:
    """The report goes to standard output, for people; everything goes to the JSON file, for programs."""
    if options.json is not None:
        Path(options.json).write_text(json.dumps(outcome, default=str), encoding="utf-8")
    if options.list:
        lines = [printable(name) for name in outcome["files"]]
    else:
        path = Path(options.path)
        root = str(path if path.is_dir() else path.parent) if options.name is None else options.name
        lines = report(outcome["passes"][-1]["summary"], outcome["questions"], root)
    for line in lines:
        print(line)


if __name__ == "__main__":
    raise SystemExit(main())
