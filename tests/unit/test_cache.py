"""The parts of `upshift.cache` that decide what a decorated function is: its parameters, its name, its metadata."""

from __future__ import annotations

import inspect
import pickle
import sys
import types

import pytest

from upshift import CachedFunction, ResultCache, _native
from upshift import cache as facade


def plain(x, y=2, *rest, flag, mode="m", **options):
    """Documented."""
    return x


def twin(source, globals_=None):
    """A function made from `source` as if it stood in a module of its own."""
    space = {"__name__": "made_up"} if globals_ is None else globals_
    exec(compile(source, "made_up.py", "exec"), space)
    return space["made"]


def identify(cache, function):
    return facade._identify(cache, function)


class TestParameters:
    def test_kinds_defaults_and_ignored_names(self):
        assert facade._parameters(plain, ("y",)) == [
            ("x", 1, False, None, False),
            ("y", 1, True, 2, True),
            ("rest", 2, False, None, False),
            ("flag", 3, False, None, False),
            ("mode", 3, True, "m", False),
            ("options", 4, False, None, False),
        ]

    def test_callables_without_a_signature_take_anything(self):
        assert [kind for _, kind, *_ in facade._parameters(type, ())] == [2, 4]
        with pytest.raises(ValueError, match="needs a signature"):
            facade._parameters(type, ("self",))

    def test_ignoring_what_is_no_parameter(self):
        with pytest.raises(ValueError, match="'z'"):
            facade._parameters(plain, ("x", "z"))


class TestIdentity:
    def test_a_function_of_a_module_is_shared(self):
        assert identify(ResultCache(), plain) == (f"{__name__}.plain", False)

    def test_a_function_of_an_interactive_session_is_private(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        function = twin("def made(): pass", {"__name__": "__main__"})
        name, private = identify(ResultCache(), function)
        assert private
        assert name.endswith("/__main__.made")

    def test_names_hold_no_colon(self):
        function = twin("def made(): pass")
        function.__module__ = "a:b"
        assert identify(ResultCache(), function) == ("a_b.made", False)

    def test_closures_lambdas_and_objects_are_private(self):
        number = 1

        def closure():
            return number

        class Adder:
            def __call__(self, x):
                return x + 1

        for function in (closure, lambda: None, Adder()):
            name, private = identify(ResultCache(), function)
            assert private
            assert name.startswith("#")

    def test_super_does_not_make_a_method_private(self):
        class Child(dict):
            def get(self, key):
                return super().get(key)

        assert not identify(ResultCache(), Child.get)[1]

    def test_a_second_function_of_one_name_is_private(self):
        cache = ResultCache()
        first, second = twin("def made(): return 1"), twin("def made(): return 2")
        assert identify(cache, first) == ("made_up.made", False)
        assert identify(cache, second)[1]
        assert identify(cache, first) == ("made_up.made", False)
        assert identify(ResultCache(), second) == ("made_up.made", False)

    def test_the_same_text_executed_again_is_the_same_function(self):
        cache, space = ResultCache(), {"__name__": "made_up"}
        first = twin("def made(): return 1", space)
        again = twin("def made(): return 1", space)
        assert first is not again
        assert identify(cache, first) == identify(cache, again) == ("made_up.made", False)

    @pytest.mark.parametrize("module", ["__main__", "__mp_main__"])
    def test_the_main_program_is_named_by_its_script(self, module, monkeypatch, tmp_path):
        main = types.ModuleType(module)
        main.__file__ = str(tmp_path / "script.py")
        monkeypatch.setitem(sys.modules, module, main)
        function = twin("def made(): pass")
        function.__module__ = module
        assert identify(ResultCache(), function) == (f"{tmp_path.resolve() / 'script.py'}.made", False)

    def test_an_interactive_program_has_no_name_to_share(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        function = twin("def made(): pass")
        function.__module__ = "__main__"
        assert identify(ResultCache(), function)[1]


class TestDecorated:
    def test_shows_what_the_function_shows(self):
        made = ResultCache().cached()(plain)
        assert made.__wrapped__ is plain
        assert (made.__name__, made.__doc__, made.__module__) == ("plain", "Documented.", __name__)
        assert inspect.signature(made) == inspect.signature(plain)
        assert made.__code__ is plain.__code__
        assert not inspect.iscoroutinefunction(made)

    def test_static_and_class_methods_stay_what_they_are(self):
        cache = ResultCache()

        class Owner:
            @cache.cached()
            @staticmethod
            def static(x):
                return x

            @cache.cached()
            @classmethod
            def of_class(cls, x):
                return cls, x

        assert isinstance(Owner.__dict__["static"], staticmethod)
        assert isinstance(Owner.__dict__["of_class"], classmethod)
        assert (Owner.static(1), Owner().static(1), Owner.of_class(2), Owner().of_class(2)) == (
            1,
            1,
            (Owner, 2),
            (Owner, 2),
        )

    def test_types_of_decorated_functions_can_be_written_down(self):
        assert CachedFunction[[int], str].__origin__ is CachedFunction

    def test_options_are_checked_at_decoration(self):
        cache = ResultCache()
        with pytest.raises(ValueError, match="single_flight"):
            cache.cached(single_flight="threads")
        with pytest.raises(ValueError, match="stale_if_error"):
            cache.cached(stale_if_error=-1)
        with pytest.raises(TypeError, match="without"):
            cache.cached()(3)

    def test_methods_say_where_they_belong(self):
        assert ResultCache.cached.__qualname__ == "ResultCache.cached"
        assert CachedFunction.refresh.__qualname__ == "CachedFunction.refresh"
        assert pickle.loads(pickle.dumps(ResultCache)) is ResultCache


def test_public_names_arrive_on_first_use():
    import upshift

    assert set(upshift.__all__) <= set(dir(upshift))
    assert upshift.ResultCache is ResultCache
    with pytest.raises(AttributeError, match="has no attribute 'ResultCash'"):
        upshift.ResultCash  # noqa: B018


def test_the_interpreters_sqlite_library_is_shared():  # openclaw §1.1 "one SQLite library per process"
    assert _native.shares_interpreter_library() is True


def test_memory_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ResultCache(enable_persistent=True, db_path=":memory:") as cache:
        cache.set("key", 1)
        assert cache.get("key") == 1
        assert cache.db_conn is None
    assert list(tmp_path.iterdir()) == []
