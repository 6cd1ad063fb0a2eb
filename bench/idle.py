"""What a daemon costs that has nothing to do: statements a second on the CPO's server, and its own processor time.

Everything is delivered, nothing changes for a minute, of a daemon with one EMP and one with twenty, at the same time. A query is what
pg_stat_statements counts in the daemon's database, BEGIN and COMMIT, too; we ourselves look from another database. Its beats, its looks for
work and the gauges every 30 s are part of it, a sweep is not: that comes after 15 minutes.
"""

import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from bench.emp import Emp
from bench.fleet import Fleet, Usage
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

STATIONS, SECONDS, SETTLE_S = 200, 60, 10
EMPS = (1, 20)
SHOWN = 8  # of the queries, those that were called most
SETTINGS = {"shared_preload_libraries": "pg_stat_statements"}
RESET = "SELECT pg_stat_statements_reset(0, oid, 0) FROM pg_database WHERE datname = %s"
CALLS = """SELECT s.calls, regexp_replace(s.query, '\\s+', ' ', 'g')
    FROM pg_stat_statements AS s
    JOIN pg_database AS d ON d.oid = s.dbid
    WHERE d.datname = %s
      AND s.toplevel
    ORDER BY s.calls DESC, s.query"""


def run() -> list[Result]:
    with EmbeddedPostgres(settings=SETTINGS) as server, TemporaryDirectory() as directory, ExitStack() as stack:
        url = stack.enter_context(Emp()).url()
        conn = stack.enter_context(psycopg.connect(server.dsn(), autocommit=True))
        conn.execute("CREATE EXTENSION pg_stat_statements")
        idle = []
        for count in EMPS:
            emps = {f"emp{n}": url for n in range(count)}
            fleet = stack.enter_context(Fleet(server, Path(directory), f"idle{count}", stations=STATIONS, emps=emps))
            idle.append((count, fleet, stack.enter_context(fleet.daemon())))
        for _, fleet, _ in idle:
            fleet.settle()
        time.sleep(SETTLE_S)
        usages = [Usage(fleet, daemon) for _, fleet, daemon in idle]
        for count in EMPS:
            conn.execute(RESET, [f"idle{count}"])
        time.sleep(SECONDS)
        return [result for count, usage in zip(EMPS, usages, strict=True) for result in _results(conn, count, usage)]


def _results(conn: psycopg.Connection, count: int, usage: Usage) -> list[Result]:
    calls: list[tuple[int, str]] = conn.execute(CALLS, [f"idle{count}"]).fetchall()
    arm = f"{count} EMP{'s' if count > 1 else ''}"
    most = enumerate(calls[:SHOWN], start=1)
    top = [Result(arm=arm, name=f"query {n}", value=times / SECONDS, unit="1/s", note=query[:100]) for n, (times, query) in most]
    queries = sum(times for times, _ in calls) / SECONDS
    return [
        Result(arm=arm, name="queries that reach the server", value=queries, unit="1/s", at_most=2.0, note="calls by pg_stat_statements"),
        Result(arm=arm, name="processor time of the daemon", value=100 * usage.daemon_s / SECONDS, unit="%", at_most=0.5),
        Result(arm=arm, name="processor time of its sessions", value=100 * usage.backends_s / SECONDS, unit="%"),
        *top,
    ]
