"""100,000 stations with 400,000 connectors: `check` and a sweep in constant memory, and each station read through an index.

The outbox is filled by a daemon whose EMP is never sent anything, since half a million messages are for another benchmark; then its rows
are marked as accepted, by SQL. A first sweep has nothing to find, a second one 100 stations that were changed behind disabled triggers.
"""

import json
import os
import resource
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from bench.processes import cdc_pusher, configured
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

STATIONS = 100_000
CONNECTORS = 4  # a station
MEMORY_MB = 200
REFERENCE_SCHEMA = Path(__file__).parents[1] / "examples" / "reference_schema.sql"
FILL = (
    f"""INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
    SELECT 's' || n, 'Station ' || n, 47 + n % 700 / 100.0, 6 + n % 900 / 100.0, 'Street ' || n % 5000, (n % 200)::text, 'City ' || n % 300,
        lpad((n % 99999)::text, 5, '0'), 'DE', '+49 30 1', '8ps'
    FROM generate_series(1, {STATIONS}) AS n""",
    f"""INSERT INTO connector (station_id, evse_id, type, speed_kw, status)
    SELECT 's' || n, 'DE*8PS*E' || n || '*' || c, 'Type2', 22, 'Available'
    FROM generate_series(1, {STATIONS}) AS n, generate_series(1, {CONNECTORS}) AS c""",
    "VACUUM ANALYZE station, connector",
)
AS_IF_ACCEPTED = (
    """UPDATE cdc_pusher.outbox SET state = 'delivered', acknowledged = payload, delivered_gen = desired_gen, changed_at = NULL,
        next_attempt_at = NULL, sending_gen = NULL, lease_until = NULL, doubtful = NULL, reason = NULL, delivered_at = now()""",
    "UPDATE cdc_pusher.evse SET at_emp = 'yes'",
    "VACUUM FULL ANALYZE cdc_pusher.outbox, cdc_pusher.evse, cdc_pusher.change",
)
CONFIG = """
[database]
dsn = {dsn}
[daemon]
sweep_interval_s = {interval}
sweep_max_stations_per_s = 100000
[emp.bench]
url = "http://127.0.0.1:9/"
partner_identifier = "bench-partner-0001"
api_key = "bench"
confirm_cpos = "automatic"
max_requests_per_second = 0.001
[emp.bench.cpos]
"8ps" = "DE*8PS"
"""
CHANGED_OTHERS = """SELECT count(*) FROM cdc_pusher.outbox
    WHERE state <> 'delivered' AND station_id NOT IN (SELECT 's' || n * 7 FROM generate_series(1, 100) AS n)"""
READ = "SELECT sum(seq_tup_read)::bigint, sum(idx_tup_fetch)::bigint FROM pg_stat_user_tables WHERE relname IN ('station', 'connector')"


def run() -> list[Result]:
    with EmbeddedPostgres(settings={"fsync": "off"}) as server, TemporaryDirectory() as directory:
        bench = _Bench(server.dsn(), Path(directory))
        for statement in (REFERENCE_SCHEMA.read_text(), *FILL):
            bench.sql(statement)
        bench.command("migrate")
        return [*bench.check(), *bench.full_load(), *bench.sweeps()]


class _Bench:
    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn, self.config = dsn, directory / "config.toml"
        self._conn = psycopg.connect(dsn, autocommit=True)
        self.configure(interval=1e6)

    def configure(self, interval: float) -> None:
        configured(self.config, CONFIG.format(dsn=json.dumps(self.dsn), interval=interval))

    def sql(self, statement: str) -> list[Any]:
        cursor = self._conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def value(self, query: str) -> Any:
        return self.sql(query)[0][0]

    def command(self, *arguments: str) -> tuple[str, float, float]:
        """What a command printed, its seconds, and the most memory it used, in MB."""
        began = time.monotonic()
        with cdc_pusher(*arguments, "--config", str(self.config), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            printed = process.stdout.read()
            usage = _waited(process)
        return printed, time.monotonic() - began, usage.ru_maxrss / 1024

    def check(self) -> list[Result]:
        printed, seconds, megabytes = self.command("check", "--json")
        findings = json.loads(printed)["findings"]
        scans = [
            found for found in findings if found["level"] != "ok" and ("goes through" in found["text"] or "sorts all" in found["text"])
        ]
        stations = next(found["text"] for found in findings if found["subject"] == "stations")
        return [
            Result(name="check: memory at most", value=megabytes, unit="MB", at_most=MEMORY_MB, note=stations),
            Result(name="check: time", value=seconds, unit="s"),
            Result(name="check: warnings about tables that are gone through", value=len(scans), at_most=0),
        ]

    def full_load(self) -> list[Result]:
        seconds, megabytes = self._daemon_until("SELECT full_load_completed_at IS NOT NULL FROM cdc_pusher.emp", drained=True)
        for statement in AS_IF_ACCEPTED:
            self.sql(statement)
        return [
            Result(name="full load, captured: memory at most", value=megabytes, unit="MB", at_most=MEMORY_MB),
            Result(name="full load, captured: stations a second", value=STATIONS / seconds, unit="1/s"),
        ]

    def sweeps(self) -> list[Result]:
        self.configure(interval=1.0)
        read_before = self.sql(READ)[0]
        seconds, megabytes = self._daemon_until("SELECT sweep_completed_at IS NOT NULL FROM cdc_pusher.emp", drained=True)
        self.sql("SELECT pg_sleep(1)")  # the counters of the server come a little late
        read = [after - before for after, before in zip(self.sql(READ)[0], read_before, strict=True)]
        healed = self.value("SELECT healed FROM cdc_pusher.emp")
        self.sql("ALTER TABLE connector DISABLE TRIGGER USER")
        self.sql("UPDATE connector SET status = 'Occupied' WHERE station_id IN (SELECT 's' || n * 7 FROM generate_series(1, 100) AS n)")
        self.sql("UPDATE cdc_pusher.emp SET sweep_completed_at = NULL")
        self._daemon_until("SELECT sweep_completed_at IS NOT NULL FROM cdc_pusher.emp", drained=True)
        others = self.value(CHANGED_OTHERS)
        return [
            Result(name="sweep: memory at most", value=megabytes, unit="MB", at_most=MEMORY_MB),
            Result(name="sweep: stations a second", value=STATIONS / seconds, unit="1/s"),
            Result(name="sweep: rows of stations and connectors read by going through", value=read[0], at_most=STATIONS / 100),
            Result(name="sweep: rows of stations and connectors read by index", value=read[1], at_least=STATIONS * (1 + CONNECTORS)),
            Result(name="sweep: healed where nothing was missed", value=healed, at_most=0),
            Result(name="sweep: healed of 100 that were", value=self.value("SELECT healed FROM cdc_pusher.emp"), at_least=100, at_most=100),
            Result(name="sweep: other stations that are to be sent", value=others, at_most=0),
            Result(name="change log afterwards", value=self.value("SELECT pg_total_relation_size('cdc_pusher.change') / 1e6"), unit="MB"),
        ]

    def _daemon_until(self, condition: str, *, drained: bool) -> tuple[float, float]:
        """Run a daemon until this holds (and the log is empty). Returns its seconds, and the most memory it used, in MB."""
        began = time.monotonic()
        with cdc_pusher("run", "--config", str(self.config), stderr=subprocess.DEVNULL) as process:
            while not (self.sql(condition) and self.value(condition)) or (
                drained and self.value("SELECT EXISTS (SELECT FROM cdc_pusher.change)")
            ):
                assert process.poll() is None, "the daemon has ended"
                time.sleep(0.1)
            seconds = time.monotonic() - began
            process.terminate()
            usage = _waited(process)
        return seconds, usage.ru_maxrss / 1024


def _waited(process: subprocess.Popen[str]) -> resource.struct_rusage:
    """What a process has used, when it has ended."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage
