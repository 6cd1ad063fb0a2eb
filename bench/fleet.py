"""The stations of a CPO in a database of their own, with a daemon between them and EMPs: what several benchmarks begin with.

The tables are those of examples/reference_schema.sql, each station has four connectors, and each connector an EVSE of its own. Whatever is
waited for here comes within `PATIENCE_S`, or the benchmark fails.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg import sql

from bench.emp import Emp
from bench.large import REFERENCE_SCHEMA
from bench.processes import cdc_pusher, configured
from bench.usage import cpu_s
from cdc_pusher.embedded import EmbeddedPostgres

CONNECTORS = 4  # a station
MESSAGES = 1 + CONNECTORS  # what an EMP is told of a station that it does not know
CONCURRENCY = 64
PATIENCE_S = 1_800.0
LOOK_S = 0.1

FILL = (
    """INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
    SELECT 's' || n, 'Station ' || n, 47 + mod(n, 700) / 100.0, 6 + mod(n, 900) / 100.0, 'Street ' || mod(n, 5000), mod(n, 200)::text,
        'City ' || mod(n, 300), lpad(mod(n, 99999)::text, 5, '0'), 'DE', '+49 30 1', '8ps'
    FROM generate_series(%s::integer, %s) AS n""",
    f"""INSERT INTO connector (station_id, evse_id, type, speed_kw, status)
    SELECT 's' || n, 'DE*8PS*E' || n || '*' || c, 'Type2', 22, 'Available'
    FROM generate_series(%s::integer, %s) AS n, generate_series(1, {CONNECTORS}) AS c""",
)
CONFIG = """
[database]
dsn = {dsn}
[monitoring]
listen = ""
"""
EMP = """
[emp.{name}]
url = {url}
partner_identifier = "bench-partner-0001"
api_key = "bench"
confirm_cpos = "automatic"
concurrency = {concurrency}
[emp.{name}.cpos]
"8ps" = "DE*8PS"
"""
SETTLED = """SELECT NOT EXISTS (SELECT FROM cdc_pusher.change)
    AND NOT EXISTS (SELECT FROM cdc_pusher.outbox WHERE state <> 'delivered')
    AND NOT EXISTS (SELECT FROM cdc_pusher.emp WHERE walk IS NOT NULL)"""
BACKENDS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'cdc-pusher %'"
STORM = """UPDATE connector SET status = CASE status WHEN 'Occupied' THEN 'Available' ELSE 'Occupied' END
    WHERE id IN (SELECT id FROM connector ORDER BY id LIMIT %s)"""
TOGGLE = """UPDATE connector SET status = CASE status WHEN 'Occupied' THEN 'Available' ELSE 'Occupied' END
    WHERE evse_id = %s RETURNING status"""


class Fleet:
    """A database with `stations`, for the length of a `with` block, and a configuration that names these EMPs (by name, their address)."""

    def __init__(self, server: EmbeddedPostgres, directory: Path, name: str, *, stations: int, emps: Mapping[str, str]) -> None:
        self.stations = stations
        self.config = directory / f"{name}.toml"
        self._server, self._name, self._emps = server, name, emps

    def __enter__(self) -> Self:
        with psycopg.connect(self._server.dsn(), autocommit=True) as conn:
            conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self._name)))
        dsn = self._server.dsn(self._name)
        with ExitStack() as stack:
            self._conn = stack.enter_context(psycopg.connect(dsn, autocommit=True))
            self.sql(REFERENCE_SCHEMA.read_text())
            self.fill(1, self.stations)
            sections = (EMP.format(name=name, url=json.dumps(url), concurrency=CONCURRENCY) for name, url in self._emps.items())
            configured(self.config, CONFIG.format(dsn=json.dumps(dsn)) + "".join(sections))
            self.command("migrate")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """The database stays, until its server ends."""
        self._stack.close()

    @property
    def messages(self) -> int:
        """How many the EMPs get by a full load, together."""
        return MESSAGES * self.stations * len(self._emps)

    def sql(self, statement: str, *values: Any) -> list[Any]:
        cursor = self._conn.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *values: Any) -> Any:
        return self.sql(query, *values)[0][0]

    def fill(self, first: int, last: int) -> None:
        """Stations with their connectors, by number, which no trigger tells of."""
        self.sql("SET session_replication_role = replica")
        for statement in FILL:
            self.sql(statement, first, last)
        self.sql("RESET session_replication_role")
        self.sql("VACUUM ANALYZE station, connector")

    def command(self, *arguments: str) -> None:
        with cdc_pusher(*arguments, "--config", str(self.config), stdout=subprocess.DEVNULL) as process:
            assert process.wait() == 0, f"cdc-pusher {arguments[0]} has failed"

    @contextmanager
    def daemon(self) -> Iterator[int]:
        """The process id of a daemon that has just been started."""
        with cdc_pusher("run", "--config", str(self.config), stderr=subprocess.DEVNULL) as process:
            yield process.pid
            assert process.poll() is None, "the daemon has ended"

    def settle(self) -> None:
        """Wait until the EMPs have everything."""
        until(lambda: self.value(SETTLED) and self.value("SELECT EXISTS (SELECT FROM cdc_pusher.emp)"))

    def storm(self, statuses: int) -> None:
        """Change so many statuses at once."""
        self.sql(STORM, statuses)

    def toggle(self, evse: str) -> str:
        """Change the status of one EVSE. Returns the new one."""
        status: str = self.value(TOGGLE, evse)
        return status

    def wrong(self, told: Mapping[str, str]) -> int:
        """How many EVSEs have another status than an EMP was told last (by EVSE), or are known to one side only."""
        return len(set(self.sql("SELECT evse_id, status FROM connector")) ^ set(told.items()))

    def backends(self) -> list[int]:
        """The process ids of the daemons' sessions."""
        return [pid for (pid,) in self.sql(BACKENDS)]


class Usage:
    """What daemons and their sessions on the server use from now on, in processor seconds; sessions that have ended do not count."""

    def __init__(self, fleet: Fleet, *daemons: int) -> None:
        self._fleet, self._daemons = fleet, daemons
        self._daemons_were = cpu_s(daemons)
        self._backends_were = {pid: cpu_s([pid]) for pid in fleet.backends()}

    @property
    def daemon_s(self) -> float:
        return cpu_s(self._daemons) - self._daemons_were

    @property
    def backends_s(self) -> float:
        return sum(max(0.0, cpu_s([pid]) - self._backends_were.get(pid, 0.0)) for pid in self._fleet.backends())


def until(condition: Callable[[], Any], every_s: float = LOOK_S) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s"
        time.sleep(every_s)


def arrived(emp: Emp, messages: int) -> None:
    """Wait until the stub has been sent so many messages since its last reset."""

    def have() -> bool:
        counts = emp.counts()
        return int(counts["stations"]) + int(counts["statuses"]) >= messages

    until(have)


def peak_mb(pid: int) -> float:
    """The most memory that a running process has had, in MB. Linux only."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
