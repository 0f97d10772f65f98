"""``pytest --upshift=…``, in throw-away projects and processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from upshift.compat import tables

from .conftest import Python, write

MODES = ["prepend", "append", "importlib"]

TESTS = """
    import sys
    import core.jobs
    from core.result_cache import ResultCache

    def test_served():
        assert sys.modules["core.result_cache"].__spec__.origin.startswith("upshift")
        assert core.jobs.ResultCache is ResultCache

    def test_child():
        import subprocess
        code = "import core.result_cache as c; print(c.__spec__.origin)"
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert out.startswith("upshift")
"""

# Shapes of a project: the package beside the tests, around them, as a namespace, with an own copy, without any core.
PROJECTS = {
    "regular": {
        "core/__init__.py": "",
        "core/jobs.py": "from .result_cache import ResultCache",
        "tests/test_app.py": TESTS,
    },
    "tests inside": {
        "core/__init__.py": "",
        "core/jobs.py": "from .result_cache import ResultCache",
        "core/tests/__init__.py": "",
        "core/tests/test_app.py": TESTS,
    },
    "namespace": {"core/jobs.py": "from core.result_cache import ResultCache", "tests/test_app.py": TESTS},
    "own copy": {
        "core/__init__.py": "from .result_cache import ResultCache",
        "core/jobs.py": "from core import ResultCache",
        "core/result_cache.py": "class ResultCache: pass",
        "conftest.py": "from core.result_cache import ResultCache",
        "tests/test_app.py": TESTS,
    },
    "no core": {
        "tests/test_app.py": TESTS.replace("core.jobs.", "").replace(
            "import core.jobs", "from core import result_cache"
        )
    },
}


@pytest.fixture
def run_pytest(python: Python, environment: dict[str, str]) -> Python:
    """``python -m pytest …`` in ``cwd``: that folder is on ``sys.path``, as users of every import mode have it."""

    def run(*args: object, **options: object):
        return python("-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *args, **options)

    return run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("project", PROJECTS)
def test_suite_runs_unchanged(project, mode, tmp_path, run_pytest):
    write(tmp_path, PROJECTS[project])
    out = run_pytest("--upshift=openclaw", f"--import-mode={mode}")
    assert "2 passed" in out.stdout
    assert f"upshift: serves {', '.join(sorted(tables.served()))}" in out.stdout


@pytest.mark.parametrize("mode", ["prepend", "append"])
def test_folder_that_only_pytest_puts_on_the_path(mode, tmp_path, python):
    """Started as a script, pytest finds the project's root only when it reaches the first conftest or test file."""
    write(
        tmp_path,
        {
            "core/__init__.py": "LOADED = True",
            "core/jobs.py": "from core.result_cache import ResultCache",
            "test_app.py": TESTS.partition("    def test_child")[0] + "        assert core.LOADED",
        },
    )
    code = "import sys; sys.path.remove(''); import pytest; sys.exit(pytest.main())"
    out = python("-c", code, env={"PYTEST_ADDOPTS": f"--import-mode={mode} --upshift=openclaw"}).stdout
    assert "1 passed" in out


def test_option_in_the_configuration(tmp_path, run_pytest):
    write(tmp_path, {**PROJECTS["regular"], "pytest.ini": "[pytest]\naddopts = --upshift core.result_cache"})
    assert "2 passed" in run_pytest().stdout


def test_xdist_workers_are_served(tmp_path, run_pytest):
    write(tmp_path, PROJECTS["regular"])
    assert "2 passed" in run_pytest("-n2", "--upshift=openclaw").stdout


def test_with_coverage(tmp_path, run_pytest):
    write(tmp_path, PROJECTS["regular"])
    out = run_pytest("--cov=core", "--cov-report=term", "--upshift=openclaw").stdout
    assert "2 passed" in out
    assert str(Path("core", "jobs.py")) in out


def test_under_upshift_run(tmp_path, upshift_run):
    write(tmp_path, PROJECTS["own copy"])
    assert "2 passed" in upshift_run("-m", "pytest", "-p", "no:cacheprovider").stdout


@pytest.mark.parametrize(
    ("option", "message"), [("nonsense", "knows no module or system"), ("core.nothing", "knows no module or system")]
)
def test_unknown_name_is_a_usage_error(option, message, run_pytest):
    process = run_pytest(f"--upshift={option}", status=4)
    assert f"--upshift: upshift {message} '{option}'" in process.stderr


def test_too_late_is_a_usage_error(tmp_path, run_pytest):
    write(tmp_path, {**PROJECTS["own copy"], "early.py": "import core.result_cache"})
    process = run_pytest("-p", "early", "--upshift=openclaw", status=4)
    assert "already imported" in process.stderr


def test_run_without_the_option_is_left_alone(tmp_path, run_pytest):
    write(
        tmp_path,
        {
            "test_app.py": """
            import sys, os

            def test_nothing_of_upshift_happened():
                assert [type(f).__module__ for f in sys.meta_path if type(f).__module__.startswith("upshift")] == []
                assert "UPSHIFT_INSTALL" not in os.environ
                assert "upshift._native" not in sys.modules
                of_hook = "upshift.compat", "upshift.exceptions"
                loaded = [name for name in sys.modules if name.startswith("upshift.") and not name.startswith(of_hook)]
                assert loaded == []
        """
        },
    )
    out = run_pytest().stdout
    assert "1 passed" in out
    assert "upshift:" not in out


def test_run_inside_a_process_is_undone(tmp_path, python):
    script = """
        import os, sys, pytest

        def state():
            ours = [f for f in sys.meta_path if type(f).__module__.startswith("upshift")]
            return ours, os.environ.get("UPSHIFT_INSTALL"), os.environ.get("PYTHONPATH")

        before = state()
        assert pytest.main(["--upshift=openclaw", "tests", "-p", "no:cacheprovider"]) == 0
        assert "core.result_cache" not in sys.modules
        assert state() == before, state()
    """
    write(tmp_path, {**PROJECTS["regular"], "inside.py": script})
    python("inside.py")


def test_what_was_served_before_stays(tmp_path, upshift_run):
    script = """
        import pytest
        from upshift import compat

        assert pytest.main(["--upshift=openclaw", "tests", "-p", "no:cacheprovider"]) == 0
        assert [status.module for status in compat.status() if status.imported] == ["core.result_cache"]
    """
    write(tmp_path, {**PROJECTS["regular"], "inside.py": script})
    upshift_run("inside.py")
