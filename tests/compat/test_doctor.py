"""``upshift doctor``: which imports it sees, what it says about each name, and that no file stops it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from upshift.cli import main
from upshift.compat import doctor, tables

from .conftest import write


@pytest.fixture
def names_of(tmp_path):
    """``names_of(source)``: ``[(line of import, module, [(name, line, served)])]`` of one file."""

    def scan(source: str, file: str = "app.py"):
        report = doctor.scan(write(tmp_path, {file: source}) / file)
        assert report.unreadable == []
        return [
            (found.line, found.module, [(name.name, name.line, name.served) for name in found.names])
            for found in report.imports
        ]

    return scan


CACHE = "core.result_cache"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from core.result_cache import ResultCache, Gone as G", [(1, [("ResultCache", 1, True), ("Gone", 1, False)])]),
        ("from core.result_cache import *", [(1, [("*", 1, True)])]),
        ("import core.result_cache\ncore.result_cache.get_cache()", [(1, [("get_cache", 2, True)])]),
        ("import core.result_cache as rc\n\nrc.Gone.x.y", [(1, [("Gone", 3, False)])]),
        ("from core import result_cache\nresult_cache.main()", [(1, [("main", 2, True)])]),
        ("from core import settings, result_cache as rc\nrc.main; settings.x", [(1, [("main", 2, True)])]),
        ("import core\nimport core.other\ncore.result_cache.Gone", [(3, [("Gone", 3, False)])]),
        ("import core as c\nc.result_cache.main", [(2, [("main", 2, True)])]),
        ("import core.result_cache", [(1, [])]),
        (
            "import core.result_cache as rc\nprint(rc.__name__, rc.__all__)",
            [(1, [("__name__", 2, True), ("__all__", 2, True)])],
        ),
        ("import core.result_cache as rc\nrc.mine = 1", [(1, [])]),
        ("import core.result_cache as rc\nrc.Gone; rc.Gone", [(1, [("Gone", 2, False)])]),
        # where it stands
        (
            "try:\n  import core.result_cache as rc\nexcept ImportError:\n  rc = None\nrc.main",
            [(2, [("main", 5, True)])],
        ),
        ("def f():\n  return rc.Gone\nimport core.result_cache as rc", [(3, [("Gone", 2, False)])]),
        ("def f():\n  from core import result_cache as rc\n  rc.main\nrc.Gone", [(2, [("main", 3, True)])]),
        ("if 1:\n  class A:\n    import core.result_cache as rc\n    x = rc.main", [(3, [("main", 4, True)])]),
        ("async def f():\n  import core.result_cache as rc\n  await rc.Gone()", [(2, [("Gone", 3, False)])]),
        # what hides it
        ("import core.result_cache as rc\ndef f(rc):\n  return rc.Gone", [(1, [])]),
        ("import core.result_cache as rc\ndef f():\n  rc = 1\n  return rc.Gone", [(1, [])]),
        ("import core.result_cache as rc\ndef f():\n  global rc\n  rc = rc.main", [(1, [("main", 4, True)])]),
        ("import core.result_cache as rc\nx = [rc.Gone for rc in y]", [(1, [])]),
        ("import core.result_cache as rc\nx = lambda rc: rc.Gone", [(1, [])]),
        ("class A:\n  import core.result_cache as rc\n  def f(self):\n    return rc.Gone", [(2, [])]),
        # but not
        (
            "import core.result_cache as rc\n@rc.main\ndef f(rc, y=rc.Gone): pass",
            [(1, [("main", 2, True), ("Gone", 3, False)])],
        ),
        (
            "import core.result_cache as rc\ndef f(x: rc.Gone) -> rc.main: pass",
            [(1, [("Gone", 2, False), ("main", 2, True)])],
        ),
        ("import core.result_cache as rc\nclass A(rc.ResultCache): pass", [(1, [("ResultCache", 2, True)])]),
        # by name
        ("importlib.import_module('core.result_cache')", [(1, [])]),
        ("@patch('core.result_cache.time.time')\ndef f(): pass", [(1, [("time", 1, False)])]),
        ("monkeypatch.setattr('core.result_cache.get_cache', f)", [(1, [("get_cache", 1, True)])]),
        ("log.getLogger('core.result_cache'); import_module(x); patch('core.result_cache is here')", []),
        # others
        ("import core\nfrom core import settings\nimport mycore.result_cache\nfrom x.core import result_cache", []),
        ("from . import result_cache\nfrom .core import jobs", []),
    ],
)
def test_names(source, expected, names_of):
    found = names_of(source)
    assert [(line, sorted(names)) for line, module, names in found] == [
        (line, sorted(names)) for line, names in expected
    ]
    assert {module for _, module, _ in found} <= {CACHE}


@pytest.mark.parametrize(
    ("files", "is_found"),
    [
        ({"core/__init__.py": "", "core/jobs.py": "from .result_cache import ResultCache"}, True),
        ({"core/__init__.py": "", "core/jobs.py": "from . import result_cache as rc\nrc.ResultCache"}, True),
        ({"core/__init__.py": "from .result_cache import ResultCache"}, True),
        (
            {"core/__init__.py": "", "core/a/__init__.py": "", "core/a/b.py": "from ..result_cache import ResultCache"},
            True,
        ),
        ({"core/jobs.py": "from .result_cache import ResultCache"}, True),
        ({"core/a/jobs.py": "from .. import result_cache\nresult_cache.ResultCache"}, True),
        # There core.result_cache is a different module: app.core.result_cache.
        (
            {"app/__init__.py": "", "app/core/__init__.py": "", "app/core/jobs.py": "from .result_cache import Own"},
            False,
        ),
        ({"core/__init__.py": "", "core/a/__init__.py": "", "core/a/b.py": "from .result_cache import Own"}, False),
        ({"core/__init__.py": "", "core/jobs.py": "from ....result_cache import Own"}, False),
    ],
)
def test_relative_imports(files, is_found, tmp_path):
    report = doctor.scan(write(tmp_path, files))
    names = [name.name for found in report.imports for name in found.names]
    assert names == (["ResultCache"] if is_found else [])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(
        tmp_path,
        {
            "core/__init__.py": "",
            "core/result_cache.py": "class ResultCache: pass",
            "jobs/run.py": "import os\nfrom core.result_cache import ResultCache, CacheEntry\n",
            "web/page.py": "import core.result_cache as rc\n\nrc.get_cache()\n",
            ".venv/skipped.py": "import core.result_cache",
            "env/pyvenv.cfg": "",
            "env/lib/skipped.py": "import core.result_cache",
            "notes.txt": "import core.result_cache",
        },
    )


class TestReport:
    def test_text(self, project, capsys):
        assert main(["doctor", str(project)]) == 1
        assert capsys.readouterr().out.splitlines() == [
            f"{project / 'jobs' / 'run.py'}:2: from core.result_cache import ResultCache, CacheEntry",
            "    served      ResultCache",
            "    NOT SERVED  CacheEntry",
            f"{project / 'web' / 'page.py'}:1: import core.result_cache as rc",
            "    served      get_cache  (line 3)",
            f"{project / 'core' / 'result_cache.py'}: the project's own copy; an installed upshift module replaces it",
            "files: 4, not scanned: 0, imports: 2, names: 3, not served: 1",
        ]

    def test_json(self, project, capsys):
        assert main(["doctor", "--json", str(project)]) == 1
        report = json.loads(capsys.readouterr().out)
        assert report["served"] is False
        assert report["files"] == 4
        assert report["own_copies"] == [str(project / "core" / "result_cache.py")]
        assert report["imports"][0] == {
            "file": str(project / "jobs" / "run.py"),
            "line": 2,
            "statement": "from core.result_cache import ResultCache, CacheEntry",
            "module": "core.result_cache",
            "system": "openclaw",
            "served": True,
            "names": [
                {"name": "ResultCache", "line": 2, "served": True},
                {"name": "CacheEntry", "line": 2, "served": False},
            ],
        }

    def test_all_served(self, tmp_path):
        write(tmp_path, {"app.py": "from core.result_cache import get_cache"})
        assert main(["doctor", str(tmp_path)]) == main(["doctor", str(tmp_path / "app.py")]) == 0

    def test_nothing_found(self, tmp_path, capsys):
        assert main(["doctor", str(tmp_path)]) == 0
        assert capsys.readouterr().out.startswith("files: 0")

    def test_known_module_that_is_not_served(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(tables.MODULES, "core.later", tables.Module("openclaw", "Later."))
        write(tmp_path, {"app.py": "from core.later import Pool"})
        assert main(["doctor", str(tmp_path)]) == 1
        out = capsys.readouterr().out
        assert "[core.later: NOT SERVED YET]" in out
        assert "NOT SERVED  Pool" in out

    def test_missing_path(self, tmp_path, capsys):
        assert main(["doctor", str(tmp_path / "nowhere")]) == 2
        assert "no such file" in capsys.readouterr().err

    def test_empty_path(self, capsys):
        assert main(["doctor", ""]) == 2
        assert "path is empty" in capsys.readouterr().err

    @pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
    def test_names_beyond_the_encoding_of_the_output(self, encoding, tmp_path, monkeypatch):
        report = doctor.Report(".", unreadable=[doctor.Unreadable("\u2603\udcff.py", "invalid syntax (line 1)")])
        monkeypatch.setattr(doctor, "scan", lambda path: report)
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", out)
        assert main(["doctor", str(tmp_path)]) == 0
        assert b"\\udcff.py: not scanned" in out.buffer.getvalue()

    def test_closed_pipe(self, project, python):
        python(
            "-c",
            f"""
import subprocess, sys
command = [sys.executable, "-m", "upshift", "doctor", {str(project)!r}]
process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
process.stdout.close()
assert process.stderr.read() == b"", "complaint"
""",
        )


class TestUnreadable:
    """Reported and counted, never fatal, and without effect on the exit status."""

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"def f(:", "invalid syntax"),
            (b"x = '\xff\xfe'", "utf-8"),
            (b"# -*- coding: no-such-codec -*-", "no-such-codec"),
            (b"x = 1\x00", "null byte"),
            (b"print 'Python 2'", "print"),
            (b"(" * 5000, "nested"),
            (b"x = " + b"-" * 200_000 + b"1", ""),
        ],
        ids=["syntax", "undecodable", "codec", "null", "Python 2", "brackets", "depth"],
    )
    def test_content(self, content, reason, tmp_path):
        (tmp_path / "bad.py").write_bytes(content)
        write(tmp_path, {"good.py": "from core.result_cache import ResultCache"})
        report = doctor.scan(tmp_path)
        assert report.files == 2
        assert [Path(unreadable.file).name for unreadable in report.unreadable] == ["bad.py"]
        assert reason in report.unreadable[0].reason
        assert "bad.py: not scanned: " in report.to_text()
        assert len(report.imports) == 1
        assert report.is_served

    def test_declared_encoding_is_honoured(self, tmp_path):
        text = "# coding: latin-1\nname = 'ä'\nimport core.result_cache\n"
        (tmp_path / "latin.py").write_bytes(text.encode("latin-1"))
        (tmp_path / "bom.py").write_bytes(b"\xef\xbb\xbfimport core.result_cache")
        report = doctor.scan(tmp_path)
        assert (len(report.imports), report.unreadable) == (2, [])

    def test_broken_link_and_pipe(self, tmp_path):
        (tmp_path / "link.py").symlink_to(tmp_path / "nowhere")
        os.mkfifo(tmp_path / "pipe.py")
        (tmp_path / "folder.py").mkdir()
        report = doctor.scan(tmp_path)
        assert [unreadable.reason for unreadable in report.unreadable] == [
            "No such file or directory",
            "not a regular file",
        ]

    def test_deep_but_valid_code(self, tmp_path):
        """A tree the compiler accepts is not too deep for the scan."""
        source = "import core.result_cache as rc\nx = " + " + ".join(["rc.Gone"] * 900)
        report = doctor.scan(write(tmp_path, {"deep.py": source}))
        assert report.unreadable == []
        assert [name.name for name in report.imports[0].names] == ["Gone"]

    def test_warnings_of_the_scanned_code_stay_silent(self, tmp_path):
        write(tmp_path, {"old.py": r"x = '\d'; assert (1, 'always true')"})
        assert doctor.scan(tmp_path).unreadable == []


def test_standard_library_is_scanned_without_trouble():
    report = doctor.scan(Path(os.__file__).parent / "asyncio")
    assert report.files > 20
    assert (report.imports, report.unreadable) == ([], [])
