"""A CPO on an ordinary day: several hundred stations, and so many changes a second, one transaction each.

Nearly all are statuses; some stations are edited, some come and go, and so does a connector of some others.
"""

import asyncio
import functools
import itertools
import random
import time
from collections.abc import Awaitable, Callable

import psycopg
from workload import SCHEMA, STATUSES, Conn, Workload, build, connect, edit, own_evses

STATIONS = [f"s{n:03}" for n in range(300)]
FIXED, CHANGING, FLEETING = STATIONS[:240], STATIONS[240:270], STATIONS[270:]
SET_STATUS = "UPDATE connector SET status = CASE status WHEN %(a)s THEN %(b)s ELSE %(a)s END WHERE evse_id = %(evse)s"


class Steady(Workload):
    """One writer, `per_second` changes a second on the average: what it could not do in time it does as soon as it can."""

    def __init__(self, dsn: str, seed: int, per_second: float) -> None:
        super().__init__(dsn, seed, float("inf"), truncates=False)
        self._chance = random.Random(f"{seed} steady")
        self._per_second = per_second

    @property
    def changes(self) -> int:
        """Transactions until now, without those that built the stations."""
        return sum(self.done[operation.__name__] for operation in OPERATIONS)

    async def build(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn:
            await conn.execute(SCHEMA.encode())
            for station in STATIONS:
                first = functools.partial(build, station=station, evses=own_evses(station))
                await self._in_transaction(conn, self._chance, "build", first, rollback=0.0)

    async def run(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn:
            began = time.monotonic()
            for number in itertools.count():
                await asyncio.sleep(began + number / self._per_second - time.monotonic())
                if time.monotonic() >= self._until:
                    return
                (operation,) = self._chance.choices(list(OPERATIONS), list(OPERATIONS.values()))
                await self._in_transaction(conn, self._chance, operation.__name__, operation, rollback=0.0)


async def status(conn: Conn, chance: random.Random) -> None:
    """Another one than it is."""
    one, other = chance.sample(STATUSES, 2)
    await conn.execute(SET_STATUS, {"a": one, "b": other, "evse": chance.choice(own_evses(chance.choice(FIXED)))})


async def edit_fixed(conn: Conn, chance: random.Random) -> None:
    await edit(conn, chance, chance.choice(FIXED))


async def come_or_go(conn: Conn, chance: random.Random) -> None:
    station = chance.choice(FLEETING)
    if (await conn.execute("DELETE FROM station WHERE id = %s", [station])).rowcount == 0:
        await build(conn, chance, station, own_evses(station))


async def change_connectors(conn: Conn, chance: random.Random) -> None:
    station = chance.choice(CHANGING)
    evse = own_evses(station)[2]
    if (await conn.execute("DELETE FROM connector WHERE evse_id = %s", [evse])).rowcount == 0:
        await connect(conn, chance, station, evse)


OPERATIONS: dict[Callable[[Conn, random.Random], Awaitable[object]], int] = {
    status: 94,
    edit_fixed: 4,
    come_or_go: 1,
    change_connectors: 1,
}
