"""Values on disk: exact round trips, and blobs that nobody vouches for are never executed."""

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import hashlib
import hmac
import math
import os
import pickle
import stat
import struct
import subprocess
import sys
import uuid
import zoneinfo

import pytest

from upshift import _native

KEY = bytes(range(32))
PLAIN, PICKLED = 0x11, 0x12


def dumps(obj, **options):
    return _native._codec_dumps(obj, KEY, **options)


def loads(blob, **options):
    return _native._codec_loads(blob, KEY, **options)


def same(one, other):
    """Equal in type, content, order and sign, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", other)
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, (set, frozenset)):
        return len(one) == len(other) and all(any(same(a, b) for b in other) for a in one)
    if isinstance(one, decimal.Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, (dt.datetime, dt.time)):
        return (
            one.replace(tzinfo=None) == other.replace(tzinfo=None)
            and one.fold == other.fold
            and zone(one) == zone(other)
        )
    return one == other


def zone(moment):
    tz = moment.tzinfo
    return (type(tz), getattr(tz, "key", None), tz.__reduce__()[1] if isinstance(tz, dt.timezone) else None)


class Priority(enum.IntEnum):
    HIGH = 1


class Text(str):
    pass


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Record:
    name: str
    parts: list


LOADED = []


def record_load(argument):
    LOADED.append(argument)
    return argument


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self):
        return (record_load, ("bomb",))


class Unpicklable:
    def __init__(self, error=TypeError):
        self.error = error

    def __reduce__(self):
        raise self.error("not me")


UTC = dt.timezone.utc
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")

PLAIN_VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    -32,
    -33,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31,
    -(2**31) - 1,
    2**32,
    2**63 - 1,
    2**63,
    -(2**63),
    -(2**63) - 1,
    2**64,
    2**1000,
    -(2**1000),
    0.0,
    -0.0,
    1.5,
    math.inf,
    -math.inf,
    math.nan,
    struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_DEAD_BEEF))[0],
    1j,
    complex(-0.0, math.nan),
    "",
    "a",
    "x" * 31,
    "x" * 32,
    "x" * 256,
    "x" * 70_000,
    "é😀\0",
    "\ud800",
    "a\udfffb",
    b"",
    b"\xc1U\0",
    b"x" * 300,
    b"x" * 70_000,
    bytearray(b""),
    bytearray(b"abc"),
    (),
    (1,),
    (1, (2, (3, ()))),
    [],
    [1, [2, []]],
    list(range(20)),
    list(range(70_000)),
    {},
    {"b": 1, "a": 2},
    {1: "int", 1.5: "float", "1": "str", None: "none", (1, 2): "tuple", frozenset([3]): "frozenset", b"1": "bytes"},
    {str(i): i for i in range(100)},
    {i: str(i) for i in range(70_000)},
    set(),
    {1, "1", None, (1,)},
    frozenset(),
    frozenset([1, frozenset([2])]),
    dt.date(1, 1, 1),
    dt.date(9999, 12, 31),
    dt.time(),
    dt.time(23, 59, 59, 999_999, fold=1),
    dt.time(1, tzinfo=UTC),
    dt.datetime(1, 1, 1),
    dt.datetime(9999, 12, 31, 23, 59, 59, 999_999),
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
    dt.datetime(2024, 1, 1, tzinfo=UTC),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=-5, minutes=-30, microseconds=7))),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1), "Zürich")),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone(dt.timedelta(0), "")),
    dt.timedelta(),
    dt.timedelta.min,
    dt.timedelta.max,
    dt.timedelta(microseconds=-1),
    decimal.Decimal(0),
    decimal.Decimal("-0.00"),
    decimal.Decimal("1.10"),
    decimal.Decimal("1E+1000"),
    decimal.Decimal("12345678901234567890123456789012345678901234567890.1"),
    decimal.Decimal("NaN123"),
    decimal.Decimal("sNaN"),
    decimal.Decimal("-Infinity"),
    uuid.UUID(int=0),
    uuid.UUID(int=2**128 - 1, is_safe=uuid.SafeUUID.unsafe),
    uuid.UUID(int=7, is_safe=uuid.SafeUUID.safe),
]


def name_of(value):
    """The same in every process, which the order of a set is not."""
    text = sorted(map(repr, value)) if isinstance(value, (set, frozenset)) else repr(value)
    return f"{type(value).__name__}-{str(text)[:40]!a}"


@pytest.mark.parametrize("value", PLAIN_VALUES, ids=name_of)
def test_plain_values(value):
    # Without a key and with pickles off, so no pickle can have a part in it.
    blob = _native._codec_dumps(value, None, allow_pickle=False)
    assert blob[:4] == bytes([0xC1, ord("U"), PLAIN, 0])
    assert same(_native._codec_loads(blob, None, allow_pickle=False), value)
    wrapped = [value, {"k": (value, 1)}] if not isinstance(value, (list, dict, set, bytearray)) else [{"k": (value, 1)}]
    assert same(_native._codec_loads(_native._codec_dumps(wrapped, None), None), wrapped)


def test_uuid_keeps_its_safety():
    for safety in uuid.SafeUUID:
        assert loads(dumps(uuid.UUID(int=1, is_safe=safety))).is_safe is safety


def test_singletons_and_immutables_come_back_as_what_they_were():
    assert loads(dumps(dt.datetime(2024, 1, 1, tzinfo=UTC))).tzinfo is UTC
    assert loads(dumps(dt.datetime(2024, 1, 1, tzinfo=BERLIN))).tzinfo is BERLIN


# The format is on users' disks: older blobs have to be readable for ever.
@pytest.mark.parametrize(
    ("hex_blob", "value"),
    [
        ("c155110082a16193 01 c9 00000002 01 0203 c9 00000001 02 04 01 c0", {"a": [1, (2, 3), {4}], 1: None}),
        ("c1551100 c7 09 04 000000000000000001", 2**64),
        ("c1551100 d6 08 e8 07 02 1d", dt.date(2024, 2, 29)),
        ("c1551100 c7 0d 0a e8 07 01 02 03 04 05 06 00 00 00 00 01", dt.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
        ("c1551100 d6 0c 312e3130", decimal.Decimal("1.10")),
        ("c1551100 c7 03 07 eda080", "\ud800"),
    ],
)
def test_format_is_stable(hex_blob, value):
    assert dumps(value) == bytes.fromhex(hex_blob)
    assert same(loads(bytes.fromhex(hex_blob)), value)


# NumPy


def arrays():
    numpy = pytest.importorskip("numpy")
    base = numpy.arange(24.0).reshape(2, 3, 4)
    yield from (base, base.T, base[:, ::2], base[..., 0], numpy.asfortranarray(base[0]), numpy.array(3.0))
    for dtype in (
        "?",
        "i1",
        "<u2",
        ">i4",
        "u8",
        "f2",
        "f4",
        ">f8",
        "g",
        "c8",
        "c16",
        "S3",
        "<U2",
        ">U2",
        "M8[ns]",
        "m8[D]",
        "M8",
    ):
        yield numpy.zeros((2, 2), dtype)
    yield from (
        numpy.zeros(0),
        numpy.zeros((3, 0, 2), "i4"),
        numpy.array(["", "é", "abc"]),
        numpy.array([b"a\0b", b"c"]),
    )
    yield from (numpy.array(["2024-01-01", "NaT"], "M8[D]"), numpy.array([math.nan, -0.0, math.inf]))


def test_arrays():
    numpy = pytest.importorskip("numpy")
    for value in arrays():
        blob = _native._codec_dumps(value, None)
        assert blob[2] == PLAIN
        back = _native._codec_loads(blob, None, allow_pickle=False)
        assert type(back) is numpy.ndarray
        assert (back.dtype, back.dtype.str, back.shape) == (value.dtype, value.dtype.str, value.shape)
        assert back.tobytes() == value.tobytes()
        order = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        assert back.flags[f"{order}_CONTIGUOUS"]
        assert back.flags.writeable
        assert back.flags.owndata


def test_scalars():
    numpy = pytest.importorskip("numpy")
    values = [numpy.dtype(code).type(1) for code in "?bBhHiIlLqQefdgFDG"]
    values += [numpy.datetime64("2024-01-01T00:00", "ms"), numpy.datetime64("NaT", "s"), numpy.timedelta64(5, "s")]
    values += [numpy.float32("nan"), numpy.float64(-0.0), numpy.str_("a"), numpy.bytes_(b"a")]
    for value in values:
        back = loads(dumps(value))
        assert type(back) is type(pickle.loads(pickle.dumps(value)))
        assert back.dtype == value.dtype
        assert back.tobytes() == value.tobytes()
    assert dumps(numpy.float32(1), allow_pickle=False)[2] == PLAIN
    assert same(loads(dumps({numpy.int64(3): 1}, allow_pickle=False)), {numpy.int64(3): 1})


def test_arrays_that_need_a_pickle():
    numpy = pytest.importorskip("numpy")
    values = [
        numpy.array([1, "a", None], dtype=object),
        numpy.zeros(2, dtype=[("a", "i4"), ("b", "f8")]),
        numpy.zeros(2, dtype="V5"),
        numpy.ma.array([1, 2], mask=[0, 1]),
        numpy.zeros(2, dtype=numpy.dtype("i4", metadata={"a": 1})),
        numpy.array([("a", [1])], dtype=[("k", "O"), ("v", "O")]),
    ]
    for value in values:
        assert _native._codec_dumps(value, None) is None
        blob = dumps(value)
        assert blob[2] == PICKLED
        back = loads(blob)
        assert type(back) is type(value)
        assert back.dtype == value.dtype
        assert (back == value).all()


# Pickles


@pytest.mark.parametrize(
    "value",
    [
        Priority.HIGH,
        Text("a"),
        Point(1, 2),
        Record("a", [1]),
        collections.OrderedDict(a=1),
        collections.Counter("aab"),
        [1, {"k": Point(1, 2)}],
        range(3),
        slice(1, 2),
        dt.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo.no_cache("Europe/Berlin")),
        Ellipsis,
        int,
        len,
    ],
    ids=repr,
)
def test_pickled_values(value):
    assert _native._codec_dumps(value, None) is None
    assert dumps(value, allow_pickle=False) is None
    blob = dumps(value)
    assert blob[:4] == bytes([0xC1, ord("U"), PICKLED, 0])
    back = loads(blob)
    assert type(back) is type(value)
    assert repr(back) == repr(value)


def test_one_object_met_twice_is_one_object_again():
    part = [1]
    for value in ([part, part], {"a": part, "b": part}, (part, [part]), [bytearray(b"x")] * 2, [{1}] * 2, [{}] * 2):
        blob = dumps(value)
        assert blob[2] == PICKLED
        back = loads(blob)
        assert back == value
    back = loads(dumps([part, part]))
    assert back[0] is back[1]
    back[0].append(2)
    assert back == [[1, 2], [1, 2]]


def test_immutable_values_may_be_shared():
    text, pair = "x" * 100, (1, "a")
    assert dumps([text, text, pair, pair], allow_pickle=False)[2] == PLAIN


def test_cycles():
    items = [1]
    items.append(items)
    back = loads(dumps(items))
    assert back[1] is back
    table = {}
    table["self"] = (table,)
    back = loads(dumps(table))
    assert back["self"][0] is back


@pytest.mark.parametrize("depth", [10, 64, 65, 200])
def test_depth(depth):
    for make in (lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: frozenset([v])):
        value = 0
        for _ in range(depth):
            value = make(value)
        blob = dumps(value)
        assert blob[2] == (PLAIN if depth <= 64 else PICKLED)
        assert loads(blob) == value


def test_values_that_cannot_be_stored():
    for value in (
        lambda: 1,
        Unpicklable(),
        [Unpicklable(ValueError)],
        {"a": Unpicklable(RuntimeError)},
        sys,
        (i for i in ()),
    ):
        assert dumps(value) is None
    value = []
    for _ in range(50_000):
        value = [value]
    assert dumps(value) is None
    while value:
        value = value[0]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_no_exception_passes_through(error):
    with pytest.raises(error):
        dumps([Unpicklable(error)])


def test_shared_immutable_parts_that_would_blow_up():
    value = ()
    for _ in range(40):
        value = (value, value)
    assert dumps(value)[2] == PICKLED


# Trust


@pytest.fixture(autouse=True)
def nothing_loaded():
    LOADED.clear()
    yield
    LOADED.clear()


def test_code_is_hmac_sha256_over_header_and_pickle():
    blob = dumps(Bomb())
    assert blob[4:36] == hmac.new(KEY, blob[:4] + blob[36:], hashlib.sha256).digest()
    assert loads(blob) == "bomb"
    assert LOADED == ["bomb"]


def reason_of(blob, key=KEY, **options):
    with pytest.raises(ValueError) as caught:
        _native._codec_loads(blob, key, **options)
    assert LOADED == []
    return str(caught.value)


def test_pickle_that_does_not_verify_is_never_loaded():
    blob = dumps(Bomb())
    assert "not authentic" in reason_of(blob, bytes(32))
    assert "cannot be verified" in reason_of(blob, None)
    assert "allow_pickle" in reason_of(blob, allow_pickle=False)
    assert "allow_pickle" in reason_of(blob, allow_pickle=False, trust_legacy=True)
    for index in range(4, len(blob)):
        damaged = bytearray(blob)
        damaged[index] ^= 1
        assert "not authentic" in reason_of(bytes(damaged), trust_legacy=True)
    for length in range(len(blob)):
        reason_of(blob[:length])
    for index in range(4):
        damaged = bytearray(blob)
        damaged[index] ^= 1
        reason_of(bytes(damaged))


def test_pickle_under_the_plain_format_is_not_loaded():
    raw = pickle.dumps(Bomb())
    reason_of(bytes([0xC1, ord("U"), PLAIN, 0]) + raw)
    reason_of(bytes([0xC1, ord("U"), PICKLED, 0]) + raw)
    reason_of(bytes([0xC1, ord("U"), PICKLED, 0]) + bytes(32) + raw)
    reason_of(bytes([0xC1, ord("U"), 0x13, 0]) + raw)
    reason_of(bytes([0xC1]) + raw, trust_legacy=True)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))  # the replaced system wrote 3 or later
def test_raw_pickles_need_trust(protocol):
    raw = pickle.dumps(Bomb(), protocol)
    assert "trust_legacy" in reason_of(raw)
    assert "allow_pickle" in reason_of(raw, trust_legacy=True, allow_pickle=False)
    assert _native._codec_loads(raw, None, trust_legacy=True) == "bomb"
    assert LOADED == ["bomb"]


def test_pickle_of_a_class_that_is_gone(monkeypatch):
    blob = dumps(Record("a", []))
    raw = pickle.dumps(Record("a", []))
    monkeypatch.delattr(sys.modules[__name__], "Record")
    assert "AttributeError" in reason_of(blob)
    assert "AttributeError" in reason_of(raw, trust_legacy=True)


class Interrupts:
    def __reduce__(self):
        return (raise_interrupt, ())


def raise_interrupt():
    raise KeyboardInterrupt


def test_interrupt_while_loading_passes_through():
    with pytest.raises(KeyboardInterrupt):
        loads(dumps(Interrupts()))


def test_reasons_do_not_show_data():
    class_name = reason_of(bytes.fromhex("c1551100d60c") + b"pass")
    assert "pass" not in class_name


@pytest.mark.parametrize(
    "value",
    [PLAIN_VALUES[index] for index in range(0, len(PLAIN_VALUES), 3)] + [{"a": [1, (2.5, {"x"})]}],
    ids=lambda v: repr(v)[:30],
)
def test_truncated_plain_values(value):
    blob = dumps(value)
    for length in range(min(len(blob), 200)):
        with pytest.raises(ValueError):
            loads(blob[:length])
    with pytest.raises(ValueError, match="trailing"):
        loads(blob + b"\xc0")


@pytest.mark.parametrize(
    "body",
    [
        "",
        "c1",  # never used
        "ca00000000",  # 32-bit float: not written
        "ddffffffff",  # a list of four billion
        "dfffffffff",
        "dbffffffff",
        "c6ffffffff",
        "c9ffffffff01",
        "c9ffffffff0e",
        "c70063",  # unknown extension
        "c70006",  # complex without parts
        "c70308000000",
        "d608 0000 00 00",  # year 0
        "d608 e807 02 1e",  # 30 February
        "81 90 c0",  # a list as dict key
        "c7 01 02 90",  # a list in a set
        "a1ff",  # not UTF-8
        "c7 02 07 c3 28",
        "c7 03 0c 616263",  # Decimal('abc')
        "c7 0a 09 000000 00000000 00 04 2f",  # zone '/'
        "c7 0c 09 000000 00000000 00 04 2e2e2f",  # zone '../'
        "c7 11 0d 00000000000000000000000000000000 05",  # SafeUUID(5)
        "c7 11 0e 02 7c4f 43 01 0100000000000000 00000000",  # dtype '|O'
        "c7 0f 0e 03 3c6638 43 01 ffffffffffffffff 00",  # an array of 2**64 doubles
        "c7 0d 0e 03 3c6638 58 01 0000000000000000",  # order 'X'
        "c7 17 0e 03 3c6638 43 02 00000000000000ff 00000000000000ff 00",
        "c7 05 0f 02 7c4f 00 00",
        "c7 05 0f 04 4d385b",
        "c7 04 0f 03 3c6638",
        "c0c0",
        "91" * 100 + "c0",
        "91" * 100_000 + "c0",
    ],
)
def test_malformed_values(body):
    blob = bytes.fromhex("c1551100" + body)
    with pytest.raises(ValueError):
        _native._codec_loads(blob, None)


def test_dtypes_that_name_python_objects_are_refused():
    pytest.importorskip("numpy")
    for name in (b"O", b"|O", b"|O8", b"O8", b"i4,O", b"object", b"V8", b"|V8", b"(2,)f8", b"f8", b"<f8,<f8", b"<i4\0"):
        data = bytes([len(name)]) + name + b"C" + b"\x01" + (1).to_bytes(8, "little") + bytes(8)
        blob = bytes.fromhex("c1551100c7") + bytes([len(data), 14]) + data
        with pytest.raises(ValueError):
            _native._codec_loads(blob, None)


# Key file


def database_of(tmp_path):
    return tmp_path / "cache.db"


def test_key_file_is_made_once_and_private(tmp_path):
    database = database_of(tmp_path)
    old = os.umask(0)
    try:
        assert _native._codec_key_error(database) is None
    finally:
        os.umask(old)
    path = tmp_path / "cache.db.key"
    key = path.read_bytes()
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert _native._codec_key_error(database) is None
    assert path.read_bytes() == key
    assert [entry.name for entry in tmp_path.iterdir()] == ["cache.db.key"]


def test_key_file_that_others_may_read_is_refused(tmp_path):
    _native._codec_key_error(database_of(tmp_path))
    path = tmp_path / "cache.db.key"
    for mode in (0o640, 0o604, 0o620, 0o602, 0o610):
        path.chmod(mode)
        assert "chmod 600" in _native._codec_key_error(database_of(tmp_path))
    path.chmod(0o600)
    assert _native._codec_key_error(database_of(tmp_path)) is None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to give a file away")
def test_key_file_of_another_user_is_refused(tmp_path):
    _native._codec_key_error(database_of(tmp_path))
    os.chown(tmp_path / "cache.db.key", 12345, -1)
    assert "another user" in _native._codec_key_error(database_of(tmp_path))


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_damaged_key_file(tmp_path, content):
    path = tmp_path / "cache.db.key"
    path.write_bytes(content)
    path.chmod(0o600)
    assert "damaged" in _native._codec_key_error(database_of(tmp_path))
    assert path.read_bytes() == content


def test_key_file_that_is_no_regular_file(tmp_path):
    path = tmp_path / "cache.db.key"
    path.mkdir(mode=0o700)
    assert _native._codec_key_error(database_of(tmp_path)) is not None
    path.rmdir()
    (tmp_path / "real").write_bytes(bytes(32))
    (tmp_path / "real").chmod(0o600)
    path.symlink_to(tmp_path / "real")
    assert _native._codec_key_error(database_of(tmp_path)) is not None
    path.unlink()
    os.mkfifo(path, 0o600)
    assert "regular" in _native._codec_key_error(database_of(tmp_path))


def test_key_file_cannot_be_made(tmp_path):
    assert "cannot create" in _native._codec_key_error(tmp_path / "absent" / "cache.db")


def test_processes_that_start_together_agree(tmp_path):
    program = (
        "import sys; from upshift import _native\n"
        "print(flush=True); sys.stdin.readline()\n"
        "for database in sys.argv[1:]: print(_native._codec_key_error(database), open(database + '.key', 'rb').read())"
    )
    databases = [str(tmp_path / f"{number}.db") for number in range(50)]
    command = [sys.executable, "-c", program, *databases]
    runs = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for run in runs:
        run.stdout.readline()
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    outputs = {run.communicate(timeout=60)[0] for run in runs}
    assert len(outputs) == 1
    assert all(line.startswith("None ") for line in outputs.pop().splitlines())
    assert len(list(tmp_path.iterdir())) == len(databases)


# Sizes


@pytest.mark.parametrize(
    "value",
    [
        *("", "a", "x" * 1000, "éa", "é" * 100, "ā" * 10, "😀" * 7, "\ud800", b"", b"x" * 100),
        *(1, -1, 2**29, 2**30, 2**30 - 1, 2**60, -(2**62), 2**64, 2**1000, 0.5, 1j, None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_size_of_simple_values_is_exact(value):
    assert _native._estimate_size(value) == sys.getsizeof(value)


def test_size_of_containers_includes_elements():
    text = "x" * 10_000
    for value in (
        [text],
        (text,),
        {text},
        {"k": text},
        {text: 1},
        frozenset([text]),
        [[[text]]],
        collections.OrderedDict(k=text),
    ):
        assert 10_000 < _native._estimate_size(value) < 12_000


def test_size_of_a_part_met_twice_counts_once():
    text, part = "x" * 10_000, ["y" * 5_000]
    assert _native._estimate_size([text] * 100) < 13_000
    assert _native._estimate_size([part] * 100) < 8_000
    part.append(part)
    assert _native._estimate_size(part) < 8_000


def test_size_of_objects_includes_attributes():
    assert _native._estimate_size(Record("x" * 10_000, ["y" * 10_000])) > 20_000

    class Slots:
        __slots__ = ("value",)

    value = Slots()
    value.value = "x" * 10_000
    assert 10_000 < _native._estimate_size(value) < 12_000


def test_size_of_code_is_not_counted():
    assert _native._estimate_size([Record, sys, os.path.join, pytest]) < 10_000


def test_size_of_large_containers_is_extrapolated():
    value = [str(i) * 10 for i in range(100_000)]
    exact = sys.getsizeof(value) + sum(map(sys.getsizeof, value))
    assert exact * 0.7 < _native._estimate_size(value) < exact * 1.4
    table = {i: "x" * 100 + str(i) for i in range(50_000)}
    exact = sys.getsizeof(table) + sum(sys.getsizeof(k) + sys.getsizeof(v) for k, v in table.items())
    assert exact * 0.8 < _native._estimate_size(table) < exact * 1.2


def test_size_of_arrays():
    numpy = pytest.importorskip("numpy")
    array = numpy.zeros(100_000)
    assert 800_000 <= _native._estimate_size(array) < 801_000
    assert 800_000 <= _native._estimate_size(array[:]) < 810_000
    assert _native._estimate_size(memoryview(bytes(100_000))) >= 100_000


def test_size_survives_a_broken_sizeof():
    class Broken:
        def __sizeof__(self):
            raise RuntimeError

    assert _native._estimate_size(Broken()) > 0
