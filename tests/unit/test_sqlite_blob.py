"""`Blob`: what CPython's suite does not look at."""

from __future__ import annotations

import array
import gc
import io
import sqlite3
import threading
import weakref
from contextlib import closing

import pytest

import upshift.sqlite as sqlite
from upshift.exceptions import WriteLaneDeadlock

DATA = bytes(range(100))


@pytest.fixture
def connection():
    made = sqlite.connect(":memory:")
    made.execute("CREATE TABLE t (b BLOB)")
    made.execute("INSERT INTO t VALUES (?)", (DATA,))
    made.commit()
    yield made
    made.close()


@pytest.fixture
def blob(connection):
    return connection.blobopen("t", "b", 1)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "blobs.db"
    made = sqlite.connect(path)
    made.execute("PRAGMA journal_mode = WAL")
    made.execute("CREATE TABLE t (b BLOB)")
    made.execute("INSERT INTO t VALUES (zeroblob(200000))")
    made.commit()
    made.close()
    return path


def test_reads_like_a_file(blob):
    assert len(blob) == 100
    assert blob.read(3) == b"\0\1\2"
    assert blob.tell() == 3
    blob.seek(-2, io.SEEK_END)
    assert blob.read() == b"bc"
    assert blob.read() == b""
    assert blob.read(5) == b""
    blob.seek(100)
    assert blob.tell() == 100


@pytest.mark.parametrize(
    "cut",
    [
        slice(None),
        slice(5, 2),
        slice(None, None, -1),
        slice(90, 10, -7),
        slice(-5, None),
        slice(3, 99, 13),
        slice(0, 1000),
        slice(1000, 2000),
        slice(99, None, 2),
    ],
)
def test_slices_are_those_of_bytes(blob, cut):
    assert blob[cut] == DATA[cut]
    mirror = bytearray(DATA)
    new = bytes(200 + i % 50 for i in range(len(DATA[cut])))
    mirror[cut] = new
    blob[cut] = new
    assert blob[:] == bytes(mirror)


@pytest.mark.parametrize("new", [bytearray(b"xyz"), memoryview(b"xyz"), array.array("B", b"xyz")])
def test_writes_what_has_bytes(blob, new):
    blob.write(new)
    blob.seek(0)
    assert blob.read(3) == b"xyz"
    blob[10:13] = new
    assert blob[10:13] == b"xyz"


def test_a_write_that_does_not_fit_changes_nothing(blob):
    blob.seek(98)
    with pytest.raises(ValueError, match="data longer than blob length"):
        blob.write(b"123")
    assert blob.tell() == 98
    assert blob[:] == DATA
    with pytest.raises(TypeError):
        blob.write("text")


def test_an_index_is_what_has_one(blob):
    class Index:
        def __index__(self):
            return 7

    assert blob[Index()] == 7
    blob[Index()] = 9
    assert blob[-93] == 9
    with pytest.raises(IndexError, match="cannot fit 'int'"):
        blob[2**80]
    with pytest.raises(TypeError, match="Blob indices must be integers"):
        blob[None]


def test_writes_last_when_the_blob_is_closed(file):
    connection = sqlite.connect(file)
    with connection.blobopen("t", "b", 1) as blob:
        blob.write(b"new")
        assert not connection.in_transaction
        other = sqlite.connect(file)
        read = other.execute("SELECT substr(b, 1, 3) FROM t").fetchone
        assert read() == (b"\0\0\0",)
    assert other.execute("SELECT substr(b, 1, 3) FROM t").fetchone() == (b"new",)
    other.close()
    connection.close()


def test_writes_belong_to_the_open_transaction(connection):
    connection.execute("UPDATE t SET b = b")
    with connection.blobopen("t", "b", 1) as blob:
        blob.write(b"new")
    assert connection.in_transaction
    connection.rollback()
    assert connection.execute("SELECT b FROM t").fetchone() == (DATA,)


def test_a_blob_that_dies_ends_its_transaction(file):
    connection, other = sqlite.connect(file), sqlite.connect(file)
    blob = connection.blobopen("t", "b", 1)
    blob.write(b"new")
    with pytest.raises(WriteLaneDeadlock, match="blob opened for writing"):
        other.execute("UPDATE t SET b = NULL")
    del blob
    assert other.execute("SELECT substr(b, 1, 3) FROM t").fetchone() == (b"new",)
    with other:
        other.execute("UPDATE t SET b = NULL")
    other.close()
    connection.close()


def test_a_blob_that_only_reads_keeps_no_writer_waiting(file):
    connection, other = sqlite.connect(file), sqlite.connect(file)
    blob = connection.blobopen("t", "b", 1, readonly=True)
    with other:
        other.execute("UPDATE t SET b = x'01'")
    # As of the moment it was opened at.
    assert len(blob) == 200000
    assert blob.read(2) == b"\0\0"
    blob.close()
    other.close()
    connection.close()


def test_the_connection_closes_with_blobs_left(connection):
    blobs = [connection.blobopen("t", "b", 1, readonly=bool(i % 2)) for i in range(4)]
    blobs.pop().close()
    blobs.pop()
    connection.close()
    for blob in blobs:
        for use in (blob.read, blob.tell, blob.close, blob.__enter__, blob.__len__):
            with pytest.raises(sqlite.ProgrammingError, match="closed database"):
                use()


def test_a_closed_blob_stays_closed(blob):
    blob.close()
    blob.close()
    with pytest.raises(sqlite.ProgrammingError, match="closed blob"):
        blob.seek(0)


def test_survives_the_connection_being_opened_again(connection, blob):
    connection.__init__(":memory:")
    assert blob.read(2) == b"\0\1"
    blob.close()
    with pytest.raises(sqlite.OperationalError, match="no such table"):
        connection.blobopen("t", "b", 1)


@pytest.mark.parametrize("wrote", [False, True])
def test_a_blob_ends_when_its_pooled_connection_is_given_back(tmp_path, wrote):
    with sqlite.ConnectionPool(tmp_path / "pool.db", 1, 1) as pool:
        con = pool.acquire()
        con.execute("CREATE TABLE t (b BLOB)")
        con.execute("INSERT INTO t VALUES (?)", (DATA,))
        blob = con.blobopen("t", "b", 1)
        if wrote:
            blob.write(b"first")
        con.close()
        for name, arguments in [
            ("read", ()),
            ("write", (b"x",)),
            ("__getitem__", (0,)),
            ("__len__", ()),
            ("__enter__", ()),
        ]:
            with pytest.raises(sqlite.ProgrammingError, match="Cannot operate on a closed blob"):
                getattr(blob, name)(*arguments)
        blob.close()
        with pool.connection() as con:
            con.execute("BEGIN")
            con.execute("INSERT INTO t VALUES (1)")
            # Nothing of the next borrower ends with it.
            blob = None
            gc.collect()
            assert con.in_transaction
            con.rollback()
            left = b"first" + DATA[5:] if wrote else DATA
            with con.blobopen("t", "b", 1) as other:
                assert other.read() == left
            assert con.execute("SELECT count(*) FROM t").fetchone()[0] == 1


def test_other_threads_wait_for_their_turn(tmp_path):
    connection = sqlite.connect(tmp_path / "threads.db", check_same_thread=False)
    connection.execute("CREATE TABLE t (b BLOB)")
    connection.execute("INSERT INTO t VALUES (zeroblob(400000))")
    connection.commit()
    blob = connection.blobopen("t", "b", 1)

    def fill(number):
        for place in range(number, 400, 4):
            blob[place * 1000 : place * 1000 + 1000] = bytes([number + 1]) * 1000
            assert set(blob[place * 1000 : place * 1000 + 1000]) == {number + 1}

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert blob[:] == b"".join(bytes([place % 4 + 1]) * 1000 for place in range(400))
    blob.close()
    connection.close()


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "blobopen"), reason="new in Python 3.11")
@pytest.mark.parametrize("number", [2**31, 2**80, -(2**40), "1", 1.5, None])
def test_numbers_are_refused_as_ever(number):
    def said(module):
        words = []
        with closing(module.connect(":memory:")) as made:
            made.execute("CREATE TABLE t (b)")
            made.execute("INSERT INTO t VALUES (zeroblob(9))")
            opened = made.blobopen("t", "b", 1)
            for method, arguments in (("read", (number,)), ("seek", (number,)), ("seek", (0, number))):
                with pytest.raises((TypeError, OverflowError)) as caught:
                    getattr(opened, method)(*arguments)
                words.append(str(caught.value))
            opened.close()
        return words

    assert said(sqlite) == said(sqlite3)


def test_only_its_thread_may_use_it(blob):
    errors = []

    def use():
        for call in (blob.read, blob.close, lambda: blob[0]):
            try:
                call()
            except sqlite.ProgrammingError as error:
                errors.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(errors) == 3
    assert all("created in a thread" in error for error in errors)


def test_the_collector_finds_cycles_through_it():
    connection = sqlite.connect(":memory:")
    connection.execute("CREATE TABLE t (b BLOB)")
    connection.execute("INSERT INTO t VALUES (x'00')")
    connection.commit()
    connection.blob = connection.blobopen("t", "b", 1)
    gone = weakref.ref(connection.blob)
    connection.close()
    del connection
    gc.collect()
    assert gone() is None


def test_names_and_rows_are_checked(connection):
    with pytest.raises(ValueError, match="embedded null"):
        connection.blobopen("t\0", "b", 1)
    with pytest.raises(OverflowError, match="too large to convert to SQLite INTEGER"):
        connection.blobopen("t", "b", 2**63)
    with pytest.raises(TypeError):
        connection.blobopen("t", "b", "one")
    connection.execute("CREATE TABLE u (i INTEGER)")
    connection.execute("INSERT INTO u VALUES (1)")
    with pytest.raises(sqlite.OperationalError, match="cannot open value of type integer"):
        connection.blobopen("u", "i", 1)
    with pytest.raises(TypeError):
        sqlite.Blob()


def test_opens_blobs_of_attached_databases(connection, tmp_path):
    connection.execute("ATTACH ? AS other", (str(tmp_path / "other.db"),))
    connection.execute("CREATE TABLE other.t (b)")
    connection.execute("INSERT INTO other.t VALUES ('text')")
    connection.commit()
    with connection.blobopen("t", "b", 1, name="other") as blob:
        assert blob.read() == b"text"


def test_a_row_that_is_gone_is_an_error_once(connection, blob):
    connection.execute("DELETE FROM t")
    with pytest.raises(sqlite3.OperationalError):
        blob.read()
    # What was said once is not said again.
    blob.close()
    connection.rollback()
