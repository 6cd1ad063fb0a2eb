"""The CPO's side of the demo: creates and fills its tables, and changes them as its back end would. Knows nothing of cdc-pusher.

Every change is committed at once; for each change of a status that an EMP could notice it is noted when that was.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from cdc_pusher.database import Connection, connect
from cdc_pusher.demo.compare import Committed
from cdc_pusher.demo.fleet import STATUS_WEIGHTS, STATUSES
from cdc_pusher.model import CONNECTOR_COLUMNS, STATION_COLUMNS, Station
from cdc_pusher.sql import queries

_sql = queries("demo")

DRIVERS = 4
CHANGES_PER_S = 100
_RANK = ("Occupied", "Reserved", "Available", "Unknown", "Offline")


async def create_tables(conn: Connection) -> None:
    """The reference schema, as `examples/reference_schema.sql` has it."""
    package = Path(str(files("cdc_pusher")))
    beside, above = (
        directory / "examples" / "reference_schema.sql" for directory in (package, package.parent)
    )  # in the wheel, in a checkout
    await conn.execute((beside if beside.is_file() else above).read_bytes())


async def build(conn: Connection, stations: Sequence[Station]) -> None:
    """Put stations with their connectors into the tables, in one transaction."""
    async with conn.transaction():
        await _copy(conn, "station", ("id", *STATION_COLUMNS[1:]), [[_value(s, name) for name in STATION_COLUMNS] for s in stations])
        rows = [[s.station_id, *(getattr(c, name) for name in CONNECTOR_COLUMNS[1:])] for s in stations for c in s.connectors]
        await _copy(conn, "connector", CONNECTOR_COLUMNS, rows)


def _value(station: Station, name: str) -> Any:
    value = getattr(station, name)
    return Jsonb(value) if name == "open_hour_notes" and value is not None else value


async def _copy(conn: Connection, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    names = sql.SQL(", ").join(map(sql.Identifier, columns))
    statement = sql.SQL("COPY public.{} ({}) FROM STDIN").format(sql.Identifier(table), names)
    async with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            await copy.write_row(row)


async def edit(conn: Connection, station_id: str) -> None:
    """Give a station another name and phone."""
    await conn.execute(_sql.edit_station, {"id": station_id})


async def delete(conn: Connection, station_id: str) -> None:
    """Take a station down."""
    async with conn.transaction():
        await conn.execute(_sql.lock_connectors, {"id": station_id})
        await conn.execute(_sql.delete_station, {"id": station_id})


async def burst(conn: Connection, number: int) -> int:
    """Change two connectors of five with one statement, to other statuses for each `number`; returns how many those are."""
    return (await conn.execute(_sql.burst, {"round": number})).rowcount


class Traffic:
    """Drivers who plug in and leave: `committed` is what the EMP has to be told of, in order of time."""

    def __init__(self, dsn: str, *, seed: int) -> None:
        self.changes = 0
        self.committed: list[Committed] = []
        self._dsn = dsn
        self._seed = seed

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """About `CHANGES_PER_S` changes a second from several connections while the context is open."""
        stop = asyncio.Event()
        drivers = [asyncio.create_task(self._drive(number, stop), name=f"driver {number}") for number in range(DRIVERS)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*drivers)

    async def _drive(self, number: int, stop: asyncio.Event) -> None:
        chance = random.Random(f"{self._seed} {number} {self.changes}")
        async with await connect(self._dsn, "demo driver") as conn:
            evse_ids = [row["evse_id"] async for row in await conn.execute(_sql.evses)]
            while not stop.is_set():
                await self._change(conn, chance.choice(evse_ids), chance)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(chance.expovariate(CHANGES_PER_S / DRIVERS)):
                        await stop.wait()

    async def _change(self, conn: Connection, evse_id: str, chance: random.Random) -> None:
        """Another status for one connector of an EVSE; with two of them the EMP need not notice."""
        async with conn.transaction():
            connectors = await (await conn.execute(_sql.lock_evse, {"evse_id": evse_id})).fetchall()
            if not connectors:
                return  # the station is gone
            before = _shared(connectors)
            plugged = chance.choice(connectors)
            plugged["status"] = _other(plugged["status"], chance)
            await conn.execute(_sql.change_status, plugged)
            began = time.time()
        at = time.time()
        self.changes += 1
        if (after := _shared(connectors)) != before:
            self.committed.append(Committed(evse_id=evse_id, status=after, began=began, at=at))


def _shared(connectors: Sequence[Any]) -> str:
    status: str = min((connector["status"] for connector in connectors), key=_RANK.index)
    return status


def _other(status: str, chance: random.Random) -> str:
    return next(s for s in iter(lambda: chance.choices(STATUSES, STATUS_WEIGHTS)[0], None) if s != status)
