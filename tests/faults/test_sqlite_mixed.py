"""`sqlite3` and `upshift.sqlite` on one file in one process, under load: they are one library, so no harm is done.

With a wheel built with `bundled-sqlite` the same file tests that such use is refused, and that the refusal is needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import upshift.sqlite

sys.path.insert(0, str(Path(__file__).parent))
import mixed_sqlite

SECONDS = 5
is_one_library = upshift.sqlite.shares_interpreter_library


def test_mixed_use_under_load(tmp_path):  # issue 3 §6
    result = mixed_sqlite.run(str(tmp_path), SECONDS, writers=3)
    assert mixed_sqlite.is_clean(result), result
    assert result["acknowledged"] > 100
    if is_one_library:
        assert result["errors"] == []
    else:
        assert {library for library, _, _ in result["errors"]} == {"upshift.sqlite"}
        assert all("already open in this process" in error for _, error, _ in result["errors"])


if not is_one_library:

    def test_two_libraries_on_one_file_do_harm(tmp_path, monkeypatch):  # what the refusal is for
        monkeypatch.setenv("UPSHIFT_TEST_SHARE_FILES", "1")
        result = mixed_sqlite.run(str(tmp_path), SECONDS, writers=3)
        assert not mixed_sqlite.is_clean(result), result
