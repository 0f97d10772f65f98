"""The wheel as `make wheel` builds it, installed into an environment that holds nothing else.

Built with the profile that `make` has installed, which takes a second where that is up to date.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from .conftest import write

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(900)  # should it have to be compiled from nothing


def environment():
    """Without anything that lets a child find this checkout, or this environment's packages."""
    private = ("PYTHON", "UPSHIFT_", "PYTEST_", "COV_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(private)}


def run(*command, cwd):
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def profile():
    """What the Makefile has installed into this environment, compiled last."""
    return "release" if Path(sys.prefix, "stamps", "extension-release").exists() else "quick"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    for tool in ("maturin", "pip"):
        if importlib.util.find_spec(tool) is None:
            pytest.skip(f"{tool} is not installed in this environment")
    if shutil.which("cargo") is None:
        pytest.skip("cargo is not on the path")
    faulthandler.cancel_dump_traceback_later()  # which would end the whole run while this is being compiled
    out = tmp_path_factory.mktemp("dist")
    flags = ["--profile", profile(), "--compatibility", "linux", "--auditwheel", "skip"]
    run(sys.executable, "-m", "maturin", "build", *flags, "--interpreter", sys.executable, "--out", out, cwd=ROOT)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The interpreter of a fresh environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    install = ["install", "--no-index", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "--python", python, *install, wheel, cwd=folder.parent)
    return python


def test_it_brings_no_libraries(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if ".libs/" in name or name.endswith((".pyc", ".rs"))] == []
    assert len([name for name in names if name.endswith((".so", ".pyd", ".dylib"))]) == 1
    for name in (
        "py.typed",
        "_native.pyi",
        "compat/bootstrap/sitecustomize.py",
        "demo/app/main.py",
        "dashboard/static/index.html",
    ):
        assert f"upshift/{name}" in names
    if sys.platform == "linux":  # not manylinux: it needs the system's SQLite
        assert wheel.stem.rsplit("-", 1)[1].startswith("linux_")


def test_it_uses_the_interpreters_sqlite(python, tmp_path):
    """And needs nothing but the standard library."""
    code = """
        import importlib, pathlib, pkgutil, sqlite3, sys
        import upshift, upshift.sqlite

        assert pathlib.Path(upshift.__file__).is_relative_to(sys.prefix), upshift.__file__
        assert upshift.sqlite.shares_interpreter_library is True
        assert upshift.sqlite.sqlite_version == sqlite3.sqlite_version

        wanting = []
        for module in pkgutil.walk_packages(upshift.__path__, "upshift."):
            try:
                importlib.import_module(module.name)
            except ImportError as error:
                wanting.append((module.name, error.name))
        assert wanting == [
            ("upshift.compat.pytest_plugin", "pytest"),
            ("upshift.dashboard.app", "fastapi"),  # of the extra `dashboard`; the package itself does without
            ("upshift.dashboard.serving", "uvicorn"),
        ], wanting
        assert "numpy" not in sys.modules

        ours, theirs = upshift.sqlite.connect("both.db"), sqlite3.connect("both.db")
        with ours:
            ours.execute("CREATE TABLE t (x)")
            ours.executemany("INSERT INTO t VALUES (?)", [(number,) for number in range(100)])
        assert theirs.execute("SELECT sum(x) FROM t").fetchone() == (4950,)

        with upshift.ResultCache(enable_persistent=True, db_path="cache.db") as cache:
            cache.set("key", {"value": 1})
        with upshift.ResultCache(enable_persistent=True, db_path="cache.db") as cache:
            assert cache.get("key") == {"value": 1}
    """
    write(tmp_path, {"check.py": code})
    run(python, "check.py", cwd=tmp_path)


def test_its_command_works(python, tmp_path):
    upshift = python.with_name("upshift")
    assert "run | doctor | demo" in run(upshift, "--help", cwd=tmp_path)
    app = """
        import subprocess, sys
        from core.result_cache import ResultCache
        if sys.argv[1:]:
            print(ResultCache.__module__)
        else:
            subprocess.run([sys.executable, __file__, "child"], check=True)
    """
    write(tmp_path, {"app.py": app})
    assert run(upshift, "run", "app.py", cwd=tmp_path) == "upshift\n"
    assert "core.result_cache" in run(upshift, "doctor", ".", cwd=tmp_path)
    assert "warm after a restart" in run(upshift, "demo", "--limit", "3", ".", cwd=tmp_path)
