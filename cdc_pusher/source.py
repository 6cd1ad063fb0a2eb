"""Reads the CPO's stations through the operator's mapping, on a connection of its own.

Contract: everything of one `read` comes from one snapshot, taken after the call, so that a station and its connectors fit together; the
transaction is read only. Names and values are the operator's: what fails because of one station's data (a cast, a division) is told for
that station alone, what fails because the mapping does not fit the tables is a `MappingError`. Nothing is checked against a protocol here.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from cdc_pusher import vocabulary
from cdc_pusher.config import SourceSettings, Watch
from cdc_pusher.database import Connection, one_line
from cdc_pusher.errors import MappingError
from cdc_pusher.model import CONNECTOR_COLUMNS, STATION_COLUMNS, Connector, Held, Station

REQUIRED = {
    "stations": {
        *("station_id", "name", "latitude", "longitude", "street", "street_number", "city", "zip", "country", "phone", "cpo", "is_open_24"),
    },
    "connectors": {*CONNECTOR_COLUMNS},
}
TEXT_LIMIT = 70_000  # characters of one text; more is never sent, and must not fill the memory

# What one station's values can cause; anything else is the mapping's or the server's fault.
_OF_THE_DATA = (
    psycopg.DataError,
    psycopg.IntegrityError,
    psycopg.errors.CardinalityViolation,
    psycopg.errors.ProgramLimitExceeded,
    psycopg.errors.StatementTooComplex,
    ValueError,
    OverflowError,
    RecursionError,
)
# Of the mapping, although Postgres counts them with the faults of operation.
_OF_THE_MAPPING = (psycopg.errors.QueryCanceled, psycopg.errors.ObjectNotInPrerequisiteState)
AFFECTED_TIMEOUT = "10s"  # for a sub-select of a watch; all stations are gone through if that is not enough
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


class Source:
    """The mapping, prepared against the database by `open`."""

    def __init__(self, conn: Connection, settings: SourceSettings, queries: Queries) -> None:
        self._conn = conn
        self._settings = settings
        self._queries = queries
        self._watches = {watch.name: watch for watch in settings.watch}

    @classmethod
    async def open(
        cls, conn: Connection, settings: SourceSettings, only: Mapping[str, str] | None = None, *, strict: bool = True
    ) -> "Source":
        """Look up the columns of both queries. `only`: by EMP, the condition that stations have to meet.

        Not `strict`: a condition that cannot be evaluated holds the stations of its EMP, and no others. Raises `MappingError`: a query or a
        condition fails, or a column that is needed is missing.
        """
        await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await conn.set_read_only(True)
        queries = await prepare(conn, settings, only)
        if strict and queries.broken:
            raise MappingError(next(iter(queries.broken.values())))
        return cls(conn, settings, queries)

    async def read(self, station_ids: Sequence[str]) -> Mapping[str, Station | Held]:
        """The stations with these ids (text) as they are now; one that the query no longer returns is not in the answer.

        The keys are the ids as the query spells them: 7, if its type is a number and 007 was asked for. A station whose data make the query
        fail, or that it returns twice, is `Held` with the reason. Raises `MappingError`.
        """
        try:
            return await self._read(station_ids, self._queries.stations)
        except (MappingError, *_OF_THE_DATA) as error:
            if self._queries.only and (isinstance(error, MappingError) or len(station_ids) == 1):
                return await self._apart().read(station_ids)
            if isinstance(error, MappingError):
                raise
            if len(station_ids) == 1:
                fault = "the mapping fails for this station"
                return {station_ids[0]: Held(reason=f"{fault}: {one_line(error)}", faults=(fault,))}
        middle = len(station_ids) // 2
        return {**await self.read(station_ids[:middle]), **await self.read(station_ids[middle:])}

    async def page(self, after: str | None, limit: int) -> list[str]:
        """The next station ids (text) in the order of the mapping's own column type; `after` is the last one of the page before.

        Raises `MappingError`, also when one row's data make the query fail: nobody can say which rows come after it.
        """
        query = self._queries.first_page if after is None else self._queries.next_page
        try:
            async with _snapshot(self._conn):
                rows = await (await self._conn.execute(query, {"after": after, "limit": limit})).fetchall()
        except _OF_THE_DATA as error:
            raise MappingError(f"source.stations: {one_line(error)}") from error
        return list(dict.fromkeys(row["station_id"] for row in rows))

    async def missing(self, station_ids: Sequence[str]) -> list[str]:
        """Those of these stations that the mapping no longer returns."""
        try:
            async with _snapshot(self._conn):
                rows = await (await self._conn.execute(self._queries.missing, {"ids": list(station_ids)})).fetchall()
        except _OF_THE_DATA:
            return list(station_ids)  # an id that is none any more: let capture look at each
        return [row["station_id"] for row in rows]

    async def affected(self, watch: str, rows: Sequence[Any], limit: int) -> list[str] | None:
        """The stations that these rows (JSON) of a watched table concern, by the sub-select of the watch of this name.

        None: nobody can say (a watch that the configuration no longer has), or there are more than `limit`. Raises `MappingError`.
        """
        if watch not in self._watches:
            return None
        try:
            async with _snapshot(self._conn):
                await self._conn.execute(f"SET LOCAL statement_timeout = '{AFFECTED_TIMEOUT}'")
                query = affected_query(self._watches[watch])
                found = await (await self._conn.execute(query, {"rows": Jsonb(list(rows)), "limit": limit + 1})).fetchall()
        except _OF_THE_DATA as error:
            raise MappingError(f"source.watch {self._watches[watch].table}: {one_line(error)}") from error
        return [row["station_id"] for row in found] if len(found) <= limit else None

    async def of_cpo(self, cpo: str) -> list[str]:
        """The ids (text) of the stations of a CPO, by its internal identifier. Raises `MappingError`."""
        try:
            async with _snapshot(self._conn):
                rows = await (await self._conn.execute(self._queries.of_cpo, {"cpo": cpo})).fetchall()
        except _OF_THE_DATA as error:
            raise MappingError(f"source.stations: {one_line(error)}") from error
        return [row["station_id"] for row in rows]

    async def cpos(self, emp: str | None = None) -> list[DictRow]:
        """The CPOs of all stations, or of those for an EMP.

        `cpo` (text), `name` (None unless the mapping has `cpo_name`), `stations`, the number of them.
        """
        try:
            async with _snapshot(self._conn):
                query = self._queries.cpos.get(emp, self._queries.cpos[None])
                return await (await self._conn.execute(query, {})).fetchall()
        except _OF_THE_DATA as error:
            raise MappingError(f"source.stations: {one_line(error)}") from error

    def _apart(self) -> "_Apart":
        """The same, but each condition is evaluated by itself."""
        return _Apart(self._conn, self._settings, self._queries)

    async def _read(self, station_ids: Sequence[str], query: bytes) -> Mapping[str, Station | Held]:
        async with _snapshot(self._conn):
            stations = await (await self._conn.execute(query, {"ids": list(station_ids)})).fetchall()
            found_ids = sorted({row["station_id"] for row in stations})
            connectors = await (await self._conn.execute(self._queries.connectors, {"ids": found_ids})).fetchall() if found_ids else []
        of_station: dict[str, list[Connector]] = defaultdict(list)
        for row in connectors:
            of_station[row["station_id"]].append(self._connector(row))
        found: dict[str, Station | Held] = {}
        for row in stations:
            station_id = row["station_id"]
            not_for = frozenset(emp for column, emp in self._queries.only.items() if row.pop(column, False))
            if station_id in found:
                fault = "station_id: the mapping returns more than one row"
                found[station_id] = Held(reason=f"{fault} for '{station_id}'", faults=(fault,))
            else:
                country = row["country"]
                row["country"] = (isinstance(country, str) and vocabulary.country(country)) or country
                found[station_id] = Station(
                    **row, connectors=tuple(of_station[station_id]), not_for=not_for, unclear_for=self._queries.broken
                )
        return found

    def _connector(self, row: DictRow) -> Connector:
        return Connector(
            evse_id=row["evse_id"],
            type=_translated(row["type"], self._settings.connector_types, vocabulary.connector_type),
            speed_kw=row["speed_kw"],
            status=_translated(row["status"], self._settings.statuses, vocabulary.status),
        )


class _Apart(Source):
    """Reads without the conditions of the EMPs, and then asks each of those: one that fails is unclear for its EMP alone."""

    async def _read(self, station_ids: Sequence[str], query: bytes) -> Mapping[str, Station | Held]:
        found = dict(await super()._read(station_ids, self._queries.unconditional))
        for emp, excluded in self._queries.excluded.items():
            try:
                async with _snapshot(self._conn):
                    rows = await (await self._conn.execute(excluded, {"ids": list(station_ids)})).fetchall()
            except (MappingError, *_OF_THE_DATA) as error:
                unclear = {emp: one_line(error)}
                found = {
                    i: one if isinstance(one, Held) else replace(one, unclear_for={**one.unclear_for, **unclear})
                    for i, one in found.items()
                }
            else:
                left_out = {row["station_id"] for row in rows}
                for station_id, one in found.items():
                    if isinstance(one, Station) and station_id in left_out:
                        found[station_id] = replace(one, not_for=one.not_for | {emp})
        return found

    def _apart(self) -> "_Apart":
        raise AssertionError("there is nothing left to take apart")


def _translated(value: Any, names: Mapping[str, str], built_in: Callable[[str], str | None]) -> Any:
    """The OIOI word for the CPO's value; what nobody mapped stays as it is, for the protocol to judge."""
    if value is None:
        return None
    if (mapped := names.get(str(value))) is not None:
        return mapped
    return (isinstance(value, str) and built_in(value)) or value


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


@asynccontextmanager
async def _snapshot(conn: Connection) -> AsyncIterator[None]:
    """One read-only transaction with one snapshot; errors of the mapping are translated, those of the data pass."""
    try:
        async with conn.transaction():
            yield
    except (psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.InternalError, *_OF_THE_MAPPING) as error:
        if isinstance(error, _OF_THE_DATA):
            raise
        raise MappingError(f"source: {one_line(error)}") from error


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
