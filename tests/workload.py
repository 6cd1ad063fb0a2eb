"""A CPO's back end at its worst: seeded writers, and what they committed, for the fault campaign.

EVSE ids with `*U` are unique in the CPO's tables (an index sees to it), `*S` are shared by the two connectors of one station, `*D` turn up
in two stations now and then. Every station's `name` is `v` and a number that only grows for this station in the order of commits; every
status of a `*U` EVSE is noted in `history` in the order of commits, and `Workload.committed_after` knows the earliest moment of a commit.
Every transaction leaves a row in `written`, and `Workload.confirmed` knows those whose commit was confirmed.
"""

import asyncio
import functools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import psycopg

Conn = psycopg.AsyncConnection[tuple[Any, ...]]

STATIONS = [f"s{n:02}" for n in range(16)]
STATUSES = ("Available", "Occupied", "Offline", "Reserved", "Unknown")
DOUBLES = [f"DE*8PS*ED{n}*D" for n in range(3)]
WRITERS = 4

SCHEMA = """
CREATE SEQUENCE version;
CREATE UNIQUE INDEX connector_unique ON connector (evse_id) WHERE evse_id LIKE '%*U';
CREATE TABLE history (n bigint, evse_id text, status text, xid xid8 DEFAULT pg_current_xact_id());
CREATE TABLE written (id uuid DEFAULT gen_random_uuid(), xid xid8 DEFAULT pg_current_xact_id());
CREATE FUNCTION note_status() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO history (n, evse_id, status) VALUES (nextval('version'), NEW.evse_id, NEW.status);
    RETURN NULL;
END $$;
CREATE TRIGGER note_status AFTER INSERT OR UPDATE OF status ON connector
    FOR EACH ROW WHEN (NEW.evse_id LIKE '%*U') EXECUTE FUNCTION note_status();
"""
NEW_STATION = """
INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
VALUES (%s, 'v0', 52.5, 13.4, 'Hauptstrasse', '1a', 'Berlin', '10243', 'DE', '+49 30 1', '8ps')
ON CONFLICT DO NOTHING
RETURNING id
"""
# The version is drawn after the row is locked: after the lock was waited for, the expression is evaluated again.
EDIT = "UPDATE station SET name = 'v' || nextval('version'), phone = '+49 ' || %s, is_roofed = %s WHERE id = %s"
NEW_CONNECTOR = """
INSERT INTO connector (station_id, evse_id, type, speed_kw, status)
SELECT %(station)s, %(evse)s, %(type)s, %(speed)s, %(status)s
WHERE EXISTS (SELECT FROM station WHERE id = %(station)s)
  AND NOT EXISTS (SELECT FROM connector WHERE evse_id = %(evse)s AND (station_id <> %(station)s OR evse_id LIKE '%%*U'))
"""
MEND = """
UPDATE station SET country = 'DE' WHERE country = '??';
UPDATE connector SET status = 'Available' WHERE status = 'Bogus';
UPDATE connector SET type = 'Type2' WHERE type = 'Bogus';
DELETE FROM connector AS c
USING connector AS o
WHERE o.evse_id = c.evse_id
  AND o.station_id < c.station_id;
"""
# What a CPO's own writers do to each other; anything else would be our doing.
OWN_FAULTS = (
    psycopg.errors.DeadlockDetected,
    psycopg.errors.UniqueViolation,
    psycopg.errors.ForeignKeyViolation,
    psycopg.errors.LockNotAvailable,
)


def own_evses(station: str) -> list[str]:
    """The EVSE ids that a station is built with; its `*U` ones may move to other stations later."""
    return [f"DE*8PS*E{station}*{n}*U" for n in range(3)] + [f"DE*8PS*E{station}*S"]


UNIQUE = [evse for station in STATIONS for evse in own_evses(station) if evse.endswith("*U")]


class Workload:
    """Writers on connections of their own, for so many seconds.

    If they are `stubborn`, a cut connection is made anew. `truncates`: now and then; every station is then looked at again.
    """

    def __init__(self, dsn: str, seed: int, seconds: float, *, stubborn: bool = False, truncates: bool = True) -> None:
        self._dsn = dsn
        self._seed = seed
        self._until = time.monotonic() + seconds
        self._stubborn = stubborn
        self._truncates = truncates
        self.done: Counter[str] = Counter()
        self.committed_after: dict[int, float] = {}
        """Transaction id → a moment (Unix seconds) before it was committed."""
        self.confirmed: set[UUID] = set()
        """The rows of `written` that the database has promised to keep."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(WRITERS):
                group.create_task(self._writer(random.Random(f"{self._seed} {number}")), name=f"writer {number}")
            if self._truncates:
                group.create_task(self._truncate_now_and_then(random.Random(f"{self._seed} truncate")), name="truncate")

    def finish(self) -> None:
        """Have the writers end before their time, each after what it is doing."""
        self._until = time.monotonic()

    async def build(self) -> None:
        """The beginning: two stations of three, and the doubles in one station each."""
        chance = random.Random(f"{self._seed} build")
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn:
            await conn.execute(SCHEMA.encode())
            for station in STATIONS[: len(STATIONS) * 2 // 3]:
                first = functools.partial(build, station=station, evses=own_evses(station))
                await self._in_transaction(conn, chance, "build", first, rollback=0.0)

    async def end(self, leave_invalid: int) -> None:
        """Mend everything, then leave so many stations invalid on purpose."""
        async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn:
            await self._in_transaction(conn, random.Random(0), "mend", lambda c, _: c.execute(MEND.encode()), rollback=0.0)
            await conn.execute(
                "UPDATE station SET country = '??' WHERE id IN (SELECT id FROM station ORDER BY id LIMIT %s)", [leave_invalid]
            )

    async def _writer(self, chance: random.Random) -> None:
        operations = list(OPERATIONS)

        async def write(conn: Conn) -> None:
            while time.monotonic() < self._until:
                operation = chance.choices(operations, [OPERATIONS[o] for o in operations])[0]
                await self._in_transaction(conn, chance, operation.__name__, operation)
                if operation is move_unique and chance.random() < 0.5:
                    await self._in_transaction(conn, chance, "home", go_home, rollback=0.0)
                await asyncio.sleep(chance.uniform(0, 0.06))

        await self._connected(write)

    async def _connected(self, write: Callable[[Conn], Awaitable[None]]) -> None:
        """Write on a connection; a stubborn writer goes on with a new one when it is cut, and leaves it open what became of its commit."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._dsn, autocommit=True) as conn:
                    return await write(conn)
            except (psycopg.OperationalError, psycopg.Rollback):  # the latter: cut while it rolled back
                if not self._stubborn:
                    raise
                self.done["cut"] += 1
                await asyncio.sleep(0.1)  # the interval of a poll, not a wait

    async def _in_transaction(
        self,
        conn: Conn,
        chance: random.Random,
        name: str,
        operation: Callable[[Conn, random.Random], Awaitable[object]],
        rollback: float = 0.1,
    ) -> None:
        """One transaction: sometimes several operations, sometimes open for long, sometimes rolled back."""
        try:
            async with conn.transaction():
                await conn.execute("SET LOCAL lock_timeout = '3s'")
                await operation(conn, chance)
                if rollback and chance.random() < 0.3:
                    await random_edit(conn, chance)
                if rollback and chance.random() < 0.1:
                    await asyncio.sleep(chance.uniform(0.05, 0.8))
                if chance.random() < rollback:
                    name = "rollback"
                    raise psycopg.Rollback
                row = await (await conn.execute("INSERT INTO written DEFAULT VALUES RETURNING id, xid::text")).fetchone()
                assert row is not None
                self.committed_after[int(row[1])] = time.time()
            if name != "rollback":
                self.confirmed.add(row[0])
        except OWN_FAULTS as error:
            if "cdc_pusher" in (error.diag.context or ""):
                raise AssertionError("a statement of the CPO has failed in our trigger") from error
            name = type(error).__name__
        self.done[name] += 1

    async def _truncate_now_and_then(self, chance: random.Random) -> None:
        async def write(conn: Conn) -> None:
            while True:
                await asyncio.sleep(chance.uniform(3, 6))
                if time.monotonic() > self._until:
                    return
                await self._in_transaction(conn, chance, "truncate", truncate, rollback=0.2)

        await self._connected(write)


# ── what a writer does in one transaction ─────────────────────────────────────────────────────────────────────────────────────────────────


async def random_edit(conn: Conn, chance: random.Random) -> None:
    await edit(conn, chance, chance.choice(STATIONS))


async def edit(conn: Conn, chance: random.Random, station: str) -> None:
    await conn.execute(EDIT, [str(chance.randint(100, 999)), chance.choice((True, False, None)), station])


async def build(conn: Conn, chance: random.Random, station: str, evses: list[str]) -> None:
    """A station with these EVSEs, as far as they are free."""
    if await (await conn.execute(NEW_STATION, [station])).fetchone():
        await edit(conn, chance, station)
        for evse in evses:
            for type_ in ("Combo", "Chademo") if evse.endswith("*S") else ("Type2",):
                await connect(conn, chance, station, evse, type_)


async def connect(conn: Conn, chance: random.Random, station: str, evse: str, type_: str = "Type2") -> None:
    speed, status = chance.choice((11, 22, 43.5)), chance.choice(STATUSES)
    await conn.execute(NEW_CONNECTOR, {"station": station, "evse": evse, "type": type_, "speed": speed, "status": status})


async def status(conn: Conn, chance: random.Random) -> None:
    for _ in range(chance.choice((1, 1, 1, 4))):
        evse = chance.choice(own_evses(chance.choice(STATIONS)))
        await conn.execute(
            "UPDATE connector SET status = %s WHERE id = (SELECT id FROM connector WHERE evse_id = %s ORDER BY random() LIMIT 1)",
            [chance.choice(STATUSES), evse],
        )


async def bulk(conn: Conn, chance: random.Random) -> None:
    await conn.execute(
        "UPDATE connector SET status = %s WHERE id IN (SELECT id FROM connector WHERE id %% 3 = %s ORDER BY id FOR UPDATE)",
        [chance.choice(STATUSES), chance.randrange(3)],
    )


async def create(conn: Conn, chance: random.Random) -> None:
    station = chance.choice(STATIONS)
    evses = own_evses(station) if chance.random() < 0.6 else chance.sample(own_evses(station), 2) + chance.sample(UNIQUE, 1)
    await build(conn, chance, station, evses)


async def delete(conn: Conn, chance: random.Random) -> None:
    await conn.execute("DELETE FROM station WHERE id = %s", [chance.choice(STATIONS)])


async def delete_and_create(conn: Conn, chance: random.Random) -> None:
    station = chance.choice(STATIONS)
    await conn.execute("DELETE FROM station WHERE id = %s", [station])
    evses = own_evses(station)
    await build(conn, chance, station, evses if chance.random() < 0.5 else chance.sample(evses, 3))


async def add_connector(conn: Conn, chance: random.Random) -> None:
    await connect(conn, chance, chance.choice(STATIONS), chance.choice(UNIQUE))


async def remove_connector(conn: Conn, chance: random.Random) -> None:
    await conn.execute("DELETE FROM connector WHERE evse_id = %s", [chance.choice(UNIQUE)])


async def move_unique(conn: Conn, chance: random.Random) -> None:
    await conn.execute(
        "UPDATE connector SET station_id = %(to)s WHERE evse_id = %(evse)s AND EXISTS (SELECT FROM station WHERE id = %(to)s)",
        {"to": chance.choice(STATIONS), "evse": chance.choice(UNIQUE)},
    )


async def go_home(conn: Conn, chance: random.Random) -> None:
    """Every `*U` EVSE of one station that is elsewhere comes back to it."""
    station = chance.choice(STATIONS)
    await conn.execute(
        "UPDATE connector SET station_id = %(s)s"
        " WHERE evse_id = ANY (%(evses)s) AND station_id <> %(s)s AND EXISTS (SELECT FROM station WHERE id = %(s)s)",
        {"s": station, "evses": own_evses(station)[:-1]},
    )


async def swap(conn: Conn, chance: random.Random) -> None:
    """Two stations exchange all that is unique in them."""
    one, other = chance.sample(STATIONS, 2)
    await conn.execute(
        "UPDATE connector SET station_id = CASE station_id WHEN %(a)s THEN %(b)s ELSE %(a)s END"
        " WHERE station_id IN (%(a)s, %(b)s) AND evse_id LIKE '%%*U'"
        " AND (SELECT count(*) FROM station WHERE id IN (%(a)s, %(b)s)) = 2",
        {"a": one, "b": other},
    )


async def double(conn: Conn, chance: random.Random) -> None:
    """The same EVSE in one more station."""
    await conn.execute(
        "INSERT INTO connector (station_id, evse_id, type, speed_kw, status) SELECT id, %s, 'Type2', 11, %s FROM station WHERE id = %s"
        " AND NOT EXISTS (SELECT FROM connector WHERE station_id = station.id AND evse_id LIKE '%%*D')",
        [chance.choice(DOUBLES), chance.choice(STATUSES), chance.choice(STATIONS)],
    )


async def undouble(conn: Conn, chance: random.Random) -> None:
    await conn.execute(
        "DELETE FROM connector WHERE evse_id = %(e)s AND id <> (SELECT min(id) FROM connector WHERE evse_id = %(e)s)",
        {"e": chance.choice(DOUBLES)},
    )


async def spoil(conn: Conn, chance: random.Random) -> None:
    """Data that no message can be made of."""
    station = chance.choice(STATIONS)
    what = chance.choice(("UPDATE station SET country = '??' WHERE id = %s", "UPDATE connector SET status = 'Bogus' WHERE station_id = %s"))
    await conn.execute(what.encode(), [station])


async def mend(conn: Conn, chance: random.Random) -> None:
    await conn.execute("UPDATE station SET country = 'DE' WHERE country = '??' AND random() < 0.7")
    await conn.execute("UPDATE connector SET status = %s WHERE status = 'Bogus' AND random() < 0.7", [chance.choice(STATUSES)])


async def retype(conn: Conn, chance: random.Random) -> None:
    """A connector is replaced by another one of the same EVSE."""
    await conn.execute(
        "UPDATE connector SET type = %s, speed_kw = %s WHERE evse_id = %s",
        [chance.choice(("Type2", "Schuko", "Bogus")), chance.choice((3.7, 22)), chance.choice(UNIQUE)],
    )


async def truncate(conn: Conn, chance: random.Random) -> None:
    """All connectors are gone, and come back: at once, or, if somebody else puts them back, later."""
    await conn.execute("CREATE TEMP TABLE saved ON COMMIT DROP AS SELECT * FROM connector")
    await conn.execute("TRUNCATE connector")
    if chance.random() < 0.7:
        await conn.execute("INSERT INTO connector SELECT * FROM saved WHERE station_id IN (SELECT id FROM station)")
    else:
        rows = await (await conn.execute("SELECT id FROM station")).fetchall()
        for (station,) in rows:
            for evse in own_evses(station):
                await connect(conn, chance, station, evse)


OPERATIONS: dict[Callable[[Conn, random.Random], Awaitable[object]], int] = {
    status: 30,
    random_edit: 8,
    bulk: 2,
    create: 6,
    delete: 3,
    delete_and_create: 2,
    add_connector: 4,
    remove_connector: 2,
    move_unique: 4,
    swap: 2,
    double: 2,
    undouble: 2,
    spoil: 1,
    mend: 3,
    retype: 2,
}
