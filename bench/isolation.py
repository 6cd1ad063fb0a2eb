"""Whether one EMP notices the others: the latency of its statuses alone, and beside one that hangs and one that answers 500.

50 changes a second, in turns of ten seconds on one database; latency is from the CPO's statement, its commit included, to the request.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from bench.large import REFERENCE_SCHEMA
from bench.processes import cdc_pusher, configured
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

STATIONS, RATE, SECONDS, ROUNDS = 200, 50, 10, 4
FILL = (
    f"""INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
    SELECT 's' || n, 'Station ' || n, 50, 7, 'Street', '1', 'City', '12345', 'DE', '+49 30 1', '8ps'
    FROM generate_series(1, {STATIONS}) AS n""",
    f"""INSERT INTO connector (station_id, evse_id, type, speed_kw, status)
    SELECT 's' || n, 'DE*8PS*E' || n, 'Type2', 22, 'Available' FROM generate_series(1, {STATIONS}) AS n""",
)
OUTSTANDING = "SELECT FROM cdc_pusher.outbox WHERE emp = 'good' AND state <> 'delivered'"
TOGGLE = "UPDATE connector SET status = CASE status WHEN 'Occupied' THEN 'Available' ELSE 'Occupied' END WHERE evse_id = %s"
EMP = """
[emp.{name}]
url = {url}
partner_identifier = "sandbox-partner-0001"
api_key = "sandbox-key"
confirm_cpos = "automatic"
[emp.{name}.cpos]
"8ps" = "DE*8PS"
"""
FAULTS: dict[str, list[dict[str, Any]]] = {"good": [], "hanging": [{"kind": "hang"}], "failing": [{"kind": "http", "status": 500}]}
ALONE, AMONG = ("good",), ("good", "hanging", "failing")


def run() -> list[Result]:
    with EmbeddedPostgres() as server, TemporaryDirectory() as directory, ExitStack() as stack:
        conn = stack.enter_context(psycopg.connect(server.dsn(), autocommit=True))
        for statement in (REFERENCE_SCHEMA.read_text(), *FILL):
            conn.execute(statement.encode())
        urls = {name: stack.enter_context(_emp(faults)) for name, faults in FAULTS.items()}
        found: dict[tuple[str, ...], list[float]] = {ALONE: [], AMONG: []}
        for turn in range(ROUNDS):
            for emps in sorted(found, reverse=bool(turn % 2)):
                found[emps] += _latencies(conn, server.dsn(), Path(directory), {name: urls[name] for name in emps})
    p50 = {emps: median(all_of) for emps, all_of in found.items()}
    p99 = {emps: quantiles(all_of, n=100)[98] for emps, all_of in found.items()}
    return [
        Result(name="alone: p50", value=p50[ALONE], unit="ms"),
        Result(name="alone: p99", value=p99[ALONE], unit="ms"),
        Result(name="beside one that hangs and one that fails: p50", value=p50[AMONG], unit="ms"),
        Result(name="beside one that hangs and one that fails: p99", value=p99[AMONG], unit="ms"),
        Result(name="p99 beside others ÷ alone", value=p99[AMONG] / p99[ALONE], at_most=1.2),
    ]


@contextmanager
def _emp(faults: list[dict[str, Any]]) -> Iterator[str]:
    with cdc_pusher("sandbox", "--port", "0", "--faults", json.dumps(faults), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield found[0].rstrip(".")


def _latencies(conn: psycopg.Connection, dsn: str, directory: Path, emps: dict[str, str]) -> list[float]:
    """Milliseconds from a change to its request to the good EMP, when all that was before it is sent."""
    config = directory / "config.toml"
    sections = (EMP.format(name=name, url=json.dumps(url)) for name, url in emps.items())
    configured(config, f"[database]\ndsn = {json.dumps(dsn)}\n{''.join(sections)}")
    with cdc_pusher("migrate", "--config", str(config), stdout=subprocess.DEVNULL) as migrating:
        assert migrating.wait() == 0, "cdc-pusher migrate has failed"
    with cdc_pusher("run", "--config", str(config), stderr=subprocess.DEVNULL):
        undelivered = f"SELECT EXISTS ({OUTSTANDING}) OR EXISTS (SELECT FROM cdc_pusher.change WHERE emp IS NULL OR emp = 'good')"
        delivered = "SELECT count(*) FROM cdc_pusher.outbox WHERE emp = 'good' AND state = 'delivered'"
        while _value(conn, delivered) < 2 * STATIONS or _value(conn, undelivered):
            time.sleep(0.2)
        time.sleep(2)
        changed: dict[str, list[float]] = {}
        began = time.monotonic()
        for n in range(RATE * SECONDS):
            time.sleep(max(0.0, began + n / RATE - time.monotonic()))
            evse = f"DE*8PS*E{n % STATIONS + 1}"
            changed.setdefault(evse, []).append(time.time())
            conn.execute(TOGGLE, [evse])
        while _value(conn, undelivered):
            time.sleep(0.1)
        sent = conn.execute(
            "SELECT key, extract(epoch FROM sent_at)::float8 FROM cdc_pusher.attempt"
            " WHERE emp = 'good' AND kind = 'status' AND sent_at > now() - make_interval(secs => %s) ORDER BY sent_at",
            [time.monotonic() - began + 1],
        ).fetchall()
    found = []
    for evse, moments in changed.items():
        for moment in moments:
            after = [at for key, at in sent if key == evse and at >= moment]
            found.append(1000 * (after[0] - moment))
    return found


def _value(conn: psycopg.Connection, query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]
