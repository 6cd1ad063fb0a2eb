"""Reads the CPO's stations through the operator's mapping, on a connection of its own.

Contract: everything of one `read` comes from one snapshot, taken after the call, so that a station and its connectors fit together; the
transaction is read only. Names and values are the operator's: what fails because of one station's data (a cast, a division) is told for
that station alone, what fails because the mapping does not fit the tables is a `MappingError`. Nothing is checked against a protocol here.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.rows import DictRow

from cdc_pusher.config import SourceSettings
from cdc_pusher.database import Connection, one_line
from cdc_pusher.errors import MappingError
from cdc_pusher.model import CONNECTOR_COLUMNS, STATION_COLUMNS, Connector, Held, Station

REQUIRED = {
    "stations": {
        *("station_id", "name", "latitude", "longitude", "street", "street_number", "city", "zip", "country", "phone", "cpo", "is_open_24"),
    },
    "connectors": {*CONNECTOR_COLUMNS},
}

# What one station's values can cause; anything else is the mapping's or the server's fault.
_OF_THE_DATA = (psycopg.DataError, psycopg.errors.CardinalityViolation, ValueError, OverflowError, RecursionError)


class Source:
    """The mapping, prepared against the database by `open`."""

    def __init__(
        self, conn: Connection, settings: SourceSettings, stations: bytes, connectors: bytes, pages: tuple[bytes, bytes], missing: bytes
    ) -> None:
        self._conn = conn
        self._settings = settings
        self._stations, self._connectors, self._missing = stations, connectors, missing
        self._first_page, self._next_page = pages

    @classmethod
    async def open(cls, conn: Connection, settings: SourceSettings) -> "Source":
        """Look up the columns of both queries. Raises `MappingError`: the query fails, or a column that is needed is missing."""
        await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
        await conn.set_read_only(True)
        station_columns = await _columns(conn, "stations", settings.stations)
        connector_columns = await _columns(conn, "connectors", settings.connectors)
        id_type = station_columns["station_id"]
        stations, connectors = _subquery(settings.stations), _subquery(settings.connectors)
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
        return cls(
            conn,
            settings,
            _by_station(stations, [c for c in STATION_COLUMNS if c in station_columns], id_type).as_bytes(conn),
            _by_station(connectors, list(CONNECTOR_COLUMNS), connector_columns["station_id"]).as_bytes(conn),
            (first.as_bytes(conn), following.as_bytes(conn)),
            missing.as_bytes(conn),
        )

    async def read(self, station_ids: Sequence[str]) -> Mapping[str, Station | Held]:
        """The stations with these ids (text) as they are now; one that the query no longer returns is not in the answer.

        A station whose data make the query fail, or that it returns twice, is `Held` with the reason. Raises `MappingError`.
        """
        try:
            return await self._read(station_ids)
        except _OF_THE_DATA as error:
            if len(station_ids) == 1:
                return {station_ids[0]: Held(reason=f"the mapping fails for this station: {one_line(error)}")}
        middle = len(station_ids) // 2
        return {**await self.read(station_ids[:middle]), **await self.read(station_ids[middle:])}

    async def page(self, after: str | None, limit: int) -> list[str]:
        """The next station ids (text) in the order of the mapping's own column type; `after` is the last one of the page before.

        Raises `MappingError`, also when one row's data make the query fail: nobody can say which rows come after it.
        """
        query = self._first_page if after is None else self._next_page
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
                rows = await (await self._conn.execute(self._missing, {"ids": list(station_ids)})).fetchall()
        except _OF_THE_DATA:
            return list(station_ids)  # an id that is none any more: let capture look at each
        return [row["station_id"] for row in rows]

    async def _read(self, station_ids: Sequence[str]) -> Mapping[str, Station | Held]:
        ids = {"ids": list(station_ids)}
        async with _snapshot(self._conn):
            stations = await (await self._conn.execute(self._stations, ids)).fetchall()
            connectors = await (await self._conn.execute(self._connectors, ids)).fetchall()
        of_station: dict[str, list[Connector]] = defaultdict(list)
        for row in connectors:
            of_station[row["station_id"]].append(self._connector(row))
        found: dict[str, Station | Held] = {}
        for row in stations:
            station_id = row["station_id"]
            if station_id in found:
                found[station_id] = Held(reason=f"station_id: the mapping returns more than one row for '{station_id}'")
            else:
                found[station_id] = Station(**row, connectors=tuple(of_station[station_id]))
        return found

    def _connector(self, row: DictRow) -> Connector:
        return Connector(
            evse_id=row["evse_id"],
            type=_translated(row["type"], self._settings.connector_types),
            speed_kw=row["speed_kw"],
            status=_translated(row["status"], self._settings.statuses),
        )


def _translated(value: Any, names: Mapping[str, str]) -> Any:
    """The OIOI word for the CPO's value; what nobody mapped stays as it is, for the protocol to judge."""
    return names.get(str(value), value) if names and value is not None else value


@asynccontextmanager
async def _snapshot(conn: Connection) -> AsyncIterator[None]:
    """One read-only transaction with one snapshot; errors of the mapping are translated, those of the data pass."""
    try:
        async with conn.transaction():
            yield
    except (psycopg.ProgrammingError, psycopg.NotSupportedError, psycopg.InternalError) as error:
        if isinstance(error, _OF_THE_DATA):
            raise
        raise MappingError(f"source: {one_line(error)}") from error


def _subquery(query: str) -> sql.Composable:
    """The operator's query, ready to stand in FROM; a `%` in it is not a parameter of ours."""
    return sql.SQL("(\n{}\n)").format(sql.SQL(query.rstrip().rstrip(";").replace("%", "%%")))  # the operator's SQL


def _by_station(query: sql.Composable, columns: Sequence[str], id_type: sql.Composable) -> sql.Composed:
    """The query restricted to the stations in `ids`, compared in the column's own type, so that the CPO's index serves."""
    wanted = sql.SQL(", ").join(
        sql.SQL("s.station_id::text AS station_id") if c == "station_id" else sql.SQL("s.{}").format(sql.Identifier(c)) for c in columns
    )
    return sql.SQL("SELECT {} FROM {} AS s WHERE s.station_id = ANY (%(ids)s::text[]::{}[])").format(wanted, query, id_type)


async def _columns(conn: Connection, name: str, query: str) -> dict[str, sql.SQL]:
    """The query's columns with the names of their types, as SQL."""
    probe = sql.SQL("SELECT * FROM {} AS s LIMIT 0").format(_subquery(query))
    try:
        cursor = await conn.execute(probe, {})
        described = [(column.name, column.type_code) for column in cursor.description or ()]
        types = await conn.execute(
            "SELECT format_type(oid, -1) AS type FROM unnest(%s::oid[]) WITH ORDINALITY AS t (oid, n) ORDER BY n",
            [[o for _, o in described]],
        )
        rows = await types.fetchall()
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.NotSupportedError) as error:
        raise MappingError(f"source.{name}: {one_line(error)}") from error
    named = {column: sql.SQL(row["type"]) for (column, _), row in zip(described, rows, strict=True)}
    if absent := sorted(REQUIRED[name] - named.keys()):
        raise MappingError(f"source.{name}: the query does not return {', '.join(absent)}")
    return named
