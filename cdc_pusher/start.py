"""What has to hold before the daemon works with a configuration, at the start and when it is read again."""

import asyncio
import random
from pathlib import Path

import psycopg
import structlog

from cdc_pusher import config, policy, revision, systemd, triggers
from cdc_pusher.client import tls
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection, connect, one_line
from cdc_pusher.errors import ConfigurationError, DatabaseUnavailable
from cdc_pusher.source import Source

log = structlog.get_logger(__name__)

WAIT_BASE_S, WAIT_CAP_S = 0.5, 10.0


async def prepare(settings: Settings) -> None:
    """See whether the daemon can work with the database; a service waits for it, who types the command is told at once.

    Raises `ConfigurationError` and `DatabaseUnavailable`.
    """
    _require_emps(settings)
    failures = 0
    while True:
        try:
            return await _look(settings)
        except (DatabaseUnavailable, psycopg.OperationalError) as error:
            if not systemd.is_service():
                raise
            pause = policy.backoff_s(failures, base_s=WAIT_BASE_S, cap_s=WAIT_CAP_S, chance=random.uniform(0.5, 1.0))
            log.warning("the database is not there yet", error=one_line(error), retry_in_s=round(pause, 2))
            systemd.notify(f"STATUS={one_line(error)}", "EXTEND_TIMEOUT_USEC=60000000")
            failures += 1
            await asyncio.sleep(pause)


async def reloaded(settings: Settings, path: Path | None) -> Settings:
    """The configuration as it stands in the file now. Raises `CdcPusherError` if the daemon cannot go on with it."""
    new = await asyncio.to_thread(config.load, path)
    _require_emps(new)
    if new.database != settings.database:
        raise ConfigurationError("another [database] needs a restart of the daemon")
    for emp in new.emp.values():
        tls(emp)
    await _look(new)
    return new


def _require_emps(settings: Settings) -> None:
    if not settings.emp:
        raise ConfigurationError("no EMP is configured: add a section [emp.NAME]")


async def _look(settings: Settings) -> None:
    async with await connect(settings.database.dsn, "start") as conn:
        await _require_writable(conn)
        await revision.require_current(conn)
        if drift := await triggers.verify(conn, settings.source.watch):
            log.error("changes may only be found by a sweep until cdc-pusher migrate has mended the triggers", triggers=drift)
        await Source.open(conn, settings.source, settings.only)


async def _require_writable(conn: Connection) -> None:
    row = await (
        await conn.execute("SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS ro")
    ).fetchone()
    assert row is not None
    if row["standby"] or row["ro"]:
        what = "the server is a standby" if row["standby"] else "transactions are read-only by default"
        raise DatabaseUnavailable(f"{what}: database.dsn has to lead to the primary (target_session_attrs=read-write)")
