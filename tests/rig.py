"""A CPO's database, sandbox EMPs and the real daemon as a process, for the tests that break them.

Nothing here knows what is right; it starts, stops, asks and waits. The sandboxes live in the test's event loop, so no test may block it.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from cdc_pusher import migrate, triggers
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import connect
from cdc_pusher.sandbox import Sandbox

Row = dict[str, Any]

REFERENCE_SCHEMA = Path(__file__).parent.parent / "examples" / "reference_schema.sql"
KEY = "a-key-that-nobody-may-ever-see"
CPOS = {"8ps": "DE*8PS"}
PATIENCE_S = 20.0

STATION = """
INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
SELECT id, 'v0', 52.5 + random() / 100, 13.4, 'Hauptstrasse', '1a', 'Berlin', '10243', 'DE', '+49 30 1', '8ps'
FROM unnest(%(ids)s::text[]) AS s (id)
"""
CONNECTOR = """
INSERT INTO connector (station_id, evse_id, type, speed_kw, status)
SELECT station_id, evse_id, 'Type2', 22, 'Available'
FROM unnest(%(stations)s::text[], %(evses)s::text[]) AS c (station_id, evse_id)
"""
# What the daemon can still do by itself, in one snapshot; a station whose EVSE is stuck in another one waits for people, its deletion
# for nobody.
UNFINISHED = """
SELECT
    (SELECT count(*) FROM cdc_pusher.emp WHERE walk IS NOT NULL)
        + (SELECT count(*) FROM cdc_pusher.change)
        + (
            SELECT count(*)
            FROM cdc_pusher.outbox AS o
            WHERE state = 'in_flight'
               OR (state = 'pending' AND next_attempt_at IS NOT NULL AND NOT (
                   kind = 'station'
                   AND NOT (payload ->> 'deleted')::boolean
                   AND EXISTS (
                       SELECT
                       FROM cdc_pusher.evse AS other
                       WHERE other.emp = o.emp
                         AND other.station_id <> o.key
                         AND other.at_emp <> 'no'
                         AND o.payload -> 'connectors' @> jsonb_build_array(jsonb_build_object('id', other.evse_id))
                   )
               ))
        )
        + (SELECT count(*) FROM cdc_pusher.missed AS m, cdc_pusher.capture AS c WHERE m.is_called AND m.last_value > c.missed_seen)
    AS unfinished
"""
OF_KEYS_OUTBOX = """
SELECT kind, key, station_id, state, reason, desired_gen, delivered_gen, doubtful, resend_gen, attempts, next_attempt_at::text,
    payload - 'address' - 'contact' AS payload, acknowledged IS NOT DISTINCT FROM payload AS same
FROM cdc_pusher.outbox
WHERE key = ANY (%(keys)s) OR station_id = ANY (%(keys)s)
"""
OF_KEYS_EVSES = (
    "SELECT evse_id, station_id, listed, at_emp FROM cdc_pusher.evse WHERE evse_id = ANY (%(keys)s) OR station_id = ANY (%(keys)s)"
)
OF_KEYS_ATTEMPTS = """
SELECT sent_at::text, key, gen, outcome, http_status, error
FROM cdc_pusher.attempt
WHERE key = ANY (%(keys)s)
ORDER BY sent_at DESC
LIMIT 30
"""


async def until(condition: Callable[[], Awaitable[object] | object], what: str, timeout_s: float = PATIENCE_S) -> float:
    """Return the seconds it took for the condition to hold; fail with `what` after the time-out."""
    began = time.monotonic()
    while True:
        held = condition()
        if isinstance(held, Awaitable):
            held = await held
        if held:
            return time.monotonic() - began
        assert time.monotonic() - began < timeout_s, f"did not come to hold in {timeout_s:g} s: {what}"
        await asyncio.sleep(0.02)  # the interval of a poll, not a wait


class Daemon:
    """One `cdc-pusher run` as a process; what it says goes to a file."""

    def __init__(self, config: Path, log: Path, checkout: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cdc_pusher", "run", "--config", str(config)],
                stdin=subprocess.DEVNULL,
                stderr=stderr,
                cwd=checkout,
                env={**os.environ, **(env or {})},
            )

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> str:
        return self.log.read_text()

    async def ready(self) -> None:
        """Wait until it works; it has to be the only daemon that writes to its log."""
        await until(lambda: '"event": "ready"' in self.said or self.exit_code is not None, "the daemon is ready")
        assert self.exit_code is None, self.said

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def name(self) -> str:
        """As it calls itself in the database; it has to be ready."""
        return str(next(json.loads(line)["daemon"] for line in self.said.splitlines() if '"event": "ready"' in line))

    async def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        await asyncio.to_thread(self.wait)

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()

    @property
    def peak_mb(self) -> float:
        """The most memory that it has held, while it runs; Linux only."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) / 1024

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """End it as systemd does; it must exit with 0 unless it was still on its way up. Returns the seconds it took."""
        began = time.monotonic()
        self._process.send_signal(number)
        await asyncio.to_thread(self._process.wait, 30)
        assert self.exit_code == 0 or (self.exit_code == -number and "ready" not in self.said), self.said
        return time.monotonic() - began


class Rig:
    """One database with the reference schema, migrated and watched, and the daemons and EMPs around it."""

    def __init__(self, dsn: str, directory: Path, conn: psycopg.AsyncConnection[Row]) -> None:
        self.dsn = dsn
        self.directory = directory
        self.config = directory / "config.toml"
        self._conn = conn
        self._emps: dict[str, Row] = {}
        self._daemons: list[Daemon] = []
        self.page_stations = 200
        self.monitoring = ""
        self.cpos: Mapping[str, str] = CPOS
        self.database_options: Row = {}
        self.env: Mapping[str, str] = {}  # of daemons
        self.daemon_options: Row = {}

    def remove_emp(self, name: str) -> None:
        """Take an EMP out of the configuration."""
        del self._emps[name]
        self._write()

    def add_emp(self, name: str, sandbox: Sandbox, **options: object) -> None:
        """Put an EMP into the configuration; daemons that start from now on serve it."""
        key_file = self.directory / f"{name}.key"
        key_file.write_text(sandbox.settings.api_key + "\n")
        key_file.chmod(0o600)
        self._emps[name] = {
            "url": sandbox.url,
            "partner_identifier": sandbox.settings.partner_identifier,
            "api_key_file": str(key_file),
            "request_timeout_s": 1.0,
            "retry_base_s": 0.1,
            "retry_cap_s": 0.5,
            "quiet_time_s": 0.5,
            "confirm_cpos": "automatic",
            **options,
        }
        self._write()

    def _write(self) -> None:
        lines = ["[database]", f"dsn = {json.dumps(self.dsn)}"]
        lines += [f"{option} = {json.dumps(value)}" for option, value in self.database_options.items()]
        lines += ["[monitoring]", f"listen = {json.dumps(self.monitoring)}"]
        lines += ["[daemon]", f"page_stations = {self.page_stations}"]
        lines += [f"{option} = {json.dumps(value)}" for option, value in self.daemon_options.items()]
        for emp, settings in self._emps.items():
            lines += [f"[emp.{emp}]", *(f"{field} = {json.dumps(value)}" for field, value in settings.items())]
            lines += [f"[emp.{emp}.cpos]", *(f"{json.dumps(cpo)} = {json.dumps(cpo_id)}" for cpo, cpo_id in self.cpos.items())]
        self.config.write_text("\n".join(lines) + "\n")

    def daemon(self, config: Path | None = None, *, checkout: Path | None = None, env: Mapping[str, str] | None = None) -> Daemon:
        """Start another daemon, of another checkout of the program if one is given."""
        daemon = Daemon(config or self.config, self.directory / f"daemon-{len(self._daemons)}.log", checkout, {**self.env, **(env or {})})
        self._daemons.append(daemon)
        return daemon

    async def ready_daemon(self, config: Path | None = None) -> Daemon:
        daemon = self.daemon(config)
        await daemon.ready()
        return daemon

    async def command(self, *arguments: str, exit_code: int = 0) -> str:
        """Run a command of ours with our configuration to its end; returns what it printed."""
        return await self.plain_command(*arguments, "--config", str(self.config), exit_code=exit_code)

    async def plain_command(self, *arguments: str, exit_code: int = 0, checkout: Path | None = None) -> str:
        """Run a command of ours to its end; returns what it printed."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cdc_pusher", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=checkout,
        )
        out, err = await process.communicate()
        assert process.returncode == exit_code, err.decode()
        return out.decode()

    async def sql(self, query: str, **parameters: object) -> list[Row]:
        """Run one statement, committed at once."""
        cursor = await self._conn.execute(query.encode(), parameters)
        return await cursor.fetchall() if cursor.description else []

    async def value(self, query: str, **parameters: object) -> Any:
        return next(iter((await self.sql(query, **parameters))[0].values()))

    async def build(self, *stations: str, evses: int = 1, noticed: bool = True) -> None:
        """Insert stations, each with EVSEs that are numbered from 1 (`evse_id`); if not `noticed`, as if before there were triggers."""
        pairs = [(station, evse_id(station, n)) for station in stations for n in range(1, evses + 1)]
        async with self._conn.transaction():
            await self.sql(STATION, ids=list(stations))
            await self.sql(CONNECTOR, stations=[s for s, _ in pairs], evses=[e for _, e in pairs])
            if not noticed:
                await self.sql("DELETE FROM cdc_pusher.change")

    async def set_status(self, station: str, status: str, n: int = 1) -> None:
        await self.sql("UPDATE connector SET status = %(status)s WHERE evse_id = %(evse)s", status=status, evse=evse_id(station, n))

    async def quiet(self, timeout_s: float = 60.0) -> float:
        """Wait until nothing is left to do; what is in the way is told on failure. Returns the seconds."""
        try:
            return await until(self._is_quiet, "everything is quiet", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.dump()}") from None

    async def _is_quiet(self) -> bool:
        assert any(d.exit_code is None for d in self._daemons), f"no daemon runs\n{await self.dump()}"
        return bool(await self.value(UNFINISHED) == 0)

    async def dump(self, *keys: str) -> str:
        """What the database knows of the trouble (or of these stations and EVSEs), and the end of what the daemons said."""
        wanted = "TRUE" if not keys else "key = ANY (%(keys)s) OR station_id = ANY (%(keys)s)"
        parts = [
            *await self.sql(f"SELECT * FROM cdc_pusher.outbox_problems WHERE {wanted} LIMIT 20", keys=list(keys)),
            *await self.sql("SELECT count(*) AS changes FROM cdc_pusher.change"),
            *await self.sql("SELECT name, walk, walk_phase, walk_cursor FROM cdc_pusher.emp"),
        ]
        if keys:
            parts += await self.sql(OF_KEYS_OUTBOX, keys=list(keys))
            parts += await self.sql(OF_KEYS_EVSES, keys=list(keys))
            parts += await self.sql(OF_KEYS_ATTEMPTS, keys=list(keys))
        said = [f"{d.log.name} ({d.exit_code}): {line}" for d in self._daemons[-2:] for line in d.said.splitlines()[-8:]]
        return "\n".join([*(", ".join(f"{k}={v}" for k, v in part.items() if v is not None) for part in parts), *said])

    async def connect_again(self) -> None:
        """After the database went away."""
        await self._conn.close()
        self._conn = await connected(self.dsn)

    async def page(self) -> str:
        """The address of the daemon's pages, when they are served."""
        pattern = r'"address": "([^"]+)", "event": "metrics are served"'
        await until(lambda: re.search(pattern, self.said), "pages are served")
        found = re.search(pattern, self.said)
        assert found is not None
        return f"http://{found[1]}"

    async def close(self) -> None:
        await self._conn.close()
        for daemon in self._daemons:
            if daemon.exit_code is None:
                await daemon.kill()

    @property
    def said(self) -> str:
        """Everything that any daemon said."""
        return "".join(d.said for d in self._daemons)


async def connected(dsn: str) -> psycopg.AsyncConnection[Row]:
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True, row_factory=dict_row)


def evse_id(station: str, n: int = 1) -> str:
    return f"DE*8PS*E{station.upper()}*{n}"


@asynccontextmanager
async def rig(dsn: str, directory: Path) -> AsyncIterator[Rig]:
    """The CPO's empty tables, with our schema and triggers; daemons that still run at the end are killed."""
    conn = await connected(dsn)
    made = Rig(dsn, directory, conn)
    try:
        await conn.execute(REFERENCE_SCHEMA.read_bytes())
        await asyncio.to_thread(migrate.to, dsn)
        async with await connect(dsn, "rig") as ours:
            await triggers.attach(ours, SourceSettings().watch)
        yield made
    finally:
        await made.close()
