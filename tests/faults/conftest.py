"""Fixtures of the fault suites. Makes `tests/harness.py` importable, whatever import mode pytest runs in."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

NOBODY = 65534


@pytest.fixture
def db_path(tmp_path):
    return tmp_path / "cache.db"


@pytest.fixture
def open_folder():
    """A folder every user may enter and write, as pytest's own are private to root."""
    folder = Path(tempfile.mkdtemp(prefix="upshift-faults-"))
    folder.chmod(0o777)
    yield folder
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)


@pytest.fixture
def as_user():
    """Source that a child runs after its imports: it is another user from there on, where this one is root."""
    if os.geteuid() == 0:
        return f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
    return "pass"


@pytest.fixture
def give_away():
    """Makes that user the owner of a path."""

    def change(path):
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)

    return change
