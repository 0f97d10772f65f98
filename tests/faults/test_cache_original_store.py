"""Store files written by the original system: local-time expiries, raw pickles, `user_version` 0.

Its clock was the local one and ours is not, so everything runs in children with a time zone of their own.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from harness import run, run_literal

ZONES = ["UTC", "America/New_York", "Asia/Tokyo"]

# What the original did: naive local datetimes through the default adapter, a pickle per value, foreign keys off.
WRITE = """
    import datetime, pickle, sqlite3, sys, warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # the default adapter, from Python 3.12 on
    connection = sqlite3.connect(sys.argv[1])
    connection.executescript('''
        CREATE TABLE result_cache (
            cache_key TEXT PRIMARY KEY,
            cache_value BLOB NOT NULL,
            ttl_seconds INTEGER,
            created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
            expires_at TIMESTAMP,
            access_count INTEGER DEFAULT 0,
            last_accessed TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
            size_bytes INTEGER
        );
        CREATE INDEX idx_cache_expires ON result_cache(expires_at);
        CREATE TABLE cache_tags (
            cache_key TEXT NOT NULL,
            tag TEXT NOT NULL,
            PRIMARY KEY (cache_key, tag),
            FOREIGN KEY (cache_key) REFERENCES result_cache(cache_key) ON DELETE CASCADE
        );
        CREATE INDEX idx_cache_tags ON cache_tags(tag);
    ''')
    def write(key, value, ttl):
        blob = pickle.dumps(value)
        expires = datetime.datetime.now() + datetime.timedelta(seconds=ttl) if ttl else None
        connection.execute(
            "INSERT INTO result_cache (cache_key, cache_value, ttl_seconds, expires_at, size_bytes)"
            " VALUES (?, ?, ?, ?, ?)",
            (key, blob, ttl, expires, len(blob)))
    write("live", {"plain": [1, 2.5, None]}, 1800)
    write("long", "l", 200 * 86400)  # across a change of clocks, where there are any
    write("dead", "d", -1800)
    write("immortal", ("i",), None)
    write("global", datetime.timedelta(days=1), 1800)
    write("five minutes ago", 1, -300)
    for row in [("live", "t"), ("live", "u"), ("dead", "t"), ("orphan", "t")]:
        connection.execute("INSERT INTO cache_tags VALUES (?, ?)", row)
    connection.commit()
    connection.close()
"""

OPEN = """
    import datetime, os, sqlite3, sys
    from upshift import ResultCache
    from upshift.testing import travel
    cache = ResultCache(enable_persistent=True, db_path=sys.argv[1], trust_legacy=TRUST)
    KEYS = ["live", "long", "dead", "immortal", "global", "five minutes ago"]
"""

SEE = """
    import ast
    found = [cache.get(key, "absent") for key in KEYS]
    found[4] = str(found[4])
    print((found, cache.get_stats()["disk_errors"]))
    cache.close()
"""


def opening(trust):
    return OPEN.replace("TRUST", repr(trust))


@pytest.fixture(params=ZONES)
def zone(request):
    return request.param


@pytest.fixture
def original(db_path, zone):
    run(WRITE, db_path, env={"TZ": zone})
    db_path.chmod(0o600)
    return db_path


def read(path, sql):
    with closing(sqlite3.connect(str(path))) as connection:
        return connection.execute(sql).fetchall()


SERVED = [{"plain": [1, 2.5, None]}, "l", "absent", ("i",), "1 day, 0:00:00", "absent"]


def test_rows_are_served_when_trusted(original, zone):  # DESIGN §3 "until trust_legacy=True", openclaw C9
    found, errors = run_literal(opening(True) + SEE, original, env={"TZ": zone})
    assert found == SERVED
    assert errors == 0
    assert run_literal(opening(True) + SEE, original, env={"TZ": zone})[0] == SERVED


@pytest.mark.parametrize("value", ["1", "0", ""])
def test_the_environment_may_trust_them(original, zone, value):  # DESIGN §3 "or UPSHIFT_TRUST_LEGACY=1"
    env = {"TZ": zone, "UPSHIFT_TRUST_LEGACY": value}
    found, _ = run_literal(opening(None) + SEE, original, env=env)
    assert found == (SERVED if value == "1" else ["absent"] * 6)
    found, _ = run_literal(opening(False) + SEE, original, env=env)
    assert found == ["absent"] * 6  # an argument goes before the environment


def test_rows_are_kept_but_not_served_by_default(original, zone):  # DESIGN §3 "kept but not served"
    env = {"TZ": zone, "UPSHIFT_TRUST_LEGACY": None}
    found, errors = run_literal(opening(None) + SEE, original, env=env)
    assert found == ["absent"] * 6
    assert errors == 0
    kept = {key for (key,) in read(original, "SELECT cache_key FROM result_cache")}
    assert kept >= {"live", "long", "immortal", "global"}
    # Trusting them later still works: the first opening converted their times, and once only.
    assert run_literal(opening(True) + SEE, original, env=env)[0] == SERVED


def test_expiries_become_utc_once(original, zone):  # openclaw §2.5 "convert or drop old rows when first opening"
    program = opening(True) + "    cache.close()\n"
    run(program, original, env={"TZ": zone})
    first = read(original, "SELECT cache_key, expires_at FROM result_cache ORDER BY cache_key")
    left = "SELECT cache_key, strftime('%s', expires_at) - strftime('%s', 'now') FROM result_cache"
    seconds = dict(read(original, left))
    assert abs(seconds["live"] - 1800) < 120
    assert abs(seconds["global"] - 1800) < 120
    assert (
        abs(seconds["long"] - 200 * 86400) < 3600 + 120
    )  # the original added to local time, across a change of clocks
    assert seconds["immortal"] is None
    assert read(original, "PRAGMA user_version")[0][0] > 0
    run(program, original, env={"TZ": "Australia/Sydney"})
    assert read(original, "SELECT cache_key, expires_at FROM result_cache ORDER BY cache_key") == first


def test_cleanup_removes_the_dead_and_only_them(original, zone):  # openclaw C9: local time compared with UTC
    program = (
        opening(True)
        + """
    cache.cleanup_expired()
    cache.close()
    connection = sqlite3.connect(sys.argv[1])
    print(sorted(key for (key,) in connection.execute("SELECT cache_key FROM result_cache")))
    connection.close()
    """
    )
    assert run_literal(program, original, env={"TZ": zone}) == ["global", "immortal", "live", "long"]


def test_remaining_lifetime(original, zone):  # openclaw C9
    program = (
        opening(True)
        + """
    travel(1500)
    first = cache.get("live", "absent")
    travel(400)
    print((first != "absent", cache.get("live", "absent"), cache.get("long"), cache.get("immortal")))
    cache.close()
    """
    )
    assert run_literal(program, original, env={"TZ": zone}) == (True, "absent", "l", ("i",))


def test_tags_and_patterns_reach_them(original, zone):  # openclaw C5, C7
    program = (
        opening(True)
        + """
    print((cache.invalidate_by_tag("t"), cache.invalidate_pattern("lo"), cache.get("live"), cache.clear()))
    cache.close()
    """
    )
    assert run_literal(program, original, env={"TZ": zone}) == (1, 2, None, 1)  # "long" and "global"
    assert read(original, "SELECT * FROM cache_tags") == []


def test_untrusted_rows_can_be_replaced_and_removed(original, zone):
    program = (
        opening(False)
        + """
    cache.set("live", "new", tags=["n"])
    found = cache.get("live")
    removed = cache.delete("immortal")
    cache.close()
    cache = ResultCache(enable_persistent=True, db_path=sys.argv[1], trust_legacy=False)
    print((found, removed, cache.get("live"), cache.invalidate_by_tag("t"), cache.invalidate_by_tag("n")))
    cache.close()
    """
    )
    found, removed, again, old_tag, new_tag = run_literal(program, original, env={"TZ": zone})
    assert (found, again, old_tag, new_tag) == ("new", "new", 0, 1)
    assert removed in (True, False)
    keys = {key for (key,) in read(original, "SELECT cache_key FROM result_cache")}
    assert "immortal" not in keys
    assert "live" not in keys


def test_allow_pickle_false_wins_over_trust(original, zone):  # issue 2 §4 allow_pickle=False
    program = (
        opening(True).replace("trust_legacy", "allow_pickle=False, trust_legacy")
        + """
    events = []
    sys.addaudithook(lambda event, args: events.append(event) if event == "pickle.find_class" else None)
    print((cache.get("global", "absent"), events))
    cache.close()
    """
    )
    assert run_literal(program, original, env={"TZ": zone}) == ("absent", [])


def test_a_malicious_row_is_not_executed_untrusted(original, tmp_path, zone):  # openclaw C14
    trap = f"""
    import os, pickle, sqlite3, sys
    class Trap:
        def __reduce__(self):
            return (os.mkdir, ({str(tmp_path / "executed")!r},))
    connection = sqlite3.connect(sys.argv[1])
    connection.execute("UPDATE result_cache SET cache_value = ?", (pickle.dumps(Trap()),))
    connection.commit()
    connection.close()
    """
    run(trap, original)
    run_literal(opening(None) + SEE, original, env={"TZ": zone, "UPSHIFT_TRUST_LEGACY": None})
    run(opening(None) + "    cache.preload(); cache.cleanup_expired(); cache.clear(); cache.close()\n", original)
    assert not (tmp_path / "executed").exists()


def test_a_trusted_row_that_cannot_be_loaded_is_a_miss(original, zone):  # openclaw C14 "deleted and counts as a miss"
    with closing(sqlite3.connect(str(original))) as connection, connection:
        connection.execute("UPDATE result_cache SET cache_value = x'8004950000' WHERE cache_key = 'live'")
        connection.execute("UPDATE result_cache SET cache_value = 'text' WHERE cache_key = 'immortal'")
    found, errors = run_literal(opening(True) + SEE, original, env={"TZ": zone})
    assert (found[0], found[3]) == ("absent", "absent")
    assert found[4] == SERVED[4]
    assert errors >= 1
    assert read(original, "SELECT count(*) FROM result_cache WHERE cache_key = 'live'") == [(0,)]


def test_new_rows_beside_old_ones(original, zone):
    program = (
        opening(True)
        + """
    cache.set("new", [1], ttl=1000, tags=["t"])
    cache.close()
    cache = ResultCache(enable_persistent=True, db_path=sys.argv[1], trust_legacy=True)
    print((cache.get("new"), cache.get("live") is not None, cache.invalidate_by_tag("t")))
    cache.close()
    """
    )
    assert run_literal(program, original, env={"TZ": zone}) == ([1], True, 2)
