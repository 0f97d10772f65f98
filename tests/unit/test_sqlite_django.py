"""Django and peewee on `upshift.sqlite`: Django's own backend with `sqlite3` replaced, and what it does spelled out.

Each program also runs on the standard library's module, and both must print the same.
"""

from __future__ import annotations

import ast
import datetime as dt
import decimal
import importlib
import os
import sqlite3
import statistics
import subprocess
import sys
import textwrap
from contextlib import closing

import pytest

import upshift.sqlite

SERVE = """
import importlib, sys
module = importlib.import_module(sys.argv[1])
sys.modules["sqlite3"] = sys.modules["sqlite3.dbapi2"] = module
"""


def run(program, module, path):
    """Runs a program whose `sqlite3` is `module`; returns the literal it prints."""
    done = subprocess.run(
        [sys.executable, "-c", SERVE + textwrap.dedent(program), module, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return ast.literal_eval(done.stdout)


def on_both(program, tmp_path):
    expected = run(program, "sqlite3", tmp_path / "expected.db")
    found = run(program, "upshift.sqlite", tmp_path / "found.db")
    assert found == expected
    return found


# --- Django with its own backend

MODELS = """
import datetime as dt, uuid
import django
from django.db import models
from django.db.models import Q

class Author(models.Model):
    name = models.CharField(max_length=50, unique=True)
    born = models.DateField(null=True)

class Book(models.Model):
    author = models.ForeignKey(Author, on_delete=models.CASCADE, related_name="books")
    title = models.CharField(max_length=100)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    at = models.DateTimeField()
    took = models.DurationField(default=dt.timedelta(0))
    time = models.TimeField(null=True)
    extra = models.JSONField(default=dict)
    data = models.BinaryField(default=b"")
    sold = models.BooleanField(default=False)
    key = models.UUIDField(default=uuid.uuid4)

    class Meta:
        condition = {"condition" if django.VERSION >= (5, 1) else "check": Q(price__gte=0)}
        constraints = [models.CheckConstraint(name="positive", **condition)]
        del condition
"""

DJANGO = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)
sys.path.insert(0, os.path.dirname(sys.argv[2]))
import datetime as dt, decimal, threading, uuid
import django
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[2], "OPTIONS": {"timeout": 20}}},
    USE_TZ=True,
    TIME_ZONE="Europe/Paris",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["shop"],
)
django.setup()
from django.db import IntegrityError, OperationalError, connection, models, transaction
from django.db.models import Avg, Count, F, StdDev, Sum, Value, Variance
from django.db.models.functions import MD5, Concat, ExtractWeek, Power, TruncMonth, Upper
from django.utils import timezone
from shop.models import Author, Book

with connection.schema_editor() as editor:
    editor.create_model(Author)
    editor.create_model(Book)
def book(author, number, **fields):
    at = dt.datetime(2024, 1 + number % 12, 1, 12, 30, 0, abs(number), tzinfo=dt.timezone.utc)
    fields = {"title": f"Book {number}", "price": decimal.Decimal(number) / 4, "at": at, **fields}
    return Book(author=author, **fields)
found = {}
"""


@pytest.fixture
def shop(tmp_path):
    """An application with two models, and the folder its databases are in."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "models.py").write_text(MODELS)
    return tmp_path


def django(body):
    return DJANGO + textwrap.dedent(body) + "\nprint(found)\nconnection.close()\n"


def test_django_uses_the_module(shop):
    program = """
    with connection.cursor() as cursor:
        found["row"] = cursor.execute("SELECT %s + 1, 'a%%'", [41]).fetchone()
        found["raw"] = type(connection.connection).__module__, type(cursor.cursor).__mro__[1].__module__
    from django.db.backends.sqlite3 import base
    found["module"] = base.Database.__name__
    """
    found = run(django(program), "upshift.sqlite", shop / "x.db")
    assert found["row"] == (42, "a%")
    assert found["module"] == "upshift.sqlite.dbapi2"
    assert found["raw"] == ("upshift.sqlite", "upshift.sqlite")


def test_django_fields_round_trip(shop):
    program = """
    ann = Author.objects.create(name="Ann", born=dt.date(1950, 2, 28))
    made = book(ann, 3, took=dt.timedelta(days=1, microseconds=7), time=dt.time(1, 2, 3, 4), sold=True,
                extra={"a": [1, None, "ü"], "b": {"c": 2.5}}, data=bytes(range(256)), key=uuid.UUID(int=99))
    made.save()
    again = Book.objects.select_related("author").get(pk=made.pk)
    for name in ("title", "price", "at", "took", "time", "extra", "sold", "key"):
        assert getattr(again, name) == getattr(made, name), name
        assert type(getattr(again, name)) is type(getattr(made, name)), name
    assert bytes(again.data) == bytes(range(256))
    assert again.author.born == dt.date(1950, 2, 28)
    found["values"] = repr(list(Book.objects.values_list("title", "price", "at", "took", "time", "extra", "sold")))
    """
    assert "Decimal('0.75')" in on_both(django(program), shop)["values"]


def test_django_queries(shop):
    program = """
    ann, bob = (Author.objects.create(name=name) for name in ("Ann", "Bob"))
    Book.objects.bulk_create([book(ann if i % 3 else bob, i, extra={"n": i}) for i in range(60)])
    found["count"] = Book.objects.filter(price__gt=5).exclude(author=bob).count()
    found["sums"] = repr(Book.objects.aggregate(Sum("price"), Avg("price"), StdDev("price"), Variance("price")))
    found["groups"] = list(Author.objects.annotate(n=Count("books")).order_by("name").values_list("name", "n"))
    months = Book.objects.annotate(m=TruncMonth("at")).values("m").annotate(n=Count("pk")).order_by("m")
    found["months"] = repr(list(months))
    found["week"] = list(Book.objects.annotate(w=ExtractWeek("at")).order_by("pk").values_list("w", flat=True)[:14])
    found["regex"] = Book.objects.filter(title__iregex=r"^book [0-9]$").count()
    found["like"] = Book.objects.filter(title__icontains="K 5").count()
    found["json"] = Book.objects.filter(extra__n__gte=50).count()
    found["functions"] = list(
        Author.objects.annotate(x=Upper(Concat("name", Value("!"))), m=MD5("name"), p=Power(F("id"), 2))
        .order_by("id").values_list("x", "m", "p")
    )
    found["updated"] = Book.objects.filter(author=bob).update(price=F("price") + 1)
    found["deleted"] = bob.delete()
    found["left"] = sum(1 for _ in Book.objects.iterator(chunk_size=7))
    found["union"] = Author.objects.filter(name="Ann").union(Author.objects.filter(name="Bob")).count()
    days = dt.date(2000, 1, 1), dt.date(2000, 1, 2)
    found["made"] = [Author.objects.update_or_create(name="Cid", defaults={"born": day})[1] for day in days]
    found["dates"] = list(map(str, Book.objects.dates("at", "month")[:3]))
    found["exists"] = Book.objects.filter(title="none").exists()
    """
    found = on_both(django(program), shop)
    assert found["groups"] == [("Ann", 40), ("Bob", 20)]
    assert (found["regex"], found["updated"], found["left"]) == (10, 20, 40)
    assert found["made"] == [True, False]


def test_django_transactions(shop):
    program = """
    class Stop(Exception):
        pass
    try:
        with transaction.atomic():
            Author.objects.create(name="lost")
            raise Stop
    except Stop:
        pass
    with transaction.atomic():
        Author.objects.create(name="outer")
        try:
            with transaction.atomic():
                Author.objects.create(name="inner")
                raise Stop
        except Stop:
            pass
        try:
            with transaction.atomic():
                Author.objects.create(name="outer")
        except IntegrityError as error:
            found["error"] = str(error)
        done = []
        transaction.on_commit(lambda: done.append(1))
        Author.objects.create(name="last")
    found["names"] = list(Author.objects.order_by("pk").values_list("name", flat=True))
    found["done"] = done
    with transaction.atomic():
        sid = transaction.savepoint()
        Author.objects.all().delete()
        transaction.savepoint_rollback(sid)
    found["still"] = Author.objects.count()
    transaction.set_autocommit(False)
    Author.objects.create(name="undone")
    transaction.rollback()
    transaction.set_autocommit(True)
    found["end"] = Author.objects.count()
    try:
        book(Author.objects.first(), -4).save()
    except IntegrityError as error:
        found["check"] = str(error)
    try:
        with transaction.atomic():
            Book.objects.create(author_id=999, title="t", price=1, at=timezone.now())
    except IntegrityError as error:
        found["foreign key"] = str(error)
    try:
        connection.cursor().execute("SELECT * FROM absent")
    except OperationalError as error:
        found["operational"] = str(error), type(error.__cause__).__name__
    """
    found = on_both(django(program), shop)
    assert found["names"] == ["outer", "last"]
    assert (found["still"], found["end"], found["done"]) == (2, 2, [1])
    assert "UNIQUE" in found["error"]
    assert "CHECK" in found["check"]
    assert "FOREIGN KEY" in found["foreign key"]


def test_django_schema_changes_and_introspection(shop):
    program = """
    Author.objects.create(name="Ann")
    with connection.schema_editor() as editor:  # makes the table anew
        new = models.CharField(max_length=99, null=True)
        new.set_attributes_from_name("name")
        new.model = Author
        editor.alter_field(Author, Author._meta.get_field("name"), new)
    field = models.IntegerField(default=7)
    field.set_attributes_from_name("rank")
    with connection.schema_editor() as editor:
        editor.add_field(Author, field)
    with connection.cursor() as cursor:
        found["rows"] = cursor.execute("SELECT id, name, rank FROM shop_author").fetchall()
        found["tables"] = sorted(table.name for table in connection.introspection.get_table_list(cursor))
        found["columns"] = [
            (column.name, column.type_code, column.null_ok)
            for column in connection.introspection.get_table_description(cursor, "shop_book")
        ]
        found["constraints"] = sorted(
            (sorted(value["columns"]), value["primary_key"], value["unique"])
            for value in connection.introspection.get_constraints(cursor, "shop_book").values()
        )
    found["explain"] = bool(Author.objects.all().explain())
    """
    found = on_both(django(program), shop)
    assert found["rows"] == [(1, "Ann", 7)]


def test_django_threads(shop):
    program = """
    def work(index):
        try:
            for i in range(20):
                with transaction.atomic():
                    Author.objects.create(name=f"{index}-{i}")
        finally:
            connection.close()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode = WAL")
    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    [thread.start() for thread in threads]
    [thread.join(50) for thread in threads]
    found["count"] = Author.objects.count()
    """
    assert on_both(django(program), shop) == {"count": 80}


# --- what such a backend does, spelled out


@pytest.fixture(params=["sqlite3", "upshift.sqlite"])
def database(request):
    """The module as `Database`; its registries, which are the interpreter's, are put back afterwards."""
    kept = dict(sqlite3.adapters), dict(sqlite3.converters)
    yield importlib.import_module(request.param)
    for registry, before in zip((sqlite3.adapters, sqlite3.converters), kept):
        registry.clear()
        registry.update(before)


def raw_connection(database, path):
    class Wrapped(database.Cursor):
        """Django's: `%s` for `?`."""

        def execute(self, query, params=None):
            if params is None:
                return super().execute(query)
            return super().execute(query % tuple("?" * len(params)), params)

        def executemany(self, query, param_list):
            return super().executemany(query % ("?",), param_list)

    class StdDev:
        def __init__(self):
            self.values = []

        def step(self, value):
            self.values.append(value)

        def finalize(self):
            return statistics.pstdev(self.values)

    database.register_converter("bool", b"1".__eq__)
    database.register_converter("decimal", lambda text: decimal.Decimal(text.decode()))
    database.register_converter("datetime", lambda text: dt.datetime.fromisoformat(text.decode()))
    database.register_adapter(decimal.Decimal, str)
    database.register_adapter(dt.datetime, lambda value: value.isoformat(" "))
    connection = database.connect(
        f"file:{path}?mode=rwc",
        detect_types=database.PARSE_DECLTYPES | database.PARSE_COLNAMES,
        check_same_thread=False,
        uri=True,
        timeout=20,
    )
    connection.create_function("django_power", 2, pow, deterministic=True)
    connection.create_function("regexp", 2, lambda pattern, text: pattern in text, deterministic=True)
    connection.create_aggregate("STDDEV_POP", 1, StdDev)
    connection.isolation_level = None
    connection.execute("PRAGMA foreign_keys = ON")
    return connection, Wrapped


def test_a_raw_connection_as_django_makes_it(database, tmp_path):
    connection, cursor_class = raw_connection(database, tmp_path / "raw.db")
    with closing(connection):
        cursor = connection.cursor(factory=cursor_class)
        assert isinstance(cursor, cursor_class)
        cursor.execute("CREATE TABLE t (id integer PRIMARY KEY, flag bool, price decimal, at datetime)")
        at = dt.datetime(2024, 2, 29, 12, 0, 0, 5)
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t (flag, price, at) VALUES (%s, %s, %s)", (True, decimal.Decimal("1.10"), at))
        cursor.execute("SAVEPOINT s1")
        cursor.executemany("INSERT INTO t (price) VALUES (%s)", [(decimal.Decimal(i),) for i in range(3)])
        assert cursor.rowcount == 3
        cursor.execute("ROLLBACK TO SAVEPOINT s1")
        cursor.execute("RELEASE SAVEPOINT s1")
        connection.commit()
        row = cursor.execute("SELECT flag, price, at FROM t WHERE id = %s", (1,)).fetchone()
        assert row == (True, decimal.Decimal("1.10"), at)
        assert [type(value) for value in row] == [bool, decimal.Decimal, dt.datetime]
        assert cursor.execute("SELECT django_power(2, 10), STDDEV_POP(id) FROM t").fetchone() == (1024, 0.0)
        assert cursor.execute("SELECT 'abc' REGEXP 'b'").fetchone() == (1,)
        found = cursor.execute('SELECT at AS "when [datetime]", price AS "p [decimal]" FROM t').fetchone()
        assert found == (at, decimal.Decimal("1.10"))
        assert [column[0] for column in cursor.description] == ["when", "p"]
        # A deterministic function may stand in an index.
        connection.execute("CREATE INDEX powers ON t (django_power(id, 2))")
        cursor.close()


def test_registries_are_shared(database):
    """A converter registered with either module serves both."""
    other = sqlite3 if database is upshift.sqlite else upshift.sqlite
    database.register_converter("twice", lambda text: int(text) * 2)
    database.register_adapter(decimal.Decimal, lambda value: f"d:{value}")
    with closing(other.connect(":memory:", detect_types=other.PARSE_DECLTYPES)) as connection:
        connection.execute("CREATE TABLE t (x twice, y)")
        connection.execute("INSERT INTO t VALUES (21, ?)", (decimal.Decimal(3),))
        assert connection.execute("SELECT * FROM t").fetchone() == (42, "d:3")


# --- peewee

PEEWEE = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
import datetime as dt, decimal, threading
import peewee
from playhouse.sqlite_ext import JSONField
EXTRA
db = peewee.SqliteDatabase(sys.argv[2], pragmas={"journal_mode": "wal", "foreign_keys": 1}, timeout=20)
class Base(peewee.Model):
    class Meta:
        database = db
class User(Base):
    name = peewee.CharField(unique=True)
    joined = peewee.DateTimeField(default=dt.datetime(2024, 2, 29, 1, 2, 3))
    score = peewee.DecimalField(default=0)
    photo = peewee.BlobField(null=True)
    active = peewee.BooleanField(default=True)
class Note(Base):
    user = peewee.ForeignKeyField(User, backref="notes", on_delete="CASCADE")
    text = peewee.TextField()
    meta = JSONField(default=dict)
@db.func("double")
def double(x):
    return x * 2
@db.aggregate("longest")
class Longest:
    def __init__(self):
        self.value = ""
    def step(self, value):
        self.value = max(self.value, value, key=len)
    def finalize(self):
        return self.value
@db.collation("backwards")
def backwards(a, b):
    return (a < b) - (a > b)
found = {}
db.connect()
db.create_tables([User, Note])
with db.atomic() as outer:
    ann = User.create(name="ann", score=decimal.Decimal("1.5"), photo=b"\\x00\\xff")
    with db.atomic() as inner:
        User.create(name="lost")
        inner.rollback()
    rows = [(ann, f"note {i}", {"n": i}) for i in range(50)]
    Note.insert_many(rows, fields=[Note.user, Note.text, Note.meta]).execute()
found["users"] = [(u.name, u.joined, u.score, bytes(u.photo), u.active) for u in User.select()]
found["users"] = repr(found["users"])
try:
    User.create(name="ann")
except peewee.IntegrityError as error:
    found["error"] = str(error)
found["count"] = Note.select().where(Note.meta["n"] >= 40).count()
found["double"] = User.select(peewee.fn.double(21)).scalar()
found["longest"] = Note.select(peewee.fn.longest(Note.text)).scalar()
found["order"] = [n.text for n in Note.select().order_by(peewee.SQL("text COLLATE backwards")).limit(2)]
found["rows"] = Note.update(text="x").where(Note.id < 10).execute()
found["join"] = User.select(User.name, peewee.fn.COUNT(Note.id)).join(Note).group_by(User).tuples()[:]
found["deleted"] = ann.delete_instance(), Note.select().count()
def work(index):
    with db.connection_context():
        for i in range(20):
            User.create(name=f"{index}-{i}")
threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
[thread.start() for thread in threads]
[thread.join(40) for thread in threads]
found["threads"] = User.select().count()
found["tables"] = db.get_tables()
found["version"] = peewee.sqlite3.sqlite_version
db.close()
print(found)
"""


@pytest.mark.parametrize("way", ["replaced", "peewee.sqlite3"])
def test_peewee(way, tmp_path):
    extra = "" if way == "replaced" else "peewee.sqlite3 = module"
    found = on_both(PEEWEE.replace("EXTRA", extra), tmp_path)
    assert (found["double"], found["longest"], found["threads"]) == (42, "note 10", 60)
    assert found["join"] == [("ann", 50)]
    assert "UNIQUE" in found["error"]
