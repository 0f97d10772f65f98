"""Contract openclaw §2.3: which function an entry belongs to: names, closures, lambdas, code versions."""

from __future__ import annotations

from harness import run_literal


def len_of(value):
    return len(value)


def test_the_function_is_named_by_module_and_qualname(cache):  # openclaw §2.3
    f = cache.cached()(len_of)
    f("abc")
    (made,) = cache.cache
    assert made.startswith(f"{__name__}.len_of:")
    assert cache.invalidate_pattern("len_of:") == 1


def test_closures_do_not_exchange_results(cache, style):  # openclaw §2.3, C3
    def factory(n):
        def add(x):
            return x + n

        return cache.cached()(style.form(add))

    one, two = factory(1), factory(2)
    for _ in range(2):
        assert style.call(one, 1) == 2
        assert style.call(two, 1) == 3


def test_lambdas_do_not_exchange_results(cache):  # openclaw §2.3
    f, g = cache.cached()(lambda x: x + 1), cache.cached()(lambda x: x + 2)
    assert [f(1), g(1), f(1), g(1)] == [2, 3, 2, 3]


def test_same_named_functions_do_not_exchange_results(cache):  # openclaw §2.3 "under a name already in use", C3
    made = []
    for n in (1, 2):
        space = {"__name__": "some.module"}
        exec(f"def f(x):\n    return x + {n}", space)
        made.append(cache.cached()(space["f"]))
    assert [f(1) for f in made * 2] == [2, 3, 2, 3]


def test_a_mutated_captured_counter_still_hits(cache, style):  # openclaw §2.3 "do not put closure contents in the key"
    count = 0

    def body(x):
        nonlocal count
        count += 1
        return count

    f = cache.cached()(style.form(body))
    assert [style.call(f, 1) for _ in range(3)] == [1, 1, 1]


def test_private_functions_stay_off_the_disk(open_cache, rows):  # openclaw §2.3 "not written to disk"
    cache = open_cache()
    n = 5
    private = [lambda x: x, lambda x: x + n]

    def closure(x):
        return x + n

    for function in [*private, closure]:
        cache.cached()(function)(1)
    assert cache.cached()(len_of)("abc") == 3
    cache.close()
    assert len(rows()) == 1


def test_a_script_is_named_by_its_path(tmp_path):  # DESIGN §3 "named by its script path"
    source = """
import sys
from upshift import ResultCache
cache = ResultCache(enable_persistent=True, db_path=sys.argv[1])
@cache.cached()
def f(x):
    return (NAME, x)
print((f(1), cache.get_stats()["hits"]))
cache.close()
"""
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text(source.replace("NAME", repr(name)))

    def launch(name):
        program = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
        return run_literal(program, tmp_path / f"{name}.py", tmp_path / "store.db")

    assert launch("one") == (("one", 1), 0)
    assert launch("two") == (("two", 1), 0)  # the same name in another script is another function
    assert launch("one") == (("one", 1), 1)


def test_version_separates_code_versions(tmp_path):  # issue 2 §4 version=
    source = """
from upshift import ResultCache
cache = ResultCache(enable_persistent=True, db_path="store.db")
@cache.cached(version=VERSION)
def f(x):
    return VERSION
"""

    def launch(version):
        (tmp_path / "app.py").write_text(source.replace("VERSION", repr(version)))
        program = "import app; print((app.f(1), app.cache.get_stats()['hits'])); app.cache.close()"
        return run_literal(program, cwd=tmp_path, env={"PYTHONDONTWRITEBYTECODE": "1"})

    assert [launch(version) for version in (1, 2, 1, 2, "1", None)] == [
        (1, 0),
        (2, 0),
        (1, 1),
        (2, 1),
        ("1", 0),
        (None, 0),
    ]


def test_version_shows_in_the_key(cache):  # issue 2 §4 version=
    plain, one, two = (cache.cached(version=version)(len_of) for version in (None, 1, 2))
    assert len({plain.cache_key("a"), one.cache_key("a"), two.cache_key("a")}) == 3
