"""What a heartbeat costs a CPO whose tables are watched: a back end that rewrites the station's row on every message of a charger.

pgbench updates two columns that no watch names, without triggers and with triggers and a running daemon, in turns; the ratio of the medians
is what counts, on a server with its own fsync. Then 1,000 heartbeats a second for 10 s: nothing is recorded, nothing is sent.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from bench.processes import cdc_pusher, configured
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

STATIONS = 2_000
ROUNDS, SECONDS = 5, 3
TABLES = f"""
CREATE TABLE "ChargingStations" (id varchar(36) PRIMARY KEY, "isOnline" boolean, "latestOcppMessageTimestamp" timestamptz,
    "locationId" integer, "tenantId" integer, "floorLevel" varchar(255), "updatedAt" timestamptz, "chargePointVendor" varchar(20),
    "firmwareVersion" varchar(50));
CREATE TABLE "Connectors" (id serial PRIMARY KEY, "stationId" varchar(36), "evseId" text, status varchar(255));
INSERT INTO "ChargingStations" SELECT 'cp' || n, true, now(), n / 3, 1, '0', now(), 'vendor', '1.2.3'
    FROM generate_series(1, {STATIONS}) AS n;
INSERT INTO "Connectors" ("stationId", "evseId", status) SELECT 'cp' || n, 'DE*ABC*E' || n, 'Available'
    FROM generate_series(1, {STATIONS}) AS n;
CREATE INDEX ON "Connectors" ("stationId");
"""
HEARTBEAT = f"""\\set n random(1, {STATIONS})
UPDATE "ChargingStations" SET "latestOcppMessageTimestamp" = now(), "updatedAt" = now() WHERE id = 'cp' || :n;
"""
CONFIG = """
[database]
dsn = {dsn}
[source]
stations = '''SELECT id AS station_id, id AS name, 50 AS latitude, 7 AS longitude, 'Street' AS street, '1' AS street_number, 'City' AS city,
    '12345' AS zip, 'DE' AS country, '+49 30 1' AS phone, "tenantId" AS cpo, "isOnline" AS is_open_24 FROM public."ChargingStations"'''
connectors = '''SELECT "stationId" AS station_id, "evseId" AS evse_id, 'Type2' AS type, 22 AS speed_kw, status FROM public."Connectors"'''
[[source.watch]]
table = 'public."ChargingStations"'
columns = ["id", "isOnline", "locationId", "tenantId", "floorLevel"]
station = 'id'
[[source.watch]]
table = 'public."Connectors"'
columns = ["stationId", "evseId", "status"]
station = '"stationId"'
[emp.bench]
url = {url}
partner_identifier = "sandbox-partner-0001"
api_key = "sandbox-key"
confirm_cpos = "automatic"
concurrency = 64
[emp.bench.cpos]
"1" = "DE*ABC"
"""
RECORDED = "SELECT last_value FROM cdc_pusher.change_id_seq"


def run() -> list[Result]:
    with EmbeddedPostgres() as server, TemporaryDirectory() as directory, psycopg.connect(server.dsn(), autocommit=True) as conn:
        for statement in TABLES.strip().split(";\n"):
            conn.execute(statement.rstrip(";").encode())
        bench = _Bench(server, Path(directory), conn)
        with bench.daemon():
            return [result for clients in (1, 8) for result in bench.throughput(clients)] + bench.steady()


class _Bench:
    def __init__(self, server: EmbeddedPostgres, directory: Path, conn: psycopg.Connection) -> None:
        self.server, self.conn = server, conn
        self.config, self.script = directory / "config.toml", directory / "heartbeat.sql"
        self.script.write_text(HEARTBEAT)

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """An EMP and a daemon that has delivered everything."""
        with cdc_pusher("sandbox", "--port", "0", stdout=subprocess.PIPE) as emp:
            assert emp.stdout is not None
            found = re.search(r"http://\S+", emp.stdout.readline())
            assert found is not None
            configured(self.config, CONFIG.format(dsn=json.dumps(self.server.dsn()), url=json.dumps(found[0].rstrip("."))))
            with cdc_pusher("migrate", "--config", str(self.config), stdout=subprocess.DEVNULL) as migrating:
                assert migrating.wait() == 0, "cdc-pusher migrate has failed"
            with cdc_pusher("run", "--config", str(self.config), stderr=subprocess.DEVNULL) as daemon:
                delivered = "SELECT count(*) FROM cdc_pusher.outbox WHERE state = 'delivered'"
                while self.value(delivered) < 2 * STATIONS:
                    assert daemon.poll() is None, "the daemon has ended"
                    self.value("SELECT pg_sleep(0.2)")
                yield

    def value(self, query: str) -> Any:
        row = self.conn.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def triggers(self, state: str) -> None:
        for table in ("ChargingStations", "Connectors"):
            self.conn.execute(f'ALTER TABLE "{table}" {state} TRIGGER USER'.encode())

    def pgbench(self, *options: str) -> dict[str, float]:
        """Transactions a second and latency in ms."""
        command = [str(self.server.bin / "pgbench"), "-n", "-M", "prepared", "-f", str(self.script), *options, self.server.dsn()]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        numbers = {"tps": r"tps = ([\d.]+)", "latency": r"latency average = ([\d.]+)"}
        return {name: float(found[1]) for name, pattern in numbers.items() if (found := re.search(pattern, printed))}

    def throughput(self, clients: int) -> list[Result]:
        options = ("-c", str(clients), "-j", "1", "-T", str(SECONDS))
        tps: dict[str, list[float]] = {"DISABLE": [], "ENABLE": []}
        for turn in range(ROUNDS):
            for state in sorted(tps, reverse=bool(turn % 2)):
                self.triggers(state)
                tps[state].append(self.pgbench(*options)["tps"])
        self.triggers("ENABLE")
        ratio = median(tps["ENABLE"]) / median(tps["DISABLE"])
        spread = ", ".join(f"{min(found):.0f} to {max(found):.0f}" for found in (tps["DISABLE"], tps["ENABLE"]))
        name = f"heartbeats, {clients} clients: tps with triggers ÷ without"
        return [Result(name=name, value=ratio, at_least=0.98, note=f"{spread} tps without, with")]

    def steady(self) -> list[Result]:
        """A thousand heartbeats a second, with everything at work."""
        recorded, requests = self.value(RECORDED), self.value("SELECT count(*) FROM cdc_pusher.attempt")
        found = self.pgbench("-c", "8", "-j", "1", "-T", "10", "-R", "1000")
        return [
            Result(name="1,000 heartbeats a second: reached", value=found["tps"], unit="1/s", note=f"latency {found['latency']} ms"),
            Result(name="1,000 heartbeats a second: changes recorded", value=self.value(RECORDED) - recorded, at_most=0),
            Result(
                name="1,000 heartbeats a second: requests to the EMP",
                value=self.value("SELECT count(*) FROM cdc_pusher.attempt") - requests,
                at_most=0,
            ),
        ]
