"""``core.db_pool`` under the name that applications import, beside an application's own ``core``."""

from __future__ import annotations

import ast
import importlib
import pickle
import sqlite3
import sys
from contextlib import closing

import pytest

from upshift import compat
from upshift.compat import doctor

from .conftest import write

APPLICATION = {
    "core/__init__.py": "NAME = 'application'",
    "core/settings.py": "PATH = 'jobs.db'",
    "core/jobs.py": """
        from core import NAME, settings
        from .db_pool import close_all_pools, get_pool

        def add(name):
            with get_pool(settings.PATH).connection() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS jobs (name)")
                connection.execute("INSERT INTO jobs VALUES (?)", (f"{NAME} {name}",))

        def names():
            with get_pool(settings.PATH).connection() as connection:
                return [row["name"] for row in connection.execute("SELECT name FROM jobs ORDER BY rowid")]
    """,
    "main.py": """
        import core.db_pool, core.jobs

        if __name__ == "__main__":
            for name in ("a", "b"):
                core.jobs.add(name)
            print((core.jobs.names(), core.db_pool.__spec__.origin))
            core.jobs.close_all_pools()
    """,
}


@pytest.fixture
def implementation():
    """The stand-in of the other tests is for ``core.result_cache``."""
    return "native"


@pytest.fixture
def application(tmp_path):
    return write(tmp_path / "app", APPLICATION)


def test_an_application_runs_unchanged(application, upshift_run):  # openclaw §1 "Coexistence"
    found = ast.literal_eval(upshift_run("main.py", cwd=application).stdout)
    assert found == (["application a", "application b"], "upshift, for openclaw")
    with closing(sqlite3.connect(application / "jobs.db")) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (2,)
    assert sorted(path.name for path in application.glob("jobs.db*")) == ["jobs.db"]


def test_its_own_copy_wins_unless_upshift_is_activated(application, upshift_run, python):  # openclaw §9.19
    write(application, {"core/db_pool.py": "get_pool = close_all_pools = None\nMINE = True"})
    code = "import core.db_pool as pool; print(hasattr(pool, 'MINE'))"
    assert python("-c", code, cwd=application).stdout == "True\n"
    assert upshift_run("-c", code, cwd=application).stdout == "False\n"


def test_only_the_pool(application, upshift_run):
    code = "import core.db_pool; from upshift import compat; print(len(compat.status()))\nimport core.result_cache"
    run = upshift_run("--systems", "core.db_pool", "-c", code, cwd=application, status=1)
    assert run.stdout == "1\n"
    assert "No module named 'core.result_cache'" in run.stderr


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_child_processes_have_it_too(application, upshift_run, method):
    if sys.platform == "win32" and method != "spawn":
        pytest.skip("platform: processes are spawned here")
    write(
        application,
        {
            "children.py": f"""
                import multiprocessing, warnings
                warnings.simplefilter("ignore", DeprecationWarning)
                import core.jobs

                if __name__ == "__main__":
                    core.jobs.add("parent")
                    context = multiprocessing.get_context("{method}")
                    children = [context.Process(target=core.jobs.add, args=(f"child {{i}}",)) for i in range(3)]
                    [child.start() for child in children]
                    [child.join(40) for child in children]
                    print(([child.exitcode for child in children], sorted(core.jobs.names())))
            """
        },
    )
    codes, names = ast.literal_eval(upshift_run("children.py", cwd=application).stdout)
    assert codes == [0, 0, 0]
    assert names == ["application child 0", "application child 1", "application child 2", "application parent"]


def test_main_as_a_module(upshift_run, tmp_path):
    run = upshift_run("-m", "core.db_pool", cwd=tmp_path)
    assert (run.stdout, run.stderr) == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("in_process")
class TestInProcess:
    def test_pickles_written_under_the_old_path_are_found(self):
        compat.install("core.db_pool")
        for name in ("ConnectionPool", "PooledConnection", "get_pool"):
            found = pickle.loads(f"ccore.db_pool\n{name}\n.".encode())
            assert found is getattr(sys.modules["core.db_pool"], name)
            assert pickle.loads(pickle.dumps(found)) is found

    def test_one_class_under_all_names(self):
        compat.install("openclaw")
        module = importlib.import_module("core.db_pool")
        sqlite = importlib.import_module("upshift.sqlite")
        assert module.ConnectionPool is sqlite.ConnectionPool
        assert module.PooledConnection is sqlite.PooledConnection
        assert sorted(module.__all__) == ["ConnectionPool", "PooledConnection", "close_all_pools", "get_pool", "main"]


def test_doctor_knows_the_names(tmp_path):
    source = "from core.db_pool import ConnectionPool, get_pool, Gone\nimport core.db_pool as p\np.close_all_pools; p.x"
    report = doctor.scan(write(tmp_path, {"app.py": source}) / "app.py")
    names = {name.name: name.served for found in report.imports for name in found.names}
    assert names == {"ConnectionPool": True, "get_pool": True, "Gone": False, "close_all_pools": True, "x": False}


SUITE = """
    import sqlite3
    import pytest
    from core.db_pool import ConnectionPool, PooledConnection

    @pytest.fixture
    def pool(tmp_path):
        pool = ConnectionPool(str(tmp_path / "test.db"), min_size=2, max_size=5)
        yield pool
        pool.close_all()

    def test_reuse(pool):
        conn1 = pool.acquire(timeout=5)
        raw1 = id(conn1.conn)
        pool.release(conn1)
        conn2 = pool.acquire(timeout=5)
        assert id(conn2.conn) == raw1
        pool.release(conn2)

    def test_context_manager(pool):
        with pool.connection() as conn:
            assert isinstance(conn, PooledConnection)
            assert isinstance(conn.conn, sqlite3.Connection)
            conn.execute("CREATE TABLE test (id INTEGER PRIMARY KEY, value TEXT)")
            conn.execute("INSERT INTO test (value) VALUES (?)", ("test",))
            conn.commit()
        with pool.connection() as conn:
            assert conn.execute("SELECT value FROM test").fetchone()["value"] == "test"

    def test_stats(pool):
        stats = pool.get_stats()
        assert stats["total_created"] == 2
        assert stats["current_size"] == stats["available"] == 2
"""


def test_an_existing_suite_passes(python, environment, tmp_path):
    """pytest with the plugin, on tests as the replaced system has them."""
    project = write(tmp_path / "project", {"core/__init__.py": "", "tests/test_pool.py": SUITE})
    run = python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--upshift=core.db_pool", cwd=project)
    assert "3 passed" in run.stdout
