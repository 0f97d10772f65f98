"""Keys of calls: what must differ differs, what is equal agrees everywhere."""

import collections
import enum
import functools
import gc
import os
import subprocess
import sys
import textwrap
import threading
import weakref

import pytest

from upshift import _native


def key(*args, **kwargs):
    return _native.call_key("module.f", args, kwargs)


def durable(*args, **kwargs):
    kind, text = key(*args, **kwargs)
    assert kind == "durable"
    return text


class Color(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


class Number(int):
    __slots__ = ()


class Items(list):
    __slots__ = ()


Point = collections.namedtuple("Point", "x y")


class Plain:
    """Compares and hashes by identity, pickles by value."""

    def __init__(self, **attributes):
        self.__dict__.update(attributes)


class Textual(Plain):
    def __str__(self):
        raise AssertionError("str() of an argument")

    __repr__ = __str__

    def __hash__(self):
        raise AssertionError("hash() of an argument")


class Unpicklable:
    def __init__(self, error=TypeError):
        self.error = error

    def __reduce__(self):
        raise self.error("not me")


class Slotted:
    """Neither picklable nor weak-referenceable."""

    __slots__ = ()

    def __reduce__(self):
        raise TypeError("not me")


def test_form():
    text = durable(1)
    assert text.startswith("module.f:")
    digest = text.split(":")[1]
    assert len(digest) == 40
    assert digest == digest.lower()
    int(digest, 16)


# Keys are stored: a change here loses every user's cache on disk.
@pytest.mark.parametrize(
    ("args", "kwargs", "digest"),
    [
        ((), {}, "af5570f5a1810b7af78caf4bc70a660f0df51e42"),
        ((1, "a", None, True, 2.5), {"x": [1, (2,)]}, "e1066e6d81dfdb46aa4cab9af89a59a245606b1d"),
        (({"b": 1, "a": {3, 1}}, b"x", bytearray(b"y"), 1j, 2**70), {}, "9c1f35073db38b49e4243f98c8c5f324e8bae564"),
    ],
)
def test_keys_are_stable_between_releases(args, kwargs, digest):
    assert _native.call_key("f", args, kwargs) == ("durable", f"f:{digest}")


# Contract openclaw C3: all of these returned each other's results.
DIFFERENT = [
    ((1,), {}),
    ((True,), {}),
    ((1.0,), {}),
    (("1",), {}),
    ((b"1",), {}),
    ((bytearray(b"1"),), {}),
    ((1 + 0j,), {}),
    ((Color.RED,), {}),
    ((Number(1),), {}),
    ((Text("1"),), {}),
    ((0,), {}),
    ((False,), {}),
    ((0.0,), {}),
    ((-0.0,), {}),
    ((-1,), {}),
    ((2**63 - 1,), {}),
    ((2**63,), {}),
    ((-(2**63),), {}),
    ((-(2**63) - 1,), {}),
    ((2**64,), {}),
    ((None,), {}),
    (("None",), {}),
    (("True",), {}),
    ((), {}),
    (("",), {}),
    (("", ""), {}),
    (("a:b",), {}),
    (("a", "b"), {}),
    (("ab",), {}),
    (("ab", ""), {}),
    (("x=1",), {}),
    ((), {"x": 1}),
    ((), {"x": "1"}),
    ((), {"y": 1}),
    (("x", 1), {}),
    (({"x": 1},), {}),
    (((),), {}),
    (([],), {}),
    (({},), {}),
    ((set(),), {}),
    ((frozenset(),), {}),
    (((1,),), {}),
    (([1],), {}),
    (({1},), {}),
    ((frozenset([1]),), {}),
    (({1: None},), {}),
    ((Items([1]),), {}),
    (((1, 2),), {}),
    ((Point(1, 2),), {}),
    (((1, (2,)),), {}),
    (((1, 2, ()),), {}),
    (([[1], 2],), {}),
    (([[1, 2]],), {}),
    (({"a": {"b": 1}},), {}),
    (({"a": ("b", 1)},), {}),
    ((collections.OrderedDict(a=1),), {}),
    ((collections.Counter(a=1),), {}),
    (({"a": 1},), {}),
    (("\ud800",), {}),
    (("\udfff",), {}),
    (("é",), {}),
    (("e\u0301",), {}),
    ((Plain(x=1),), {}),
    ((Plain(x=2),), {}),
    ((Plain(y=1),), {}),
    ((Textual(x=1),), {}),
    ((int,), {}),
    (("int",), {}),
    ((len,), {}),
    ((float("inf"),), {}),
    ((float("nan"),), {}),
]


def test_different_calls_have_different_keys():
    keys = [durable(*args, **kwargs) for args, kwargs in DIFFERENT]
    assert len(set(keys)) == len(DIFFERENT)


def test_functions_have_different_keys():
    assert _native.call_key("f", (1,)) != _native.call_key("g", (1,))


def test_keywords_and_dicts_and_sets_have_no_order():
    assert durable(a=1, b=2) == durable(b=2, a=1)
    assert durable({"a": 1, "b": 2}) == durable({"b": 2, "a": 1})
    # Sets that collide in their table keep the order of insertion.
    assert durable({0, 8, 16}) == durable({16, 8, 0})
    assert durable(frozenset([0, 8, 16])) == durable(frozenset([16, 8, 0]))
    assert durable({1: {"a": [{8, 0}], "b": 2}}) == durable({1: {"b": 2, "a": [{0, 8}]}})


def test_order_of_lists_and_of_ordered_dicts_counts():
    assert durable([1, 2]) != durable([2, 1])
    ordered = collections.OrderedDict
    assert durable(ordered([("a", 1), ("b", 2)])) != durable(ordered([("b", 2), ("a", 1)]))


def test_equal_strings_need_not_be_one_object():
    """A memoising pickle would tell them apart."""
    one = "some text"
    other = one[:4] + one[4:]
    assert one is not other
    assert durable(Plain(a=one, b=one)) == durable(Plain(a=one, b=other))


def test_dicts_and_sets_inside_of_objects_have_no_order():
    assert durable(Plain(a=1, b={0, 8, 16})) == durable(Plain(b={16, 8, 0}, a=1))
    assert durable(Plain(inner=Plain(a={"x": 1, "y": 2}))) == durable(Plain(inner=Plain(a={"y": 2, "x": 1})))
    assert durable([Plain(a=frozenset("ab"))]) == durable([Plain(a=frozenset("ba"))])
    assert durable(Plain(a={1})) != durable(Plain(a=frozenset([1])))
    assert durable(Plain(a={1})) != durable(Plain(a={2}))


def test_text_and_hash_of_an_argument_are_never_asked_for():
    assert durable(Textual(x=1)) == durable(Textual(x=1))
    assert durable([Textual(x=1)]) != durable([Textual(x=2)])


def test_large_ints():
    values = [sign * (2**bits + delta) for bits in (63, 64, 71, 72, 1000) for delta in (-1, 0, 1) for sign in (1, -1)]
    assert len({durable(value) for value in values}) == len(set(values))


def test_arrays_whose_text_is_shortened():
    numpy = pytest.importorskip("numpy")
    one, other = numpy.zeros(100_000), numpy.zeros(100_000)
    assert durable(one) == durable(other)
    other[50_000] = 1
    assert str(one) == str(other)
    assert durable(one) != durable(other)
    assert durable(one) != durable(one.astype("f4"))
    assert durable(one) != durable(one.reshape(10, -1))


# Identity


def test_unpicklable_argument_takes_part_by_identity():
    one, other = Unpicklable(), Unpicklable()
    assert key(one)[0] == "memory"
    assert key(one) == key(one)
    assert key(one) != key(other)
    assert key([one, 1]) == key([one, 1])
    assert key([one]) != key([other])
    assert key({"a": (one,)}, x=1)[0] == "memory"
    assert durable(1)


def test_locks_generators_and_local_functions():
    def local():
        pass

    with open(os.devnull) as file:
        for value in (threading.Lock(), (i for i in range(3)), local, lambda: None, sys, file):
            assert key(value)[0] == "memory"
            assert key(value) == key(value)


def test_object_that_holds_an_unpicklable_one_takes_part_itself():
    service = Plain(lock=threading.Lock(), calls=0)
    before = key(service)
    service.calls += 1
    assert key(service) == before
    assert key(Plain(lock=service.lock, calls=1)) != before


@pytest.mark.parametrize(
    "error", [TypeError, ValueError, AttributeError, RuntimeError, ZeroDivisionError, RecursionError]
)
def test_any_exception_means_unpicklable(error):
    assert key(Unpicklable(error))[0] == "memory"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_passes_through(error):
    with pytest.raises(error):
        key(Unpicklable(error))
    with pytest.raises(error):
        key([Plain(inner={"a": Unpicklable(error)})])


def test_tokens_are_never_reused():
    seen = set()
    for _ in range(2000):
        value = Unpicklable()
        text = key(value)[1]
        assert text not in seen
        seen.add(text)


def test_tokens_do_not_keep_objects_alive_and_survive_the_sweep():
    kept = [Unpicklable() for _ in range(300)]
    before = [key(value) for value in kept]
    dead = Unpicklable()
    reference = weakref.ref(dead)
    key(dead)
    del dead
    gc.collect()
    assert reference() is None
    for _ in range(3000):
        key(Unpicklable())
    assert [key(value) for value in kept] == before


def test_token_of_an_object_with_other_weak_references():
    value = Unpicklable()
    before = key(value)
    references = [weakref.ref(value, lambda _: None), weakref.proxy(value)]
    assert key(value) == before
    del references
    assert key(value) == before


def test_tokens_are_the_same_in_every_thread():
    values = [Unpicklable() for _ in range(200)]
    results = []

    def work():
        results.append([key(value) for value in values])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == results[0] for result in results)


def test_neither_picklable_nor_weak_referenceable():
    assert key(Slotted()) == ("uncacheable", None)
    assert key([1, {"a": Slotted()}]) == ("uncacheable", None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_tokens_of_a_forked_child_are_its_own():
    read, write = os.pipe()
    parent = key(Unpicklable())[1]
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, key(Unpicklable())[1].encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        child = pipe.read()
    os.waitpid(pid, 0)
    following = key(Unpicklable())[1]
    assert len({parent, child, following}) == 3


# Shape


def nested(depth, make, leaf=0):
    value = leaf
    for _ in range(depth):
        value = make(value)
    return value


@pytest.mark.parametrize("make", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: Plain(child=v)])
@pytest.mark.parametrize("depth", [1, 20, 63, 64, 65, 200])
def test_deep_values(make, depth):
    assert durable(nested(depth, make)) == durable(nested(depth, make))
    assert durable(nested(depth, make)) != durable(nested(depth + 1, make))
    assert durable(nested(depth, make)) != durable(nested(depth, make, leaf=1))


@pytest.mark.parametrize("make", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: frozenset([v])])
def test_values_too_deep_for_any_encoding(make):
    value = nested(20_000, make)
    kind, _ = key(value)
    assert kind in ("uncacheable", "memory")
    while value:  # taken apart from outside: some interpreters overflow their stack when they free it at once
        value = next(iter(value.values() if isinstance(value, dict) else value))


def test_cyclic_objects_are_pickled_with_memo():
    def ring(name):
        node = Plain(name=name)
        node.other = Plain(other=node, items=[1, {2, 3}])
        return node

    assert durable(ring("a")) == durable(ring("a"))
    assert durable(ring("a")) != durable(ring("b"))


def test_cyclic_containers():
    items = [1]
    items.append(items)
    other = [2]
    other.append(other)
    assert durable(items) == durable(items)
    assert durable(items) != durable(other)
    table = {}
    table["self"] = table
    assert durable(table)
    items.append(Unpicklable())
    assert key(items) == ("uncacheable", None)


def test_shared_parts_do_not_multiply():
    value = ()
    for _ in range(64):
        value = (value, value)
    assert durable(value)
    node = Plain()
    for _ in range(40):
        node = Plain(left=node, right=node)
    assert durable(node)
    items = Items()
    for _ in range(64):
        items = Items([items, items])
    assert durable(Plain(items=items))


def test_large_containers():
    rows = [(i, str(i), {"i": i}) for i in range(20_000)]
    assert durable(rows) == durable([(i, str(i), {"i": i}) for i in range(20_000)])
    rows[10_000] = (0, "0", {"i": 0})
    assert durable(rows) != durable([(i, str(i), {"i": i}) for i in range(20_000)])


class Intruder:
    """Changes a container while it is being encoded."""

    def __init__(self, change):
        self.change = change

    def __reduce__(self):
        self.change()
        return (int, ())


def test_containers_that_change_meanwhile():
    table = {}
    table.update(a=Intruder(lambda: table.update({str(i): i for i in range(100)})), b=2)
    assert key(table)[0] == "uncacheable"
    table = {}
    table.update(a=Intruder(table.clear), b=2)
    assert key(table)[0] == "uncacheable"
    items = [0]
    items[:] = [Intruder(items.clear), 1, 2]
    assert key(items)[0] == "durable"
    group = set()
    group.update([Intruder(lambda: group.update(range(100))), "a", "b"])
    assert key(group)[0] in ("uncacheable", "durable")


def test_keys_asked_for_while_a_key_is_made():
    class Nested(Plain):
        def __reduce__(self):
            return (Plain, (), {"inner": durable({"b": [Plain(a={1, 2})], "a": (1, 2)})})

    assert durable([1, Nested(), 2]) == durable([1, Nested(), 2])


def test_bound_methods_and_partials():
    one, other = Plain(x=1), Plain(x=2)
    assert durable(functools.partial(max, 1)) == durable(functools.partial(max, 1))
    assert durable(functools.partial(max, 1)) != durable(functools.partial(max, 2))
    assert durable(one.__reduce__) != durable(other.__reduce__)


def test_args_are_any_iterable_and_kwargs_optional():
    assert (
        _native.call_key("f", [1, 2]) == _native.call_key("f", (1, 2), {}) == _native.call_key("f", iter((1, 2)), None)
    )
    with pytest.raises(TypeError):
        _native.call_key("f", 1)
    with pytest.raises(TypeError):
        _native.call_key("f", (), {1: 2})


# Other processes (contract openclaw C4)

PROGRAM = textwrap.dedent(
    """
    import collections, datetime, decimal, enum, json, pathlib, uuid
    from upshift import _native

    class Thing:
        def __init__(self, **attributes):
            self.__dict__.update(attributes)

    node = Thing(names={"a", "b", "c"})
    node.me = node
    values = [
        {"a", "b", "c", "d"}, frozenset("abcdef"), {"x": {"p", "q"}, "y": [{1, "1"}]},
        Thing(tags={"red", "green", "blue"}, nested=[Thing(k=frozenset(["u", "v", "w"]))]), node,
        collections.Counter("abcab"), collections.OrderedDict(a={"m", "n", "o"}), collections.defaultdict(list, a=[1]),
        datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc), decimal.Decimal("1.10"), uuid.UUID(int=5),
        pathlib.PurePosixPath("a/b"), len, json.dumps, int, {("a", 1): {"b"}}, "\\ud800", 2**100, float("nan"),
    ]
    for value in values:
        print(*_native.call_key("m.f", (value,), {"k": value}))
    """
)


def test_equal_calls_agree_between_processes(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    outputs = set()
    for seed in ("0", "1", "2", "4711"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        outputs.add(subprocess.check_output([sys.executable, str(script)], env=env, text=True, timeout=60))
    assert len(outputs) == 1
    lines = outputs.pop().splitlines()
    assert all(line.startswith("durable m.f:") for line in lines)
    assert len(set(lines)) == len(lines) == 19


def test_classes_of_different_scripts_differ(tmp_path):
    """Both are `__main__.Thing`, which says nothing about what they are."""
    outputs = set()
    for name in ("one.py", "two.py"):
        script = tmp_path / name
        script.write_text("class Thing: pass\nfrom upshift import _native\nprint(*_native.call_key('f', (Thing(),)))")
        outputs.add(subprocess.check_output([sys.executable, str(script)], text=True, timeout=60))
    assert len(outputs) == 2
