"""The operator's mapping as SQL: what it is asked, made once of its two queries, and tried against the database.

Whatever the operator writes stands in parentheses of its own, and station ids are compared in their own type, so that the CPO's indexes
serve. What runs these queries, and what follows from an error of theirs, is in `source`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import psycopg
from psycopg import sql

from cdc_pusher.config import SourceSettings, Watch
from cdc_pusher.database import Connection, one_line
from cdc_pusher.errors import MappingError
from cdc_pusher.model import CONNECTOR_COLUMNS, STATION_COLUMNS

REQUIRED = {
    "stations": {
        *("station_id", "name", "latitude", "longitude", "street", "street_number", "city", "zip", "country", "phone", "cpo", "is_open_24"),
    },
    "connectors": {*CONNECTOR_COLUMNS},
}
TEXT_LIMIT = 70_000  # characters of one text; more is never sent, and must not fill the memory
AS_TEXT = sql.SQL("s.station_id::text AS station_id")
# Types whose values are equal only if their texts are.
_PLAIN = {"text", "character varying", "bigint", "integer", "smallint", "uuid"}


class Column(NamedTuple):
    """One column of a query of the mapping."""

    type: sql.SQL
    is_text: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Queries:
    """What is asked of the mapping, as SQL; all but `cpos` with named parameters (`ids`; `limit`, `after`; `cpo`).

    `cpos`: of all stations (None), and of those for an EMP that has a condition. `only`: EMPs by the column that says the station is not
    for them. `excluded`, `unconditional`: the same apart, for when a condition fails; `broken`: those that fail whatever the station.
    """

    stations: bytes
    connectors: bytes
    first_page: bytes
    next_page: bytes
    missing: bytes
    of_cpo: bytes
    cpos: Mapping[str | None, bytes]
    only: Mapping[str, str]
    excluded: Mapping[str, bytes]
    unconditional: bytes
    broken: Mapping[str, str]


async def prepare(conn: Connection, settings: SourceSettings, only: Mapping[str, str] | None = None) -> Queries:
    """Look up the columns of both queries of the mapping, and make of them what is asked of it. Raises `MappingError`."""
    conditions: dict[str, sql.Composable] = {}
    broken: dict[str, str] = {}
    station_columns = await columns(conn, "stations", settings.stations)
    connector_columns = await columns(conn, "connectors", settings.connectors)
    id_type = station_columns["station_id"].type
    stations, connectors = subquery(settings.stations), subquery(settings.connectors)
    first, following = (
        sql.SQL("SELECT s.station_id::text AS station_id FROM {} AS s WHERE {} ORDER BY s.station_id LIMIT %(limit)s").format(
            stations, condition
        )
        for condition in (sql.SQL("s.station_id IS NOT NULL"), sql.SQL("s.station_id > %(after)s::text::{}").format(id_type))
    )
    missing = sql.SQL(
        "SELECT r.id AS station_id FROM unnest(%(ids)s::text[]) AS r (id)"
        " WHERE NOT EXISTS (SELECT FROM {} AS s WHERE s.station_id = r.id::{})"
    ).format(stations, id_type)
    of_cpo = sql.SQL("SELECT DISTINCT s.station_id::text AS station_id FROM {} AS s WHERE s.cpo::text = %(cpo)s").format(stations)
    cpos = sql.SQL(
        "SELECT s.cpo::text AS cpo, min({}::text) AS name, count(*) AS stations FROM {} AS s WHERE s.station_id IS NOT NULL AND {}"
        " GROUP BY 1 ORDER BY 3 DESC, 1"
    )
    cpo_name = sql.SQL("s.cpo_name" if "cpo_name" in station_columns else "NULL")
    for emp, text in (only or {}).items():
        try:
            await _try_condition(conn, emp, stations, _condition(text))
            conditions[emp] = _condition(text)
        except MappingError as error:
            broken[emp] = str(error)
    of_whom: dict[str | None, sql.Composable] = {None: sql.SQL("true")}
    of_whom.update(conditions)
    excluding = {f"not for {emp}": condition for emp, condition in conditions.items()}
    read = {c: station_columns[c] for c in STATION_COLUMNS if c in station_columns}
    return Queries(
        stations=_by_station(stations, read, excluding=excluding).as_bytes(conn),
        connectors=_by_station(
            connectors,
            {c: connector_columns[c] for c in CONNECTOR_COLUMNS},
            _as_asked_for(connector_columns["station_id"].type),
        ).as_bytes(conn),
        first_page=first.as_bytes(conn),
        next_page=following.as_bytes(conn),
        missing=missing.as_bytes(conn),
        of_cpo=of_cpo.as_bytes(conn),
        cpos={emp: cpos.format(cpo_name, stations, condition).as_bytes(conn) for emp, condition in of_whom.items()},
        only={f"not for {emp}": emp for emp in conditions},
        excluded={
            emp: _excluded(stations, station_columns["station_id"], condition).as_bytes(conn) for emp, condition in conditions.items()
        },
        unconditional=_by_station(stations, read).as_bytes(conn),
        broken=broken,
    )


def _condition(text: str) -> sql.Composable:
    """The operator's condition over the columns of `stations`; a `%` in it is not a parameter of ours."""
    return sql.SQL("(\n{}\n)").format(sql.SQL(text.replace("%", "%%")))  # the operator's SQL


async def _try_condition(conn: Connection, emp: str, stations: sql.Composable, condition: sql.Composable) -> None:
    try:
        await conn.execute(sql.SQL("SELECT FROM {} AS s WHERE {} LIMIT 0").format(stations, condition), {})
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        raise MappingError(f"emp.{emp}.only: {one_line(error)}") from error


def affected_query(watch: Watch) -> sql.Composed:
    """The stations of changed rows: the operator's sub-select over rows of the table as the trigger noted them."""
    return sql.SQL(
        "SELECT DISTINCT a.station_id::text AS station_id FROM jsonb_populate_recordset(NULL::{}, %(rows)s) AS {}"
        " CROSS JOIN LATERAL ({}) AS a (station_id) WHERE a.station_id IS NOT NULL LIMIT %(limit)s"
    ).format(
        sql.SQL(watch.table.replace("%", "%%")), sql.Identifier(watch.alias.replace("%", "%%")), sql.SQL(watch.query.replace("%", "%%"))
    )


def subquery(query: str) -> sql.Composable:
    """The operator's query, ready to stand in FROM; a `%` in it is not a parameter of ours."""
    return sql.SQL("(\n{}\n)").format(sql.SQL(query.rstrip().rstrip(";").replace("%", "%%")))  # the operator's SQL


def _by_station(
    query: sql.Composable,
    columns: Mapping[str, Column],
    station_id: sql.Composable = AS_TEXT,
    excluding: Mapping[str, sql.Composable] | None = None,
) -> sql.Composed:
    """The query restricted to the stations in `ids`, compared in the column's own type, so that the CPO's index serves."""
    values = [station_id, *(_value(name, column) for name, column in columns.items() if name != "station_id")]
    values += [sql.SQL("{} IS NOT TRUE AS {}").format(condition, sql.Identifier(name)) for name, condition in (excluding or {}).items()]
    return sql.SQL("SELECT {} FROM {} AS s WHERE s.station_id = ANY (%(ids)s::text[]::{}[])").format(
        sql.SQL(", ").join(values), query, columns["station_id"].type
    )


def _excluded(query: sql.Composable, station_id: Column, condition: sql.Composable) -> sql.Composed:
    """Those of the stations in `ids` that do not meet the condition."""
    text = "SELECT s.station_id::text AS station_id FROM {} AS s WHERE s.station_id = ANY (%(ids)s::text[]::{}[]) AND {} IS NOT TRUE"
    return sql.SQL(text).format(query, station_id.type, condition)


def _as_asked_for(id_type: sql.SQL) -> sql.Composable:
    """The station id of a connector in the spelling of its station: both may differ and be equal all the same, as a citext."""
    if id_type.as_string() in _PLAIN:
        return AS_TEXT
    return sql.SQL("(SELECT r.id FROM unnest(%(ids)s::text[]) AS r (id) WHERE r.id::{} = s.station_id LIMIT 1) AS station_id").format(
        id_type
    )


def _value(name: str, column: Column) -> sql.Composable:
    value = sql.SQL("s.{}").format(sql.Identifier(name))
    if column.is_text:
        return sql.SQL("left({}::text, {}) AS {}").format(value, sql.Literal(TEXT_LIMIT), sql.Identifier(name))
    return value


async def columns(conn: Connection, name: str, query: str) -> dict[str, Column]:
    """The columns of a query of the mapping (`name`: stations or connectors), with their types. Raises `MappingError`."""
    probe = sql.SQL("SELECT * FROM {} AS s LIMIT 0").format(subquery(query))
    try:
        cursor = await conn.execute(probe, {})
        described = [(column.name, column.type_code) for column in cursor.description or ()]
        types = await conn.execute(
            "SELECT format_type(t.oid, -1) AS type, t.typcategory = 'S' AS is_text"
            " FROM unnest(%s::oid[]) WITH ORDINALITY AS r (oid, n) JOIN pg_catalog.pg_type AS t ON t.oid = r.oid ORDER BY r.n",
            [[o for _, o in described]],
        )
        rows = await types.fetchall()
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        raise MappingError(f"source.{name}: {one_line(error)}") from error
    named = {column: Column(sql.SQL(row["type"]), row["is_text"]) for (column, _), row in zip(described, rows, strict=True)}
    if absent := sorted(REQUIRED[name] - named.keys()):
        raise MappingError(f"source.{name}: the query does not return {', '.join(absent)}")
    return named
