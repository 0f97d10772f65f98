"""The package as users' type checkers see it: installed, through `py.typed`, under mypy's strictest settings."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ACCEPTED, REJECTED = HERE / "accepted.py", HERE / "rejected.py"


@pytest.fixture(scope="module")
def errors(tmp_path_factory):
    """Codes of the errors by file name and line, from one run over both files in an empty folder."""
    folder = tmp_path_factory.mktemp("typing")
    # No configuration: the checkout's own names other places to look for modules.
    command = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--warn-unreachable", "--no-pretty"]
    command += ["--hide-error-context", f"--cache-dir={folder / 'cache'}", str(ACCEPTED), str(REJECTED)]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = {ACCEPTED.name: defaultdict(set), REJECTED.name: defaultdict(set)}
    for line in run.stdout.splitlines():
        match = re.fullmatch(r"(.+?):(\d+): error: .*\[([\w-]+)\]", line)
        if match:
            found[Path(match[1]).name][int(match[2])].add(match[3])
        else:
            assert ": error:" not in line, line
    return found


# The checker reads the standard library's types first.
@pytest.mark.timeout(300)
def test_right_use_is_accepted(errors):
    assert errors[ACCEPTED.name] == {}


@pytest.mark.timeout(300)
def test_wrong_use_is_rejected(errors):
    found, expected = errors[REJECTED.name], {}
    for number, line in enumerate(REJECTED.read_text(encoding="utf-8").splitlines(), 1):
        match = re.search(r"  # E(?:: (\S+))?$", line)
        if match:
            expected[number] = match[1]
    assert len(expected) > 30
    assert sorted(found) == sorted(expected)
    assert {line: found[line] for line, code in expected.items() if code and code not in found[line]} == {}


def test_right_use_runs():
    subprocess.run([sys.executable, "-W", "error", str(ACCEPTED)], check=True, timeout=60)
