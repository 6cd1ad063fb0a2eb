"""What one call of the trigger costs when nothing that matters has changed, and when something has: processor time of the CPO's backend.

Time on the clock is mostly the disk and the neighbours; the kernel's count of what one backend has run (`/proc/PID/schedstat`) tells
differences of a microsecond apart, in turns and from the quickest tenth of the rounds. Beside ours stand others: an empty function, the
least that a row trigger can be; one that inserts a row for each, the least that can tell of a change for sure; the same behind a `WHEN` on
the columns, which would stand in the way of the CPO's `ALTER TABLE`; and one for each statement, which compares the rows before and after
it, and would miss what is written through a parent or a partition. Linux only.
"""

import asyncio
from collections import defaultdict
from pathlib import Path
from statistics import quantiles

import psycopg

from bench.heartbeat import STATIONS, TABLES
from bench.result import Result
from cdc_pusher import migrate, triggers
from cdc_pusher.config import Watch
from cdc_pusher.database import connect
from cdc_pusher.embedded import EmbeddedPostgres

ROUNDS, TRANSACTIONS, STATEMENTS = 60, 250, 3
COLUMNS = ("id", "isOnline", "locationId", "tenantId", "floorLevel")
NONE, EMPTY, INSERT, WHEN = "no trigger", "an empty trigger", "a trigger that inserts a row", "the same with WHEN on the columns"
STATEMENT, OURS = "a trigger for each statement", "ours"
ARMS = {NONE: "a", EMPTY: "b", INSERT: "c", WHEN: "d", STATEMENT: "e", OURS: "f"}
"""Each has a table of its own, so that nothing is altered between the rounds."""
WRITES = {"heartbeat": '"latestOcppMessageTimestamp" = now(), "updatedAt" = now()', "change": '"isOnline" = NOT "isOnline"'}
"""What the CPO writes: columns that no watch names, and one that a watch does."""

_CHANGED = " OR ".join(f'OLD."{column}" IS DISTINCT FROM NEW."{column}"' for column in COLUMNS)
_LISTED = ", ".join(f'"{column}"' for column in COLUMNS)
OTHERS = f"""
CREATE TABLE told (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, id text NOT NULL);
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO told (id) VALUES (NEW.id); RETURN NULL; END';
CREATE FUNCTION tell_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO told (id) SELECT DISTINCT id FROM (SELECT {_LISTED} FROM after_it EXCEPT SELECT {_LISTED} FROM before_it) AS changed;
    RETURN NULL;
END
$$;
CREATE TRIGGER empty AFTER UPDATE ON {ARMS[EMPTY]} FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER tell AFTER UPDATE ON {ARMS[INSERT]} FOR EACH ROW EXECUTE FUNCTION tell();
CREATE TRIGGER tell AFTER UPDATE ON {ARMS[WHEN]} FOR EACH ROW WHEN ({_CHANGED}) EXECUTE FUNCTION tell();
CREATE TRIGGER tell_all AFTER UPDATE ON {ARMS[STATEMENT]} REFERENCING OLD TABLE AS before_it NEW TABLE AS after_it
    FOR EACH STATEMENT EXECUTE FUNCTION tell_all();
"""
RECORDED = "SELECT count(*) FROM cdc_pusher.change"
TIDY = ("TRUNCATE told", "DELETE FROM cdc_pusher.change", "VACUUM cdc_pusher.change", *(f"VACUUM {table}" for table in ARMS.values()))


def run() -> list[Result]:
    with EmbeddedPostgres(settings={"fsync": "off", "autovacuum": "off"}) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            _set_up(conn, server.dsn())
            arms = {arm: _Arm(server.dsn(), table) for arm, table in ARMS.items()}
            recorded = 0
            for turn in range(ROUNDS):
                for write in WRITES:
                    for arm in sorted(arms.values(), key=lambda arm: arm.table, reverse=bool(turn % 2)):
                        arm.play(write)
                    if write == "heartbeat":
                        (found,) = conn.execute(RECORDED).fetchone() or (-1,)
                        recorded += found
                    for statement in TIDY:
                        conn.execute(statement.encode())
            for arm in arms.values():
                arm.close()
        costs = [result for write in WRITES for result in _costs(arms, write)]
        return [*costs, Result(name="changes recorded of heartbeats", value=recorded, at_most=0)]


def _set_up(conn: psycopg.Connection, dsn: str) -> None:
    for statement in TABLES.strip().split(";\n"):
        conn.execute(statement.encode())
    for table in ARMS.values():
        conn.execute(f'CREATE TABLE {table} (LIKE "ChargingStations" INCLUDING ALL)'.encode())
        conn.execute(f'INSERT INTO {table} SELECT * FROM "ChargingStations"'.encode())
    migrate.to(dsn)
    conn.execute(OTHERS.encode())
    asyncio.run(_attach(dsn))


async def _attach(dsn: str) -> None:
    async with await connect(dsn, "bench") as conn:
        await triggers.attach(conn, [Watch(table=f"public.{ARMS[OURS]}", columns=COLUMNS, station="id")])


def _costs(arms: dict[str, "_Arm"], write: str) -> list[Result]:
    """Of each trigger, what the CPO's statement costs more than without one."""
    none = arms[NONE]
    found = [Result(arm=NONE, name=f"a {write}, the statement itself", value=_low(none.alone[write]), unit="µs")]
    for name, arm in arms.items():
        if arm is not none:
            alone, among = (_low(of[write]) - _low(nones[write]) for of, nones in ((arm.alone, none.alone), (arm.among, none.among)))
            found += [
                Result(arm=name, name=f"a {write} in a transaction of its own", value=alone, unit="µs"),
                Result(arm=name, name=f"a {write} in a statement of many rows", value=among, unit="µs"),
            ]
    return found


def _low(costs: list[float]) -> float:
    """What only a tenth of the rounds went below."""
    return quantiles(costs, n=10)[0]


class _Arm:
    """A session of the CPO on a table of its own; `alone` and `among` are µs of its backend for each row, by what is written and round."""

    def __init__(self, dsn: str, table: str) -> None:
        self.table = table
        self.alone: dict[str, list[float]] = defaultdict(list)
        self.among: dict[str, list[float]] = defaultdict(list)
        self._conn = psycopg.connect(dsn, autocommit=True, prepare_threshold=0)
        self._conn.execute("SET synchronous_commit = off")
        self._spent = Path(f"/proc/{self._conn.info.backend_pid}/schedstat")

    def play(self, write: str) -> None:
        """One round, after a first statement that makes the session's plans."""
        all_of_them = f"UPDATE {self.table} SET {WRITES[write]}".encode()
        one = all_of_them + b" WHERE id = %s"
        self._conn.execute(one, ["cp1"])
        began = self._spent_us()
        for n in range(TRANSACTIONS):
            self._conn.execute(one, [f"cp{n % STATIONS + 1}"])
        alone = self._spent_us()
        for _ in range(STATEMENTS):
            self._conn.execute(all_of_them)
        self.alone[write].append((alone - began) / TRANSACTIONS)
        self.among[write].append((self._spent_us() - alone) / (STATEMENTS * STATIONS))

    def close(self) -> None:
        self._conn.close()

    def _spent_us(self) -> float:
        return int(self._spent.read_text().split()[0]) / 1000
