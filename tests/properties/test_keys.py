"""Keys of arbitrary calls: equal exactly when the calls are."""

import copy
import os
import pickle
import struct
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from upshift import _native

IMMUTABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**200), max_value=2**200),
    st.floats(),
    st.complex_numbers(allow_nan=False),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
)
BYTEARRAYS = st.binary().map(bytearray)
# Few values, so that two draws are often nearly alike.
CLOSE = st.sampled_from([None, 0, 1, True, False, 0.0, -0.0, 1.0, "", "0", "1", "a", b"", b"1", "None", 1j, 2**64, -1])


def hashable(atoms):
    return st.recursive(
        atoms,
        lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
        max_leaves=4,
    )


def values(atoms):
    keys = hashable(atoms)
    return st.recursive(
        st.one_of(atoms, BYTEARRAYS),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(keys, inner, max_size=4),
            st.sets(keys, max_size=4),
            st.frozensets(keys, max_size=4),
        ),
        max_leaves=12,
    )


def calls(atoms):
    value = values(atoms)
    return st.tuples(st.lists(value, max_size=3).map(tuple), st.dictionaries(st.text(max_size=3), value, max_size=3))


def form(value):
    """What identifies a value, as nested tuples in which nothing is left to `==` between types."""
    kind = type(value).__name__
    if isinstance(value, float):
        return (kind, struct.pack("<d", value))
    if isinstance(value, complex):
        return (kind, struct.pack("<dd", value.real, value.imag))
    if isinstance(value, (list, tuple)):
        return (kind, tuple(map(form, value)))
    if isinstance(value, dict):
        return (kind, frozenset((form(k), form(v)) for k, v in value.items()))
    if isinstance(value, (set, frozenset)):
        return (kind, frozenset(map(form, value)))
    return (kind, bytes(value) if isinstance(value, bytearray) else value)


def key(call):
    kind, text = _native.call_key("f", *call)
    assert kind == "durable"
    return text


@given(calls(CLOSE), calls(CLOSE))
@settings(deadline=None)
def test_keys_are_equal_exactly_when_calls_are(one, other):
    assert (key(one) == key(other)) == (form(one) == form(other))


@given(calls(IMMUTABLE), calls(IMMUTABLE))
@settings(deadline=None)
def test_keys_are_equal_exactly_when_calls_are_any_values(one, other):
    assert (key(one) == key(other)) == (form(one) == form(other))


def shuffled(value):
    """The same value with dicts and sets filled the other way round, made of other objects."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(shuffled, value))
    if isinstance(value, dict):
        return {shuffled(k): shuffled(v) for k, v in reversed(list(value.items()))}
    if isinstance(value, (set, frozenset)):
        return type(value)(map(shuffled, reversed(list(value))))
    return copy.deepcopy(value)


@given(calls(IMMUTABLE))
@settings(deadline=None)
def test_order_and_identity_make_no_difference(call):
    assert key(call) == key(shuffled(call))


class Thing:
    def __init__(self, value):
        self.value = value


@given(values(CLOSE), values(CLOSE))
@settings(deadline=None)
def test_objects_have_equal_keys_exactly_when_their_attributes_are_equal(one, other):
    same = form(one) == form(other)
    assert (key(((Thing(one),), {})) == key(((Thing(other),), {}))) == same
    assert key(((Thing(one),), {})) == key(((Thing(shuffled(one)),), {}))
    assert (key((([Thing(one)],), {})) == key((([Thing(other)],), {}))) == same


@given(st.lists(calls(IMMUTABLE), min_size=1, max_size=20))
@settings(max_examples=5, deadline=None)
def test_equal_calls_agree_between_processes(some_calls):
    program = (
        "import pickle, sys; from upshift import _native\n"
        "for call in pickle.load(sys.stdin.buffer): print(_native.call_key('f', *call)[1])"
    )
    data = pickle.dumps(some_calls)
    expected = "".join(key(call) + "\n" for call in some_calls)
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", program],
            input=data,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            timeout=60,
        )
        assert run.stdout.decode() == expected
