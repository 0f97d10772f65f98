"""Contract openclaw §2.1: the methods of `ResultCache`, on both tiers. Lifetimes are in the file beside this one."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from upshift import ResultCache
from upshift.testing import travel


class Opaque:
    """Cannot be pickled, so it can never reach the disk."""

    def __reduce__(self):
        raise TypeError("not picklable")


# --- construction


def test_the_first_four_parameters_are_positional_with_the_documented_defaults():  # openclaw §2.1, §1, §8
    parameters = list(inspect.signature(ResultCache).parameters.values())[:4]
    assert [(p.name, p.default) for p in parameters] == [
        ("max_size", 1000),
        ("default_ttl", 3600),
        ("enable_persistent", False),
        ("db_path", None),
    ]
    assert all(p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for p in parameters)


def test_positional_construction(db_path):  # openclaw §1 "positional order is API"
    with ResultCache(5, 60, True, str(db_path)) as cache:
        assert (cache.max_size, cache.default_ttl, cache.enable_persistent) == (5, 60, True)
        cache.set("key", 1)
    assert db_path.exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("get", [("key", inspect.Parameter.empty), ("default", None)]),
        ("set", [("key", inspect.Parameter.empty), ("value", inspect.Parameter.empty), ("ttl", None), ("tags", None)]),
        ("delete", [("key", inspect.Parameter.empty)]),
        ("invalidate_by_tag", [("tag", inspect.Parameter.empty)]),
        ("invalidate_pattern", [("pattern", inspect.Parameter.empty)]),
        ("cached", [("ttl", None), ("tags", None), ("key_func", None)]),
        ("generate_key", [(name, inspect.Parameter.empty) for name in ("func_name", "args", "kwargs")]),
        ("warmup", [("data", inspect.Parameter.empty), ("ttl", None)]),
        ("preload", [("limit", None)]),
    ],
)
def test_parameter_names_and_order_are_api(name, expected):  # openclaw §1
    parameters = list(inspect.signature(getattr(ResultCache(), name)).parameters.values())
    assert [(p.name, p.default) for p in parameters[: len(expected)]] == expected


def test_every_parameter_may_be_passed_by_keyword():  # openclaw §1
    cache = ResultCache(max_size=10, default_ttl=60, enable_persistent=False, db_path=None)
    cache.set(key="a", value=1, ttl=5, tags=["t"])
    assert cache.get(key="a", default=0) == 1
    assert cache.invalidate_by_tag(tag="t") == 1
    cache.warmup(data={"b": 2}, ttl=5)
    assert cache.invalidate_pattern(pattern="b") == 1
    assert cache.delete(key="b") is False
    assert cache.generate_key(func_name="f", args=(1,), kwargs={}).startswith("f:")
    assert cache.preload(limit=1) == 0


@pytest.mark.parametrize("kind", [str, Path])
def test_the_path_is_str_or_path_like(kind, db_path):  # openclaw §2.1
    with ResultCache(enable_persistent=True, db_path=kind(db_path)) as cache:
        cache.set("key", "value")
    with ResultCache(enable_persistent=True, db_path=kind(db_path)) as cache:
        assert cache.get("key") == "value"


def test_a_path_without_the_flag_means_memory_only(db_path):  # openclaw §2.1
    with ResultCache(enable_persistent=False, db_path=db_path) as cache:
        cache.set("key", 1)
        assert cache.get("key") == 1
    assert not db_path.exists()


def test_the_flag_without_a_path_means_memory_only_and_every_method_works(tmp_path, monkeypatch):  # §2.1, C12
    monkeypatch.chdir(tmp_path)
    cache = ResultCache(enable_persistent=True)
    cache.set("a", 1, tags=["t"])
    cache.warmup({"b": 2, "c": 3, "d": 4})
    assert cache.get("a") == 1
    assert cache.delete("b") is True
    assert cache.invalidate_by_tag("t") == 1
    assert cache.invalidate_pattern("c") == 1
    assert cache.cleanup_expired() == 0
    assert cache.preload() == 0
    assert cache.cached()(len)("abc") == 3
    assert cache.get_stats()["size"] == 2
    assert cache.clear() == 2
    cache.flush()
    cache.close()
    assert list(tmp_path.iterdir()) == []


def test_max_size_zero_keeps_nothing_in_memory():  # openclaw §2.1
    cache = ResultCache(max_size=0)
    cache.set("key", 1)
    assert cache.get("key") is None
    assert cache.get_stats()["size"] == len(cache) == 0


def test_max_size_zero_still_serves_the_disk(open_cache):  # openclaw §2.1 "counts memory entries"
    cache = open_cache(max_size=0)
    cache.set("key", 1)
    assert cache.get("key") == 1
    assert cache.get_stats()["size"] == 0


# --- get and set


def test_get_returns_what_was_set_else_the_default(cache):  # openclaw §2.1
    missing = object()
    assert cache.get("key") is None
    assert cache.get("key", missing) is missing
    assert cache.set("key", "value") is None
    assert cache.get("key", missing) == "value"


def test_a_memory_hit_is_the_very_object(cache):  # openclaw §2.1 "by reference, no copy"
    value = {"list": [1, 2]}
    cache.set("key", value)
    assert cache.get("key") is value
    value["list"].append(3)
    assert cache.get("key") == {"list": [1, 2, 3]}


@pytest.mark.parametrize("value", [None, False, 0, "", (), []])
def test_a_falsy_value_is_a_hit(cache, value):  # openclaw §2.1, C1
    cache.set("key", value)
    assert cache.get("key", "default") == value
    assert cache.get_stats()["hits"] == 1
    assert cache.get_stats()["misses"] == 0


def test_get_makes_most_recently_used(make_cache):  # openclaw §2.1
    cache = make_cache(max_size=3)
    for key in "abc":
        cache.set(key, key)
    cache.get("a")
    cache.set("d", "d")
    assert list(cache.cache) == ["c", "a", "d"]


def test_set_makes_most_recently_used(make_cache):  # openclaw §2.1
    cache = make_cache(max_size=3)
    for key in "abc":
        cache.set(key, key)
    cache.set("a", "again")
    cache.set("d", "d")
    assert list(cache.cache) == ["c", "a", "d"]


def test_a_miss_or_membership_test_does_not_change_the_order(make_cache):  # openclaw §2.1 [X]
    cache = make_cache(max_size=3)
    for key in "abc":
        cache.set(key, key)
    assert "a" in cache
    assert "z" not in cache
    cache.get("z")
    assert list(cache.cache) == ["a", "b", "c"]


def test_each_hit_raises_the_access_count_and_set_resets_it(cache):  # openclaw §2.1
    cache.set("key", 1)
    for _ in range(3):
        cache.get("key")
    assert cache.cache["key"][3] == 3
    cache.set("key", 2)
    assert cache.cache["key"][3] == 0


def test_set_replaces_the_value_and_the_tag_set(cache):  # openclaw §2.1, C7
    cache.set("key", 1, tags=["old", "both"])
    cache.set("key", 2, tags=["new", "both"])
    assert cache.get("key") == 2
    assert cache.invalidate_by_tag("old") == 0
    assert cache.get("key") == 2
    assert cache.invalidate_by_tag("new") == 1
    assert cache.get("key") is None


def test_an_untagged_set_clears_old_tags(cache):  # openclaw §2.1, C7
    cache.set("key", 1, tags=["t"])
    cache.set("key", 2)
    assert cache.get_stats()["tags_count"] == 0
    assert cache.invalidate_by_tag("t") == 0
    assert cache.get("key") == 2


@pytest.mark.parametrize(
    "tags",
    [["x", "y"], ("x", "y"), {"x", "y"}, {"x": 1, "y": 2}, ["x", "y", "x"]],
    ids=["list", "tuple", "set", "dict", "duplicates"],
)
def test_tags_are_any_iterable_of_str(make_cache, tags):  # openclaw §2.1, C7 "duplicate tags raise"
    cache = make_cache()
    for given in (tags, iter(tags)):
        cache.set("key", 1, tags=given)
        assert dict(cache.tags) == {"x": {"key"}, "y": {"key"}}


def test_a_bare_str_is_one_tag(cache):  # openclaw §2.1, C7
    cache.set("key", 1, tags="tag")
    assert set(cache.tags) == {"tag"}
    assert cache.invalidate_by_tag("t") == 0
    assert cache.invalidate_by_tag("tag") == 1


@pytest.mark.parametrize("key", [("a", 1), 7, None, frozenset({1}), b"bytes", 2.5], ids=repr)
def test_any_hashable_key_works_in_memory_and_skips_the_disk(key, open_cache):  # openclaw §2.1
    cache = open_cache()
    cache.set(key, "value", tags=["t"])
    assert cache.get(key) == "value"
    assert key in cache
    assert cache.invalidate_by_tag("t") == 1
    cache.set(key, "value")
    assert cache.delete(key) is True
    cache.set(key, "value")
    cache.close()
    assert open_cache().get(key) is None


def test_an_unhashable_key_raises(cache):  # openclaw §2.1 "any hashable key"
    with pytest.raises(TypeError):
        cache.set([], 1)
    with pytest.raises(TypeError):
        cache.get([])
    assert len(cache) == 0


@pytest.mark.parametrize(
    "key", ["", "\0", "a\0b", "\ud800", "\U0001f680" * 1000, "'; DROP TABLE result_cache; --"], ids=range(6)
)
def test_any_str_is_a_key(open_cache, key):  # openclaw §2.1, C13: what SQLite cannot hold stays in memory
    cache = open_cache()
    cache.set(key, "value", tags=["t"])
    assert cache.get(key) == "value"
    assert cache.flush()
    assert cache.invalidate_by_tag("t") == 1
    cache.set(key, "value")
    assert cache.invalidate_pattern(key) == 1
    assert cache.delete(key) is False
    assert cache.get(key) is None


def test_keys_compare_as_in_a_dict(cache):  # openclaw §2.1 "any hashable key"
    cache.set(1, "number")
    assert cache.get(1.0) == "number"
    assert cache.get(True) == "number"
    assert cache.get("1") is None


def test_an_unpicklable_value_stays_in_memory_only(open_cache):  # openclaw §2.1
    cache = open_cache()
    value = Opaque()
    cache.set("key", value)
    assert cache.get("key") is value
    cache.close()
    assert open_cache().get("key") is None


# --- delete, clear, invalidation


def test_delete(cache):  # openclaw §2.1
    cache.set("key", 1, tags=["t"])
    assert cache.delete("key") is True
    assert cache.delete("key") is False
    assert cache.delete("never") is False
    assert cache.get("key") is None
    stats = cache.get_stats()
    assert (stats["deletes"], stats["tags_count"], stats["size"]) == (1, 0, 0)


def test_delete_of_an_expired_entry_is_false(cache):  # openclaw §2.1 "if a live entry existed"
    cache.set("key", 1, ttl=10)
    travel(11)
    assert cache.delete("key") is False
    assert cache.get_stats()["deletes"] == 0


def test_clear_empties_everything_and_keeps_the_counters(cache):  # openclaw §2.1
    cache.warmup({"a": 1, "b": 2})
    cache.set("c", 3, tags=["t"])
    cache.get("a")
    cache.get("z")
    before = cache.get_stats()
    assert cache.clear() == 3
    after = cache.get_stats()
    assert (after["size"], after["tags_count"], len(cache)) == (0, 0, 0)
    for name in ("hits", "misses", "sets", "deletes", "expirations"):
        assert after[name] == before[name]
    assert cache.clear() == 0


def test_clear_counts_distinct_keys_of_both_tiers(open_cache):  # openclaw §2.1
    cache = open_cache(max_size=2)
    cache.warmup({"a": 1, "b": 2, "c": 3})
    cache.set(("memory", "only"), 4)
    assert cache.clear() == 4


def test_invalidate_by_tag(cache):  # openclaw §2.1
    cache.set("a", 1, tags=["t", "other"])
    cache.set("b", 2, tags=["t"])
    cache.set("c", 3, tags=["other"])
    cache.set("d", 4)
    assert cache.invalidate_by_tag("unknown") == 0
    assert cache.invalidate_by_tag("t") == 2
    assert [cache.get(key) for key in "abcd"] == [None, None, 3, 4]
    assert cache.get_stats()["deletes"] == 2
    assert cache.invalidate_by_tag("t") == 0


def test_invalidate_pattern_is_a_plain_case_sensitive_substring(cache):  # openclaw §2.1
    keys = ["user:1", "user:2", "superuser:1", "User:1", "us*r", "use.:1", "%", "_", "other"]
    cache.warmup(dict.fromkeys(keys, 0))
    for wildcard in ("us*r:", "user?", "us%r", "user:_", "use.:2", "[u]ser"):
        assert cache.invalidate_pattern(wildcard) == 0
    assert cache.invalidate_pattern("user:") == 3
    assert cache.invalidate_pattern("%") == 1
    assert cache.invalidate_pattern("_") == 1
    assert cache.invalidate_pattern("*") == 1
    assert cache.get_stats()["deletes"] == 6
    assert [key for key in keys if key in cache] == ["User:1", "use.:1", "other"]


@pytest.mark.parametrize("pattern", ["load:", ":7", "ad:7", "load:7", "é:", "\U0001f680"])
def test_invalidate_pattern_anywhere_in_the_key(cache, pattern):  # openclaw §2.1
    keys = ["load:7", "reload:7", "load:8", "x:load:7", "é:1", "caché:1", "\U0001f680:1", "load"]
    cache.warmup(dict.fromkeys(keys, 0))
    expected = [key for key in keys if pattern not in key]
    assert cache.invalidate_pattern(pattern) == len(keys) - len(expected)
    assert [key for key in keys if key in cache] == expected


def test_the_empty_pattern_is_contained_in_every_str_key(cache):  # openclaw §2.1 "contain pattern"
    cache.warmup({"a": 1, "b": 2})
    assert cache.invalidate_pattern("") == 2


def test_invalidation_counts_live_entries_only(cache):  # openclaw §2.1
    cache.set("live:a", 1, ttl=100, tags=["t"])
    cache.set("dead:a", 1, ttl=10, tags=["t"])
    cache.set("live:b", 1, ttl=100)
    cache.set("dead:b", 1, ttl=10)
    travel(50)
    assert cache.invalidate_by_tag("t") == 1
    assert cache.invalidate_pattern(":b") == 1
    assert cache.get_stats()["deletes"] == 2


# --- extras


def test_len_and_membership_see_live_entries_and_change_no_counts(cache):  # openclaw §2.1 [X]
    cache.set("live", 1, ttl=100)
    cache.set("dead", 2, ttl=10)
    assert len(cache) == 2
    travel(50)
    assert "live" in cache
    assert "dead" not in cache
    stats = cache.get_stats()
    assert (stats["hits"], stats["misses"]) == (0, 0)


def test_the_context_manager_closes(open_cache):  # openclaw §2.1 [X]
    with open_cache() as cache:
        cache.set("key", 1)
        assert cache.db_conn is not None
    assert cache.db_conn is None
    assert open_cache().get("key") == 1
