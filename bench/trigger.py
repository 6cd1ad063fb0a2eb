"""What one call of the trigger costs when nothing that matters has changed: the processor time of the CPO's backend.

Time on the clock is mostly the disk and the neighbours; the kernel's count of what one backend has run (`/proc/PID/schedstat`) tells
differences of a microsecond apart, in turns and from the quickest tenth of the rounds. Beside ours stand the least that a row trigger can
be, an empty function, and one with `WHEN` on the columns, which would stand in the way of the CPO's `ALTER TABLE`. Linux only.
"""

import asyncio
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
EMPTY, WHEN, OURS = "an empty PL/pgSQL trigger", "a trigger with WHEN on the columns", "ours"
ARMS = {"no trigger": "a", EMPTY: "b", WHEN: "c", OURS: "d"}
"""Each has a table of its own, so that nothing is altered between the rounds."""

_CHANGED = " OR ".join(f'OLD."{column}" IS DISTINCT FROM NEW."{column}"' for column in COLUMNS)
OTHERS = f"""
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER empty AFTER INSERT OR UPDATE OR DELETE ON {ARMS[EMPTY]} FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER picky AFTER UPDATE ON {ARMS[WHEN]} FOR EACH ROW WHEN ({_CHANGED}) EXECUTE FUNCTION nothing();
"""
RECORDED = "SELECT count(*) FROM cdc_pusher.change"


def run() -> list[Result]:
    with EmbeddedPostgres(settings={"fsync": "off", "autovacuum": "off"}) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            _set_up(conn, server.dsn())
            arms = {arm: _Arm(server.dsn(), table) for arm, table in ARMS.items()}
            for turn in range(ROUNDS):
                for arm in sorted(arms.values(), key=lambda arm: arm.table, reverse=bool(turn % 2)):
                    arm.play()
                    conn.execute(f"VACUUM {arm.table}".encode())
            for arm in arms.values():
                arm.close()
            (recorded,) = conn.execute(RECORDED).fetchone() or (-1,)
        return [*_costs(arms), Result(name="changes recorded", value=recorded, at_most=0)]


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


def _costs(arms: dict[str, "_Arm"]) -> list[Result]:
    """Of each trigger, what a heartbeat costs more than without one."""
    none = arms["no trigger"]
    found = [Result(name="a heartbeat without trigger", value=_low(none.alone), unit="µs")]
    for name, arm in arms.items():
        if arm is not none:
            found += [
                Result(name=f"{name}: in a transaction of its own", value=_low(arm.alone) - _low(none.alone), unit="µs"),
                Result(name=f"{name}: in a statement of many rows", value=_low(arm.among) - _low(none.among), unit="µs"),
            ]
    return found


def _low(costs: list[float]) -> float:
    """What only a tenth of the rounds went below."""
    return quantiles(costs, n=10)[0]


class _Arm:
    """A session of the CPO on a table of its own; `alone` and `among` are µs of its backend for each row, by round."""

    def __init__(self, dsn: str, table: str) -> None:
        self.table = table
        self.alone: list[float] = []
        self.among: list[float] = []
        self._conn = psycopg.connect(dsn, autocommit=True, prepare_threshold=0)
        self._conn.execute("SET synchronous_commit = off")
        self._spent = Path(f"/proc/{self._conn.info.backend_pid}/schedstat")
        self._heartbeat = f'UPDATE {table} SET "latestOcppMessageTimestamp" = now(), "updatedAt" = now()'.encode()

    def play(self) -> None:
        """One round, after a first heartbeat that makes the session's plans."""
        one = self._heartbeat + b" WHERE id = %s"
        self._conn.execute(one, ["cp1"])
        began = self._spent_us()
        for n in range(TRANSACTIONS):
            self._conn.execute(one, [f"cp{n % STATIONS + 1}"])
        alone = self._spent_us()
        for _ in range(STATEMENTS):
            self._conn.execute(self._heartbeat)
        self.alone.append((alone - began) / TRANSACTIONS)
        self.among.append((self._spent_us() - alone) / (STATEMENTS * STATIONS))

    def close(self) -> None:
        self._conn.close()

    def _spent_us(self) -> float:
        return int(self._spent.read_text().split()[0]) / 1000
