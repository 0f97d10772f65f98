"""Drives `runner.py`: all outcomes of CPython's sqlite suite for one interpreter and one module, crashes included.

    python tests/conformance/suite.py [-m MODULE] [-p PYTHON] [-v] [PART OF AN ID …]

compares MODULE (default `upshift.sqlite`) with the standard library and lists what does not pass.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RUNNER = Path(__file__).with_name("runner.py")
#: Seconds for the whole suite; the standard library needs one.
LIMIT = 400
#: After so many crashes and hanging tests the rest is not tried.
CRASHES = 25


class Outcome:
    """Of one run: status (`passed`, `failed`, `error`, `skipped`, `crashed`, `missing`) and detail of each test."""

    def __init__(self, header, statuses, details):
        self.python = tuple(header["python"])
        self.sqlite = header["sqlite"]
        self.served = header["served"]
        self.statuses = {name: statuses.get(name, "missing") for name in header["tests"]}
        self.details = details

    def of(self, *wanted):
        return {name for name, status in self.statuses.items() if status in wanted}


def available(python):
    """Whether the interpreter carries the suite."""
    code = "import sys, importlib.util as u; sys.exit(not u.find_spec(sys.argv[1]))"
    name = "test.test_sqlite3" if version(python) >= (3, 11) else "sqlite3.test"
    return subprocess.run([python, "-c", code, name], capture_output=True, check=False).returncode == 0


def version(python):
    code = "import sys; print(*sys.version_info[:3])"
    return tuple(map(int, subprocess.run([python, "-c", code], capture_output=True, check=True).stdout.split()))


def run(python, module):
    """Runs the suite under `python` with `sqlite3` served by `module`."""
    header, statuses, details = None, {}, {}
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        results = Path(folder, "results")
        first = crashes = 0
        while True:
            # A folder of its own: tests leave files in the current one.
            work = Path(folder, f"work{crashes}")
            work.mkdir()
            done = subprocess.run(
                [python, str(RUNNER), module, str(results), str(first)],
                cwd=work,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=LIMIT,
                check=False,
            )
            trace = done.stderr.decode(errors="replace")
            lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
            results.write_text("", encoding="utf-8")
            running = None
            for line in lines:
                if "tests" in line:
                    header = line
                elif "start" in line:
                    running = line["start"]
                elif "id" in line:
                    statuses[line["id"]], details[line["id"]] = line["status"], line["detail"]
                    running = None
                elif "fixture" in line:
                    details[line["fixture"]] = line["detail"]
            if header is None:
                raise AssertionError(f"{python} cannot load the suite with {module}:\n{trace}")
            if lines[-1].get("end"):
                break
            crashes += 1
            ended = running or lines[-1].get("id") or header["tests"][-1]
            if running is not None:
                statuses[running] = "crashed"
                details[running] = f"exit status {done.returncode}\n{trace[-4000:]}"
            first = header["tests"].index(ended) + 1
            if crashes == CRASHES or first == len(header["tests"]):
                break
    return Outcome(header, statuses, details)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--module", default="upshift.sqlite")
    parser.add_argument("-p", "--python", default=sys.executable)
    parser.add_argument("-v", "--verbose", action="store_true", help="with tracebacks")
    parser.add_argument("parts", nargs="*", help="list only tests whose id contains one of these")
    options = parser.parse_args()
    expected = run(options.python, "sqlite3").of("passed")
    outcome = run(options.python, options.module)
    passed = outcome.of("passed") & expected
    for name in sorted(expected - passed):
        if not options.parts or any(part in name for part in options.parts):
            detail = outcome.details.get(name, "").strip()
            print(f"{outcome.statuses[name]:8}{name}  {detail.splitlines()[-1] if detail else ''}")
            if options.verbose:
                print(detail, end="\n\n")
    for name in sorted(set(outcome.details) - set(outcome.statuses)):
        print(outcome.details[name])
    version = ".".join(map(str, outcome.python))
    print(f"{len(passed)} of {len(expected)} ({len(passed) / len(expected):.2%}), Python {version}")


if __name__ == "__main__":
    main()
