"""The server and who we are on it: version, whether it can be written to, a pooler in between, the rights of our role, the encoding."""

from collections.abc import Iterator, Mapping
from typing import Any

from psycopg import sql

from cdc_pusher import listen
from cdc_pusher.check.finding import Finding, ok, problem, warning
from cdc_pusher.config import DatabaseSettings
from cdc_pusher.database import Connection, connect
from cdc_pusher.sql import queries

_sql = queries("check")

OLDEST, NEWEST = 14, 18  # major versions of Postgres that are tested


async def check(conn: Connection) -> list[Finding]:
    """Look at the server behind this connection, which is outside a transaction."""
    async with conn.transaction():
        row = await (await conn.execute(_sql.server)).fetchone()
    assert row is not None
    return list(_judged(row, major=conn.info.server_version // 10_000, pid_of_protocol=conn.info.backend_pid))


async def check_wake_ups(settings: DatabaseSettings, poll_interval_s: float) -> list[Finding]:
    """See whether a NOTIFY arrives where the daemon will listen."""
    channel = "cdc_pusher check"
    async with await connect(settings.listen_dsn or settings.dsn, "check") as conn:
        await conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        if await listen.arrives(conn, settings.dsn, channel):
            return [ok("wake-ups", "NOTIFY is heard")]
    remedy = "name the server itself in database.listen_dsn"
    return [warning("wake-ups", f"NOTIFY is not heard, so the daemon will look every {poll_interval_s:g} s (poll_interval_s); {remedy}")]


def _judged(row: Mapping[str, Any], *, major: int, pid_of_protocol: int) -> Iterator[Finding]:
    yield ok("database", f"connected to {row['database']} on Postgres {row['version']} as {row['role']}")
    if major < OLDEST:
        yield problem("database", f"Postgres {major} is too old: {OLDEST} to {NEWEST} will do")
    elif major > NEWEST:
        yield warning("database", f"Postgres {major} is newer than any that this version is tested with ({OLDEST} to {NEWEST})")
    if row["standby"]:
        yield problem("database", "the server is a standby: database.dsn has to lead to the primary (target_session_attrs=read-write)")
    elif row["read_only"]:
        yield problem("database", "transactions are read-only by default (default_transaction_read_only): the outbox cannot be written")
    if row["encoding"] != "UTF8":
        yield problem("database", f"the encoding is {row['encoding']}: texts are sent and stored as UTF8, which the database has to be in")
    if row["pid"] != pid_of_protocol:
        yield warning(
            "pooler",
            "a connection pooler stands in between: settings are made for each transaction, which costs time;"
            " better name the server itself in database.dsn",
        )
    if row["superuser"] or row["sees_all_rows"]:
        what = "a superuser" if row["superuser"] else "allowed to pass by row-level security"
        yield warning("role", f"{row['role']} is {what}: the daemon needs far less, see docs/roles.md")
    if row["prepares_transactions"]:
        yield ok("wake-ups", "max_prepared_transactions is above 0: triggers send no NOTIFY, changes are found by polling")
