"""Reads which tables a database has, as far as our role may know. Takes no lock worth a word, reads no data but a sample of words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from cdc_pusher.database import Connection
from cdc_pusher.mapping import subquery
from cdc_pusher.sql import queries

_sql = queries("init")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column; `quoted` where its name has to be; `type` beneath any domain; `category` as in `pg_type.typcategory`: S text, E enum …"""

    name: str
    quoted: str
    type: str
    category: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKey:
    """A foreign key of one column to another table's."""

    column: str
    schema: str
    table: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table or view of the CPO; `readable`: our role may read it.

    `quoted`: with its schema; `row_name`: as a row of it is called in the sub-select of a watch. `rows`: as the statistics say.
    """

    schema: str
    name: str
    quoted: str
    row_name: str
    is_view: bool = False
    rows: int = 0
    readable: bool = True
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    foreign_keys: tuple[ForeignKey, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.schema, self.name

    def quote(self, column: str) -> str:
        """A column's name, quoted if need be."""
        return next(one.quoted for one in self.columns if one.name == column)

    def has(self, *columns: str) -> bool:
        """Whether it has all of these columns."""
        return set(columns) <= {column.name for column in self.columns}


async def tables(conn: Connection) -> list[Table]:
    """All tables and views that may be the CPO's."""
    return [_table(row) for row in await (await conn.execute(_sql.tables)).fetchall()]


async def words(conn: Connection, query: str, column: str) -> list[str]:
    """The words of one column of a query: the labels of an enum, else the most frequent of the first rows; none if it cannot be run."""
    probe, asked = (
        sql.SQL(text.decode()).format(query=subquery(query), column=sql.Identifier(column))  # constant texts
        for text in (_sql.probe, _sql.words)
    )
    try:
        async with conn.transaction():
            described = (await conn.execute(probe, {})).description
            assert described is not None
            labels = await (await conn.execute(_sql.labels, {"type": described[0].type_code})).fetchall()
            rows = labels or await (await conn.execute(asked, {})).fetchall()
            return [row["word"] for row in rows]
    except psycopg.Error:
        return []


def _table(row: Mapping[str, Any]) -> Table:
    return Table(
        schema=row["schema"],
        name=row["name"],
        quoted=row["quoted"],
        row_name=row["row_name"],
        is_view=row["is_view"],
        rows=row["rows"],
        readable=row["readable"],
        columns=tuple(Column(**column) for column in row["columns"]),
        primary_key=tuple(row["primary_key"] or ()),
        foreign_keys=tuple(ForeignKey(**key) for key in row["foreign_keys"]),
    )
