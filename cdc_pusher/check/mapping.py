"""The mapping against the tables: the columns of both queries and their types, and hidden rows. What it costs: `indexes`."""

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

import psycopg
from psycopg import sql

from cdc_pusher import mapping, oioi
from cdc_pusher.check.explain import relations
from cdc_pusher.check.finding import Finding, ok, problem, warning
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import Connection, one_line
from cdc_pusher.errors import MappingError
from cdc_pusher.mapping import REQUIRED
from cdc_pusher.model import CONNECTOR_COLUMNS, STATION_COLUMNS
from cdc_pusher.sql import queries

_sql = queries("check")

Query = Literal["stations", "connectors"]

KNOWN: Mapping[Query, tuple[str, ...]] = {"stations": (*STATION_COLUMNS, "cpo_name"), "connectors": CONNECTOR_COLUMNS}

_WHOLE = {"smallint", "integer", "bigint"}
_NUMBERS = _WHOLE | {"numeric", "real", "double precision"}
_JSON = {"json", "jsonb"}
# What never comes as text. Others may: an enum, say, or a type of the operator's own.
_NO_TEXT = _NUMBERS | _JSON | {"boolean", "uuid", "bytea", "date", "timestamp with time zone", "timestamp without time zone", "interval"}
_ANY = {"station_id", "cpo", "cpo_name", "type", "status"}  # taken as text, or translated from it
_BOOLEANS = {column for column in STATION_COLUMNS if column.startswith("is_")}
_WHOLE_OR_TEXT = {"street_number", "zip", "phone", "fax"}


async def check(conn: Connection, settings: SourceSettings) -> list[Finding]:
    """Look at both queries, one by one."""
    found: list[Finding] = []
    asked: tuple[tuple[Query, str], ...] = (("stations", settings.stations), ("connectors", settings.connectors))
    for name, query in asked:
        subject = f"source.{name}"
        try:
            columns = await mapping.columns(conn, name, query)
        except MappingError as error:
            denied = isinstance(error.__cause__, psycopg.errors.InsufficientPrivilege)
            todo = "cdc-pusher migrate grants it, see docs/roles.md" if denied else "mend the query, see docs/mapping.md"
            found.append(problem(subject, f"{str(error).removeprefix(f'{subject}: ')}; {todo}"))
        else:
            found += _columns(name, {column: one.type.as_string(conn) for column, one in columns.items()})
            found += await _hidden_rows(conn, name, query)
            found += await _unwatched(conn, name, query, [watch.table for watch in settings.watch])
    return [
        *found,
        *_words("statuses", settings.statuses, oioi.STATUSES),
        *_words("connector_types", settings.connector_types, oioi.CONNECTOR_TYPES),
    ]


def _words(name: str, mapped: Mapping[str, str], known: Collection[str]) -> Iterator[Finding]:
    """Words of the operator's own map that the protocol does not have."""
    if wrong := [f"'{value}' becomes '{word}'" for value, word in mapped.items() if word not in known]:
        text = f"{len(wrong)} of {len(mapped)} values become words that OIOI does not have; it has {', '.join(sorted(known))}"
        yield problem(f"source.{name}", text, count=len(wrong), examples=wrong[:5])


def _columns(name: Query, types: Mapping[str, str]) -> Iterator[Finding]:
    subject = f"source.{name}"
    known = [f"{column} {types[column]}" for column in KNOWN[name] if column in types]
    absent = [column for column in KNOWN[name] if column not in types and column not in REQUIRED[name] and column != "cpo_name"]
    ignored = [column for column in types if column not in KNOWN[name]]
    text = f"{len(known)} columns ({', '.join(known)})"
    text += f"; optional ones that it does not return: {', '.join(absent)}" if absent else ""
    yield ok(subject, text + (f"; not used: {', '.join(ignored)}" if ignored else ""))
    for column in KNOWN[name]:
        if column in types and (wanted := wrong_type(column, types[column])):
            yield problem(subject, f"{column} is {types[column]} and has to be {wanted}: cast it in the query")


def wrong_type(column: str, of_type: str) -> str | None:
    """What the type of this column has to be, if no value of this one can be sent.

    >>> wrong_type("latitude", "text"), wrong_type("latitude", "numeric"), wrong_type("zip", "integer"), wrong_type("name", "integer")
    ('a number', None, None, 'text')
    """
    if column in _ANY:
        return None
    if column in ("latitude", "longitude", "speed_kw", "floor_level", "total_parking"):
        return None if of_type in _NUMBERS else "a number"
    if column in _BOOLEANS:
        return None if of_type == "boolean" else "boolean"
    if column == "open_hour_notes":
        return None if of_type in _JSON else "jsonb"
    if of_type in _WHOLE and column in _WHOLE_OR_TEXT:
        return None
    return "text" if of_type in _NO_TEXT or of_type.endswith("[]") else None


async def _hidden_rows(conn: Connection, name: Query, query: str) -> list[Finding]:
    """Postgres refuses a query that row-level security would curtail, if it is asked to; with policies that let all through it is fine."""
    explain = sql.SQL("EXPLAIN (VERBOSE, FORMAT JSON) SELECT * FROM {} AS s").format(mapping.subquery(query))
    try:
        async with conn.transaction():
            await conn.execute("SET LOCAL row_security = off")
            await conn.execute(explain, {})
    except psycopg.errors.InsufficientPrivilege as error:
        refusal = one_line(error)
    else:
        return []
    read = await _relations(conn, query)
    async with conn.transaction():
        rows = await (await conn.execute(_sql.relations, read)).fetchall()
    hiding = [row["name"] for row in rows if row["hides_rows"]]
    if not hiding and any(row["has_policies"] for row in rows):
        return []  # a table of which all rows are hidden is not even in the plan
    said = "row-level security hides rows from our role, and a station that is hidden is deleted at the EMPs: give it a policy USING (true)"
    return [problem(f"source.{name}", said, count=max(1, len(hiding)), examples=[*hiding, refusal])]


async def _unwatched(conn: Connection, name: Query, query: str, watched: list[str]) -> list[Finding]:
    """Tables that the query reads, and whose changes no trigger tells of."""
    read = await _relations(conn, query)
    async with conn.transaction():
        rows = await (await conn.execute(_sql.unwatched, {**read, "watched": watched})).fetchall()
    tables = [row["name"] for row in rows]
    if not tables:
        return []
    said = f"reads {', '.join(tables)}, which no watch covers: changes there are only found by the sweep"
    return [warning(f"source.{name}", said, count=len(tables))]


async def _relations(conn: Connection, query: str) -> dict[str, list[str]]:
    """What the query reads in the end, behind views."""
    explain = sql.SQL("EXPLAIN (VERBOSE, FORMAT JSON) SELECT * FROM {} AS s").format(mapping.subquery(query))
    async with conn.transaction():
        row = await (await conn.execute(explain, {})).fetchone()
    assert row is not None
    read = sorted(relations(row["QUERY PLAN"][0]["Plan"]))
    return {"schemas": [schema for schema, _ in read], "relations": [relation for _, relation in read]}
