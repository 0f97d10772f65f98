"""SQLAlchemy on `upshift.sqlite`, as its driver and through a pool; on `sqlite3` to prove the tests themselves."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import sqlite3
import threading
import uuid
from contextlib import closing

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc, orm, pool

import upshift.sqlite

KINDS = ["standard library", "memory", "file", "pool"]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "alchemy.db"


@pytest.fixture
def make_engine(kind, path):
    """Makes engines of the kind under test; more than one works on the same file."""
    made, lenders = [], []

    def make(url=None, **options):
        if kind == "pool":
            lender = upshift.sqlite.ConnectionPool(path, min_size=0, max_size=10)
            lenders.append(lender)
            options.setdefault("poolclass", pool.NullPool)  # one pool is enough
            options["creator"] = lender.acquire
        else:
            options.setdefault("connect_args", {}).setdefault("check_same_thread", False)
        module = sqlite3 if kind == "standard library" else upshift.sqlite
        url = url or ("sqlite://" if kind in ("memory", "pool") else f"sqlite:///{path}")
        engine = sa.create_engine(url, module=module, **options)
        if kind == "pool":
            begin_explicitly(engine)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.dispose()
    for lender in lenders:
        assert lender.get_stats()["in_use"] == 0
        lender.close_all()


@pytest.fixture
def engine(make_engine):
    return make_engine()


def begin_explicitly(engine):
    """SQLAlchemy's own recipe: the driver opens no transactions, SQLAlchemy does. Needed for savepoints."""

    @event.listens_for(engine, "connect")
    def connect(connection, record):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection):
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("BEGIN")


metadata = sa.MetaData()
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(40), unique=True, nullable=False),
    sa.Column("age", sa.Integer, sa.CheckConstraint("age >= 0")),
    sa.Index("by_age", "age"),
)
orders = sa.Table(
    "orders",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("user_id", sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
)


@pytest.fixture
def tables(engine):
    metadata.create_all(engine)
    return engine


def test_the_engine_uses_the_module(engine, kind):
    expected = sqlite3 if kind == "standard library" else upshift.sqlite
    assert engine.dialect.dbapi is expected
    with engine.connect() as connection:
        driver = connection.connection.dbapi_connection
        wanted = {"standard library": sqlite3.Connection, "pool": upshift.sqlite.PooledConnection}
        assert type(driver) is wanted.get(kind, upshift.sqlite.Connection)
        assert connection.exec_driver_sql("SELECT sqlite_version()").scalar() == sqlite3.sqlite_version


# --- Core


def test_insert_select_update_delete(tables):
    with tables.begin() as connection:
        result = connection.execute(sa.insert(users).values(name="ann", age=30))
        assert result.inserted_primary_key == (1,)
        assert result.lastrowid == 1
        connection.execute(sa.insert(users), [{"name": f"user {i}", "age": i} for i in range(100)])
        assert connection.execute(sa.update(users).where(users.c.age < 10).values(age=99)).rowcount == 10
        assert connection.execute(sa.delete(users).where(users.c.age == 99)).rowcount == 11
    with tables.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(users)) == 90
        rows = connection.execute(sa.select(users.c.name, users.c.age).order_by(users.c.id).limit(2)).all()
        assert rows == [("ann", 30), ("user 10", 10)]
        assert rows[0]._mapping == {"name": "ann", "age": 30}
        assert connection.execute(sa.text("SELECT :a + :b AS total"), {"a": 1, "b": 2}).one().total == 3


def test_returning_and_upsert(tables):
    from sqlalchemy.dialects.sqlite import insert

    with tables.begin() as connection:
        statement = insert(users).values(name="ann", age=1).returning(users.c.id, users.c.age)
        assert connection.execute(statement).one() == (1, 1)
        many = sa.insert(users).returning(users.c.name, sort_by_parameter_order=True)
        assert connection.execute(many, [{"name": "b"}, {"name": "c"}]).scalars().all() == ["b", "c"]
        upsert = insert(users).values(name="ann", age=2)
        upsert = upsert.on_conflict_do_update(index_elements=[users.c.name], set_={"age": upsert.excluded.age})
        connection.execute(upsert)
        assert connection.scalar(sa.select(users.c.age).where(users.c.name == "ann")) == 2


def test_long_results_are_streamed(tables):
    with tables.begin() as connection:
        connection.execute(sa.insert(users), [{"name": str(i), "age": i} for i in range(5000)])
    with tables.connect() as connection:
        result = connection.execution_options(yield_per=100).execute(sa.select(users.c.age).order_by(users.c.id))
        sizes = [len(part) for part in result.partitions()]
        assert (len(sizes), sum(sizes)) == (50, 5000)


def test_reflection(tables):
    inspector = sa.inspect(tables)
    assert set(inspector.get_table_names()) == {"users", "orders"}
    assert [column["name"] for column in inspector.get_columns("users")] == ["id", "name", "age"]
    assert inspector.get_pk_constraint("users")["constrained_columns"] == ["id"]
    assert inspector.get_indexes("users")[0]["column_names"] == ["age"]
    assert inspector.get_foreign_keys("orders")[0]["referred_table"] == "users"
    reflected = sa.MetaData()
    reflected.reflect(tables)
    assert set(reflected.tables) == {"users", "orders"}


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"name": "ann"}, exc.IntegrityError),
        ({"name": None}, exc.IntegrityError),
        ({"name": "x", "age": -1}, exc.IntegrityError),
        ({"name": object()}, (exc.InterfaceError, exc.ProgrammingError)),  # the first before Python 3.11
    ],
)
def test_errors_are_wrapped(tables, values, error):
    with tables.begin() as connection:
        connection.execute(sa.insert(users).values(name="ann"))
    with pytest.raises(error) as caught, tables.begin() as connection:
        connection.execute(sa.insert(users).values(**values))
    assert isinstance(caught.value.orig, sqlite3.Error)
    with tables.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(users)) == 1


def test_a_missing_table(engine):
    with pytest.raises(exc.OperationalError, match="no such table"), engine.connect() as connection:
        connection.exec_driver_sql("SELECT * FROM absent")


def test_regular_expressions(tables):
    with tables.begin() as connection:
        connection.execute(sa.insert(users), [{"name": "ann"}, {"name": "bob"}])
        found = connection.scalars(sa.select(users.c.name).where(users.c.name.regexp_match("^a.+n$"))).all()
    assert found == ["ann"]


# --- transactions


def count(engine):
    with engine.connect() as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(users))


def test_commit_and_rollback(tables):
    with tables.connect() as connection:
        connection.execute(sa.insert(users).values(name="lost"))
        connection.rollback()
        connection.execute(sa.insert(users).values(name="kept"))
        connection.commit()
        connection.execute(sa.insert(users).values(name="forgotten"))
    assert count(tables) == 1
    with pytest.raises(ZeroDivisionError), tables.begin() as connection:
        connection.execute(sa.insert(users).values(name=str(1 / 0)))
    assert count(tables) == 1


def test_savepoints(make_engine, kind):
    engine = make_engine()
    if kind != "pool":
        begin_explicitly(engine)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(users).values(name="outer"))
        inner = connection.begin_nested()
        connection.execute(sa.insert(users).values(name="undone"))
        inner.rollback()
        with connection.begin_nested():
            connection.execute(sa.insert(users).values(name="kept"))
        with pytest.raises(exc.IntegrityError), connection.begin_nested():
            connection.execute(sa.insert(users).values(name="kept"))
        connection.execute(sa.insert(users).values(name="after"))
    with engine.connect() as connection:
        names = connection.scalars(sa.select(users.c.name).order_by(users.c.id)).all()
    assert names == ["outer", "kept", "after"]


def test_autocommit(tables, path, kind):
    with tables.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.insert(users).values(name="at once"))
        if kind == "memory":
            assert not connection.connection.dbapi_connection.in_transaction
        else:
            with closing(sqlite3.connect(path)) as outside:
                assert outside.execute("SELECT name FROM users").fetchall() == [("at once",)]
        connection.rollback()
    assert count(tables) == 1
    if kind != "pool":  # there the driver never opens transactions
        with tables.connect() as connection:
            connection.execute(sa.insert(users).values(name="lost"))
        assert count(tables) == 1


def test_isolation_level_of_an_engine(make_engine):
    engine = make_engine(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        assert not connection.connection.dbapi_connection.in_transaction
        assert connection.connection.dbapi_connection.isolation_level is None


# --- ORM


class Base(orm.DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "authors"
    id = orm.mapped_column(sa.Integer, primary_key=True)
    name = orm.mapped_column(sa.String, nullable=False, unique=True)
    version = orm.mapped_column(sa.Integer, nullable=False)
    books = orm.relationship("Book", back_populates="author", cascade="all, delete-orphan", order_by="Book.title")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class Book(Base):
    __tablename__ = "books"
    id = orm.mapped_column(sa.Integer, primary_key=True)
    title = orm.mapped_column(sa.String, nullable=False)
    author_id = orm.mapped_column(sa.ForeignKey("authors.id"), nullable=False)
    author = orm.relationship(Author, back_populates="books")


def test_orm_round_trip(engine):
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        author = Author(name="Ursula", books=[Book(title=title) for title in ("Tehanu", "Lavinia", "Gifts")])
        session.add(author)
        session.commit()
        assert author.id == 1
    with orm.Session(engine) as session:
        author = session.scalars(sa.select(Author).options(orm.selectinload(Author.books))).one()
        assert [book.title for book in author.books] == ["Gifts", "Lavinia", "Tehanu"]
        author.books[0].title = "Voices"
        del author.books[1]
        author.name = "Ursula K."
        session.commit()
    with orm.Session(engine) as session:
        joined = session.execute(sa.select(Author.name, Book.title).join(Book).order_by(Book.title)).all()
        assert joined == [("Ursula K.", "Tehanu"), ("Ursula K.", "Voices")]
        session.delete(session.get(Author, 1))
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Book)) == 0


def test_orm_rollback_and_integrity(engine):
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add(Author(name="same"))
        session.commit()
        session.add(Author(name="same"))
        with pytest.raises(exc.IntegrityError):
            session.flush()
        session.rollback()
        session.add(Author(name="other"))
        session.commit()
        assert session.scalars(sa.select(Author.name).order_by(Author.id)).all() == ["same", "other"]


def test_orm_notices_stale_rows(engine):
    """Depends on `rowcount` after UPDATE."""
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        author = Author(name="a")
        session.add(author)
        session.commit()
        assert author.version == 1
        session.execute(sa.text("UPDATE authors SET version = 7"))
        author.name = "b"
        with pytest.raises(orm.exc.StaleDataError):
            session.flush()
        session.rollback()


def test_orm_bulk(engine):
    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add_all([Author(name=f"author {i}", books=[Book(title="t")]) for i in range(200)])
        session.commit()
        assert session.scalar(sa.select(sa.func.count(sa.distinct(Book.author_id)))) == 200
        session.execute(sa.update(Book).where(Book.author_id > 100).values(title="u"))
        session.execute(sa.delete(Book).where(Book.title == "t"))
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Book)) == 100


# --- types


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


VALUES = {
    "date": (sa.Date(), dt.date(2024, 2, 29)),
    "datetime": (sa.DateTime(), dt.datetime(2024, 2, 29, 23, 59, 59, 999999)),
    "time": (sa.Time(), dt.time(1, 2, 3, 4)),
    "interval": (sa.Interval(), dt.timedelta(days=3, microseconds=5)),
    "decimal": (sa.Numeric(20, 4, asdecimal=True), decimal.Decimal("12345.6789")),
    "float": (sa.Float(), 0.1),
    "big": (sa.BigInteger(), 2**63 - 1),
    "json": (sa.JSON(), {"a": [1, 2.5, None, True, {"b": "ü"}]}),
    "json null": (sa.JSON(), None),
    "bytes": (sa.LargeBinary(), bytes(range(256))),
    "bool": (sa.Boolean(), True),
    "enum": (sa.Enum(Colour), Colour.BLUE),
    "uuid": (sa.Uuid(), uuid.UUID(int=12345)),
    "text": (sa.Unicode(), "naïve \U0001f600 nul\0inside"),
    "pickle": (sa.PickleType(), {"set": {1, 2}}),
}


@pytest.mark.filterwarnings("ignore:Dialect sqlite.* does .not. support Decimal")
@pytest.mark.parametrize("name", VALUES)
def test_types_round_trip(engine, name):
    kind_of, value = VALUES[name]
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("x", kind_of))
    table.create(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(table), [{"x": value}, {"x": None}])
    with engine.connect() as connection:
        found = connection.scalars(sa.select(table.c.x).order_by(table.c.id)).all()
        assert found == [value, None]
        assert type(found[0]) is type(value)
        if value is not None and name not in ("pickle", "json"):
            assert connection.scalar(sa.select(table.c.id).where(table.c.x == value)) == 1


@pytest.mark.filterwarnings("ignore:The default .* is deprecated as of Python 3.12:DeprecationWarning")
def test_native_datetimes(make_engine, kind):
    if kind == "pool":
        pytest.skip("platform: a pool has no detect_types")
    module = sqlite3 if kind == "standard library" else upshift.sqlite
    detect = module.PARSE_DECLTYPES | module.PARSE_COLNAMES
    engine = make_engine(connect_args={"detect_types": detect}, native_datetime=True)
    table = sa.Table("t", sa.MetaData(), sa.Column("d", sa.Date), sa.Column("at", sa.TIMESTAMP))
    table.create(engine)
    values = dt.date(2024, 2, 29), dt.datetime(2024, 2, 29, 1, 2, 3, 400)
    with engine.begin() as connection:
        connection.execute(sa.insert(table).values(d=values[0], at=values[1]))
        assert connection.execute(sa.select(table)).one() == values
        assert connection.exec_driver_sql("SELECT d, at FROM t").one() == values


# --- events and pools


def test_events(engine):
    seen = []
    event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA foreign_keys = ON"))
    event.listen(engine, "before_cursor_execute", lambda *arguments: seen.append(("before", arguments[2])))
    event.listen(engine, "after_cursor_execute", lambda *arguments: seen.append(("after", arguments[2])))
    event.listen(engine, "checkout", lambda *arguments: seen.append("checkout"))
    event.listen(engine, "checkin", lambda *arguments: seen.append("checkin"))
    event.listen(engine, "handle_error", lambda context: seen.append(type(context.original_exception)))
    engine.dispose()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    assert seen[0] == "checkout"
    assert seen[-1] == "checkin"
    assert ("before", "PRAGMA foreign_keys") in seen
    assert ("after", "PRAGMA foreign_keys") in seen
    metadata.create_all(engine)
    with pytest.raises(exc.IntegrityError, match="FOREIGN KEY"), engine.begin() as connection:
        connection.execute(sa.insert(orders).values(user_id=99))
    assert sqlite3.IntegrityError in seen


def test_functions_of_the_user(engine):
    @event.listens_for(engine, "connect")
    def connect(connection, record):
        connection.create_function("double", 1, lambda x: 2 * x, deterministic=True)

    engine.dispose()
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.double(21))) == 42


def test_queue_pool_and_threads(make_engine, kind):
    if kind == "memory":
        pytest.skip("platform: each connection of a QueuePool would have a database of its own")
    engine = make_engine(poolclass=pool.QueuePool, pool_size=2, max_overflow=2, pool_timeout=50)
    metadata.create_all(engine)
    errors = []

    def work(index):
        try:
            for i in range(25):
                with engine.begin() as connection:
                    connection.execute(sa.insert(users).values(name=f"{index}-{i}", age=i))
                with engine.connect() as connection:
                    connection.execute(sa.select(users).where(users.c.age == i)).all()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(55)
    assert errors == []
    assert count(engine) == 150
    assert engine.pool.checkedout() == 0


@pytest.mark.parametrize("poolclass", [pool.StaticPool, pool.SingletonThreadPool, pool.NullPool, pool.QueuePool])
def test_other_pools(make_engine, kind, poolclass):
    if kind == "memory" and poolclass is pool.NullPool:
        pytest.skip("platform: each connection would have a database of its own")
    engine = make_engine(poolclass=poolclass)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(users).values(name="a"))
    assert count(engine) == 1


def test_a_lost_connection_is_replaced(make_engine, kind):
    engine = make_engine(pool_pre_ping=True, poolclass=pool.QueuePool)
    with engine.connect() as connection:
        driver = connection.connection.dbapi_connection
    getattr(driver, "conn", driver).close()  # behind SQLAlchemy's back
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
        assert connection.connection.dbapi_connection is not driver


def test_a_closed_connection_is_recognised(make_engine):
    """By the text of the error: the dialect asks for "Cannot operate on a closed database."."""
    engine = make_engine(poolclass=pool.QueuePool)
    connection = engine.connect()
    driver = connection.connection.dbapi_connection
    getattr(driver, "conn", driver).close()
    with pytest.raises(exc.ProgrammingError) as caught:
        connection.exec_driver_sql("SELECT 1")
    assert caught.value.connection_invalidated
    connection.close()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


@pytest.mark.parametrize("module", [sqlite3, upshift.sqlite], ids=["standard library", "upshift"])
def test_uri_names(path, module):
    engine = sa.create_engine(f"sqlite:///file:{path}?mode=rwc&uri=true&timeout=7", module=module)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    engine.dispose()
    engine = sa.create_engine(f"sqlite:///file:{path}?mode=ro&uri=true", module=module)
    with pytest.raises(exc.OperationalError, match="readonly"), engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    engine.dispose()
