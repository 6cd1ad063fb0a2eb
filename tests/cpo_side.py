"""The CPO's side of the triggers: two small tables, a connection of theirs, and a look at what was recorded."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg

from cdc_pusher import triggers
from cdc_pusher.config import Watch
from cdc_pusher.database import Connection, connect

TABLES = """
CREATE TABLE station (id text PRIMARY KEY, name text, seen_at timestamptz);
CREATE TABLE connector (
    id int PRIMARY KEY,
    station_id text REFERENCES station ON UPDATE CASCADE ON DELETE CASCADE,
    status text,
    power point,
    seen_at timestamptz
);
INSERT INTO station VALUES ('a', 'A'), ('b', 'B');
INSERT INTO connector VALUES (1, 'a', 'Available'), (2, 'a', 'Available'), (3, 'b', 'Available')
"""
STATION = Watch(table="public.station", columns=("id", "name"), station="id")
CONNECTOR = Watch(table="public.connector", columns=("id", "station_id", "status", "power"), station="station_id")
CHARGE = "UPDATE connector SET status = 'Occupied' WHERE id = 1"


class Cpo:
    """The CPO's side: a connection of theirs, and a look at what was recorded."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.conn = psycopg.connect(dsn, autocommit=True)
        self._observer = psycopg.connect(dsn, autocommit=True)

    def close(self) -> None:
        self.conn.close()
        self._observer.close()

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.conn.execute(statement.encode())

    def value(self, query: str) -> Any:
        row = self._observer.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def recorded(self) -> list[str | None]:
        """The stations recorded since the last look, in order."""
        query = "WITH taken AS (DELETE FROM cdc_pusher.change RETURNING id, station_id) SELECT station_id FROM taken ORDER BY id"
        return [row[0] for row in self._observer.execute(query.encode()).fetchall()]

    def noted(self, watch: Watch) -> list[Any]:
        """The rows recorded for a sub-select since the last look."""
        taken = "DELETE FROM cdc_pusher.change WHERE watch = %s RETURNING id, source_row"
        query = f"WITH taken AS ({taken}) SELECT source_row FROM taken ORDER BY id"
        return [row[0] for row in self._observer.execute(query.encode(), [watch.name]).fetchall()]

    def missed(self) -> int:
        return int(self.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM cdc_pusher.missed"))

    def notified(self, statement: str) -> int:
        with psycopg.connect(self.dsn, autocommit=True) as listener:
            listener.execute("LISTEN cdc_pusher")
            self.run(statement)
            # What was committed before this answer is delivered with it.
            listener.execute("SELECT 1")
            return sum(1 for _ in listener.notifies(timeout=0))


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@contextlib.asynccontextmanager
async def ours(dsn: str) -> AsyncIterator[Connection]:
    async with await connect(dsn, "test") as conn:
        yield conn


async def attach(dsn: str, *watches: Watch) -> list[str]:
    async with ours(dsn) as conn:
        return await triggers.attach(conn, watches)


async def verify(dsn: str, *watches: Watch) -> list[str]:
    async with ours(dsn) as conn:
        return await triggers.verify(conn, watches)
