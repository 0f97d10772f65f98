"""Collations, the authorizer, the progress handler, the trace callback, tracebacks, extensions."""

from __future__ import annotations

import contextlib
import io
import shutil
import sqlite3
import subprocess
import sys
import weakref

import pytest
from twin import NEW, Index, Str, fail, out_of_memory, outcome, same

from upshift import sqlite


@pytest.fixture
def connection():
    connection = sqlite.connect(":memory:")
    yield connection
    connection.close()


@pytest.fixture
def tracebacks():
    sqlite.enable_callback_tracebacks(True)
    yield
    sqlite.enable_callback_tracebacks(False)


# ---- collations ----------------------------------------------------------------------------------------------------

SORTED = "SELECT x FROM (SELECT 'a' AS x UNION ALL SELECT 'c' UNION ALL SELECT 'b') ORDER BY x COLLATE c"
ANSWERS = [1, -1, 0, True, 2**40, -(2**70), 2**70, None, "x", [], Index()]


@pytest.mark.parametrize("answer", ANSWERS, ids=repr)
def test_what_a_collation_may_answer(answer):
    def scenario(connection):
        connection.create_collation("c", lambda one, other: answer)
        return connection.execute(SORTED).fetchall()

    same(scenario)


def test_a_collation_orders(connection):
    connection.create_collation("c", lambda one, other: (one < other) - (one > other))
    assert connection.execute(SORTED).fetchall() == [("c",), ("b",), ("a",)]
    connection.create_collation("c", lambda one, other: (one > other) - (one < other))
    assert connection.execute(SORTED).fetchall() == [("a",), ("b",), ("c",)]
    connection.create_collation("C", None)
    with pytest.raises(sqlite3.OperationalError, match="no such collation sequence: c"):
        connection.execute(SORTED)
    connection.create_collation("never", None)


def test_what_a_collation_compares(connection):
    seen = set()
    connection.create_collation("c", lambda one, other: seen.update((one, other)) or (one > other) - (one < other))
    connection.execute("CREATE TABLE t(x TEXT COLLATE c UNIQUE)")
    texts = ["", "a\0b", "a\0c", "ä", "🎈", "x" * 100_000]
    connection.executemany("INSERT INTO t VALUES (?)", [(text,) for text in texts])
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (len(texts),)
    assert seen == set(texts)


NAMES = ["", "a b", "a\0b", "collä", "\ud800", "x" * 300, "SQL'\"", "_9", Str("sub"), b"x", 5, None]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:20])
def test_names_of_collations(name):
    def scenario(connection):
        return connection.create_collation(name, fail)

    if sys.version_info >= (3, 10) or isinstance(name, str):
        same(scenario)
    else:
        assert outcome(sqlite, scenario)[0][0] is TypeError


@pytest.mark.parametrize("callback", [5, "x"])
def test_a_collation_must_be_callable(callback):
    same(lambda connection: connection.create_collation("c", callback))


def test_text_that_cannot_be_compared(connection):
    connection.create_collation("c", lambda one, other: 0)
    with pytest.raises(UnicodeDecodeError):
        connection.execute("SELECT 'a' = cast(x'ff' AS TEXT) COLLATE c").fetchall()


STATEMENTS = [
    SORTED,
    "SELECT 'a' = 'b' COLLATE c",
    "SELECT max('a', 'b' COLLATE c)",
    "SELECT 1 WHERE 'a' = 'b' COLLATE c",
    "SELECT DISTINCT x COLLATE c FROM (SELECT 'a' AS x UNION ALL SELECT 'b')",
]


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_failing_collation_raises_its_own_exception(statement):
    def scenario(connection):
        connection.create_collation("c", fail)
        return connection.execute(statement).fetchall()

    assert same(scenario)[0] is ZeroDivisionError


def test_a_collation_that_fails_between_rows(connection):
    connection.execute("CREATE TABLE t(x)")
    connection.executemany("INSERT INTO t VALUES (?)", [("a",), ("b",), ("c",), ("d",)])
    connection.create_collation("c", lambda one, other: 1 / ((one, other) != ("c", "b")))
    rows = connection.execute("SELECT x, x = 'b' COLLATE c FROM t")
    assert rows.fetchone()[0] == "a"
    with pytest.raises(ZeroDivisionError):
        rows.fetchone()
    assert rows.fetchone() is None
    with pytest.raises(ZeroDivisionError):
        connection.execute("SELECT x, x = 'b' COLLATE c FROM t").fetchall()
    with pytest.raises(ZeroDivisionError):
        list(connection.execute("SELECT x, x = 'b' COLLATE c FROM t"))
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_a_failing_collation_elsewhere(connection):
    connection.create_collation("c", fail)
    with pytest.raises(ZeroDivisionError):
        connection.executescript(SORTED)
    connection.execute("CREATE TABLE t(x TEXT COLLATE c)")
    connection.executemany("INSERT INTO t VALUES (?)", [("a",), ("b",)])
    with pytest.raises(ZeroDivisionError):
        connection.execute("SELECT max(x), min(x) FROM t").fetchone()
    with pytest.raises(ZeroDivisionError):
        connection.executemany("DELETE FROM t WHERE x = ?", [("a",), ("b",)])


def test_the_statements_own_error_comes_before_that_of_a_collation():
    def scenario(connection):
        connection.create_collation("c", fail)
        connection.execute("CREATE TABLE t(x TEXT COLLATE c UNIQUE)")
        connection.executemany("INSERT INTO t VALUES (?)", [("a",), ("b",)])

    assert same(scenario)[0] is sqlite3.IntegrityError


def test_a_replaced_collation_is_given_up(connection):
    def collation(one, other):
        return 0

    reference = weakref.ref(collation)
    connection.create_collation("c", collation)
    del collation
    rows = connection.execute("SELECT 1 UNION SELECT 2")
    with pytest.raises(sqlite3.OperationalError, match="active statements"):
        connection.create_collation("c", None)
    with pytest.raises(sqlite3.OperationalError, match="active statements"):
        connection.create_collation("c", fail)
    rows.close()
    assert reference() is not None
    connection.create_collation("c", None)
    assert reference() is None


# ---- the authorizer ------------------------------------------------------------------------------------------------

VERDICTS = [0, 1, 2, 3, 99, -1, 2**32, -(2**40), True, False, None, "0", 0.0, Index()]


@pytest.mark.parametrize("verdict", VERDICTS, ids=repr)
def test_what_an_authorizer_may_answer(verdict):
    def scenario(connection):
        connection.execute("CREATE TABLE t(a, b)")
        connection.execute("INSERT INTO t VALUES (1, 2)")
        connection.set_authorizer(lambda *about: verdict)
        return connection.execute("SELECT a, b FROM t").fetchall()

    same(scenario)


@pytest.mark.parametrize("callback", [fail, out_of_memory, 5])
def test_a_failing_authorizer_denies(callback):
    def scenario(connection):
        connection.set_authorizer(callback)
        return connection.execute("SELECT 1").fetchall()

    assert same(scenario)[1] == "not authorized"


def test_what_an_authorizer_is_asked():
    def scenario(connection):
        seen = []
        connection.executescript(
            "CREATE TABLE tä(a, b); CREATE TRIGGER tr AFTER INSERT ON tä BEGIN DELETE FROM tä; END"
        )
        connection.set_authorizer(lambda *about: seen.append(about) or 0)
        connection.execute("SELECT a, upper(b) FROM tä")
        connection.execute("INSERT INTO tä VALUES (1, 2)")
        connection.execute("DROP TABLE tä")
        return seen

    same(scenario)


def test_an_authorizer_for_columns(connection):
    connection.execute("CREATE TABLE t(a, secret)")
    connection.execute("INSERT INTO t VALUES (1, 2)")
    connection.set_authorizer(lambda action, one, two, *_: 2 if two == "secret" else 0)
    assert connection.execute("SELECT * FROM t").fetchall() == [(1, None)]
    connection.set_authorizer(lambda action, one, two, *_: 1 if two == "secret" else 0)
    with pytest.raises(sqlite3.DatabaseError, match=r"access to t\.secret is prohibited"):
        connection.execute("SELECT * FROM t")
    connection.set_authorizer(None)
    assert connection.execute("SELECT * FROM t").fetchall() == [(1, 2)]


# ---- the progress handler ------------------------------------------------------------------------------------------

COUNT = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r WHERE i < {}) SELECT count(i) FROM r"


@pytest.mark.parametrize("n", [1, 2, 7, 999, 2_000, 19_999, 20_001, 50_000, 100_003, 123_456, 1_000_000])
def test_the_handler_is_called_after_exactly_n_instructions(n):
    def scenario(connection):
        calls = []
        connection.set_progress_handler(lambda: calls.append(1), n)
        connection.execute(COUNT.format(20_000 if n < 10 else 300_000)).fetchall()
        return len(calls)

    assert same(scenario) > 0


def test_large_n(connection):
    calls = []
    for n in (1_000_003, 2**31 - 1):
        connection.set_progress_handler(lambda: calls.append(1), n)
        connection.execute(COUNT.format(300_000)).fetchall()
    assert 3 <= len(calls) <= 6


@pytest.mark.parametrize("answer", [0, 1, -1, None, "", "x", False, True, Index()], ids=repr)
def test_what_a_handler_may_answer(answer):
    def scenario(connection):
        connection.set_progress_handler(lambda: answer, 1)
        return connection.execute("CREATE TABLE t(x)").fetchall()

    same(scenario)


class BadTruth:
    def __bool__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("callback", [fail, out_of_memory, BadTruth, 5])
def test_a_failing_handler_ends_the_statement(callback):
    def scenario(connection):
        connection.set_progress_handler(callback, 1)
        return connection.execute("CREATE TABLE t(x)").fetchall()

    assert same(scenario)[1] == "interrupted"


@pytest.mark.parametrize("n", [0, -1, -(2**31)])
def test_no_instructions_mean_never(connection, n):
    connection.set_progress_handler(lambda: 1, 1)
    connection.set_progress_handler(lambda: 1, n)
    assert connection.execute(COUNT.format(1000)).fetchall() == [(1000,)]


def test_none_removes_the_handler(connection):
    def handler():
        return 1

    reference = weakref.ref(handler)
    connection.set_progress_handler(handler, 1)
    del handler
    connection.set_progress_handler(None, 1)
    assert reference() is None
    assert connection.execute(COUNT.format(1000)).fetchall() == [(1000,)]


def test_a_handler_may_replace_and_remove_itself(connection):
    calls = []

    def first():
        calls.append("first")
        connection.set_progress_handler(second, 100)

    def second():
        calls.append("second")
        connection.set_progress_handler(None, 1)

    connection.set_progress_handler(first, 100)
    assert connection.execute(COUNT.format(10_000)).fetchall() == [(10_000,)]
    assert calls == ["first", "second"]


CALLS = [
    lambda c: c.set_progress_handler(progress_handler=None, n=1),
    lambda c: c.set_progress_handler(None, n=1),
    lambda c: c.set_progress_handler(None, 1, 2),
    lambda c: c.set_progress_handler(None),
    lambda c: c.set_progress_handler(None, x=2),
    lambda c: c.set_progress_handler(),
    lambda c: c.set_progress_handler(None, progress_handler=2, n=1),
    lambda c: c.set_progress_handler(None, progress_handler=2),
    lambda c: c.set_progress_handler(None, 2**31),
    lambda c: c.set_progress_handler(None, "x"),
    lambda c: c.set_trace_callback(trace_callback=None),
    lambda c: c.set_trace_callback(None, 1),
    lambda c: c.set_trace_callback(),
    lambda c: c.set_trace_callback(x=1),
    lambda c: c.set_authorizer(authorizer_callback=None),
    lambda c: c.set_authorizer(),
]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="platform: Python 3.9 words its errors otherwise")
@pytest.mark.parametrize("call", CALLS)
def test_arguments_by_name_and_the_warnings_they_bring(call):
    same(call)


def test_signatures():
    for name in ("create_collation", "set_authorizer", "set_progress_handler", "set_trace_callback"):
        signature = getattr(sqlite3.Connection, name).__text_signature__
        if signature is not None:
            assert getattr(sqlite.Connection, name).__text_signature__ == signature


CLOSED = {
    "create_collation": ("c", fail),
    "set_authorizer": (fail,),
    "set_progress_handler": (fail, 1),
    "set_trace_callback": (fail,),
}


@pytest.mark.parametrize("name", CLOSED)
def test_a_closed_connection_refuses(name):
    connection = sqlite.connect(":memory:")
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError, match=r"^Cannot operate on a closed database\.$"):
        getattr(connection, name)(*CLOSED[name])


# ---- the trace callback --------------------------------------------------------------------------------------------


def test_what_is_traced():
    def scenario(connection):
        traced = []
        connection.set_trace_callback(traced.append)
        connection.execute("CREATE TABLE t(x)")
        connection.executemany("INSERT INTO t VALUES (?)", [("ä\0b",), (b"x",), (None,), (1.5,), (2**60,)])
        connection.commit()
        connection.execute("CREATE TRIGGER tr AFTER INSERT ON t BEGIN SELECT 1; END")
        connection.execute("INSERT INTO t VALUES (:a)", {"a": "é🎈"})
        connection.executescript("SELECT 1; SELECT 2")
        connection.execute("SELECT ?", (3,)).fetchall()
        connection.set_trace_callback(None)
        connection.execute("SELECT 4")
        return traced

    same(scenario)


def test_statements_of_callbacks_are_traced_as_comments():
    def scenario(connection):
        traced = []
        connection.create_function("f", 0, lambda: connection.execute("SELECT 77").fetchone()[0])
        connection.set_trace_callback(traced.append)
        return connection.execute("SELECT f()").fetchall(), traced

    assert same(scenario) == ([(77,)], ["SELECT f()", "-- SELECT 77"])


@pytest.mark.parametrize("callback", [fail, out_of_memory, 5])
def test_a_failing_trace_callback_changes_nothing(callback):
    def scenario(connection):
        connection.set_trace_callback(callback)
        return connection.execute("SELECT 1").fetchall()

    assert same(scenario) == [(1,)]


# ---- tracebacks ----------------------------------------------------------------------------------------------------


def shown(monkeypatch, body):
    """What `sys.unraisablehook` gets while `body()` runs, or before Python 3.11 what is printed."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: seen.append((found.exc_type, found.object)))
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.suppress(sqlite3.Error, ZeroDivisionError):
        body()
    return seen if NEW else printed.getvalue()


class Failing:
    def __init__(self):
        pass

    step = inverse = value = finalize = fail


KINDS = {
    "function": (lambda c: c.create_function("f", 0, fail), "SELECT f()", fail),
    "aggregate": (lambda c: c.create_aggregate("f", 0, Failing), "SELECT f()", Failing),
    "authorizer": (lambda c: c.set_authorizer(fail), "SELECT 1", fail),
    "progress": (lambda c: c.set_progress_handler(fail, 1), "CREATE TABLE t(x)", fail),
    "trace": (lambda c: c.set_trace_callback(fail), "SELECT 1", fail),
}


@pytest.mark.parametrize("kind", KINDS)
def test_exceptions_are_shown_on_demand(connection, monkeypatch, kind):
    hook, statement, source = KINDS[kind]
    hook(connection)
    assert not shown(monkeypatch, lambda: connection.execute(statement))
    sqlite.enable_callback_tracebacks(True)
    try:
        seen = shown(monkeypatch, lambda: connection.execute(statement))
    finally:
        sqlite.enable_callback_tracebacks(False)
    if NEW:
        assert seen
        assert all(found == (ZeroDivisionError, source) for found in seen)
    else:
        assert "ZeroDivisionError: division by zero" in seen
    assert not shown(monkeypatch, lambda: connection.execute(statement))


@pytest.mark.parametrize("value", ["x", None, 1.5, 2**31])
def test_the_switch_is_an_int(value):
    expected, got = (pytest.raises((TypeError, OverflowError)) for _ in range(2))
    with expected:
        sqlite3.enable_callback_tracebacks(value)
    with got:
        sqlite.enable_callback_tracebacks(value)
    assert type(got) is type(expected)


# ---- extensions ----------------------------------------------------------------------------------------------------

EXTENSION = """
#include <sqlite3ext.h>
SQLITE_EXTENSION_INIT1
static void answer(sqlite3_context *context, int count, sqlite3_value **values) { sqlite3_result_int(context, 42); }
int sqlite3_answer_init(sqlite3 *db, char **message, const sqlite3_api_routines *api) {
    SQLITE_EXTENSION_INIT2(api);
    return sqlite3_create_function(db, "answer", 0, SQLITE_UTF8, 0, answer, 0, 0);
}
int other(sqlite3 *db, char **message, const sqlite3_api_routines *api) {
    SQLITE_EXTENSION_INIT2(api);
    return sqlite3_create_function(db, "other", 0, SQLITE_UTF8, 0, answer, 0, 0);
}
int broken(sqlite3 *db, char **message, const sqlite3_api_routines *api) {
    SQLITE_EXTENSION_INIT2(api);
    *message = sqlite3_mprintf("it is broken");
    return SQLITE_ERROR;
}
"""


@pytest.fixture(scope="module")
def extension(tmp_path_factory):
    compiler = shutil.which("cc")
    folder = tmp_path_factory.mktemp("extension")
    (folder / "answer.c").write_text(EXTENSION)
    library = folder / "answer.so"
    if (
        compiler is None
        or subprocess.run(
            [compiler, "-shared", "-fPIC", "-o", library, folder / "answer.c"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("platform: no C compiler with SQLite's headers")
    return str(library)


def test_extensions_must_be_allowed(connection, extension):
    connection.enable_load_extension(False)
    with pytest.raises(sqlite3.OperationalError, match="not authorized"):
        connection.load_extension(extension)
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    assert connection.execute("SELECT answer()").fetchone() == (42,)
    connection.enable_load_extension(False)
    with pytest.raises(sqlite3.OperationalError, match="not authorized"):
        connection.load_extension(extension)


def test_entry_points(connection, extension):
    connection.enable_load_extension(1)
    connection.load_extension(extension, entrypoint="other")
    assert connection.execute("SELECT other()").fetchone() == (42,)
    with pytest.raises(sqlite3.OperationalError, match="it is broken"):
        connection.load_extension(extension, entrypoint="broken")
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        connection.load_extension(extension, entrypoint="nowhere")
    with pytest.raises(sqlite3.OperationalError, match="absent"):
        connection.load_extension("absent.so")
    for arguments, options in (((5,), {}), ((extension,), {"entrypoint": 5}), ((extension, "other"), {})):
        with pytest.raises(TypeError):
            connection.load_extension(*arguments, **options)
    with pytest.raises(ValueError, match="null"):
        connection.load_extension("a\0b")


def test_loading_is_audited(connection, extension):
    events = []
    active = True

    def hook(event, arguments):
        if active and event.startswith("sqlite3."):
            events.append((event, arguments[0] is connection, *arguments[1:]))

    sys.addaudithook(hook)
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    active = False
    assert events == [("sqlite3.enable_load_extension", True, True), ("sqlite3.load_extension", True, extension)]
