"""Reads the CPO's stations through the operator's mapping, on a connection of its own.

Contract: everything of one `read` comes from one snapshot, taken after the call, so that a station and its connectors fit together; the
transaction is read only. Names and values are the operator's: what fails because of one station's data (a cast, a division) is told for
that station alone, what fails because the mapping does not fit the tables is a `MappingError`. Nothing is checked against a protocol here.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import IsolationLevel
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from cdc_pusher import vocabulary
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import Connection, one_line
from cdc_pusher.errors import MappingError
from cdc_pusher.mapping import Queries, affected_query, prepare
from cdc_pusher.model import Connector, Held, Station

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
            if isinstance(error, MappingError) and not await self._fails_for_some(error):
                raise
            if len(station_ids) == 1:
                fault = "the mapping fails for this station"
                return {station_ids[0]: Held(reason=f"{fault}: {one_line(error.__cause__ or error)}", faults=(fault,))}
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

    async def _fails_for_some(self, error: MappingError) -> bool:
        """Whether one station's data have caused what looks like a fault of the mapping (a function that raises, a cast to jsonpath): then
        nothing fails for no station at all."""
        if not isinstance(error.__cause__, psycopg.ProgrammingError):
            return False
        try:
            async with _snapshot(self._conn):
                for query in (self._queries.unconditional, self._queries.connectors):
                    await self._conn.execute(query, {"ids": []})
        except MappingError:
            return False
        return True

    def _apart(self) -> "_Apart":
        """The same, but each condition is evaluated by itself."""
        return _Apart(self._conn, self._settings, replace(self._queries, only={}))

    async def _read(self, station_ids: Sequence[str], query: bytes) -> Mapping[str, Station | Held]:
        async with _snapshot(self._conn):
            stations = await (await self._conn.execute(query, {"ids": list(station_ids)})).fetchall()
            found_ids = sorted({row["station_id"] for row in stations})  # what is not found may have connectors that cannot be read
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


def _translated(value: Any, names: Mapping[str, str], built_in: Callable[[str], str | None]) -> Any:
    """The OIOI word for the CPO's value; what nobody mapped stays as it is, for the protocol to judge."""
    if value is None:
        return None
    if (mapped := names.get(str(value))) is not None:
        return mapped
    return (isinstance(value, str) and built_in(value)) or value


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
