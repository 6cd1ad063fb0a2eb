"""Whether a transaction of somebody else that stays open slows us down: what dies meanwhile cannot be vacuumed.

200 status changes a second for 20 s, and a storm of all statuses: before, and while such a transaction (with an id and a snapshot) is open
and has seen four minutes of such changes, 50,000; LONGTX_CHANGES=720000 are those of an hour. Latency is from the CPO's statement, its
commit included, to the request; each change is of another EVSE. The figures of single queries are the means that pg_stat_statements has
for the 20 s.

The time between is not waited for. `TRAFFIC` makes the same row versions in the same order: the CPO's statement with our trigger, and
for each change what `consume`, `update_entries`, `claim`, `record` and `record_attempts` write, with a clock of its own for every row, in
transactions of ten changes each (the daemon's are of one to a few at that rate), and a daemon's heartbeat every 200 changes. Only how it
finds its rows is its own, since that is what may be slow. Two sessions do it, each for EVSEs of its own, while no daemon runs. The times in
the rows are closer together than they would be, but in the same order, and past.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any, LiteralString

import psycopg

from bench.cpo import STORM
from bench.isolation import EMP, TOGGLE
from bench.large import REFERENCE_SCHEMA
from bench.processes import cdc_pusher, configured
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

STATIONS, EVSES = 2_000, 8_000
RATE, SECONDS, WARM_UP_S = 200, 20, 5
CHANGES = int(os.environ.get("LONGTX_CHANGES", "50000"))
SESSIONS = 2
DRAIN_S = 60.0  # what has not been sent by then counts as sent then
PROBE = f"DE*8PS*E{EVSES}"
STEP = 4_793  # coprime to EVSES: one after the other far apart
GOAL = 1.5
FILL = (
    f"""INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
    SELECT 's' || n, 'Station ' || n, 50, 7, 'Street', '1', 'City', '12345', 'DE', '+49 30 1', '8ps'
    FROM generate_series(1, {STATIONS}) AS n""",
    f"""INSERT INTO connector (station_id, evse_id, type, speed_kw, status)
    SELECT 's' || n % {STATIONS} + 1, 'DE*8PS*E' || n, 'Type2', 22, 'Available' FROM generate_series(1, {EVSES}) AS n""",
    "CREATE EXTENSION pg_stat_statements",
)
TRAFFIC = f"""
CREATE PROCEDURE traffic(first integer, last integer, changes integer) LANGUAGE plpgsql AS $$
DECLARE
    evses text[];
    taken text[];
    found tid[];
    mark bigint := (SELECT last_value FROM cdc_pusher.change_id_seq);
BEGIN
    FOR n IN 0 .. changes / 10 - 1 LOOP
        evses := ARRAY(
            SELECT 'DE*8PS*E' || first + (m::bigint * {STEP}) % (last - first + 1)
            FROM generate_series(n * 10, n * 10 + 9) AS m
        );
        UPDATE connector SET status = CASE status WHEN 'Occupied' THEN 'Available' ELSE 'Occupied' END WHERE evse_id = ANY (evses);
        COMMIT;
        WITH consumed AS (DELETE FROM cdc_pusher.change WHERE priority = 0 AND id > mark RETURNING id)
        SELECT coalesce(max(id), mark) INTO mark FROM consumed;
        WITH written AS (
            UPDATE cdc_pusher.outbox AS o
            SET station_id = o.station_id,
                payload = jsonb_set(o.payload, '{{status}}', to_jsonb(c.status)),
                desired_gen = desired_gen + 1,
                state = 'pending',
                priority = 0,
                attempts = 0,
                next_attempt_at = clock_timestamp(),
                changed_at = clock_timestamp()
            FROM connector AS c
            WHERE c.evse_id = ANY (evses)
              AND o.emp = 'bench'
              AND o.kind = 'status'
              AND o.key = c.evse_id
            RETURNING o.ctid
        )
        SELECT array_agg(ctid) INTO found FROM written;
        COMMIT;
        WITH claimed AS (
            UPDATE cdc_pusher.outbox
            SET state = 'in_flight',
                sending_gen = desired_gen,
                next_attempt_at = NULL,
                lease_until = clock_timestamp() + interval '15 s'
            WHERE ctid = ANY (found)
            RETURNING ctid
        )
        SELECT array_agg(ctid) INTO found FROM claimed;
        COMMIT;
        WITH recorded AS (
            UPDATE cdc_pusher.outbox
            SET state = 'delivered',
                acknowledged = payload,
                delivered_gen = sending_gen,
                delivered_at = clock_timestamp(),
                changed_at = NULL,
                sending_gen = NULL,
                lease_until = NULL,
                last_http_status = 200,
                last_result_code = 0
            WHERE ctid = ANY (found)
            RETURNING key, delivered_gen
        )
        INSERT INTO cdc_pusher.attempt (sent_at, emp, kind, key, gen, duration_ms, outcome, http_status, result_code, host)
        SELECT clock_timestamp(), 'bench', 'status', key, delivered_gen, 3, 'accepted', 200, 0, 'bench'
        FROM recorded;
        COMMIT;
        IF n % 20 = 0 THEN
            UPDATE cdc_pusher.lease SET expires_at = clock_timestamp();
            COMMIT;
        END IF;
    END LOOP;
END
$$"""
SETTLED = """SELECT NOT EXISTS (SELECT FROM cdc_pusher.change)
    AND NOT EXISTS (SELECT FROM cdc_pusher.outbox WHERE state <> 'delivered')"""
AS_AFTER_AN_HOUR = ("ANALYZE connector, cdc_pusher.outbox", "CHECKPOINT")
QUERIES = {
    "consume": "%DELETE FROM cdc_pusher.change%handed_over%",
    "evses": "%AS leaving%",
    "entries": "%UNION ALL%FROM cdc_pusher.outbox%",
    "update_entries": "UPDATE cdc_pusher.outbox%r.desired_gen%",
    "expire": "WITH expired AS%",
    "promote": "UPDATE cdc_pusher.outbox AS o%AS class%",
    "claim": "WITH due AS%",
    "record": "WITH answer AS%",
    "pulse": "%AS walks%",
    "backlog": "%AS oldest_change_at%",
    "beat": "WITH spoken AS%",
    "capture waits for its turn": "SELECT name FROM cdc_pusher.emp%FOR NO KEY UPDATE",
    "the lane waits for its turn": "SELECT paused_at, lane_epoch%",
    "the mapping: connectors": 'SELECT s.station_id::text%"evse_id"%',
    "the CPO's statement": "UPDATE connector SET status = CASE%",
}
MEANS: LiteralString = """SELECT sum(calls)::bigint, sum(total_exec_time) / sum(calls),
        sum(shared_blks_hit + shared_blks_read)::float8 / sum(calls)
    FROM pg_stat_statements WHERE query LIKE %s AND toplevel HAVING sum(calls) > 0"""
SENT: LiteralString = """SELECT key, extract(epoch FROM max(sent_at))::float8
    FROM cdc_pusher.attempt WHERE kind = 'status' AND sent_at >= to_timestamp(%s) GROUP BY key"""
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'cdc-pusher %'"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """Of 20 s: milliseconds of every change; processor milliseconds a change that was sent; calls, milliseconds and pages of each query.

    Of a storm after them: its seconds.
    """

    latencies: Sequence[float]
    storm_s: float
    unsent: int
    rate: float
    daemon_cpu: float
    backend_cpu: float
    queries: dict[str, tuple[int, float, float]]

    @property
    def p50(self) -> float:
        return median(self.latencies)

    @property
    def p99(self) -> float:
        return quantiles(self.latencies, n=100)[98]

    @property
    def cpu(self) -> float:
        return self.daemon_cpu + self.backend_cpu


def run() -> list[Result]:
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    with EmbeddedPostgres(settings=settings) as server, TemporaryDirectory() as directory, ExitStack() as stack:
        conn = stack.enter_context(psycopg.connect(server.dsn(), autocommit=True))
        for statement in (REFERENCE_SCHEMA.read_text(), *FILL):
            conn.execute(statement.encode())
        config = Path(directory) / "config.toml"
        emp = EMP.format(name="bench", url=json.dumps(stack.enter_context(_emp())))
        configured(config, f"[database]\ndsn = {json.dumps(server.dsn())}\n{emp}")
        with cdc_pusher("migrate", "--config", str(config), stdout=subprocess.DEVNULL) as migrating:
            assert migrating.wait() == 0, "cdc-pusher migrate has failed"
        with _daemon(conn, config):
            pass  # the full load
        for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
            conn.execute(statement.encode())
        before = _measured(conn, config)
        other = stack.enter_context(psycopg.connect(server.dsn(), autocommit=True))
        other.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        other.execute("SELECT pg_current_xact_id()")
        took_s = _an_hour(conn, server.dsn(), CHANGES)
        for statement in AS_AFTER_AN_HOUR:
            conn.execute(statement.encode())
        return [*_compared(before, _measured(conn, config)), *_sizes(conn, took_s)]


@contextmanager
def _emp() -> Iterator[str]:
    with cdc_pusher("sandbox", "--port", "0", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield found[0].rstrip(".")


@contextmanager
def _daemon(conn: psycopg.Connection, config: Path) -> Iterator[int]:
    """The process id of a daemon that has delivered everything."""
    delivered = "SELECT count(*) FROM cdc_pusher.outbox WHERE state = 'delivered'"
    with cdc_pusher("run", "--config", str(config), stderr=subprocess.DEVNULL) as process:
        while _value(conn, delivered) < STATIONS + EVSES:
            assert process.poll() is None, "the daemon has ended"
            time.sleep(1)
        conn.execute(TOGGLE, [PROBE])  # what it does at its start is over when that has arrived
        while not _value(conn, SETTLED):
            time.sleep(1)
        yield process.pid


def _an_hour(conn: psycopg.Connection, dsn: str, changes: int) -> float:
    """Make the row versions of so many changes. Returns the seconds that took."""

    def make(session: int) -> None:
        with psycopg.connect(dsn, autocommit=True, options="-c synchronous_commit=off -c enable_seqscan=off") as mine:
            each = EVSES // SESSIONS
            mine.execute("CALL traffic(%s, %s, %s)", [session * each + 1, (session + 1) * each, changes // SESSIONS])

    began = time.monotonic()
    conn.execute(TRAFFIC.encode())
    with ThreadPoolExecutor(SESSIONS) as pool:
        list(pool.map(make, range(SESSIONS)))
    conn.execute("DROP PROCEDURE traffic")
    return time.monotonic() - began


def _measured(conn: psycopg.Connection, config: Path) -> _Figures:
    with _daemon(conn, config) as daemon:
        _change(conn, range(RATE * WARM_UP_S))
        conn.execute("SELECT pg_stat_statements_reset()")
        daemon_was, backends_were = _cpu_s([daemon]), _cpu_s(_backends(conn))
        began, count = time.time(), RATE * SECONDS
        made = _change(conn, range(RATE * WARM_UP_S, RATE * WARM_UP_S + count))
        took_s = time.time() - began
        daemon_s, backend_s = _more(daemon_was, _cpu_s([daemon])), _more(backends_were, _cpu_s(_backends(conn)))
        done = max(1, len(conn.execute(SENT, [began]).fetchall()))
        queries = {name: row for name, like in QUERIES.items() if (row := conn.execute(MEANS, [like]).fetchone())}
        deadline = time.monotonic() + DRAIN_S
        time.sleep(2)
        while not _value(conn, SETTLED) and time.monotonic() < deadline:
            time.sleep(2)
        sent: dict[str, float] = dict(conn.execute(SENT, [began]).fetchall())
        unsent = sum(evse not in sent for evse in made)
        latencies = [1000 * (sent.get(evse, time.time()) - at) for evse, at in made.items()]
        storm_s = _storm(conn)
    return _Figures(
        latencies=latencies,
        storm_s=storm_s,
        unsent=unsent,
        rate=count / took_s,
        daemon_cpu=1000 * daemon_s / done,
        backend_cpu=1000 * backend_s / done,
        queries=queries,
    )


def _change(conn: psycopg.Connection, numbers: range) -> dict[str, float]:
    """Change one EVSE after the other, at `RATE`. Returns when, by EVSE."""
    made: dict[str, float] = {}
    began = time.monotonic()
    for n in numbers:
        time.sleep(max(0.0, began + (n - numbers.start) / RATE - time.monotonic()))
        evse = f"DE*8PS*E{n * STEP % EVSES + 1}"
        made[evse] = time.time()
        conn.execute(TOGGLE, [evse])
    return made


def _storm(conn: psycopg.Connection) -> float:
    """Change all statuses. Returns the seconds until the EMP was told of each."""
    conn.execute(STORM)
    began = time.monotonic()
    while not _value(conn, SETTLED):
        time.sleep(0.05)
    return time.monotonic() - began


def _backends(conn: psycopg.Connection) -> list[int]:
    return [pid for (pid,) in conn.execute(BACKENDS.encode()).fetchall()]


def _cpu_s(pids: Sequence[int]) -> dict[int, float]:
    """Processor seconds that each of these processes has used, if it is still there. Linux only."""
    found = {}
    for pid in pids:
        with suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _more(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())


def _compared(before: _Figures, after: _Figures) -> list[Result]:
    found = [
        Result(name="p50 with ÷ without", value=after.p50 / before.p50, at_most=GOAL, note=f"{after.p50:.1f}, {before.p50:.1f} ms"),
        Result(name="p99 with ÷ without", value=after.p99 / before.p99, at_most=GOAL, note=f"{after.p99:.1f}, {before.p99:.1f} ms"),
        Result(
            name="processor time a change with ÷ without",
            value=after.cpu / before.cpu,
            at_most=GOAL,
            note=f"daemon {after.daemon_cpu:.2f} ÷ {before.daemon_cpu:.2f}, backends {after.backend_cpu:.2f} ÷ {before.backend_cpu:.2f}",
        ),
        Result(name="a storm with ÷ without", value=after.storm_s / before.storm_s, at_most=GOAL, note=f"{EVSES:,} messages"),
        Result(name=f"not sent {DRAIN_S:.0f} s after the last change", value=after.unsent, at_most=0, note=f"{before.unsent} without"),
        Result(name="changes made with", value=after.rate, unit="1/s", note=f"{before.rate:.0f} without"),
    ]
    for name, (calls, ms, pages) in after.queries.items():
        note = "not called without"
        if name in before.queries:
            was_calls, was_ms, was_pages = before.queries[name]
            note = f"{was_ms:.3f} ms without; pages {pages:,.0f}, {was_pages:,.0f}; calls {calls:,}, {was_calls:,}"
        found.append(Result(name=f"{name}: a call", value=ms, unit="ms", note=note))
    return found


def _sizes(conn: psycopg.Connection, took_s: float) -> list[Result]:
    size = "SELECT pg_relation_size('cdc_pusher.{}') / 1e6::float8"
    found = [
        Result(name=f"{relation} afterwards", value=_value(conn, size.format(relation)), unit="MB")
        for relation in ("change", "change_pkey", "outbox", "outbox_pkey", "outbox_due", "outbox_lease")
    ]
    return [Result(name="changes between", value=CHANGES, note=f"made in {took_s:.0f} s"), *found]


def _value(conn: psycopg.Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]
