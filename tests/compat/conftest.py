"""Throw-away applications, and processes that run them.

Every test runs twice: on upshift's own ``core.result_cache``, and on a stand-in module behind the same table entry, so
that the import machinery is also tested by itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from upshift import compat
from upshift.compat import tables

STAND_IN = """
class ResultCache:
    def __init__(self, max_size=1000):
        self.max_size = max_size

_cache = None

def get_cache():
    global _cache
    _cache = _cache or ResultCache()
    return _cache

def main():
    print("main ran")
"""

# A user's sitecustomize as far as upshift is concerned: it runs in every process, after upshift's own.
STAND_IN_SITECUSTOMIZE = """
from upshift.compat import tables
tables.MODULES["core.result_cache"] = tables.Module("openclaw", "Stand-in.", {
    name: "upshift_stand_in:" + name for name in ("ResultCache", "get_cache", "main")
})
"""


def write(root: Path, files: Mapping[str, str]) -> Path:
    """Writes files below ``root``; the texts may be indented."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
    return root


@pytest.fixture(params=["native", "stand-in"])
def implementation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def stand_in_folder(implementation: str, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    if implementation == "native":
        return None
    files = {"upshift_stand_in.py": STAND_IN, "sitecustomize.py": STAND_IN_SITECUSTOMIZE}
    return write(tmp_path_factory.mktemp("stand_in"), files)


@pytest.fixture
def environment(stand_in_folder: Path | None) -> dict[str, str]:
    """Environment of a process that knows the implementation under test but has not installed it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("UPSHIFT_", "PYTEST_", "COV_"))}
    search = [str(stand_in_folder) if stand_in_folder else "", env.pop("PYTHONPATH", "")]
    if any(search):
        env["PYTHONPATH"] = os.pathsep.join(filter(None, search))
    return env


Python = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def python(environment: dict[str, str], tmp_path: Path) -> Python:
    """Runs this interpreter: ``python("-c", "…", cwd=…, env={…}, status=0)``; another status fails the test."""

    def run(
        *args: object, cwd: Path = tmp_path, env: Mapping[str, str] | None = None, status: int = 0, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        process = subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=cwd,
            env={**environment, **(env or {})},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
        assert process.returncode == status, f"status {process.returncode}\n{process.stdout}\n{process.stderr}"
        return process

    return run


@pytest.fixture
def upshift_run(python: Python) -> Python:
    """``upshift run …`` in a process of its own."""

    def run(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
        return python("-m", "upshift", "run", *args, **options)

    return run


@pytest.fixture
def in_process(implementation: str, stand_in_folder: Path | None, monkeypatch: pytest.MonkeyPatch):
    """This very process, put back afterwards: nothing served, no module of the served parents loaded."""
    parents = {path.partition(".")[0] for path in tables.MODULES}

    def of_application() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in parents]

    assert of_application() == [], "a test before this one has left modules behind"
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    if stand_in_folder is not None:
        sys.path.insert(0, str(stand_in_folder))
        names = {name: f"upshift_stand_in:{name}" for name in ("ResultCache", "get_cache", "main")}
        monkeypatch.setitem(tables.MODULES, "core.result_cache", tables.Module("openclaw", "Stand-in.", names))
    yield
    compat.uninstall()
    for name in of_application():
        del sys.modules[name]
    sys.modules.pop("upshift_stand_in", None)
