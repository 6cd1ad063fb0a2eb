"""`cdc-pusher check`: looks at everything that can be known before a message is sent. Sends none, and writes nothing anywhere.

What is there to be found is never raised: a database that is away, or a mapping that does not fit, is a finding, and whatever can be looked
at without it is looked at. All that reads the CPO's tables runs in read-only transactions.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from functools import partial
from pathlib import Path

import psycopg

from cdc_pusher.check import emp, indexes, installation, mapping, rows, server, setup, stations
from cdc_pusher.check.finding import Finding, as_json, is_wrong, problem
from cdc_pusher.check.render import show
from cdc_pusher.check.stations import Progress
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection, connect, one_line
from cdc_pusher.errors import CdcPusherError, MappingError
from cdc_pusher.mapping import prepare
from cdc_pusher.source import Source

__all__ = ["Finding", "Progress", "as_json", "is_wrong", "run", "show"]

_TOLD = (CdcPusherError, psycopg.Error, UnicodeError)  # the last: a text that the encoding of the database does not have


def _unseen(done: int, total: int | None) -> None:
    """Nobody watches the progress."""


async def run(settings: Settings, *, config_file: Path | None = None, verbose: bool = False, progress: Progress = _unseen) -> list[Finding]:
    """Check everything; `settings` as `config.read(config_file)` returns them. `verbose`: all examples, not a few."""
    found = []
    try:
        async with await connect(settings.database.dsn, "check") as conn:
            await conn.set_read_only(True)
            async for findings in _database(conn, settings, verbose=verbose, progress=progress):
                found += findings
    except _TOLD as error:
        found.append(problem("database", _said(error)))
    if not settings.emp:
        found.append(problem("emp", "no EMP is configured: add a section [emp.NAME]"))
    of_emps = await asyncio.gather(*(emp.check(name, one, config_file) for name, one in sorted(settings.emp.items())))
    return [*found, *(finding for findings in of_emps for finding in findings)]


async def _database(conn: Connection, settings: Settings, *, verbose: bool, progress: Progress) -> AsyncIterator[list[Finding]]:
    """All that needs the database, part by part. Raises when the connection has gone."""
    look = partial(_looked, conn)
    yield await look("database", server.check(conn))
    yield await look("wake-ups", server.check_wake_ups(settings.database, settings.daemon.poll_interval_s))
    yield await look("schema", installation.check(conn, settings.source.watch))
    yield (of_mapping := await look("source", mapping.check(conn, settings.source)))
    try:
        queries = await prepare(conn, settings.source, settings.only)
    except MappingError as error:
        if not is_wrong(of_mapping):
            yield [problem("source", str(error))]
        return
    yield await look("indexes", indexes.check(conn, settings.source, queries, settings.daemon.page_stations))
    yield await look("cpos", setup.check(settings, verbose=verbose))
    yield await look("source", rows.check(conn, settings.source, verbose=verbose))
    yield [problem("source", text) for text in queries.broken.values()]
    source = await Source.open(conn, settings.source, settings.only, strict=False)
    yield await look("stations", stations.check(source, settings, verbose=verbose, progress=progress))


async def _looked(conn: Connection, subject: str, findings: Awaitable[Iterable[Finding]]) -> list[Finding]:
    """What one part finds, and its failure as a finding."""
    try:
        return list(await findings)
    except _TOLD as error:
        if conn.closed:
            raise
        return [problem(subject, f"could not be looked at: {_said(error)}")]


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, CdcPusherError) else f"the database said: {one_line(error)}"
