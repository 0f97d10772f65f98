"""The demo: its application's numbers against hand-counted ones, hostile files, and the whole run over a small tree."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from pathlib import Path

import pytest

from upshift.demo import cli, mirror, runner
from upshift.demo.report import Phase, table

APPLICATION = runner.APPLICATION

# What an adopter's project may hold as core/result_cache.py: the application has to run on that as well as on upshift.
PLAIN_CACHE = """
import functools, hashlib, pickle, sqlite3


class ResultCache:
    def __init__(self, max_size=1000, default_ttl=3600, enable_persistent=False, db_path=None):
        self.memory = {}
        self.stats = dict.fromkeys(("hits", "misses", "sets"), 0)
        self.db = sqlite3.connect(db_path)
        self.db.execute("CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, value BLOB, tags TEXT)")

    def get(self, key, default=None):
        if key not in self.memory:
            row = self.db.execute("SELECT value FROM rows WHERE key = ?", (key,)).fetchone()
            if row is None:
                self.stats["misses"] += 1
                return default
            self.memory[key] = pickle.loads(row[0])
        self.stats["hits"] += 1
        return self.memory[key]

    def set(self, key, value, ttl=None, tags=()):
        self.stats["sets"] += 1
        self.memory[key] = value
        row = (key, pickle.dumps(value), "".join(f"<{tag}>" for tag in tags))
        self.db.execute("REPLACE INTO rows VALUES (?, ?, ?)", row)

    def invalidate_by_tag(self, tag):
        self.memory.clear()
        return self.db.execute("DELETE FROM rows WHERE tags LIKE ?", (f"%<{tag}>%",)).rowcount

    def generate_key(self, func_name, args, kwargs):
        return f"{func_name}:{hashlib.sha256(repr((args, kwargs)).encode()).hexdigest()}"

    def cached(self, ttl=None, tags=None, key_func=None):
        def decorate(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                key, missing = key_func(*args, **kwargs), object()
                value = self.get(key, missing)
                if value is missing:
                    value = function(*args, **kwargs)
                    self.set(key, value, ttl, tags)
                return value
            return wrapper
        return decorate

    def get_stats(self):
        return {**self.stats, "total_requests": self.stats["hits"] + self.stats["misses"]}

    def close(self):
        self.db.commit()
        self.db.close()
"""

# The same as core/db_pool.py.
PLAIN_POOL = """
import contextlib, queue, sqlite3


class ConnectionPool:
    def __init__(self, db_path, min_size=2, max_size=10):
        self.idle = queue.LifoQueue()
        self.connections = []
        for _ in range(max_size):
            connection = sqlite3.connect(db_path, isolation_level=None, check_same_thread=False)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode=WAL")
            self.connections.append(connection)
            self.idle.put(connection)

    @contextlib.contextmanager
    def connection(self, timeout=10.0):
        connection = self.idle.get(timeout=timeout)
        try:
            yield connection
            if connection.in_transaction:
                connection.commit()
        finally:
            if connection.in_transaction:
                connection.rollback()
            self.idle.put(connection)

    def close_all(self):
        for connection in self.connections:
            connection.close()


def get_pool(db_path, min_size=2, max_size=10):
    return ConnectionPool(db_path, min_size, max_size)
"""


@pytest.fixture
def metrics(monkeypatch):
    monkeypatch.syspath_prepend(str(APPLICATION.parent))
    return importlib.import_module("quality.metrics")


@pytest.fixture
def sources(monkeypatch):
    monkeypatch.syspath_prepend(str(APPLICATION.parent))
    return importlib.import_module("quality.sources")


@pytest.fixture
def plain_cache(tmp_path_factory, monkeypatch):
    """Child processes find plain Python `core.result_cache` and `core.db_pool`, and are started without upshift."""
    folder = tmp_path_factory.mktemp("adopter")
    (folder / "core").mkdir()
    (folder / "core" / "__init__.py").touch()
    (folder / "core" / "result_cache.py").write_text(PLAIN_CACHE)
    (folder / "core" / "db_pool.py").write_text(PLAIN_POOL)
    folders = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.setattr(runner, "LAUNCHER", ())
    return folder


@pytest.fixture(params=["plain", "native"])
def cache_below(request):
    """The application runs on a plain Python cache first, then under `upshift run`."""
    if request.param == "plain":
        request.getfixturevalue("plain_cache")
    return request.param


@pytest.fixture
def tree(tmp_path):
    """Five files that parse, one that does not, one that cannot be decoded; and what must not be looked at."""
    root = tmp_path / "project"
    for name, text in {
        "top.py": "def f(x):\n    return 1 if x else 2\n",
        "empty.py": "",
        "pkg/__init__.py": '"""Documented."""\n',
        "pkg/a.py": "def g(x):\n    for y in x:\n        if y and x:\n            return y\n",
        "pkg/sub/b.py": "class C:\n    def m(self):\n        while self:\n            pass\n",
        "pkg/broken.py": "def (:\n",
        "pkg/notes.txt": "def no(): pass\n",
        "pkg/__pycache__/x.py": "def no(): pass\n",
        "lib/site-packages/other.py": "def no(): pass\n",
        ".hidden/y.py": "def no(): pass\n",
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "latin.py").write_bytes(b"name = '\xe9'\n")
    return root


def state(root):
    """Everything under `root` that a scan could change by accident."""
    return {
        path: (path.lstat().st_mtime_ns, path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in sorted(root.rglob("*"))
        if not path.is_fifo()
    }


# Complexity, by hand: 1, plus 1 for each decision.
CASES = {
    "straight line": ("x = 1\nreturn x", 1),
    "if": ("if a: pass", 2),
    "if else": ("if a: pass\nelse: pass", 2),
    "if elif else": ("if a: pass\nelif b: pass\nelse: pass", 3),
    "for": ("for x in a: pass", 2),
    "for else": ("for x in a: pass\nelse: pass", 2),
    "while": ("while a: pass", 2),
    "while else": ("while a: break\nelse: pass", 2),
    "except": ("try: pass\nexcept A: pass", 2),
    "two excepts, else, finally": ("try: pass\nexcept A: pass\nexcept B: pass\nelse: pass\nfinally: pass", 3),
    "finally alone": ("try: pass\nfinally: pass", 1),
    "with": ("with a, b: pass", 1),
    "assert": ("assert a, b", 2),
    "and": ("return a and b", 2),
    "and and": ("return a and b and c", 3),
    "and or": ("return a and b or c", 3),
    "not": ("return not a", 1),
    "if and": ("if a and b: pass", 3),
    "chained comparison": ("return a < b < c", 1),
    "conditional expression": ("return a if b else c", 2),
    "nested conditional expression": ("return a if b else c if d else e", 3),
    "comprehension": ("return [x for x in a]", 2),
    "comprehension with ifs": ("return {x for x in a if x if y}", 4),
    "two loops": ("return {x: y for x in a for y in x if y}", 4),
    "generator": ("return sum(x for x in a if x or y)", 4),
    "lambda belongs to the function": ("return lambda x: a if x else b", 2),
    "class body belongs to the function": ("class C:\n    if a: y = 1", 2),
    "nested function stands for itself": ("def g():\n    if a: pass\n    if b: pass\nif c: pass", 2),
    "default of a nested function": ("def g(x=a or b):\n    if a: pass", 2),
    "decorator of a nested function": ("@(a if b else c)\ndef g(): pass", 2),
    "async": ("async def g(): pass\nreturn g", 1),
}
MATCH_CASES = {
    "cases": ("match a:\n    case 1: pass\n    case 2: pass", 3),
    "wildcard": ("match a:\n    case 1: pass\n    case _: pass", 2),
    "capture": ("match a:\n    case 1: pass\n    case x: pass", 2),
    "guard": ("match a:\n    case 1 if b: pass", 3),
    "guarded wildcard": ("match a:\n    case _ if b: pass", 2),
    "guard with and": ("match a:\n    case [x, y] if x and y: pass", 4),
    "alternatives": ("match a:\n    case 1 | 2: pass", 2),
    "alternatives ending in a wildcard": ("match a:\n    case 1 | _: pass", 1),
    "named class pattern": ("match a:\n    case int() as x: pass", 2),
}
if sys.version_info >= (3, 10):
    CASES.update(MATCH_CASES)
if sys.version_info >= (3, 11):
    CASES["except*"] = ("try: pass\nexcept* A: pass\nexcept* B: pass", 3)


@pytest.mark.parametrize(("body", "complexity"), CASES.values(), ids=CASES)
def test_complexity(metrics, body, complexity):
    for head in ("def f():\n", "async def f():\n"):
        evidence = metrics.measure((head + textwrap.indent(body, "    ")).encode())
        assert evidence["failure"] is None
        assert {name: number for number, _, _, name, _ in evidence["functions"]}["f"] == complexity


def test_async_loops(metrics):
    body = b"    async for x in a: pass\n    async with b: pass\n    return [x async for x in a if x]\n"
    assert metrics.measure(b"async def f():\n" + body)["functions"] == [(4, 1, 4, "f", False)]


def test_evidence_of_a_module(metrics):
    source = textwrap.dedent('''\
        """Module."""
        if a:
            pass


        class C:
            """Class."""

            @decorated
            def m(self):
                """Method."""
                if a or b:
                    return 1

            def n(self): return 2


        def f():
            x = 1
            def inner():
                "inner"
            return inner
        ''')
    evidence = metrics.measure(source.encode())
    assert evidence == {
        "lines": 22,
        "classes": 1,
        "functions": [
            (3, 10, 4, "C.m", True),
            (1, 15, 1, "C.n", False),
            (1, 18, 5, "f", False),
            (1, 20, 2, "f.inner", True),
        ],
        "complexity": 6,
        "module_complexity": 2,
        "longest": (1, 18, 5, "f", False),
        "documented": 4,  # module, C, m, inner
        "documentable": 6,  # and n, f
        "failure": None,
    }


@pytest.mark.parametrize(
    ("source", "documented", "documentable"),
    [
        ("", 0, 0),
        ("# only a comment\n", 0, 0),
        ("'yes'", 1, 1),
        ("b'bytes are none'", 0, 1),
        ("f'nor are formats'", 0, 1),
        ("x = 1\n'too late'", 0, 1),
        ("'a' 'b'\ndef f(): 'yes'\nclass C: 'yes'\nasync def g(): pass", 3, 4),
    ],
)
def test_docstrings(metrics, source, documented, documentable):
    evidence = metrics.measure(source.encode())
    assert (evidence["documented"], evidence["documentable"]) == (documented, documentable)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", 0),
        (b"\n", 1),
        (b"x = 1", 1),
        (b"x = 1\n", 1),
        (b"x = 1\r\ny = 2\r\n", 2),
        (b"x = 1\ry = 2", 2),
        (b"x = 1\n\x0c\ny = 2\n", 3),  # a form feed ends no line
        ("s = '\u2028'\n".encode(), 1),  # nor does a Unicode line separator
    ],
)
def test_lines(metrics, data, lines):
    evidence = metrics.measure(data)
    assert (evidence["lines"], evidence["failure"]) == (lines, None)


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfdef f(): pass\n",
        b"# -*- coding: latin-1 -*-\ndef f(): '\xe9'\n",
        b"\xef\xbb\xbf# coding: utf-8\ndef f(): '\xc3\xa9'\n",
        "# coding: utf-7\ndef f(): '\u00e9'\n".encode("utf-7"),
        "def größe(): pass\n".encode(),
    ],
    ids=["bom", "latin-1", "bom and coding line", "utf-7", "name"],
)
def test_decoded_like_the_interpreter_does(metrics, data):
    evidence = metrics.measure(data)
    assert evidence["failure"] is None
    assert len(evidence["functions"]) == 1


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"s = '\xe9'\n", "undecodable"),
        (b"# coding: klingon\n", "undecodable"),
        (b"# coding: hex\n00\n", "undecodable"),
        (b"\xef\xbb\xbf# coding: latin-1\n", "undecodable"),
        ("x = 1\n".encode("utf-16"), "undecodable"),
        (b"x = 1\x00\n", "unparsable"),
        (b"print 'two'\n", "unparsable"),
        (b"  x = 1\n", "unparsable"),
        (b"(" * 500, "unparsable"),
        (b"x = " + b"-" * 100_000 + b"1\n", "unparsable"),
        (b"# coding: utf-7\ns = '+2AA-'\n", "unparsable"),  # a lone surrogate
    ],
)
def test_failures_are_evidence(metrics, data, kind):
    evidence = metrics.measure(data)
    assert evidence["failure"][0] == kind
    assert evidence["failure"][1]
    assert evidence["functions"] == []
    assert json.dumps(evidence)  # plain data: what a warm run returns must not depend on how it was stored


def test_deep_trees_do_not_exhaust_the_stack(metrics):
    # Deeper than a recursive visitor gets, which takes two frames a level.
    terms = sys.getrecursionlimit() - 200
    evidence = metrics.measure(b"def f():\n    return " + b" + ".join([b"(a or b)"] * terms))
    if evidence["failure"] is None:
        assert evidence["functions"][0][0] == terms + 1
    else:
        assert evidence["failure"][0] == "unparsable"


def test_warnings_are_silenced_here_only(metrics):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = warnings.filters[:]
        assert metrics.measure(b"x = '\\d'\ny = 1 is 1\n")["failure"] is None
        assert caught == []
        assert warnings.filters == filters
        compile("x = '\\d'", "<test>", "exec")
    assert len(caught) == 1


def test_sources(sources, tree):
    found, problems = sources.find_sources(str(tree))
    assert [source.name for source in found] == [
        "empty.py",
        "latin.py",
        "top.py",
        "pkg/__init__.py",
        "pkg/a.py",
        "pkg/broken.py",
        "pkg/sub/b.py",
    ]
    assert problems == []
    assert [source.package for source in found] == ["", "", "", "pkg", "pkg", "pkg", "pkg.sub"]
    status = (tree / "pkg" / "a.py").stat()
    assert found[4] == (str(tree / "pkg" / "a.py"), "pkg/a.py", status.st_size, status.st_mtime_ns)
    assert sources.find_sources(str(tree), 4) == (found[:4], [])
    assert [source.name for source in sources.find_sources(str(tree / "pkg" / "notes.txt"))[0]] == ["notes.txt"]


def test_links_and_special_files(sources, tree):
    (tree / "pkg" / "loop").symlink_to(tree)
    (tree / "pkg" / "self.py").symlink_to("self.py")
    (tree / "gone.py").symlink_to("nowhere.py")
    (tree / "link.py").symlink_to(tree / "pkg" / "a.py")
    os.mkfifo(tree / "pipe.py")
    (tree / "folder.py").mkdir()
    found, problems = sources.find_sources(str(tree))
    assert len(found) == 8
    assert "link.py" in [source.name for source in found]
    assert [(problem.name, problem.kind) for problem in problems] == [
        ("gone.py", "unreadable"),
        ("pipe.py", "unreadable"),
        ("pkg/self.py", "unreadable"),
    ]


def test_odd_names(sources, tmp_path):
    name = b"caf\xe9\n\x1b[31m.py"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
        pass
    ((source,), problems) = sources.find_sources(str(tmp_path))
    assert problems == []
    assert os.fsencode(source.name) == name
    assert sources.printable(source.name) == "caf\\udce9\\n\\x1b[31m.py"
    assert sources.printable("größe.py") == "größe.py"


def run_application(*arguments, **options):
    command = [sys.executable, *runner.LAUNCHER, str(APPLICATION), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def scan(tmp_path, *arguments):
    results = tmp_path / "results.json"
    stores = ["--cache", tmp_path / "cache.db", "--evidence", tmp_path / "quality.db"]
    done = run_application(*stores, "--json", results, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(results.read_text())["passes"], done.stdout


def counts(measured):
    phase = Phase.of("", measured)
    return phase.computed, phase.hits, phase.requests


def test_application_knows_nothing_of_upshift():
    for path in APPLICATION.parent.rglob("*.py"):
        assert "upshift" not in path.read_text(encoding="utf-8")


def test_application_by_itself(plain_cache, tree, tmp_path):
    before = state(tree)
    (cold, warm), text = scan(tmp_path, "--passes", 2, "--top", 2, tree)
    assert (counts(cold), counts(warm)) == ((7, 0, 7), (0, 7, 7))
    summary = cold["summary"]
    assert summary == warm["summary"]
    assert {name: summary[name] for name in ("files", "packages", "lines", "functions", "classes", "complexity")} == {
        "files": 7,
        "packages": 3,
        "lines": 2 + 0 + 1 + 4 + 4 + 1,
        "functions": 3,
        "classes": 1,
        "complexity": 2 + 4 + 2,
    }
    assert (summary["documented"], summary["documentable"]) == (1, 8)
    assert [(each["file"], each["line"], each["name"], each["complexity"]) for each in summary["most_complex"]] == [
        ("pkg/a.py", 1, "g", 4),
        ("pkg/sub/b.py", 2, "C.m", 2),
    ]
    assert [(each["name"], each["kind"]) for each in summary["problems"]] == [
        ("latin.py", "undecodable"),
        ("pkg/broken.py", "unparsable"),
    ]
    assert f"{tree}/pkg/a.py:1" in text
    assert "problems: 1 undecodable, 1 unparsable" in text
    assert state(tree) == before


def test_only_what_changed_is_computed(plain_cache, tree, tmp_path):
    def computed(*arguments):
        ((measured,), _) = scan(tmp_path, *arguments, tree)
        return counts(measured)[0]

    assert computed() == 7
    assert computed() == 0
    mirror.touch(tree / "top.py")
    assert computed() == 1
    (tree / "new.py").write_text("x = 1\n")
    assert computed() == 1
    os.utime(tree / "new.py", ns=(0, 0))
    (tree / "pkg" / "a.py").unlink()
    assert computed() == 1
    assert computed("--forget", "pkg") == 3  # with those in pkg.sub
    assert computed("--forget", "pkg.sub") == 1
    assert computed("--forget", "") == 4  # those in no package
    assert computed("--forget", "unknown") == 0


def stored(tmp_path):
    """Everything in the database of evidence, read without the application."""
    queries = {
        "files": "SELECT name, package, size, lines, functions, complexity FROM files ORDER BY name",
        "functions": "SELECT file, line, name, length, complexity, documented FROM functions ORDER BY file, line",
        "problems": "SELECT file, kind FROM problems ORDER BY file",
    }
    with contextlib.closing(sqlite3.connect(f"file:{tmp_path}/quality.db?mode=ro", uri=True)) as connection:
        return {table: connection.execute(query).fetchall() for table, query in queries.items()}


def test_evidence_in_the_database(cache_below, tree, tmp_path):
    ((measured,), _) = scan(tmp_path, tree)
    assert stored(tmp_path) == {
        "files": [
            ("empty.py", "", 0, 0, 0, 0),
            ("latin.py", "", 11, 0, 0, 0),
            ("pkg/__init__.py", "pkg", 18, 1, 0, 0),
            ("pkg/a.py", "pkg", 67, 4, 1, 4),
            ("pkg/broken.py", "pkg", 7, 1, 0, 0),
            ("pkg/sub/b.py", "pkg.sub", 63, 4, 1, 2),
            ("top.py", "", 35, 2, 1, 2),
        ],
        "functions": [
            ("pkg/a.py", 1, "g", 4, 4, 0),
            ("pkg/sub/b.py", 2, "C.m", 3, 2, 0),
            ("top.py", 1, "f", 2, 2, 0),
        ],
        "problems": [("latin.py", "undecodable"), ("pkg/broken.py", "unparsable")],
    }
    assert measured["rows"] == 7 + 3 + 2


def test_only_what_changed_is_written(cache_below, tree, tmp_path):
    def rows(*arguments):
        (passes, _) = scan(tmp_path, *arguments, tree)
        return [measured["rows"] for measured in passes]

    assert rows("--passes", 2) == [12, 0]
    first = stored(tmp_path)
    mirror.touch(tree / "top.py")
    assert rows("--passes", 2) == [2, 0]
    assert rows("--forget", "") == [0]  # measured anew, to the same evidence
    assert stored(tmp_path) == first
    (tree / "pkg" / "a.py").write_text("def h(): pass\n\n\ndef i(): 'Known.'\n")
    (tree / "pkg" / "sub" / "b.py").unlink()
    (tree / "pkg" / "broken.py").write_text("x = 1\n")
    (tree / "gone.py").symlink_to("nowhere.py")
    assert rows() == [2 + 2 + 2]  # files, functions, problems
    now = stored(tmp_path)
    assert now["functions"] == [
        ("pkg/a.py", 1, "h", 1, 1, 0),
        ("pkg/a.py", 4, "i", 1, 1, 1),
        ("top.py", 1, "f", 2, 2, 0),
    ]
    assert now["problems"] == [("gone.py", "unreadable"), ("latin.py", "undecodable")]
    assert len(now["files"]) == 6
    assert rows("--limit", 1) == [0]
    assert stored(tmp_path) == {"files": first["files"][:1], "functions": [], "problems": []}


def test_many_batches(cache_below, tmp_path):
    """More files than one transaction takes, under names that are no text; some of them changed, some removed."""
    tree = tmp_path / "many"
    tree.mkdir()
    names = [os.fsdecode(b"%03d-\xe9.py" % number) for number in range(500)]
    for name in names:
        (tree / name).write_text("def f(): pass\n")
    ((measured,), _) = scan(tmp_path, tree)
    assert measured["rows"] == 1000
    for name in names[::3]:
        (tree / name).unlink()
    for name in names[1::3]:
        (tree / name).write_text("def f(): pass\ndef g(): pass\n")
    ((measured, again), _) = scan(tmp_path, "--passes", 2, tree)
    assert (measured["rows"], again["rows"]) == (3 * 167, 0)
    now = stored(tmp_path)
    assert [name for name, *_ in now["files"]] == [os.fsencode(name) for i, name in enumerate(names) if i % 3]
    assert len(now["functions"]) == 2 * 167 + 166


def test_a_write_that_fails_changes_nothing(cache_below, tree, tmp_path):
    scan(tmp_path, tree)
    before = stored(tmp_path)
    code = textwrap.dedent("""\
        import sys
        sys.path.insert(0, sys.argv[1])
        from quality.evidence import Evidence
        from quality.metrics import measure
        from quality.sources import Source
        evidence = Evidence(sys.argv[2])
        measured = measure(b"def f(): pass")
        broken = {**measured, "functions": [(1, 1, 1, object(), False)]}
        found = [(Source(name, name, 0, 0), "new", of) for name, of in [("top.py", measured), ("x.py", broken)]]
        try:
            evidence.write(found, ["pkg/a.py"], [])
        except Exception as error:
            print(type(error).__module__, evidence.rows_written, "x.py" in evidence.versions)
        evidence.close()
        """)
    command = [sys.executable, *runner.LAUNCHER, "-c", code, str(APPLICATION.parent), str(tmp_path / "quality.db")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("sqlite3 0 False\n", "")
    assert stored(tmp_path) == before


def test_answers(cache_below, tree, tmp_path):
    small = "".join(f"def f{number}(x): return x and x\n" for number in range(10))
    (tree / "pkg" / "sub" / "c.py").write_text(small + "def long():\n" + "    x = 1\n" * 21)
    _, text = scan(tmp_path, "--top", 2, tree)
    assert json.loads((tmp_path / "results.json").read_text())["questions"]["answers"] == {
        "packages": [
            {"package": "pkg.sub", "mean": pytest.approx(23 / 12), "functions": 12},
            {"package": "pkg", "mean": 4.0, "functions": 1},  # so few come after the others
        ],
        "undocumented": [
            {"file": "pkg/sub/c.py", "line": 11, "name": "long", "length": 22, "complexity": 1},
            {"file": "pkg/a.py", "line": 1, "name": "g", "length": 4, "complexity": 4},
        ],
        "half": [
            {"file": "pkg/sub/c.py", "complexity": 21, "percent": pytest.approx(100 * 21 / 29), "needed": 1},
            {"file": "pkg/a.py", "complexity": 4, "percent": pytest.approx(100 * 25 / 29), "needed": 1},
        ],
    }
    assert "Half of it is in 1 of 8 files" in text
    assert f"   22           1  long  {tree}/pkg/sub/c.py:11\n" in text


def test_nothing_to_ask(plain_cache, tmp_path):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "x.py").write_text("x = 1\n")
    _, text = scan(tmp_path, tmp_path / "flat")
    assert "questions" not in text


def test_a_database_that_is_none(cache_below, tree, tmp_path):
    (tmp_path / "quality.db").write_text("no database " * 100)
    done = run_application("--cache", "cache.db", "--evidence", "quality.db", tree, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "quality: quality.db: file is not a database\n"


def test_application_complains_in_one_line(plain_cache, tmp_path):
    done = run_application("--cache", "cache.db", "--evidence", "quality.db", tmp_path / "none", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"quality: {tmp_path}/none: No such file or directory\n"


def test_unreadable_files_are_counted(plain_cache):
    """CI runs as root, who may read everything: the application drops its rights first."""
    folder = Path(tempfile.mkdtemp())  # tmp_path lies below a folder that is closed to others
    try:
        folder.chmod(0o777)
        (folder / "tree" / "closed").mkdir(parents=True)
        for name in ("a.py", "secret.py", "closed/b.py"):
            (folder / "tree" / name).write_text("x = 1\n")
        (folder / "tree" / "secret.py").chmod(0)
        (folder / "tree" / "closed").chmod(0)
        code = textwrap.dedent("""\
            import contextlib, os, sys
            sys.path.insert(0, sys.argv.pop(1))
            import main
            with contextlib.redirect_stdout(None):  # once with all rights, so that all modules are loaded
                main.main(["--cache", ":memory:", "--evidence", sys.argv[-1] + ".db", sys.argv[-1]])
            if os.geteuid() == 0:
                os.seteuid(65534)
            sys.exit(main.main())
            """)
        stores = ["--cache", folder / "cache.db", "--evidence", folder / "quality.db"]
        files = [*stores, "--json", folder / "results.json", folder / "tree"]
        command = [sys.executable, "-c", code, str(APPLICATION.parent), "--passes", "2", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert "problems: 2 unreadable" in done.stdout
        first, second = json.loads((folder / "results.json").read_text())["passes"]
        assert first["summary"] == second["summary"]
        assert first["summary"]["problems"] == [
            {"name": "secret.py", "kind": "unreadable", "detail": "Permission denied"},
            {"name": "closed", "kind": "unreadable", "detail": "Permission denied"},
        ]
        # What could not be read is tried again each time: rights change without the file changing.
        assert (counts(first), counts(second)) == ((1, 0, 2), (0, 1, 2))
    finally:
        (folder / "tree" / "closed").chmod(0o700)
        shutil.rmtree(folder)


def test_mirror(tmp_path, tree):
    names = ["gone.py", "pkg/a.py", "pkg/sub/b.py"]
    before = state(tree)
    assert mirror.build(tree, names, tmp_path / "mirror") == "pkg/a.py"
    copy, link = tmp_path / "mirror" / "pkg" / "a.py", tmp_path / "mirror" / "pkg" / "sub" / "b.py"
    assert not copy.is_symlink()
    assert link.is_symlink()
    for mirrored in (copy, link):
        original = tree / mirrored.relative_to(tmp_path / "mirror")
        assert mirrored.read_bytes() == original.read_bytes()
        assert mirrored.stat().st_mtime_ns == original.stat().st_mtime_ns
    mirror.touch(copy)
    assert copy.stat().st_mtime_ns > (tree / "pkg" / "a.py").stat().st_mtime_ns
    assert state(tree) == before


def test_mirror_without_links(tmp_path, tree, monkeypatch):
    def no_links(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", no_links)
    assert mirror.build(tree, ["gone.py", "pkg/a.py", "top.py"], tmp_path / "mirror") == "pkg/a.py"
    assert sorted(path.name for path in (tmp_path / "mirror").rglob("*.py")) == ["a.py", "top.py"]
    assert not (tmp_path / "mirror" / "top.py").is_symlink()


def test_touch_moves_on_even_from_the_future(tmp_path):
    path = tmp_path / "x.py"
    path.touch()
    future = time.time_ns() + 10**15
    os.utime(path, ns=(future, future))
    mirror.touch(path)
    assert path.stat().st_mtime_ns > future


def test_table():
    phases = [
        Phase("cold", 2.0, 1000, 0, 1000, 9999),
        Phase("warm", 0.004, 0, 999, 1000, 0),
        Phase("none", 1.0, 0, 0, 0, 0),
    ]
    assert list(table(phases)) == [
        "phase  wall time  computed  hits  hit rate  rows written  speed-up",
        "cold     2.000 s     1,000     0     0.0 %         9,999     1.0 x",
        "warm     0.004 s         0   999    99.9 %             0   500.0 x",
        "none     1.000 s         0     0         -             0     2.0 x",
    ]


ROW = re.compile(r"^(cold|warm \D+?|after touching one file)  +[\d.]+ s +(\d+) +(\d+) +([\d.]+) % +(\d+) ", re.M)


def test_four_phases(cache_below, tree, capfd):
    before = state(tree)
    assert cli.main([str(tree), "--top", "2"]) == 0
    out, err = capfd.readouterr()
    assert ROW.findall(out) == [
        ("cold", "7", "0", "0.0", "12"),  # 7 files, 3 functions, 2 problems
        ("warm in memory", "0", "7", "100.0", "0"),
        ("warm after a restart", "0", "7", "100.0", "0"),
        ("after touching one file", "1", "6", "85.7", "1"),
    ]
    assert "7 Python files in " in out
    assert "problems: 1 undecodable, 1 unparsable" in out
    assert "The 2 most complex functions" in out
    assert f"g  {tree}/pkg/a.py:1" in out
    assert err == ""
    assert state(tree) == before


def test_one_file(plain_cache, tree, capfd, monkeypatch):
    monkeypatch.chdir(tree)
    (tree / "script").write_text("def s(): pass\n")
    assert cli.main(["script"]) == 0
    out, _ = capfd.readouterr()
    assert [row[1:3] for row in ROW.findall(out)] == [("1", "0"), ("0", "1"), ("0", "1"), ("1", "0")]
    assert "s  script:1\n" in out


def test_the_users_folder_is_not_on_the_path(plain_cache, tree, capfd, monkeypatch):
    for name in ("json.py", "quality.py", "core.py"):
        (tree / name).write_text("raise SystemExit('taken for a module of the application')\n")
    monkeypatch.chdir(tree)
    assert cli.main(["."]) == 0
    out, _ = capfd.readouterr()
    assert "10 Python files in ." in out
    assert "g  pkg/a.py:1\n" in out


def test_limit_and_workdir(plain_cache, tree, tmp_path, capfd):
    work = tmp_path / "kept" / "here"
    assert cli.main([str(tree), "--limit", "3", "--workdir", str(work)]) == 0
    out, _ = capfd.readouterr()
    assert [row[1:3] for row in ROW.findall(out)] == [("3", "0"), ("0", "3"), ("0", "3"), ("1", "2")]
    (kept,) = work.iterdir()
    assert out.endswith(f"kept: {kept}\n")
    assert (kept / "quality_cache.db").exists()


def test_work_below_the_tree(plain_cache, tree, capfd):
    """The scratch tree is no part of what is scanned, also when it lies inside."""
    assert cli.main([str(tree), "--workdir", str(tree)]) == 0
    assert ROW.findall(capfd.readouterr().out)[0][1] == "7"


def test_nothing_remains(plain_cache, tree, tmp_path, monkeypatch, capfd):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    assert cli.main([str(tree)]) == 0
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("path", ["nowhere", "", "nul\0", "top.py/below", "n" * 5000])
def test_bad_paths(tree, path, capfd, monkeypatch):
    monkeypatch.chdir(tree)
    assert cli.main([path]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("upshift demo: ")
    assert err.count("\n") == 1


def test_bad_options(tree, tmp_path):
    for options in (["--limit", "0"], ["--limit", "x"], ["--top", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main([str(tree), *options])
        assert stopped.value.code == 2
    (tmp_path / "file").touch()
    assert cli.main([str(tree), "--workdir", str(tmp_path / "file")]) == 2


def test_nothing_to_scan(plain_cache, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    assert cli.main([str(tmp_path / "empty")]) == 1
    assert "nothing to scan" in capfd.readouterr().err


def test_what_cannot_be_listed_is_named(plain_cache, tree, capfd):
    (tree / "gone.py").symlink_to("nowhere.py")
    assert cli.main([str(tree)]) == 0
    assert "not scanned: gone.py: No such file or directory" in capfd.readouterr().out


def test_application_that_fails(plain_cache, tree, capfd):
    (plain_cache / "core" / "result_cache.py").write_text("raise RuntimeError('broken installation')\n")
    assert cli.main([str(tree)]) == 1
    assert capfd.readouterr().err.endswith("upshift demo: the application ended with exit code 1\n")


DRIVER = "import sys; from upshift.demo import cli, runner; runner.LAUNCHER = (); sys.exit(cli.main(sys.argv[1:]))"


@pytest.fixture
def large_tree(tmp_path):
    """Takes long enough to be interrupted."""
    root = tmp_path / "large"
    root.mkdir()
    source = "def f(x):\n    return [y for y in x if y and x]\n" * 3000
    for number in range(200):
        (root / f"m{number:03}.py").write_text(source)
    return root


@pytest.mark.parametrize("whole_group", [True, False], ids=["terminal", "process alone"])
def test_interrupted(plain_cache, large_tree, tmp_path, whole_group):
    work = tmp_path / "work"
    command = [sys.executable, "-c", DRIVER, str(large_tree), "--workdir", str(work)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while not list(work.glob("*/quality_cache.db")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.endswith("upshift demo: stopped\n")
    with pytest.raises(ProcessLookupError):  # no child of it lives on
        os.killpg(process.pid, 0)


def test_broken_pipe(plain_cache, tree):
    command = [sys.executable, "-c", DRIVER, str(tree)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 1
    assert err == b""


def test_progress_bar_on_a_terminal(plain_cache, large_tree, tmp_path):
    (listener, terminal) = pty.openpty()
    arguments = ["--cache", tmp_path / "cache.db", "--evidence", tmp_path / "quality.db", "--limit", 4, large_tree]
    environment = {**os.environ, "COLUMNS": "60"}
    command = [sys.executable, str(APPLICATION), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal, env=environment)
    os.close(terminal)
    written = b""
    try:
        while chunk := os.read(listener, 4096):
            written += chunk
    except OSError:
        pass  # how Linux says that the other end is closed
    os.close(listener)
    assert process.wait(30) == 0
    drawings = written.decode().split("\r")
    assert any(re.fullmatch(r"scanning \[#+\.*\] \d+/4 \d+ % *", drawing) for drawing in drawings)
    assert all(len(drawing) < 60 for drawing in drawings)
    assert [drawing.strip() for drawing in drawings[-2:]] == ["", ""]  # the line is left clean
