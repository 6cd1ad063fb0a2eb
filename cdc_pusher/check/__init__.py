"""`cdc-pusher check`: looks at everything that can be known before a message is sent. Sends none, and writes nothing anywhere.

What is there to be found is never raised: a database that is away, or a mapping that does not fit, is a finding, and whatever can be looked
at without it is looked at. All that reads the CPO's tables runs in read-only transactions.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from pathlib import Path

import psycopg

from cdc_pusher.check import emp, indexes, installation, mapping, rows, server, setup, stations
from cdc_pusher.check.finding import Finding, as_json, is_wrong, problem
from cdc_pusher.check.render import show
from cdc_pusher.check.stations import Progress
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection, connect, one_line
from cdc_pusher.errors import CdcPusherError
from cdc_pusher.source import Queries, Source

__all__ = ["Finding", "Progress", "as_json", "is_wrong", "run", "show"]


def _unseen(done: int, total: int | None) -> None:
    """Nobody watches the progress."""


async def run(settings: Settings, *, config_file: Path | None = None, verbose: bool = False, progress: Progress = _unseen) -> list[Finding]:
    """Check everything; `settings` as `config.read(config_file)` returns them. `verbose`: all examples, not a few."""
    emps = asyncio.gather(*(emp.check(name, one, config_file) for name, one in sorted(settings.emp.items())))
    found = []
    if not settings.emp:
        found.append(problem("emp", "no EMP is configured: add a section [emp.NAME]"))
    try:
        async with await connect(settings.database.dsn, "check") as conn:
            await conn.set_read_only(True)
            found += await _database(conn, settings, verbose=verbose, progress=progress)
    except (CdcPusherError, psycopg.Error) as error:
        found.append(problem("database", _said(error)))
    finally:
        of_emps = await emps
    return [*found, *(finding for findings in of_emps for finding in findings)]


async def _database(conn: Connection, settings: Settings, *, verbose: bool, progress: Progress) -> list[Finding]:
    found = await _looked("database", server.check(conn))
    found += await _looked("schema", installation.check(conn, settings.source.watch))
    of_mapping, queries = await mapping.check(conn, settings.source)
    found += of_mapping
    if queries is not None:
        found += await _looked("indexes", indexes.check(conn, settings.source, queries, settings.daemon.page_stations))
        found += await _looked("cpos", setup.check(settings))
        found += await _looked("source", rows.check(conn, settings.source, verbose=verbose))
        source = await Source.open(conn, settings.source)
        found += await _looked("stations", stations.check(source, settings, verbose=verbose, progress=progress))
    return found


async def _looked(subject: str, findings: Awaitable[Iterable[Finding]]) -> list[Finding]:
    """What one part finds, and its failure as a finding."""
    try:
        return list(await findings)
    except (CdcPusherError, psycopg.Error) as error:
        return [problem(subject, f"could not be looked at: {_said(error)}")]


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, CdcPusherError) else f"the database said: {one_line(error)}"
