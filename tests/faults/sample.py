"""What is looked at in a soak: two processes, their sessions, and all that lies in our schema."""

import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import psycopg
from rig import Daemon, Row

SURVIVOR = "survivor"  # the role as which it connects
# Those of the audit trail grow by design and are put together; a table without its indexes.
SIZES = """
SELECT
    CASE relkind WHEN 'i' THEN 'index ' ELSE 'table ' END || relname || ', MB' AS what,
    CASE relkind WHEN 'i' THEN pg_relation_size(oid) ELSE pg_table_size(oid) END::float / 1048576 AS megabytes
FROM pg_class
WHERE relnamespace = 'cdc_pusher'::regnamespace
  AND relkind IN ('r', 'i')
  AND NOT relispartition
ORDER BY relkind DESC, relname
"""
STATE = """
SELECT
    (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('cdc_pusher.attempt') WHERE isleaf)::float / 1048576 AS "attempt, MB",
    (SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE schemaname = 'cdc_pusher')::float AS "dead rows",
    (SELECT count(*) FROM cdc_pusher.outbox)::float AS "rows of outbox",
    (SELECT count(*) FROM cdc_pusher.change)::float AS "log, changes",
    count(*)::float AS "undelivered",
    coalesce(extract(epoch FROM max(clock_timestamp() - changed_at)), 0)::float AS "oldest undelivered, s"
FROM cdc_pusher.outbox
WHERE state IN ('pending', 'in_flight')
  AND next_attempt_at IS NOT NULL
  AND reason IS NULL
"""
SESSIONS = """
SELECT
    count(*) FILTER (WHERE usename = %(survivor)s)::float AS "survivor: sessions",
    count(*)::float AS "all: sessions"
FROM pg_stat_activity
WHERE application_name LIKE 'cdc-pusher %%'
"""


class Samples:
    """Series by name, of seconds since the first moment and values."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.series: dict[str, list[tuple[float, float]]] = defaultdict(list)

    async def take(self, conn: psycopg.AsyncConnection[Row], daemons: Mapping[str, Daemon]) -> None:
        """One of everything that can be had now: a daemon may be dead, our tables may be locked."""
        at = time.monotonic() - self._began
        for name, daemon in daemons.items():
            with suppress(OSError, KeyError):
                for what, value in _of_process(daemon.pid):
                    self.series[f"{name}: {what}"].append((at, value))
        with suppress(psycopg.errors.LockNotAvailable):
            async for what, value in _of_database(conn):
                self.series[what].append((at, value))

    def latest(self, what: str) -> float:
        """NaN: there is none."""
        return self.series[what][-1][1] if self.series[what] else float("nan")


def _of_process(pid: int) -> Iterator[tuple[str, float]]:
    """Linux only; raises OSError or KeyError when it has ended.

    Only root may count the descriptors of a process that leaves no dumps; for others, how many there was ever room for has to do.
    """
    status = dict(row.split(":", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines())
    yield "memory, MB", int(status["VmRSS"].split()[0]) / 1024
    yield "descriptors", len(os.listdir(f"/proc/{pid}/fd")) if os.geteuid() == 0 else int(status["FDSize"])
    yield "threads", int(status["Threads"])


async def _of_database(conn: psycopg.AsyncConnection[Row]) -> AsyncIterator[tuple[str, float]]:
    for query in (SESSIONS, STATE):
        (row,) = await (await conn.execute(query.encode(), {"survivor": SURVIVOR})).fetchall()
        for what, value in row.items():
            yield what, value
    async for row in await conn.execute(SIZES.encode()):
        yield row["what"], row["megabytes"]
