"""Functions, aggregates and window functions, in comparison with those of the standard library."""

from __future__ import annotations

import array
import decimal
import gc
import sqlite3
import sys
import weakref

import pytest
from twin import NEW, Index, Str, fail, out_of_memory, outcome, overflow, same

from upshift import sqlite


class Int(int):
    pass


class Float(float):
    pass


@pytest.fixture
def connection():
    connection = sqlite.connect(":memory:")
    yield connection
    connection.close()


# ---- functions -----------------------------------------------------------------------------------------------------

ARGUMENTS = [
    "",
    "1, -1, 9223372036854775807, -9223372036854775808",
    "2.5, 9e999, -9e999, 0.0",
    "'', 'x', 'a' || char(0) || 'b', 'ˢqˡⁱᵗᵉ', '🎈', 'ä'",
    "x'', x'00', x'00ff', zeroblob(3)",
    "NULL",
    ", ".join(map(str, range(100))),
    "cast(x'ff' as text)",
    "cast('x' as blob), cast(5 as text), 1 = 1",
]


@pytest.mark.parametrize("values", ARGUMENTS)
def test_arguments(values):
    def scenario(connection):
        seen = []
        connection.create_function("f", -1, lambda *values: seen.append([(type(value), value) for value in values]))
        connection.execute(f"SELECT f({values})").fetchall()
        return seen

    same(scenario)


RESULTS = [
    *(0, 1, -1, 2**31, 2**63 - 1, -(2**63), 2**63, -(2**63) - 1, 2**64, True, False, Int(3), Int(2**70)),
    *(1.5, float("inf"), float("nan"), Float(2.5), None),
    *("", "x", "a\0b", "ˢqˡⁱᵗᵉ", "🎈", Str("s"), "\ud800", "x" * 100_000, "é" * 100_000),
    *(b"", b"\0", b"blob", bytearray(b"x"), memoryview(b"xyz"), memoryview(b"abcd")[::2], array.array("i", [1, 2])),
    *(object(), [], decimal.Decimal(1), Index(), 1j),
]


@pytest.mark.parametrize("value", RESULTS, ids=lambda value: f"{type(value).__name__}-{str(value)[:12]!a}")
def test_results(value):
    def scenario(connection):
        connection.create_function("f", 0, lambda: value)
        return connection.execute("SELECT f(), typeof(f())").fetchall()

    same(scenario)


@pytest.mark.parametrize("error", [fail, out_of_memory, overflow])
def test_errors(error):
    def scenario(connection):
        connection.create_function("f", 0, error)
        return connection.execute("SELECT f()").fetchall()

    same(scenario)


def test_an_error_has_the_words_of_the_standard_library(connection):
    connection.create_function("f", 0, fail)
    with pytest.raises(sqlite3.OperationalError, match=r"^user-defined function raised exception$"):
        connection.execute("SELECT f()")


NAMES = ["", "a b", "a\0b", "fünf", "\ud800", "x" * 255, "x" * 256, "SQL'\"", b"x", 5, None, Str("sub")]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
@pytest.mark.parametrize("method", ["create_function", "create_aggregate", "create_window_function"])
def test_names(method, name):
    if not hasattr(sqlite3.Connection, method):
        pytest.skip("platform: the standard library of this Python does not have it")

    def scenario(connection):
        return getattr(connection, method)(name, 0, fail)

    if sys.version_info >= (3, 10) or isinstance(name, str):
        same(scenario)
    else:
        assert outcome(sqlite, scenario)[0][0] is TypeError


@pytest.mark.parametrize(
    "count", [-2, -1, 0, 100, 127, 128, 2**31, -(2**40), 2**70, True, Index(), "x", 1.0, None], ids=repr
)
@pytest.mark.parametrize("method", ["create_function", "create_aggregate", "create_window_function"])
def test_counts(method, count):
    if not hasattr(sqlite3.Connection, method):
        pytest.skip("platform: the standard library of this Python does not have it")

    def scenario(connection):
        return getattr(connection, method)("f", count, fail)

    if sys.version_info >= (3, 10):
        same(scenario)
    else:  # other words
        expected, found = (outcome(module, scenario)[0] for module in (sqlite3, sqlite))
        assert (found and found[0]) == (expected and expected[0])


CALLS = [
    lambda c: c.create_function(name="f", narg=0, func=fail),
    lambda c: c.create_function("f", 0, func=fail),
    lambda c: c.create_function("f", narg=0, func=fail),
    lambda c: c.create_function("f", 0, fail, deterministic=True),
    lambda c: c.create_function("f", 0, fail, deterministic=[]),
    lambda c: c.create_function("f", 0, fail, True),
    lambda c: c.create_function("f", 0),
    lambda c: c.create_function("f", 0, fail, x=1),
    lambda c: c.create_function("f", x=1),
    lambda c: c.create_function(),
    lambda c: c.create_function("f", func=fail),
    lambda c: c.create_function("f", 0, fail, name="f"),
    lambda c: c.create_aggregate(name="f", n_arg=0, aggregate_class=fail),
    lambda c: c.create_aggregate("f", 0, aggregate_class=fail),
    lambda c: c.create_aggregate("f", n_arg=0, aggregate_class=fail),
    lambda c: c.create_aggregate("f", 0),
    lambda c: c.create_aggregate("f", 0, fail, 1),
]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="platform: Python 3.9 words its errors otherwise")
@pytest.mark.parametrize("call", CALLS)
def test_arguments_by_name_and_the_warnings_they_bring(call):
    same(call)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="platform: nothing warns before Python 3.13")
def test_the_warning_points_at_the_caller(connection):
    with pytest.warns(DeprecationWarning, match="create_function") as caught:
        connection.create_function("f", 0, func=fail)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "call",
    [lambda c: c.create_window_function("f", 0), lambda c: c.create_window_function("f", 0, aggregate_class=fail)],
)
def test_window_functions_take_positions_only(connection, call):
    with pytest.raises(TypeError):
        call(connection)


def test_none_removes(connection):
    connection.create_function("f", 1, abs)
    connection.create_aggregate("g", 1, Sum)
    connection.create_window_function("w", 1, Sum)
    assert connection.execute("SELECT f(-1), g(2), w(3)").fetchone() == (1, 2, 3)
    connection.create_function("f", 1, None)
    connection.create_aggregate("g", 1, None)
    connection.create_window_function("w", 1, None)
    for call in ("f(1)", "g(1)", "w(1)"):
        with pytest.raises(sqlite3.OperationalError, match="no such function"):
            connection.execute(f"SELECT {call}")
    connection.create_function("never", 1, None)


def test_number_of_arguments_selects(connection):
    connection.create_function("f", 1, lambda x: "one")
    connection.create_function("f", 2, lambda x, y: "two")
    connection.create_function("f", -1, lambda *values: "any")
    assert connection.execute("SELECT f(1), f(1, 2), f(), f(1, 2, 3)").fetchone() == ("one", "two", "any", "any")
    connection.create_function("f", 2, None)
    # SQLite remembers that there was one.
    with pytest.raises(sqlite3.OperationalError, match="wrong number of arguments"):
        connection.execute("SELECT f(1, 2)")
    assert connection.execute("SELECT f(1), f(1, 2, 3)").fetchone() == ("one", "any")


@pytest.mark.parametrize("function", [5, "x", object()])
def test_what_cannot_be_called_fails_when_it_is(function):
    def scenario(connection):
        connection.create_function("f", 0, function)
        return connection.execute("SELECT f()").fetchall()

    same(scenario)


def test_every_kind_of_callable(connection):
    class Callable:
        def __call__(self, x):
            return x + 1

        def method(self, x):
            return x + 2

        @staticmethod
        def static(x):
            return x + 3

    kinds = [Callable(), Callable().method, Callable.static, lambda x, *, y=4: x + y, abs, int, (5).__add__]
    for place, kind in enumerate(kinds):
        connection.create_function(f"f{place}", 1, kind)
    assert connection.execute("SELECT f0(1), f1(1), f2(1), f3(1), f4(-1), f5('7'), f6(1)").fetchone() == (
        2,
        3,
        4,
        5,
        1,
        7,
        6,
    )


def test_deterministic_functions_may_be_indexed(connection):
    connection.execute("CREATE TABLE t(x)")
    connection.create_function("f", 1, abs)
    with pytest.raises(sqlite3.OperationalError, match="non-deterministic"):
        connection.execute("CREATE INDEX i ON t(f(x))")
    connection.create_function("f", 1, abs, deterministic=True)
    connection.execute("CREATE INDEX i ON t(f(x))")
    connection.executemany("INSERT INTO t VALUES (?)", [(-3,), (2,)])
    assert connection.execute("SELECT x FROM t WHERE f(x) = 3").fetchall() == [(-3,)]


def test_long_values_pass(connection):
    connection.create_function("echo", 1, lambda value: value)
    for value in ("é" * 5_000_000, b"\xff" * 10_000_000, "x" * 10_000_000 + "\0y"):
        assert connection.execute("SELECT echo(?)", (value,)).fetchone() == (value,)


def test_arguments_may_be_kept(connection):
    kept = []
    connection.create_function("keep", -1, lambda *values: kept.extend(values))
    connection.execute("CREATE TABLE t(x)")
    connection.executemany("INSERT INTO t VALUES (?)", [(f"value {i}" * 50,) for i in range(100)])
    connection.execute("SELECT keep(x, cast(x AS BLOB)) FROM t").fetchall()
    connection.execute("DELETE FROM t")
    assert kept[::2] == [f"value {i}" * 50 for i in range(100)]
    assert kept[1::2] == [value.encode() for value in kept[::2]]


def test_references_are_given_back(connection):
    value, text, counted = 10**15, "some text", []
    connection.create_function("f", -1, lambda *values: None)
    connection.create_aggregate("g", -1, Sum)

    def use():
        for _ in range(100):
            connection.execute(
                "SELECT f(?, ?, NULL, 2.5), f(), g(?) FROM (SELECT 1 UNION SELECT 2)", (value, text, value)
            )
            with pytest.raises(sqlite3.OperationalError):
                connection.execute("SELECT g('x')")

    use()
    for _ in range(3):
        gc.collect()
        counted.append((sys.getrefcount(None) > 10**8 or sys.getrefcount(None), len(gc.get_objects())))
        use()
    assert max(abs(objects - counted[0][1]) for _, objects in counted) < 50
    assert max(abs(nones - counted[0][0]) for nones, _ in counted) < 50


def test_a_replaced_function_is_given_up(connection):
    class Callable:
        def __call__(self):
            return 1

    for remove in (None, fail):
        function = Callable()
        reference = weakref.ref(function)
        connection.create_function("f", 0, function)
        connection.create_function("f", 1, function)
        del function
        connection.create_function("f", 0, remove)
        assert reference() is not None
        connection.create_function("f", 1, remove)
        assert reference() is None


def test_a_refused_function_is_given_up(connection):
    def function():
        pass

    reference = weakref.ref(function)
    for method in (connection.create_function, connection.create_aggregate, connection.create_window_function):
        with pytest.raises(sqlite3.Error):
            method("f", -100, function)
    del function
    assert reference() is None


def test_functions_are_given_up_with_the_connection():
    def function():
        pass

    reference = weakref.ref(function)
    connection = sqlite.connect(":memory:")
    connection.create_function("f", 0, function)
    del function
    connection.close()
    assert reference() is None


def test_a_function_in_use_cannot_be_replaced(connection):
    connection.create_function("f", 1, lambda x: x)
    rows = connection.execute("SELECT f(value) FROM (SELECT 1 AS value UNION SELECT 2)")
    with pytest.raises(sqlite3.OperationalError, match=r"^Error creating function$"):
        connection.create_function("f", 1, None)
    assert rows.fetchall() == [(1,), (2,)]
    connection.create_function("f", 1, None)


def test_in_triggers_checks_and_generated_columns(connection):
    seen = []
    connection.create_function("note", 1, seen.append)
    connection.create_function("positive", 1, lambda x: x > 0, deterministic=True)
    connection.executescript(
        """
        CREATE TABLE t(x CHECK (positive(x)), y AS (-x));
        CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT note(new.x); END;
        """
    )
    connection.execute("INSERT INTO t(x) VALUES (1), (2)")
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO t(x) VALUES (-1)")
    assert seen == [1, 2]


# ---- aggregates ----------------------------------------------------------------------------------------------------


class Sum:
    def __init__(self):
        self.sum = 0

    def step(self, value):
        self.sum += value

    def inverse(self, value):
        self.sum -= value

    def value(self):
        return self.sum

    def finalize(self):
        return self.sum


def nothing(self, *_):
    pass


def attribute_error(self, *_):
    return self.missing


METHODS = {"step": nothing, "inverse": nothing, "value": lambda self: 1, "finalize": lambda self: 5}
FAILURES = [fail, out_of_memory, overflow, attribute_error, None]
AGGREGATE = "SELECT f(x) FROM (SELECT 1 AS x UNION ALL SELECT 2)"
WINDOW = """SELECT f(x) OVER (ORDER BY x ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING)
            FROM (SELECT 1 AS x UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4)"""


def made(**methods):
    return type("A", (), {name: method for name, method in {**METHODS, **methods}.items() if method is not None})


def test_an_aggregate(connection):
    connection.create_aggregate("total", 1, Sum)
    connection.executescript("CREATE TABLE t(k, x); INSERT INTO t VALUES ('a', 1), ('b', 2), ('a', 3)")
    assert connection.execute("SELECT k, total(x) FROM t GROUP BY k").fetchall() == [("a", 4), ("b", 2)]
    assert connection.execute(
        "SELECT total(x), total(DISTINCT x), total(x) FILTER (WHERE k = 'a') FROM t"
    ).fetchall() == [(6, 6, 4)]
    assert connection.execute("SELECT total(x) FROM t WHERE 0").fetchall() == [(None,)]


def test_a_window_function(connection):
    connection.create_window_function("total", 1, Sum)
    rows = connection.execute(WINDOW.replace("f(x)", "total(x)")).fetchall()
    assert rows == [(3,), (6,), (9,), (7,)]
    assert connection.execute(AGGREGATE.replace("f(x)", "total(x)")).fetchall() == [(3,)]


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("method", ["__init__", "step", "finalize"])
def test_failing_aggregates(method, failure):
    def scenario(connection):
        connection.create_aggregate("f", 1, made(**{method: failure}))
        return connection.execute(AGGREGATE).fetchall()

    same(scenario)


@pytest.mark.skipif(not NEW, reason="platform: the standard library has no window functions before Python 3.11")
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("method", ["__init__", "step", "inverse", "value", "finalize"])
def test_failing_window_functions(method, failure):
    def scenario(connection):
        connection.create_window_function("f", 1, made(**{method: failure}))
        return connection.execute(WINDOW).fetchall()

    same(scenario)


def test_a_method_that_lacks_an_attribute_is_there(connection):  # the standard library cannot tell for all of them
    connection.create_window_function("f", 1, made(step=attribute_error))
    with pytest.raises(sqlite3.OperationalError, match="'step' method raised error"):
        connection.execute(WINDOW)
    connection.create_window_function("f", 1, made(inverse=attribute_error))
    with pytest.raises(sqlite3.OperationalError, match="'inverse' method raised error"):
        connection.execute(WINDOW).fetchall()


@pytest.mark.parametrize("value", [2**70, [], Index(), "\ud800", None, "x", b"y", 2.5], ids=repr)
def test_results_of_aggregates(value):
    def scenario(connection):
        connection.create_aggregate("f", 1, made(finalize=lambda self: value))
        return connection.execute(AGGREGATE).fetchall()

    same(scenario)


@pytest.mark.skipif(not NEW, reason="platform: the standard library has no window functions before Python 3.11")
@pytest.mark.parametrize("value", [2**70, [], "\ud800", None, "x", b"y", 2.5], ids=repr)
def test_results_of_window_functions(value):
    def scenario(connection):
        connection.create_window_function("f", 1, made(value=lambda self: value))
        return connection.execute(WINDOW).fetchall()

    same(scenario)


def test_text_that_cannot_be_an_argument_of_an_aggregate():
    def scenario(connection):
        connection.create_aggregate("f", 1, Sum)
        return connection.execute("SELECT f(cast(x'ff' AS TEXT))").fetchall()

    assert same(scenario)[0] is UnicodeDecodeError


def test_the_connection_is_fine_after_an_exception_from_within(connection):
    connection.create_aggregate("f", 1, Sum)
    for _ in range(3):
        with pytest.raises(UnicodeDecodeError):
            connection.execute("SELECT f(cast(x'ff' AS TEXT))")
        assert connection.execute("SELECT f(1)").fetchall() == [(1,)]


def test_instances_end_with_their_group(connection):
    alive = weakref.WeakSet()

    class Counted(Sum):
        def __init__(self):
            super().__init__()
            alive.add(self)

    connection.create_window_function("f", 1, Counted)
    rows = connection.execute(
        "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < 9) SELECT i, f(i) FROM r GROUP BY i"
    )
    assert next(rows) == (1, 1)
    assert len(alive) <= 2
    rows.close()
    assert len(alive) == 0
    rows = connection.execute(WINDOW)
    next(rows)
    assert len(alive) > 0
    del rows
    assert len(alive) == 0


@pytest.mark.parametrize("end", ["close", "delete"])
def test_instances_end_with_the_connection(end):
    finalized = []

    class Noted(Sum):
        def finalize(self):
            finalized.append(self.sum)

    connection = sqlite.connect(":memory:")
    connection.create_window_function("f", 1, Noted)
    rows = connection.execute(WINDOW)
    next(rows)
    if end == "close":
        connection.close()
    del rows, connection
    assert len(finalized) == 1


def test_methods_are_looked_up_on_each_call(connection):
    class Changing:
        def __init__(self):
            self.step = self.first
            self.seen = []

        def first(self, x):
            self.seen.append(("first", x))
            self.step = self.second

        def second(self, x):
            self.seen.append(("second", x))

        def __getattr__(self, name):
            if name == "finalize":
                return lambda: repr(self.seen)
            raise AttributeError(name)

    connection.create_aggregate("f", 1, Changing)
    assert connection.execute(AGGREGATE).fetchone() == ("[('first', 1), ('second', 2)]",)


@pytest.mark.parametrize("method", ["create_function", "create_aggregate", "create_window_function"])
def test_a_closed_connection_refuses(method):
    connection = sqlite.connect(":memory:")
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError, match=r"^Cannot operate on a closed database\.$"):
        getattr(connection, method)("f", 0, fail)


def test_signatures():
    for name in ("create_function", "create_aggregate", "create_window_function"):
        signature = getattr(getattr(sqlite3.Connection, name, None), "__text_signature__", None)
        if signature is not None:
            assert getattr(sqlite.Connection, name).__text_signature__ == signature
