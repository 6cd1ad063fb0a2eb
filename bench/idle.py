"""What a daemon costs that has nothing to do: statements a second on the CPO's server, and its own processor time.

Everything is delivered, nothing changes for a minute, with one EMP and with twenty. A query is what pg_stat_statements counts in the
daemon's database, BEGIN and COMMIT, too; we ourselves look from another database. Its beats, its looks for work and the gauges every 30 s
are part of it, a sweep is not: that comes after 15 minutes.
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
        return [result for count in EMPS for result in _idle(server, Path(directory), conn, url, count)]


def _idle(server: EmbeddedPostgres, directory: Path, conn: psycopg.Connection, url: str, count: int) -> list[Result]:
    name, emps = f"idle{count}", {f"emp{n}": url for n in range(count)}
    with Fleet(server, directory, name, stations=STATIONS, emps=emps) as fleet, fleet.daemon() as daemon:
        fleet.settle()
        time.sleep(SETTLE_S)
        usage = Usage(fleet, daemon)
        conn.execute(RESET, [name])
        began = time.monotonic()
        time.sleep(SECONDS)
        calls: list[tuple[int, str]] = conn.execute(CALLS, [name]).fetchall()
        took_s, daemon_s = time.monotonic() - began, usage.daemon_s
        backends_s = usage.backends_s
    arm = f"{count} EMP{'s' if count > 1 else ''}"
    most = enumerate(calls[:SHOWN], start=1)
    top = [Result(arm=arm, name=f"query {n}", value=times / took_s, unit="1/s", note=query[:100]) for n, (times, query) in most]
    return [
        Result(
            arm=arm,
            name="queries that reach the server",
            value=sum(times for times, _ in calls) / took_s,
            unit="1/s",
            at_most=2.0,
            note="calls by pg_stat_statements",
        ),
        Result(arm=arm, name="processor time of the daemon", value=100 * daemon_s / took_s, unit="%", at_most=0.5),
        Result(arm=arm, name="processor time of its sessions", value=100 * backends_s / took_s, unit="%"),
        *top,
    ]
