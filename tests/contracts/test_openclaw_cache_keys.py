"""Contract openclaw §2.3: keys of decorated functions: stable, injective, and from the signature."""

from __future__ import annotations

import collections
import copy
import datetime as dt
import decimal
import enum
import itertools
import re
import uuid

import pytest
from harness import run

from upshift import ResultCache


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    ONE = 1


class Name(str):
    pass


Pair = collections.namedtuple("Pair", "a b")


class Point:
    """Equal text for all values: a key made from it would mix them up."""

    def __init__(self, x):
        self.x = x

    def __repr__(self):
        return "Point(...)"


def len_of(value):
    return len(value)


class Slotted:
    """Neither picklable nor weak-referenceable."""

    __slots__ = ()

    def __reduce__(self):
        raise TypeError("not picklable")


class Unpicklable:
    def __reduce__(self):
        raise TypeError("not picklable")


@pytest.fixture
def key():
    cache = ResultCache()
    return lambda *args, **kwargs: cache.generate_key("f", args, kwargs)


def test_the_form_of_a_key(key):  # openclaw §2.3 "at least 128 bits"
    assert re.fullmatch(r"f:[0-9a-f]{32,}", key(1, "x", y=[1]))
    assert ResultCache().generate_key("pkg.mod.f", (), {}).startswith("pkg.mod.f:")


DISTINCT = [
    ((1,), {}),
    ((True,), {}),
    ((1.0,), {}),
    (("1",), {}),
    ((b"1",), {}),
    ((bytearray(b"1"),), {}),
    ((1j,), {}),
    ((decimal.Decimal(1),), {}),
    ((0,), {}),
    ((False,), {}),
    ((0.0,), {}),
    ((-0.0,), {}),
    ((-1,), {}),
    ((2**63,), {}),
    ((2**64,), {}),
    ((-(2**63),), {}),
    ((10**100,), {}),
    ((None,), {}),
    (("None",), {}),
    (("",), {}),
    ((), {}),
    (("a:b",), {}),
    (("a", "b"), {}),
    (("ab",), {}),
    (("a", "b", ""), {}),
    ((("a", "b"),), {}),
    ((["a", "b"],), {}),
    (({"a", "b"},), {}),
    ((frozenset({"a", "b"}),), {}),
    (({"a": "b"},), {}),
    ((("a",), "b"), {}),
    ((("a", ("b",)),), {}),
    (([["a"], "b"],), {}),
    (([["a", "b"]],), {}),
    (("x=1",), {}),
    (("x", 1), {}),
    ((("x", 1),), {}),
    (({"x": 1},), {}),
    ((), {"x": 1}),
    ((), {"x": "1"}),
    ((), {"x": True}),
    ((), {"x": 1, "y": 2}),
    ((), {"x": 2, "y": 1}),
    (([],), {}),
    (((),), {}),
    (({},), {}),
    ((set(),), {}),
    ((Colour.RED,), {}),
    ((Colour.BLUE,), {}),
    ((Level.ONE,), {}),
    ((Name("1"),), {}),
    ((Pair("a", "b"),), {}),
    ((Point(1),), {}),
    ((Point(2),), {}),
    ((list(range(5000)),), {}),
    (([*range(2500), 0, *range(2501, 5000)],), {}),
    ((dt.date(2024, 1, 1),), {}),
    ((dt.datetime(2024, 1, 1),), {}),
    ((dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),), {}),
    ((uuid.UUID(int=1),), {}),
    ((uuid.UUID(int=2),), {}),
    ((range(3),), {}),
    ((slice(1, 2),), {}),
    ((int,), {}),
    ((str,), {}),
    ((Point,), {}),
    ((...,), {}),
    ((float("nan"),), {}),
    ((float("inf"),), {}),
]


def test_different_arguments_have_different_keys(key):  # openclaw §2.3 "injective", C3
    keys = {}
    for args, kwargs in DISTINCT:
        made = key(*args, **kwargs)
        assert made not in keys, f"{(args, kwargs)!r:.80} and {keys[made]!r:.80}"
        keys[made] = (args, kwargs)


def test_equal_arguments_have_equal_keys(key):  # openclaw §2.3 "deterministic"
    for args, kwargs in DISTINCT:
        try:
            twin = copy.deepcopy((args, kwargs))
        except TypeError:
            continue
        assert key(*args, **kwargs) == key(*twin[0], **twin[1]), repr((args, kwargs))[:80]


def test_length_prefixes_leave_no_room_for_tricks(key):  # openclaw §2.3 "length-prefixed"
    letters = ["", "a", ":", "a:", ":a", "aa", "1", "\0"]
    lists = [list(combination) for n in range(4) for combination in itertools.product(letters, repeat=n)]
    assert len({key(value) for value in lists}) == len(lists)
    assert len({key(*value) for value in lists}) == len(lists)


def test_containers_do_not_depend_on_order(key):  # openclaw §2.3 "dict and set independent of order"
    forward = {f"k{i}": {i, str(i)} for i in range(50)}
    backward = dict(reversed(list(forward.items())))
    assert key(forward) == key(backward)
    assert key({"deep": [forward]}) == key({"deep": [backward]})
    words = [f"word{i}" for i in range(50)]
    backward = set()
    for word in reversed(words):
        backward.add(word)
    assert key(set(words)) == key(backward)
    assert key(a=1, b=2) == key(b=2, a=1)
    assert key({1: "a", "1": "b"}) == key({"1": "b", 1: "a"})
    assert key([1, 2]) != key([2, 1])


def test_deep_and_cyclic_arguments_do_not_overflow(key):  # openclaw §2.3 "containers are encoded recursively"
    deep = []
    for _ in range(100_000):
        deep = [deep]
    cyclic = []
    cyclic.append(cyclic)
    for value in (deep, cyclic):
        runs = []
        f = ResultCache().cached()(lambda x, runs=runs: runs.append(1))
        try:
            f(value)
        except (RecursionError, ValueError):
            continue  # refusing is fine, crashing is not
        assert runs == [1]
    while deep:
        deep = deep.pop()


STABLE = """
    import sys, datetime, decimal, enum, uuid
    from upshift import ResultCache

    class Point:
        def __init__(self, x): self.x = x
        def __repr__(self): return "Point"

    cache = ResultCache()
    words = {f"word{i}" for i in range(30)}
    arguments = [
        ((1, "a", 2.5, None, True, b"x"), {"k": [1, {"a": {1, 2}}]}),
        ((words, frozenset(words), dict.fromkeys(words)), {}),
        ((Point(3), [Point(words)], datetime.datetime(2024, 1, 1), decimal.Decimal("1.50"), uuid.UUID(int=5)), {}),
        ((object, len, range(5)), {}),
    ]
    print([cache.generate_key("f", args, kwargs) for args, kwargs in arguments])
"""


def test_keys_are_the_same_in_every_process():  # openclaw §2.3 "processes, threads, platforms and hash seeds", C4
    runs = {run(STABLE, env={"PYTHONHASHSEED": seed}) for seed in ("0", "1", "4711")}
    assert len(runs) == 1


def test_the_signature_makes_one_entry_of_equivalent_calls(cache, style):  # openclaw §2.3
    runs = []
    f = cache.cached()(style.form(lambda x, y=3: runs.append((x, y))))
    for args, kwargs in [((5,), {}), ((5, 3), {}), ((5,), {"y": 3}), ((), {"x": 5, "y": 3}), ((), {"y": 3, "x": 5})]:
        style.call(f, *args, **kwargs)
    assert runs == [(5, 3)]
    style.call(f, 5, 4)
    assert runs == [(5, 3), (5, 4)]


def test_every_kind_of_parameter(cache):  # openclaw §2.3 "binds arguments to the signature"
    runs = []

    @cache.cached()
    def f(a, /, b, *rest, c=1, **more):
        runs.append((a, b, rest, c, more))
        return len(runs)

    assert f(1, 2) == f(1, b=2) == f(1, 2, c=1) == 1
    assert f(1, 2, 3) == 2
    assert f(1, 2, c=3) == 3
    assert f(1, 2, d=3) == 4
    assert f(1, 2, d=3, e=4) == f(1, 2, e=4, d=3) == 5
    assert f(1, 2, a=3) == 6  # lands in **more beside the positional-only a
    assert f(1, 2, (3,)) == 7


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"),
        (1, True),
        (1, 1.0),
        (True, "True"),
        (None, "None"),
        (0, False),
        (0.0, -0.0),
        (1, Level.ONE),
        ("1", Name("1")),
        (("a", "b"), Pair("a", "b")),
    ],
)
def test_look_alikes_get_their_own_result(cache, style, one, other):  # openclaw §2.3, C3
    f = cache.cached()(style.form(lambda x: repr(x)))
    for _ in range(2):
        assert style.call(f, one) == repr(one)
        assert style.call(f, other) == repr(other)


def test_text_with_separators(cache):  # openclaw §2.3, C3
    f = cache.cached()(lambda *args, **kwargs: (args, kwargs))
    calls = [(("a:b",), {}), (("a", "b"), {}), (("x=1",), {}), ((), {"x": 1}), ((), {"x": "1"})]
    for args, kwargs in calls * 2:
        assert f(*args, **kwargs) == (args, kwargs)


def test_objects_are_told_apart_by_pickle_not_by_text(cache):  # openclaw §2.3 "never str()/repr()/hash()", C3
    f = cache.cached()(lambda p: p.x)
    assert [f(Point(1)), f(Point(2)), f(Point(1))] == [1, 2, 1]
    assert cache.get_stats()["hits"] == 1


def test_large_arrays_with_shortened_text(cache):  # openclaw §2.3, C3
    numpy = pytest.importorskip("numpy")
    a = numpy.zeros(100_000)
    b = a.copy()
    b[50_000] = 1
    assert repr(a) == repr(b)
    f = cache.cached()(lambda array: float(array.sum()))
    assert [f(a), f(b), f(a), f(b.copy())] == [0.0, 1.0, 0.0, 1.0]
    assert cache.get_stats()["hits"] == 2
    assert f(a.astype("float32")) == 0.0
    assert f(a.reshape(1000, 100)) == 0.0
    assert cache.get_stats()["hits"] == 2


def test_an_unpicklable_argument_is_known_by_identity(cache, style):  # openclaw §2.3 "a per-object token"
    runs = []
    f = cache.cached()(style.form(lambda x: runs.append(x)))
    a, b = Unpicklable(), Unpicklable()
    for argument in (a, b, a, b):
        style.call(f, argument)
    assert runs == [a, b]


def test_a_token_is_not_reused_when_the_object_dies(cache):  # openclaw §2.3: an address would be
    f = cache.cached()(lambda x: id(x))
    seen = set()
    for i in range(200):
        argument = Unpicklable()
        argument.i = i
        f(argument)
        seen.add(cache.get_stats()["misses"])
        del argument
    assert seen == set(range(1, 201))


def test_an_unpicklable_argument_stays_off_the_disk(open_cache, rows):  # openclaw §2.3 "memory tier only"
    cache = open_cache()
    f = cache.cached()(len_of)
    assert f([Unpicklable()]) == 1
    assert f([1, 2, 3]) == 3
    cache.close()
    assert len(rows()) == 1


def test_neither_picklable_nor_weak_referenceable_calls_through(cache, style):  # openclaw §2.3
    runs = []
    f = cache.cached()(style.form(lambda x: runs.append(1) or len(runs)))
    argument = Slotted()
    assert [style.call(f, argument) for _ in range(3)] == [1, 2, 3]
    assert len(cache) == 0
