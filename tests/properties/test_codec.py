"""Arbitrary values survive the disk exactly; arbitrary damage to a blob does no harm."""

import datetime as dt
import decimal
import struct

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from upshift import _native

KEY = b"k" * 32

ZONES = st.one_of(
    st.none(),
    st.just(dt.timezone.utc),
    st.builds(dt.timezone, st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23))),
    st.timezones(),
)
IMMUTABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**300), max_value=2**300),
    st.floats(),
    st.complex_numbers(),
    st.text(st.characters(exclude_categories=())),
    st.binary(),
    st.dates(),
    st.times(timezones=ZONES),
    st.datetimes(timezones=ZONES),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
HASHABLE = st.recursive(
    IMMUTABLE,
    lambda inner: st.one_of(st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)),
    max_leaves=4,
)
VALUES = st.recursive(
    st.one_of(IMMUTABLE, st.decimals(), st.binary().map(bytearray)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(HASHABLE, inner, max_size=5),
        st.sets(HASHABLE, max_size=5),
    ),
    max_leaves=15,
)


def form(value):
    """All of a value that has to survive, including the order of dicts, as something that `==` compares strictly."""
    kind = type(value).__name__
    if isinstance(value, float):
        return (kind, struct.pack("<d", value))
    if isinstance(value, complex):
        return (kind, struct.pack("<dd", value.real, value.imag))
    if isinstance(value, (list, tuple)):
        return (kind, tuple(map(form, value)))
    if isinstance(value, dict):
        return (kind, tuple((form(k), form(v)) for k, v in value.items()))
    if isinstance(value, (set, frozenset)):
        return (kind, tuple(sorted(repr(form(item)) for item in value)))
    if isinstance(value, decimal.Decimal):
        return (kind, value.as_tuple())
    if isinstance(value, (dt.datetime, dt.time)):
        return (kind, value.replace(tzinfo=None).isoformat(), value.fold, repr(value.tzinfo))
    return (kind, bytes(value) if isinstance(value, bytearray) else value)


@given(VALUES)
@settings(deadline=None)
def test_plain_round_trip(value):
    blob = _native._codec_dumps(value, None, allow_pickle=False)
    assert blob is not None
    assert form(_native._codec_loads(blob, None, allow_pickle=False)) == form(value)


class Thing:
    def __init__(self, value):
        self.value = value


@given(VALUES)
@settings(deadline=None)
def test_pickled_round_trip(value):
    blob = _native._codec_dumps(Thing(value), KEY)
    assert form(_native._codec_loads(blob, KEY).value) == form(value)


@given(VALUES, st.data())
@settings(deadline=None)
def test_damaged_blobs_yield_a_value_or_a_reason(value, data):
    blob = bytearray(_native._codec_dumps(value, None))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(blob))


@given(st.binary(max_size=200))
@settings(deadline=None)
@example(b"\xc1U\x11\x00")
def test_arbitrary_bytes_yield_a_value_or_a_reason(body):
    check(body)
    check(b"\xc1U\x11\x00" + body)
    for key in (None, KEY):
        with pytest.raises(ValueError):
            _native._codec_loads(b"\xc1U\x12\x00" + body, key)


def check(blob):
    # Pickles are off: whatever is read here was read by the plain decoder.
    try:
        value = _native._codec_loads(blob, KEY, allow_pickle=False)
    except ValueError:
        return
    again = _native._codec_dumps(value, None, allow_pickle=False)
    assert form(_native._codec_loads(again, None, allow_pickle=False)) == form(value)


@given(VALUES)
@settings(deadline=None)
def test_any_value_has_a_size_and_a_key(value):
    assert _native._estimate_size(value) > 0
    assert _native.call_key("f", (value,)) == _native.call_key("f", (value,))
