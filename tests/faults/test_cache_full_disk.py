"""A full disk: nothing raises, what was stored stays sound, and writing resumes when there is room again."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing

import pytest
from harness import run_literal

PROGRAM = """
import os, signal, sys
from upshift import ResultCache
path, durability = sys.argv[1:3]
cache = ResultCache(max_size=10_000, enable_persistent=True, db_path=path, durability=durability)
cache.set("first", "value", tags=["t"])
cache.flush(10)
FILL
for i in range(300):
    cache.set(f"k{i}", os.urandom(10_000), tags=["t", f"t{i}"])
cache.flush(10)
full = (cache.get("first"), len(cache.get("k299")), cache.get_stats()["disk_errors"] > 0, cache.delete("k0"))
removed = cache.invalidate_by_tag("t")
cache.set("small", 1)
cache.flush(10)
FREE
cache.set("after", 2)
resumed = cache.flush(30)
cache.close()
print((full, removed, resumed))
"""


def keys(path):
    with closing(sqlite3.connect(str(path), timeout=30)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {key for (key,) in connection.execute("SELECT cache_key FROM result_cache")}


@pytest.mark.parametrize("durability", ["memory", "process"])
def test_a_limit_on_the_size_of_files(db_path, durability):  # issue 2 §7 "full-disk"
    fill = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
"""
    free = "resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))"
    program = PROGRAM.replace("FILL", fill).replace("FREE", free)
    full, removed, resumed = run_literal(program, db_path, durability, timeout=55)
    assert full == ("value", 10_000, True, True)
    assert removed == 300
    assert resumed is True
    assert "after" in keys(db_path)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of two megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("platform: only root can mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(folder)], capture_output=True, timeout=30
    )
    if mounted.returncode:
        pytest.skip("platform: mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("durability", ["memory", "process", "power"])
def test_a_full_file_system(small_disk, durability):  # issue 2 §7 "full-disk"
    fill = """
with open(os.path.join(os.path.dirname(path), "ballast"), "wb") as file:
    file.write(bytes(1_000_000))
"""
    free = "os.unlink(os.path.join(os.path.dirname(path), 'ballast'))"
    program = PROGRAM.replace("FILL", fill).replace("FREE", free)
    full, removed, resumed = run_literal(program, small_disk / "cache.db", durability, timeout=55)
    assert full == ("value", 10_000, True, True)
    assert removed == 300
    assert resumed is True
    assert "after" in keys(small_disk / "cache.db")


def test_no_room_even_for_an_empty_store(small_disk):
    with open(small_disk / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            full = error
    assert full.errno == 28
    program = """
    import sys
    from upshift import ResultCache
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        cache.set("key", 1)
        print((cache.get("key"), cache.flush(5) in (True, False), cache.get_stats()["disk_errors"] > 0))
    """
    assert run_literal(program, small_disk / "cache.db") == (1, True, True)


def test_no_descriptors_left(db_path):
    program = """
    import os, resource, sys
    from upshift import ResultCache
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    cache = ResultCache(enable_persistent=True, db_path=sys.argv[1])
    cache.set("key", 1)
    found = (cache.get("key"), cache.get_stats()["disk_errors"] > 0)
    cache.close()
    for descriptor in taken:
        os.close(descriptor)
    with ResultCache(enable_persistent=True, db_path=sys.argv[1]) as cache:
        cache.set("key", 2)
        print((found, cache.flush(10)))
    """
    assert run_literal(program, db_path) == ((1, True), True)
