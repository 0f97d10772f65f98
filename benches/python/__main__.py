"""Ratios against the peers: `make bench`, or `make bench ARGS="--quick --rows decorated"`.

Prints one Markdown table of all rows with a budget, then the table of hit ratios. A missed budget is printed as
missed; it does not change the exit status.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import cache
import cache_disk
import cache_hits
import cache_memory
import dashboard
import report
import sqlite
import sqlite_peers
import tasks
from timing import QUICK, Effort


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: orders of magnitude only")
    parser.add_argument("--rows", metavar="PATTERN", default="", help="only rows whose name contains this text")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every number of every round to FILE")
    options = parser.parse_args()
    effort = QUICK if options.quick else Effort()
    started = time.monotonic()
    found = report.environment(sqlite_peers.libraries())
    rows: list[report.Row] = []
    wanted = options.rows.casefold()
    sources = (cache, cache_memory, cache_disk, sqlite, tasks, dashboard)
    for case in (case for source in sources for case in source.cases()):
        if wanted in case.path.casefold():
            _say(case.path)
            measured = case.measure(effort)
            rows += measured if isinstance(measured, list) else [measured]
    hits: list[cache_hits.Line] = []
    for name in cache_hits.TRACES:
        if wanted in f"hit ratio {name}":
            _say(f"hit ratio {name}")
            hits += cache_hits.measure(name, effort)
    _say(f"{time.monotonic() - started:.0f} s")
    print(report.heading(found), end="\n\n")
    if rows:
        print(report.main_table(rows), end="\n\n")
    if hits:
        print(cache_hits.render(hits), end="\n\n")
    missed = [row.path for row in rows if row.met() is False] + [line.label for line in hits if not line.met()]
    print(f"Missed: {'; '.join(missed)}" if missed else "Every budget is met.")
    if options.json:
        record = {
            "environment": found,
            "rows": [row.record() for row in rows],
            "hit_ratios": [line.record() for line in hits],
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
