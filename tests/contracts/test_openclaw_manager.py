"""Contract openclaw §6: `ScalabilityManager`, the module's functions, and defects D7, D11–D14."""

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
import sqlite3
import threading
import time
import weakref
from pathlib import Path

import pytest
from harness import eventually, run, together
from webclient import request

from upshift.cache import ResultCache
from upshift.sqlite import ConnectionPool
from upshift.systems import openclaw_manager as module
from upshift.systems.openclaw import close_all_pools, get_pool
from upshift.systems.openclaw_manager import ScalabilityManager, cached, get_manager, queue_task, with_db_pool
from upshift.tasks import BackgroundTaskManager, TaskPriority

PARAMETERS = {
    "workspace_path": None,
    "cache_size": 1000,
    "cache_ttl": 3600,
    "db_pool_min": 2,
    "db_pool_max": 10,
    "worker_min": 1,
    "worker_max": 8,
    "enable_auto_scaling": True,
    "enable_persistent_cache": True,
}


@pytest.fixture
def make(tmp_path):
    """Makes managers on `tmp_path` unless told otherwise, and cleans them up at the end."""
    made = []

    def make(path=tmp_path, **options):
        manager = ScalabilityManager(path, **options)
        made.append(manager)
        return manager

    yield make
    for manager in made:
        manager.cleanup()
    close_all_pools()


@pytest.fixture
def manager(make):
    return make()


@pytest.fixture
def globally(tmp_path, monkeypatch):
    """The process-wide manager on a folder of its own."""
    monkeypatch.setenv("OPENCLAW_WORKSPACE", str(tmp_path / "global"))
    monkeypatch.setattr(module, "_manager", None)
    monkeypatch.setattr(module, "_warned", set())
    yield
    if module._manager is not None:
        module._manager.cleanup()


# --- the constructor


def test_signature():  # openclaw §6, §8 "defaults"
    found = inspect.signature(ScalabilityManager).parameters
    assert {name: parameter.default for name, parameter in found.items()} == PARAMETERS
    assert list(found) == list(PARAMETERS)


def test_attributes(manager, tmp_path):  # openclaw §6.1
    assert manager.workspace == tmp_path
    assert isinstance(manager.workspace, Path)
    assert type(manager.cache) is ResultCache
    assert type(manager.task_manager) is BackgroundTaskManager
    assert manager.db_pools == {}
    assert manager.db_pool_config == {"min_size": 2, "max_size": 10}
    assert manager.dashboard is None


def test_arguments_reach_the_parts(make):  # openclaw §6
    manager = make(
        cache_size=7, cache_ttl=8, db_pool_min=1, db_pool_max=3, worker_min=2, worker_max=4, enable_auto_scaling=False
    )
    assert (manager.cache.max_size, manager.cache.default_ttl) == (7, 8)
    assert manager.db_pool_config == {"min_size": 1, "max_size": 3}
    tasks = manager.task_manager
    assert (tasks.min_workers, tasks.max_workers, tasks.enable_auto_scaling) == (2, 4, False)
    assert (manager.db_pool.min_size, manager.db_pool.max_size) == (1, 3)


def test_files(manager, tmp_path):  # openclaw §6: "<workspace>/…"
    manager.cache.set("key", 1)
    manager.task_manager.queue_task("a")
    manager.get_db_pool("other")
    names = {path.name for path in tmp_path.iterdir() if path.suffix == ".db"}
    assert names == {"result_cache.db", "background_tasks.db", "other.db"}


def test_memory_only_cache(make, tmp_path):  # openclaw §6 `enable_persistent_cache=False`
    manager = make(enable_persistent_cache=False)
    manager.cache.set("key", 1)
    assert manager.cache.get("key") == 1
    assert not (tmp_path / "result_cache.db").exists()


def test_workspace_as_str(make, tmp_path):  # openclaw D13
    manager = make(str(tmp_path / "deep" / "er"))
    assert manager.workspace == tmp_path / "deep" / "er"
    manager.task_manager.queue_task("a")
    assert (tmp_path / "deep" / "er" / "background_tasks.db").exists()


def test_default_workspace(make, tmp_path, monkeypatch):  # openclaw §1 "Workspace"
    monkeypatch.setenv("OPENCLAW_WORKSPACE", str(tmp_path / "chosen"))
    assert make(None).workspace == tmp_path / "chosen"
    monkeypatch.delenv("OPENCLAW_WORKSPACE")
    monkeypatch.chdir(tmp_path)
    assert make(None).workspace.resolve() == tmp_path


def test_nothing_starts_by_itself(make):  # openclaw §6 "No workers, pools or dashboard yet"
    before = set(threading.enumerate())
    manager = make()
    assert [thread for thread in set(threading.enumerate()) - before if "worker" in thread.name] == []
    assert manager.get_status()["workers"]["current_workers"] == 0
    assert manager.get_status()["db_pools"] == {}


def test_bad_sizes(tmp_path):
    for options in ({"db_pool_min": 3, "db_pool_max": 2}, {"db_pool_max": 0, "db_pool_min": 0}, {"db_pool_min": -1}):
        with pytest.raises(ValueError, match="db_pool_min"):
            ScalabilityManager(tmp_path, **options)
    with pytest.raises(ValueError):
        ScalabilityManager(tmp_path, cache_size=-1)
    with pytest.raises(ValueError):
        ScalabilityManager(tmp_path, worker_max=0)


PRESETS = {  # openclaw §8: cache size, ttl, pool, workers
    "small": (500, 1800, 1, 3, 1, 2),
    "medium": (1000, 3600, 2, 8, 2, 6),
    "large": (5000, 7200, 4, 20, 2, 16),
}


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets(make, preset):  # openclaw §8 "must construct and run on any machine", §9.3
    names = ("cache_size", "cache_ttl", "db_pool_min", "db_pool_max", "worker_min", "worker_max")
    manager = make(**dict(zip(names, preset)))
    manager.start_workers()
    status = manager.get_status()["workers"]
    assert (status["min_workers"], status["max_workers"], status["current_workers"]) == (*preset[4:], preset[4])
    with manager.db_pool.connection() as connection:
        assert connection.execute("SELECT 1").fetchone()[0] == 1


# --- pools


def test_pools(manager, tmp_path):  # openclaw §6
    pool = manager.db_pool
    assert type(pool) is ConnectionPool
    assert manager.get_db_pool() is manager.get_db_pool("main") is manager.get_db_pool(db_name="main") is pool
    other = manager.get_db_pool("other")
    assert other is not pool
    assert manager.db_pools == {"main": pool, "other": other}
    assert Path(other.db_path) == tmp_path / "other.db"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../b", "..", "C:\\x", "\\\\host\\x", "", "a\0b"])
def test_pool_names_that_leave_the_workspace(manager, name):  # openclaw §6 "absolute or contain `..` → ValueError"
    with pytest.raises(ValueError, match="db_name"):
        manager.get_db_pool(name)
    assert manager.db_pools == {}


def test_pool_name_of_another_type(manager):
    with pytest.raises(TypeError, match="db_name must be a str"):
        manager.get_db_pool(Path("x"))


def test_pool_in_a_folder(manager, tmp_path):
    with manager.get_db_pool("reports/daily").connection() as connection:
        connection.execute("CREATE TABLE t (x)")
    assert (tmp_path / "reports" / "daily.db").exists()


def test_one_pool_for_all_threads(manager):
    pools = together(lambda index: manager.get_db_pool("shared"), 8)
    assert len(set(map(id, pools))) == 1


def test_a_closed_pool_is_replaced(manager):
    pool = manager.db_pool
    pool.close_all()
    assert manager.db_pool is not pool
    assert manager.db_pool.running


# --- status


def test_status(manager):  # openclaw §6
    pool = manager.db_pool
    status = manager.get_status()
    assert set(status) == {"cache", "workers", "db_pools"}
    assert status["cache"] == manager.cache.get_stats()
    assert set(status["workers"]) == set(manager.task_manager.get_worker_stats())
    assert set(status["db_pools"]) == {"main"}
    assert set(status["db_pools"]["main"]) == set(pool.get_stats())


def test_workers(manager):  # openclaw §6 "Delegate to the task manager"
    manager.start_workers()
    assert manager.task_manager.running
    manager.start_workers()
    manager.stop_workers()
    assert not manager.task_manager.running
    assert manager.get_status()["workers"]["current_workers"] == 0


# --- the dashboard


def test_dashboard_shows_this_manager(manager):  # openclaw §6, D1
    server = manager.start_dashboard(port=0)
    assert manager.dashboard is server
    assert server.task_manager is manager.task_manager
    manager.task_manager.queue_task("seen", "by everybody")
    manager.cache.set("key", 1)
    pool = manager.get_db_pool("late")
    with pool.connection():
        stats = request(server, "/api/system/stats").json()
    assert stats["tasks"]["pending"] == 1
    assert stats["cache"]["sets"] == 1
    assert stats["db_pools"]["late"]["in_use"] == 1


def test_dashboard_signature():  # openclaw §6
    parameters = inspect.signature(ScalabilityManager.start_dashboard).parameters
    assert list(parameters)[:3] == ["self", "port", "host"]
    assert (parameters["port"].default, parameters["host"].default) == (8080, "127.0.0.1")


def test_a_second_dashboard_is_refused(manager):  # openclaw §6, D7 "leaks the first"
    server = manager.start_dashboard(0)
    with pytest.raises(RuntimeError, match=f"already running on port {server.port}"):
        manager.start_dashboard(0)
    assert manager.dashboard is server
    assert request(server, "/api/health").status == 200
    server.stop()
    again = manager.start_dashboard(0)
    assert again is not server
    assert request(again, "/api/health").status == 200


def test_a_taken_port_is_said(manager):  # openclaw §6, D7 "thread dies silently"
    with socket.create_server(("127.0.0.1", 0)) as other:
        with pytest.raises(OSError, match="use"):
            manager.start_dashboard(other.getsockname()[1])
    assert manager.dashboard is None
    manager.start_dashboard(0)


# --- cleaning up


def test_cleanup_leaves_nothing(make, tmp_path):  # openclaw §6
    before = set(threading.enumerate())
    manager = make()
    manager.start_workers()
    manager.cache.set("key", 1)
    pool = manager.db_pool
    server = manager.start_dashboard(0)
    request(server, "/api/system/stats")
    manager.cleanup()
    eventually(lambda: set(threading.enumerate()) <= before)
    with socket.create_server(("127.0.0.1", server.port)):
        pass
    assert not pool.running
    assert manager.dashboard is None
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(("-wal", "-shm"))] == []
    fresh = get_pool(tmp_path / "main.db")
    assert fresh is not pool
    assert fresh.running
    manager.cleanup()  # idempotent
    assert fresh.running


def test_cleanup_is_bounded_by_waiting_tasks(make):  # openclaw §6, W2
    manager = make()
    for _ in range(100):
        manager.task_manager.queue_task("nobody knows how")
    started = time.monotonic()
    manager.cleanup()
    assert time.monotonic() - started < 5


def test_after_cleanup(manager):
    manager.cleanup()
    for call in (manager.get_db_pool, lambda: manager.db_pool, lambda: manager.start_dashboard(0)):
        with pytest.raises(RuntimeError, match="cleaned up"):
            call()
    with pytest.raises(sqlite3.ProgrammingError):
        manager.task_manager.queue_task("late")
    manager.cache.set("key", 1)  # memory only, as after close()
    assert manager.cache.get("key") == 1


def test_as_a_context_manager(tmp_path):
    with ScalabilityManager(tmp_path) as manager:
        pool = manager.db_pool
    assert not pool.running


def test_shared_pools_are_counted(make):  # openclaw D12
    one, other = make(), make()
    pool = one.get_db_pool("shared")
    assert other.get_db_pool("shared") is pool
    one.cleanup()
    assert pool.running
    with pool.connection() as connection:
        assert connection.execute("SELECT 1").fetchone()[0] == 1
    other.cleanup()
    assert not pool.running


def test_pools_of_the_process_stay(make, tmp_path):  # openclaw D12, §6 "pools it opened"
    pool = get_pool(tmp_path / "main.db")
    manager = make()
    assert manager.db_pool is pool
    manager.cleanup()
    assert pool.running
    assert get_pool(tmp_path / "main.db") is pool


def test_no_dead_pool_stays_registered(make, tmp_path):  # openclaw D12 "leaves them registered dead"
    first = make()
    pool = first.db_pool
    first.cleanup()
    second = make()
    assert second.db_pool is not pool
    assert second.db_pool.running


def test_a_failing_part_does_not_keep_the_others(make, monkeypatch):
    manager = make()
    pool = manager.db_pool

    def fail():
        raise OSError("disk gone")

    with monkeypatch.context() as patch:
        patch.setattr(manager.task_manager, "close", fail)
        with pytest.raises(OSError, match="disk gone"):
            manager.cleanup()
    assert not pool.running
    manager.task_manager.close()


def test_managers_are_not_pinned(tmp_path):  # openclaw D14
    manager = ScalabilityManager(tmp_path)
    pool, gone = manager.db_pool, weakref.ref(manager)
    tasks = manager.task_manager
    del manager
    gc.collect()
    assert gone() is None
    assert not pool.running  # its share was given back
    tasks.close()


def test_cleaned_up_at_exit(tmp_path):  # openclaw §6 "exit cleanup registered through a weak reference"
    code = """
        import sys, threading
        from upshift.systems.openclaw_manager import ScalabilityManager
        manager = ScalabilityManager(sys.argv[1])
        manager.start_workers()
        manager.cache.set("kept", 1)
        with manager.db_pool.connection() as connection:
            connection.execute("CREATE TABLE t (x)")
        manager.start_dashboard(0)
        print("left running")
    """
    assert run(code, tmp_path, timeout=30) == "left running\n"
    left = {path.name for path in tmp_path.iterdir()}
    assert {"result_cache.db", "background_tasks.db", "main.db"} <= left
    assert [name for name in left if name.endswith(("-wal", "-shm"))] == []


# --- get_manager


def test_get_manager(globally, tmp_path):  # openclaw §6
    manager = get_manager(cache_size=5)
    assert manager.workspace == tmp_path / "global"
    assert get_manager() is manager
    assert get_manager(cache_size=6) is manager
    assert manager.cache.max_size == 5


def test_a_cleaned_up_one_is_replaced(globally):  # openclaw §6
    manager = get_manager()
    manager.cleanup()
    assert get_manager() is not manager
    get_manager().task_manager.queue_task("works")


def test_get_manager_from_many_threads(globally):  # openclaw C18
    assert len(set(map(id, together(lambda index: get_manager(), 8)))) == 1


# --- cached


def test_cached_makes_nothing_before_the_first_call(globally, tmp_path):  # openclaw §6, D11
    calls = []

    @cached(ttl=60, tags=["numbers"])
    def double(number):
        """Twice."""
        calls.append(number)
        return 2 * number

    assert module._manager is None
    assert not (tmp_path / "global").exists()
    assert [double(2), double(2), double(number=2)] == [4, 4, 4]
    assert calls == [2]
    cache = get_manager().cache
    assert cache.get_stats()["hits"] == 2
    assert cache.invalidate_by_tag("numbers") == 1
    assert double(2) == 4
    assert calls == [2, 2]


def test_cached_looks_like_the_function(globally):  # openclaw §2.2, §6.1
    @cached()
    def add(x, y=1):
        """Sum."""
        return x + y

    assert (add.__name__, add.__doc__, add.__module__) == ("add", "Sum.", __name__)
    assert add.__wrapped__(1, 2) == 3
    assert list(inspect.signature(add).parameters) == ["x", "y"]
    assert (add(1), add(5, 3)) == (2, 8)
    assert add.cache_info()["size"] == 2
    assert add.cache_clear() == 2
    assert add.cache_info()["size"] == 0


def test_cached_default_ttl_is_literal(globally):  # openclaw §6 "not the manager's default"
    assert inspect.signature(cached).parameters["ttl"].default == 3600
    get_manager(cache_ttl=5)

    @cached()
    def value():
        return 1

    value()
    ((_, expires, created, _),) = get_manager().cache.cache.values()
    assert expires - created == pytest.approx(3600, abs=1)


def test_cached_methods(globally):  # openclaw §2.2
    class Shop:
        def __init__(self):
            self.asked = 0

        @cached()
        def price(self, item):
            self.asked += 1
            return len(item)

        @staticmethod
        @cached()
        def tax(amount):
            return amount * 2

        @cached()
        @classmethod
        def name(cls):
            return cls.__name__

    shop = Shop()
    assert [shop.price("abc"), shop.price("abc")] == [3, 3]
    assert shop.asked == 1
    assert Shop.tax(2) == shop.tax(2) == 4
    assert Shop.name() == shop.name() == "Shop"


def test_cached_coroutines(globally):  # openclaw C16
    calls = []

    @cached()
    async def fetch(number):
        calls.append(number)
        await asyncio.sleep(0)
        return number

    async def main():
        return [await fetch(1), await fetch(1)]

    assert inspect.iscoroutinefunction(fetch)
    assert asyncio.run(main()) == [1, 1]
    assert calls == [1]


def test_cached_follows_the_manager(globally):  # a cleaned-up manager is replaced
    @cached()
    def value():
        return 1

    value()
    get_manager().cleanup()
    value()
    assert get_manager().cache.get_stats()["total_requests"] == 1


def test_cached_bad_argument(globally):
    with pytest.raises(TypeError, match="decorates functions, not int"):
        cached()(5)


# --- with_db_pool


def test_with_db_pool(globally, tmp_path):  # openclaw §6
    with with_db_pool() as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (1)")
    with with_db_pool("main") as connection:
        assert connection.execute("SELECT x FROM t").fetchone()["x"] == 1
    with with_db_pool(db_name="other") as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    assert sorted(get_manager().db_pools) == ["main", "other"]


# --- queue_task


def test_queue_task_runs_it(globally):  # openclaw §6, W3
    done = threading.Event()

    @get_manager().task_manager.register_handler("greet")
    def greet(context):
        done.set()
        return context["name"]

    task = queue_task("greet", "Hello", TaskPriority.HIGH, {"name": "you"})
    assert done.wait(10)
    tasks = get_manager().task_manager
    eventually(lambda: tasks.get_task_status(task)["status"] == "completed")
    assert tasks.get_task_status(task)["result"] == "you"


def test_queue_task_without_a_handler_waits(globally, caplog):  # openclaw §6 "(warn once)"
    with caplog.at_level("WARNING", "upshift.openclaw"):
        tasks = [queue_task("unknown type"), queue_task(task_type="unknown type", description="again")]
    assert len([record for record in caplog.records if "unknown type" in record.getMessage()]) == 1
    manager = get_manager()
    assert not manager.task_manager.running
    assert [task["id"] for task in manager.task_manager.get_queued_tasks()] == tasks
    ran = []
    manager.task_manager.register_handler("unknown type")(ran.append)
    manager.start_workers()
    eventually(lambda: len(ran) == 2)


def test_queue_task_signature():  # openclaw §6
    parameters = inspect.signature(queue_task).parameters
    assert {name: parameter.default for name, parameter in list(parameters.items())[1:]} == {
        "description": None,
        "priority": TaskPriority.MEDIUM,
        "context": None,
    }


def test_queue_task_does_not_hang_the_exit(tmp_path):  # openclaw W3 "hangs the interpreter at exit"
    code = """
        from upshift.systems.openclaw_manager import queue_task
        queue_task("nobody knows how")
        print("queued")
    """
    assert run(code, env={"OPENCLAW_WORKSPACE": tmp_path}, timeout=20) == "queued\n"


# --- main and the module


def test_main(globally, caplog, tmp_path, monkeypatch, capsys):  # openclaw §1
    monkeypatch.chdir(tmp_path)
    before = set(threading.enumerate())
    with caplog.at_level("INFO", "upshift.openclaw"):
        assert module.main() is None
    text = caplog.text
    for shown in ("workers started", "squares [4, 9, 4]", "from the pool", "'status': 'completed'", "status: "):
        assert shown in text
    eventually(lambda: set(threading.enumerate()) <= before)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")
    assert list(inspect.signature(module.main).parameters) == []


def test_served_under_its_path():  # openclaw §1 "same objects"
    code = """
        from upshift import compat
        compat.install("openclaw")
        import autonomous.background_tasks as tasks, core.db_pool as pool, core.result_cache as cache
        import core.scalability_integration as all_of_it, web.dashboard as dashboard
        for home, names in (
            (tasks, ["BackgroundTaskManager", "TaskPriority"]),
            (cache, ["ResultCache", "get_cache"]),
            (pool, ["ConnectionPool", "get_pool", "close_all_pools"]),
        ):
            assert all(getattr(all_of_it, name) is getattr(home, name) for name in names)
        print(sorted(all_of_it.__all__))
        print(sorted(dashboard.__all__))
    """
    first, second = run(code).splitlines()
    assert first == str(
        sorted(
            [
                *("ScalabilityManager", "get_manager", "cached", "with_db_pool", "queue_task", "main"),
                *("BackgroundTaskManager", "TaskPriority", "ResultCache", "get_cache"),
                *("ConnectionPool", "get_pool", "close_all_pools"),
            ]
        )
    )
    assert second == "['ConnectionManager', 'DashboardServer', 'main']"


def test_importing_does_nothing(tmp_path):  # openclaw §1, D11
    code = """
        import threading
        import upshift.systems.openclaw_manager
        print(threading.active_count())
    """
    assert run(code, cwd=tmp_path) == "1\n"
    assert list(tmp_path.iterdir()) == []
