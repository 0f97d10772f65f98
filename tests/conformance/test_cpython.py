"""CPython's own sqlite suite against `upshift.sqlite`, on this interpreter and those of UPSHIFT_CONFORMANCE_PYTHONS."""

from __future__ import annotations

import fnmatch
import functools
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import suite
from known import KNOWN

SHARE = 0.97
#: So many tests does the standard library pass at least; fewer mean that the suite was not run as a whole.
LEAST = {(3, 9): 280, (3, 10): 290, (3, 11): 420, (3, 12): 450, (3, 13): 460}

ENTRY = re.compile(r"(?:(?P<first>3\.\d+)(?:(?P<dash>-)(?P<last>3\.\d+)?)? )?(?P<pattern>[\w.*]+)")

# Fifty hanging tests would take ten minutes; a healthy run takes seconds.
pytestmark = pytest.mark.timeout(600)


def interpreters():
    """This one, and the executables that UPSHIFT_CONFORMANCE_PYTHONS lists (upshift is installed in each)."""
    listed = os.environ.get("UPSHIFT_CONFORMANCE_PYTHONS", "").split(os.pathsep)
    return list(dict.fromkeys([sys.executable, *filter(None, listed)]))


@pytest.fixture(scope="module", params=interpreters())
def python(request):
    assert shutil.which(request.param), f"UPSHIFT_CONFORMANCE_PYTHONS names {request.param}, which does not exist"
    if not suite.available(request.param):
        pytest.skip("platform: this interpreter is installed without its tests")
    return request.param


@functools.cache
def outcome(python, module):
    return suite.run(python, module)


@pytest.fixture(scope="module")
def stdlib(python):
    """Outcome with the standard library's own module."""
    return outcome(python, "sqlite3")


@pytest.fixture(scope="module")
def upshift(python):
    if importlib.util.find_spec("upshift.sqlite") is None:
        pytest.skip("upshift.sqlite is not there yet")
    return outcome(python, "upshift.sqlite")


def about(version):
    """The entries for one version of Python: pattern → reason."""
    found = {}
    for key, reason in KNOWN.items():
        match = ENTRY.fullmatch(key)
        first, dash, last = (match[name] for name in ("first", "dash", "last"))
        low = tuple(map(int, first.split("."))) if first else (3, 0)
        high = tuple(map(int, last.split("."))) if last else ((3, 99) if dash or not first else low)
        if low <= version[:2] <= high:
            found[match["pattern"]] = reason
    return found


def matching(pattern, names):
    return {name for name in names if fnmatch.fnmatchcase(name, pattern)}


def test_the_standard_library_passes_its_own_suite(stdlib):
    assert set(stdlib.served) == {"sqlite3"}
    assert stdlib.of("failed", "error", "crashed", "missing") == set()
    assert len(stdlib.of("passed")) >= LEAST.get(stdlib.python[:2], max(LEAST.values()))


def test_the_suite_sees_upshift(upshift, stdlib):
    assert set(upshift.served) == {"upshift.sqlite"}
    assert set(upshift.statuses) == set(stdlib.statuses)
    assert upshift.sqlite == stdlib.sqlite


def test_nothing_crashes_or_hangs(upshift):
    crashed = upshift.of("crashed", "missing")
    assert crashed == set(), "\n".join(upshift.details.get(name, name) for name in crashed)


def test_share(upshift, stdlib):
    expected = stdlib.of("passed")
    assert len(upshift.of("passed") & expected) / len(expected) >= SHARE


def test_every_exception_is_listed(upshift, stdlib):
    missing = stdlib.of("passed") - upshift.of("passed")
    for pattern in about(upshift.python):
        missing -= matching(pattern, missing)
    report = [f"--- {name}: {upshift.statuses[name]}\n{upshift.details.get(name, '')}" for name in sorted(missing)]
    assert not missing, "\n".join(report)


def test_the_list_only_gets_shorter(upshift, stdlib):
    missing = stdlib.of("passed") - upshift.of("passed")
    assert [pattern for pattern in about(upshift.python) if not matching(pattern, missing)] == []


def test_a_listed_test_is_skipped_by_nobody_else(upshift, stdlib):
    """An entry's pattern covers failing tests alone: one that is too wide would hide the next failure."""
    passing = upshift.of("passed") & stdlib.of("passed")
    wide = {pattern: sorted(matching(pattern, passing)) for pattern in about(upshift.python)}
    assert {pattern: names for pattern, names in wide.items() if names} == {}


def test_entries_name_an_impossibility():
    excuse = re.compile(r"not (yet )?(implemented|supported)|to-?do|missing|later|for now", re.IGNORECASE)
    for key, reason in KNOWN.items():
        assert ENTRY.fullmatch(key)
        assert len(reason) >= 20
        assert "\n" not in reason
        assert not excuse.search(reason)
