"""A CPO's loosely typed tables, which take any nonsense, and what `cdc-pusher check` and capture make of it."""

from collections.abc import Sequence
from typing import Any

import psycopg

from cdc_pusher import check
from cdc_pusher.check import Finding
from cdc_pusher.config import Settings

TABLES = """
CREATE TABLE site (
    station_id text, name text, latitude double precision, longitude double precision, street text, street_number text, city text, zip text,
    country text, phone text, cpo text, is_open_24 boolean, notes text, divisor integer, extra json
);
CREATE TABLE plug (station_id text, evse_id text, type text, speed_kw double precision, status text);
CREATE INDEX ON site (station_id);
CREATE INDEX ON plug (station_id);
"""
GOOD = """
INSERT INTO site
SELECT id, 'Name', 52.5, 13.4, 'Hauptstrasse', '1a', 'Berlin', '10243', 'DE', '+49 30 1', '8ps', true, NULL, 1
FROM unnest(%(ids)s::text[]) AS s (id)
"""
PLUGS = "INSERT INTO plug SELECT id, 'DE*8PS*E' || upper(id), 'Type2', 22, 'Available' FROM unnest(%(ids)s::text[]) AS s (id)"
STATIONS = (
    "SELECT station_id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo, is_open_24, notes FROM site"
)
CONNECTORS = "SELECT * FROM plug"
WATCH = [{"table": "public.site", "station": "station_id"}, {"table": "public.plug", "station": "station_id"}]
NOWHERE = "http://127.0.0.1:1/"


def run(dsn: str, *statements: str, **parameters: object) -> list[Any]:
    """Run statements, each committed at once; the rows of the last."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursors = [conn.execute(statement.encode(), parameters or None) for statement in statements]
        return cursors[-1].fetchall() if cursors[-1].description else []


def build(dsn: str, *stations: str) -> None:
    """The tables, with good stations."""
    run(dsn, TABLES)
    run(dsn, GOOD, PLUGS, ids=list(stations))


def settings(dsn: str, *, emp: dict[str, Any] | None = None, emps: Sequence[str] = ("a",), **source: Any) -> Settings:
    """A configuration as `config.read` returns it."""
    of_emp = {"url": NOWHERE, "partner_identifier": "p" * 16, "api_key": "k", "cpos": {"8ps": "DE*8PS"}, "confirm_cpos": "automatic"}
    mapping = {"stations": STATIONS, "connectors": CONNECTORS, "watch": WATCH, **source}
    return Settings.model_validate({"database": {"dsn": dsn}, "source": mapping, "emp": {name: {**of_emp, **(emp or {})} for name in emps}})


async def checked(configured: Settings, **options: Any) -> list[Finding]:
    """All findings but that nobody listens at `NOWHERE`."""
    return [finding for finding in await check.run(configured, **options) if "127.0.0.1:1:" not in finding.text]


def bad(findings: Sequence[Finding], level: str = "problem") -> list[Finding]:
    return [finding for finding in findings if finding.level == level]


def only(findings: Sequence[Finding], level: str = "problem") -> Finding:
    """The one finding of this level."""
    (found,) = bad(findings, level)
    return found


def texts(findings: Sequence[Finding]) -> str:
    return "\n".join(f"{f.level} {f.subject}: {f.text} {f.examples}" for f in findings)
