"""The runner itself: it sees failures, skips and crashes, and goes on after them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import suite

# The standard library's module with two faults.
FAULTY = """
import os
from sqlite3 import *
from sqlite3 import sqlite_version, dbapi2
apilevel = "3.0"
def Binary(*args):
    os.abort()
def __getattr__(name):
    return getattr(dbapi2, name)
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    if not suite.available(sys.executable):
        pytest.skip("platform: this interpreter is installed without its tests")
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty_sqlite.py").write_text(FAULTY)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        return suite.run(sys.executable, "faulty_sqlite")


def find(outcome, *parts):
    return [name for name in outcome.statuses if all(part in name.lower() for part in parts)]


def test_it_serves_the_module(faulty):
    assert faulty.served == ["faulty_sqlite"]


def test_a_failure_is_seen(faulty):
    (name,) = find(faulty, "moduletests", "apilevel") or find(faulty, "moduletests", "api_level")
    assert faulty.statuses[name] == "failed"
    assert "3.0" in faulty.details[name]


def test_a_crash_is_put_down_to_its_test_and_the_rest_goes_on(faulty):
    (name,) = find(faulty, "constructortests", "binary")
    assert faulty.statuses[name] == "crashed"
    assert "Abort" in faulty.details[name]
    assert len(faulty.of("crashed")) < 10
    assert faulty.of("missing") == set()
    # Nearly all others pass: the module is otherwise the standard library's.
    assert len(faulty.of("passed")) > 0.9 * len(faulty.statuses)
