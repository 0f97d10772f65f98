"""``compat.install``, ``uninstall`` and ``status`` within one process."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
import pkgutil
import sys
import threading
import types

import pytest

from upshift import compat
from upshift.compat import tables
from upshift.exceptions import CompatError, UpshiftError

from .conftest import write

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def application(tmp_path):
    """A regular package with other modules, on the path."""
    write(
        tmp_path,
        {"core/__init__.py": "NAME = 'application'\nresult_cache = 'a variable'", "core/jobs.py": "import core"},
    )
    sys.path.insert(0, str(tmp_path))
    return tmp_path


class TestInstall:
    def test_serves_a_real_module(self):
        assert compat.install("core.result_cache") == ["core.result_cache"]
        import core.result_cache as module

        assert type(module) is types.ModuleType
        assert module.__name__ == "core.result_cache"
        assert module.__package__ == "core"
        assert module.__spec__.name == "core.result_cache"
        assert module.__spec__.origin == "upshift, for openclaw"
        assert module.__loader__ is module.__spec__.loader
        assert module.__file__ is None
        assert module.__doc__
        assert sorted(module.__all__) == ["ResultCache", "get_cache", "main"]
        assert "upshift" in repr(module)
        assert sys.modules["core"].result_cache is module

    def test_every_way_to_import_gives_the_same_objects(self):
        compat.install("openclaw")
        names: dict[str, object] = {}
        exec("from core.result_cache import *", names)
        from core import result_cache
        from core.result_cache import ResultCache, get_cache

        assert names["ResultCache"] is ResultCache is result_cache.ResultCache
        assert names["get_cache"] is get_cache
        assert importlib.import_module("core.result_cache") is result_cache
        assert importlib.import_module(".result_cache", "core") is result_cache
        assert importlib.util.find_spec("core.result_cache") is result_cache.__spec__
        assert pkgutil.resolve_name("core.result_cache:ResultCache") is ResultCache

    def test_classes_and_functions_pickle_by_reference(self):
        compat.install("openclaw")
        from core.result_cache import ResultCache, get_cache

        assert pickle.loads(pickle.dumps(ResultCache)) is ResultCache
        assert pickle.loads(pickle.dumps(get_cache)) is get_cache

    def test_a_pickle_written_under_the_old_path_is_found(self):
        compat.install("openclaw")
        old = b"ccore.result_cache\nResultCache\n."
        assert pickle.loads(old) is sys.modules["core.result_cache"].ResultCache

    def test_system_stands_for_what_is_served_of_it(self):
        assert compat.install("openclaw") == tables.served()
        assert compat.install() == tables.served()

    def test_only_exact_submodules_are_answered(self, application):
        compat.install("core.result_cache", "core.db_pool")
        import core.jobs
        import core.result_cache

        assert core.NAME == "application"
        assert core.__file__ == str(application / "core" / "__init__.py")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("core.scalability_integration")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("core.result_cache.sub")
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("web")

    def test_wins_over_the_applications_own_copy(self, tmp_path):
        write(tmp_path, {"core/result_cache.py": "", "core/__init__.py": "from core.result_cache import ResultCache"})
        sys.path.insert(0, str(tmp_path))
        compat.install("core.result_cache")
        import core

        assert core.ResultCache is sys.modules["core.result_cache"].ResultCache

    def test_takes_first_place_and_keeps_it_when_repeated(self):
        before = list(sys.meta_path)
        compat.install("openclaw")
        assert sys.meta_path[1:] == before
        sys.meta_path.insert(0, sys.meta_path.pop())  # somebody else moved in front
        compat.install("openclaw")
        assert sorted(map(id, sys.meta_path[1:])) == sorted(map(id, before))

    def test_comes_back_after_somebody_restored_meta_path(self):
        before = list(sys.meta_path)
        compat.install("openclaw")
        sys.meta_path[:] = before
        compat.install("openclaw")
        assert importlib.import_module("core.result_cache").ResultCache

    def test_is_idempotent_after_the_import(self):
        compat.install("openclaw")
        first = importlib.import_module("core.result_cache")
        compat.install("core.result_cache")
        assert importlib.import_module("core.result_cache") is first

    def test_module_names_may_be_imported_again_after_deletion(self):
        compat.install("openclaw")
        first = importlib.import_module("core.result_cache")
        del sys.modules["core.result_cache"]
        second = importlib.import_module("core.result_cache")
        assert second is not first
        assert second.ResultCache is first.ResultCache


class TestErrors:
    def test_already_imported_module_says_to_install_earlier(self, tmp_path):
        write(tmp_path, {"core/result_cache.py": ""})
        sys.path.insert(0, str(tmp_path))
        own = importlib.import_module("core.result_cache")
        with pytest.raises(CompatError, match=r"already imported from .*result_cache\.py; call .* before") as caught:
            compat.install("openclaw")
        assert caught.value.name == "core.result_cache"
        assert isinstance(caught.value, UpshiftError)
        assert isinstance(caught.value, ImportError)
        assert compat.status() == []
        assert importlib.import_module("core.result_cache") is own

    def test_one_bad_name_installs_nothing(self):
        before = list(sys.meta_path)
        with pytest.raises(CompatError, match=r"knows no .*'core\.nothing'"):
            compat.install("core.result_cache", "core.nothing")
        assert compat.status() == []
        assert sys.meta_path == before

    def test_typing_error_gets_a_hint(self):
        with pytest.raises(CompatError, match=r"did you mean 'openclaw'\?"):
            compat.install("openclav")
        with pytest.raises(CompatError, match=r"known systems: openclaw"):
            compat.install("zzz")
        with pytest.raises(TypeError, match="must be str, one argument each, not list"):
            compat.install(["openclaw"])

    def test_known_but_not_served(self, monkeypatch):
        monkeypatch.setitem(tables.MODULES, "web.later", tables.Module("openclaw", "Later."))
        with pytest.raises(CompatError, match=r"'web\.later' is not served .* yet .*core\.result_cache"):
            compat.install("web.later")
        assert "web.later" not in compat.install("openclaw")
        monkeypatch.setitem(tables.MODULES, "late.module", tables.Module("later", "Later."))
        with pytest.raises(CompatError, match=r"system 'later' is not served .* nothing"):
            compat.install("later")

    def test_name_that_does_not_exist_in_a_served_module(self):
        compat.install("openclaw")
        with pytest.raises(ImportError, match="CacheEntry"):
            exec("from core.result_cache import CacheEntry")

    def test_failing_target_leaves_no_half_module(self, monkeypatch):
        broken = tables.Module("openclaw", "Broken.", {"x": "upshift_does_not_exist:x"})
        monkeypatch.setitem(tables.MODULES, "core.broken", broken)
        compat.install("core.broken")
        with pytest.raises(ModuleNotFoundError, match="upshift_does_not_exist"):
            importlib.import_module("core.broken")
        assert "core.broken" not in sys.modules


class TestUninstall:
    def test_gives_back_the_attribute_of_the_parent_package(self, application):
        import core

        compat.install("openclaw")
        served = importlib.import_module("core.result_cache")
        assert core.result_cache is served
        importlib.reload(served)
        compat.uninstall()
        assert core.result_cache == "a variable"
        assert sys.modules["core"] is core
        assert "core.result_cache" not in sys.modules

    def test_removes_an_attribute_that_was_not_there(self, tmp_path):
        write(tmp_path, {"core/jobs.py": ""})
        sys.path.insert(0, str(tmp_path))
        import core

        compat.install("openclaw")
        importlib.import_module("core.result_cache")
        compat.uninstall("openclaw")
        assert not hasattr(core, "result_cache")

    def test_keeps_what_the_application_put_in_its_place(self, application):
        compat.install("openclaw")
        importlib.import_module("core.result_cache")
        sys.modules["core"].result_cache = "newer"
        compat.uninstall()
        assert sys.modules["core"].result_cache == "newer"

    def test_own_copy_is_imported_afterwards(self, tmp_path):
        write(tmp_path, {"core/result_cache.py": "OWN = True"})
        sys.path.insert(0, str(tmp_path))
        compat.install("openclaw")
        importlib.import_module("core.result_cache")
        compat.uninstall()
        assert importlib.import_module("core.result_cache").OWN

    def test_made_up_parent_goes_with_its_last_module(self):
        before = list(sys.meta_path)
        compat.install("openclaw")
        importlib.import_module("core.result_cache")
        assert "core" in sys.modules
        compat.uninstall()
        assert "core" not in sys.modules
        assert sys.meta_path == before

    def test_made_up_parent_stays_while_the_application_has_modules_in_it(self, tmp_path):
        compat.install("openclaw")
        importlib.import_module("core.result_cache")
        write(tmp_path, {"core/late.py": "", "core/later.py": ""})
        sys.path.insert(0, str(tmp_path))
        late = importlib.import_module("core.late")
        compat.uninstall()
        assert sys.modules["core"].late is late
        assert importlib.import_module("core.later")
        assert not hasattr(sys.modules["core"], "result_cache")

    def test_part_of_what_is_served(self, monkeypatch):
        names = tables.MODULES["core.result_cache"].names
        served = tables.served()
        monkeypatch.setitem(tables.MODULES, "core.deep.other", tables.Module("elsewhere", "Other.", names))
        compat.install("openclaw", "elsewhere")
        importlib.import_module("core.result_cache")
        importlib.import_module("core.deep.other")
        compat.uninstall("elsewhere")
        assert sorted(status.module for status in compat.status()) == sorted(served)
        assert "core.deep" not in sys.modules
        assert not hasattr(sys.modules["core"], "deep")
        assert importlib.import_module("core.result_cache") is sys.modules["core.result_cache"]

    def test_without_install_and_twice(self):
        compat.uninstall()
        compat.install("openclaw")
        compat.uninstall()
        compat.uninstall()
        with pytest.raises(CompatError):
            compat.uninstall("no such system")

    def test_objects_already_taken_keep_working(self):
        compat.install("openclaw")
        from core.result_cache import ResultCache

        compat.uninstall()
        assert ResultCache(max_size=5).max_size == 5


class TestStatus:
    def test_lists_what_is_served(self):
        assert compat.status() == []
        compat.install("core.result_cache")
        (status,) = compat.status()
        assert (status.module, status.system, status.imported) == ("core.result_cache", "openclaw", False)
        assert sorted(status.names) == ["ResultCache", "get_cache", "main"]
        importlib.import_module("core.result_cache")
        assert compat.status()[0].imported
        assert repr(compat.status()[0]) == "<core.result_cache of openclaw: imported>"


class TestReload:
    def test_same_module_and_objects(self):
        compat.install("openclaw")
        module = importlib.import_module("core.result_cache")
        before = module.ResultCache
        module.ResultCache = None  # as a test that patches it would
        assert importlib.reload(module) is module
        assert module.ResultCache is before

    def test_of_the_applications_package(self, application):
        compat.install("openclaw")
        served = importlib.import_module("core.result_cache")
        core = sys.modules["core"]
        (application / "core" / "__init__.py").write_text("NAME = 'second edition, longer'", encoding="utf-8")
        importlib.reload(core)
        assert core.NAME == "second edition, longer"
        assert importlib.import_module("core.result_cache") is served

    def test_of_a_made_up_package(self):
        compat.install("openclaw")
        importlib.import_module("core.result_cache")
        core = sys.modules["core"]
        assert importlib.reload(core) is core
        assert core.result_cache is sys.modules["core.result_cache"]
        with pytest.raises(AttributeError):
            core.nothing  # noqa: B018


class TestMadeUpPackage:
    """The application's folder comes onto the path after the first import."""

    @pytest.fixture
    def core(self):
        compat.install("openclaw")
        importlib.import_module("core.result_cache")
        return sys.modules["core"]

    def test_path_follows_sys_path(self, core, tmp_path):
        assert list(core.__path__) == []
        write(tmp_path, {"core/jobs.py": ""})
        sys.path.append(str(tmp_path))
        assert list(core.__path__) == [str(tmp_path / "core")] == core.__path__[:]
        assert [module.name for module in pkgutil.iter_modules(core.__path__)] == ["jobs"]
        extra = write(tmp_path / "extra", {"more.py": ""})
        core.__path__.append(str(extra))
        assert importlib.import_module("core.more").__file__ == str(extra / "more.py")
        assert len(core.__path__) == 2
        sys.path.remove(str(tmp_path))
        assert list(core.__path__) == [str(extra)]

    def test_regular_package_runs_its_init_before_its_modules(self, core, tmp_path):
        write(
            tmp_path, {"core/__init__.py": "steps = ['init']", "core/jobs.py": "import core; core.steps.append('jobs')"}
        )
        sys.path.insert(0, str(tmp_path))
        jobs = importlib.import_module("core.jobs")
        assert sys.modules["core"] is core
        assert core.steps == ["init", "jobs"]
        assert jobs.__loader__ is jobs.__spec__.loader
        assert "Adopt" not in repr(jobs.__loader__)
        assert core.result_cache is sys.modules["core.result_cache"]
        importlib.import_module("core.jobs")
        assert core.steps == ["init", "jobs"]

    @pytest.mark.parametrize(
        "statement", ["from core import NAME", "import core; core.NAME", "from core import *; NAME", "core.__all__"]
    )
    def test_names_of_a_regular_package(self, core, tmp_path, statement):
        write(tmp_path, {"core/__init__.py": "NAME = 1; __all__ = ['NAME']"})
        sys.path.insert(0, str(tmp_path))
        exec(statement, {"core": core})
        assert core.__file__ == str(tmp_path / "core" / "__init__.py")

    def test_failing_init_is_tried_again(self, core, tmp_path):
        init = write(tmp_path, {"core/__init__.py": "1 / 0", "core/jobs.py": ""}) / "core" / "__init__.py"
        sys.path.insert(0, str(tmp_path))
        with pytest.raises(ZeroDivisionError):
            importlib.import_module("core.jobs")
        init.write_text("FIXED = True\n", encoding="utf-8")
        importlib.invalidate_caches()
        importlib.import_module("core.jobs")
        assert sys.modules["core"].FIXED
        assert importlib.import_module("core.result_cache").ResultCache

    def test_init_may_wait_for_a_thread_that_imports(self, core, tmp_path):
        """It does not run under the import system's global lock."""
        init = """
            import threading
            thread = threading.Thread(target=lambda: __import__("helper_of_core"), daemon=True)
            thread.start()
            thread.join(10)
            assert not thread.is_alive(), "deadlock"
        """
        write(tmp_path, {"core/__init__.py": init, "core/jobs.py": "", "helper_of_core.py": ""})
        sys.path.insert(0, str(tmp_path))
        importlib.import_module("core.jobs")
        del sys.modules["helper_of_core"]


class TestOtherFinders:
    def test_package_known_only_to_another_finder(self, tmp_path):
        """As of an editable installation."""
        write(tmp_path, {"elsewhere/__init__.py": "NAME = 'mapped'", "elsewhere/jobs.py": ""})

        class Mapping:
            def find_spec(self, fullname, path=None, target=None):
                if fullname != "core":
                    return None
                folder = tmp_path / "elsewhere"
                return importlib.util.spec_from_file_location(
                    "core", folder / "__init__.py", submodule_search_locations=[str(folder)]
                )

        sys.meta_path.append(Mapping())
        compat.install("openclaw")
        import core.jobs
        import core.result_cache

        assert core.NAME == "mapped"

    def test_finder_that_asks_the_import_system_back(self):
        asked = []

        class Curious:
            def find_spec(self, fullname, path=None, target=None):
                if not asked and fullname == "core":
                    asked.append(fullname)
                    asked.append(importlib.util.find_spec("core"))

        sys.meta_path.insert(0, Curious())
        compat.install("openclaw")
        importlib.import_module("core.result_cache")
        assert asked == ["core", None]


def test_threads_see_one_module():
    """Many threads install and import at once; each gets the complete module, all the same one."""
    workers = 16
    start = threading.Barrier(workers)
    seen, errors = [], []

    def work():
        try:
            start.wait()
            compat.install("openclaw")
            module = importlib.import_module("core.result_cache")
            seen.append((module, module.ResultCache, module.main))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(seen) == workers
    assert len(set(seen)) == 1


def test_threads_install_and_uninstall():
    """Whatever the interleaving, an import gives the module or says that there is none."""
    stop = threading.Event()
    errors = []

    def switch():
        while not stop.is_set():
            compat.install("openclaw")
            compat.uninstall()

    def use():
        while not stop.is_set():
            try:
                module = importlib.import_module("core.result_cache")
                assert module.ResultCache
            except (ModuleNotFoundError, KeyError):
                pass  # KeyError: CPython's own when a module leaves sys.modules in the middle of its import
            except CompatError as error:
                errors.append(error)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=switch), *(threading.Thread(target=use) for _ in range(3))]
    for thread in threads:
        thread.start()
    stop.wait(1)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
