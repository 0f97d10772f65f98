"""A database as the SQL that makes it again."""

from __future__ import annotations

from collections.abc import Iterator
from sqlite3 import OperationalError
from typing import Optional

from upshift._native import Connection, Cursor


def _identifier(name: str) -> str:
    return '"{}"'.format(name.replace('"', '""'))


def _text(value: str) -> str:
    return "'{}'".format(value.replace("'", "''"))


def iterdump(self: Connection, *, filter: Optional[str] = None) -> Iterator[str]:  # noqa: A002
    """An iterator over the SQL statements that make this database again.

    Args:
        filter: LIKE pattern of the names to dump, `"prefix_%"`; None for all.
    """
    # Refuses a closed connection here, not at the first statement.
    cursor = self.cursor()
    cursor.row_factory = None
    return _statements(self, filter)


def _violates_keys(cursor: Cursor) -> bool:
    try:
        return cursor.execute("PRAGMA foreign_key_check").fetchone() is not None
    except OperationalError:
        # What a key refers to is not unique, so it cannot be checked.
        return False


def _statements(connection: Connection, pattern: Optional[str]) -> Iterator[str]:
    cursor = connection.cursor()
    cursor.row_factory = None  # rows are tuples, whatever the connection's are
    condition, parameters = ('AND "name" LIKE ?', (pattern,)) if pattern else ("", ())

    def schema(kinds: str, order: str = "") -> list[tuple[str, str]]:
        wanted = f'"sql" NOT NULL AND "type" IN ({kinds}) {condition} {order}'
        rows: list[tuple[str, str]]
        rows = cursor.execute(f'SELECT "name", "sql" FROM "sqlite_master" WHERE {wanted}', parameters).fetchall()
        return rows

    if _violates_keys(cursor):
        yield "PRAGMA foreign_keys=OFF;"
    yield "BEGIN TRANSACTION;"

    sequences: list[str] = []
    virtual = False
    for name, sql in schema("'table'", 'ORDER BY "name"'):
        if name == "sqlite_sequence":
            # At the end: filling the tables changes it.
            sequences.append('DELETE FROM "sqlite_sequence";')
            for table, number in cursor.execute('SELECT * FROM "sqlite_sequence"').fetchall():
                sequences.append(f'INSERT INTO "sqlite_sequence" VALUES({_text(table)},{number});')
            continue
        if name == "sqlite_stat1":
            yield 'ANALYZE "sqlite_master";'
        elif name.startswith("sqlite_"):
            continue
        elif sql.startswith("CREATE VIRTUAL TABLE"):
            if not virtual:
                virtual = True
                yield "PRAGMA writable_schema=ON;"
            yield (
                "INSERT INTO sqlite_master(type,name,tbl_name,rootpage,sql)"
                f"VALUES('table',{_text(name)},{_text(name)},0,{_text(sql)});"
            )
        else:
            yield f"{sql};"
        table = _identifier(name)
        columns = [str(column[1]) for column in cursor.execute(f"PRAGMA table_info({table})").fetchall()]
        values = "','".join(f"||quote({_identifier(column)})||" for column in columns)
        for (statement,) in cursor.execute(f"SELECT 'INSERT INTO {table} VALUES('{values}')' FROM {table};"):
            yield f"{statement};"

    for _name, sql in schema("'index', 'trigger', 'view'"):
        yield f"{sql};"
    if virtual:
        yield "PRAGMA writable_schema=OFF;"
    yield from sequences
    yield "COMMIT;"
