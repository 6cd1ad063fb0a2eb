"""The triggers on the CPO's tables: attaching, verifying and detaching them. What they do is `recorder`.

Whoever waits for a lock on a table of the CPO has the CPO's statements queue behind: no try waits for longer than `LOCK_TIMEOUT_MS`.
"""

import asyncio
from collections.abc import Sequence

import psycopg
from psycopg import sql

from cdc_pusher.config import Watch
from cdc_pusher.database import Connection, one_line
from cdc_pusher.errors import CdcPusherError, MappingError
from cdc_pusher.recorder import Attachment, Table, creation, named_columns, wanted
from cdc_pusher.sql import queries

_sql = queries("triggers")

LOCK_TIMEOUT_MS = 20  # the CPO's statements queue behind our wait for a table's lock for no longer than this
LOCK_TRIES = 150
LOCK_PAUSE_S = 0.2


async def attach(conn: Connection, watches: Sequence[Watch], owner: str | None = None) -> list[str]:
    """Bring functions and triggers to what the configuration asks for, and remove what it no longer asks for.

    `owner`: the role that is to own the functions; unset, whoever is connected. Returns in words what was done; nothing when all was right.
    Raises `MappingError` when a watch does not fit its table, `CdcPusherError` when a table's lock could not be had (nothing is half done:
    each watch has its own transaction).
    """
    done = []
    for watch in watches:
        attachment = wanted(watch, await try_out(conn, watch))
        if await _drift(conn, attachment):
            needs = "the role needs TRIGGER on the table and CREATE on schema cdc_pusher"
            await _patiently(conn, attachment.table, creation(attachment, owner), needs=needs)
            done.append(f"attached to {attachment.table}")
    for table, name in await attached(conn):
        if name not in {watch.name for watch in watches}:
            await detach(conn, table, name)
            done.append(f"detached from {table}")
    return done


async def attached(conn: Connection) -> list[tuple[str, str]]:
    """Every table (quoted) that a function of ours is attached to, with the name of the watch."""
    return [(row["table"], row["name"]) for row in await (await conn.execute(_sql.all_attached)).fetchall()]


async def verify(conn: Connection, watches: Sequence[Watch]) -> list[str]:
    """What is wrong with the triggers, in words; empty when every watch is attached as configured, and nothing else of ours."""
    found = [f"{watch.table}: {wrong}" for watch in watches if (wrong := await drift(conn, watch))]
    return found + await leftovers(conn, watches)


async def drift(conn: Connection, watch: Watch) -> str | None:
    """How one watch differs in the database from what is configured, in words."""
    table = await _table(conn, watch)
    return await _drift(conn, wanted(watch, table)) if table else "there is no such table"


async def leftovers(conn: Connection, watches: Sequence[Watch]) -> list[str]:
    """Triggers of watches that the configuration no longer has: whatever they record, all stations are gone through for."""
    names = {watch.name for watch in watches}
    return [f"{table}: a trigger of an earlier configuration is attached" for table, name in await attached(conn) if name not in names]


async def detach(conn: Connection, table: str, name: str) -> None:
    """Remove one watch from a table (quoted as in the catalogue), whatever its triggers are called by now.

    The CPO's writers wait for no longer than `LOCK_TIMEOUT_MS`. Raises `CdcPusherError`.
    """
    rows = await (await conn.execute(_sql.triggers_of, {"table": table, "name": name})).fetchall()
    statements = [
        *(sql.SQL("DROP TRIGGER IF EXISTS {} ON {}").format(sql.Identifier(row["trigger"]), sql.SQL(table)) for row in rows),
        sql.SQL("DROP FUNCTION IF EXISTS cdc_pusher.{}()").format(sql.Identifier(name)),
    ]
    await _patiently(conn, table, statements, needs="only the owner of the table can drop a trigger")


async def _table(conn: Connection, watch: Watch) -> Table | None:
    row = await (await conn.execute(_sql.table, {"table": watch.table})).fetchone()
    return Table(**row) if row else None


async def try_out(conn: Connection, watch: Watch) -> Table:
    """Fail now, and in words, rather than in the trigger. Returns the table. Raises `MappingError`."""
    try:
        found = await _table(conn, watch)
    except psycopg.ProgrammingError as error:
        raise MappingError(f"source.watch {watch.table}: {one_line(error)}") from error
    if found is None:
        raise MappingError(f"source.watch: there is no table {watch.table}")
    if found.kind not in ("r", "p"):
        raise MappingError(f"source.watch: {watch.table} is not a table; watch the tables behind it")
    if unseen := sorted({*named_columns(watch, found.virtual), *(set(watch.columns or ()) & set(found.virtual))}):
        raise MappingError(f"source.watch {watch.table}: triggers cannot see generated columns that are not stored: {', '.join(unseen)}")
    if watch.station_column not in (None, *found.columns):
        raise MappingError(f'source.watch {watch.table}: column "{watch.station_column}" does not exist')
    columns = sql.SQL(", ").join(map(sql.Identifier, watch.columns or ())) if watch.columns else sql.SQL("1")
    table = sql.SQL(found.name)  # quoted by the database
    station = sql.SQL(watch.query)  # the operator's SQL
    affected = sql.SQL("SELECT a.station_id::text FROM {} AS {} CROSS JOIN LATERAL ({}) AS a (station_id) LIMIT 0")
    try:
        async with conn.transaction():
            await conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            await conn.execute(sql.SQL("SELECT {} FROM {} LIMIT 0").format(columns, table))
            await conn.execute(affected.format(table, sql.Identifier(watch.alias), station))
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        hint = " (tables in `station` need their schema)" if isinstance(error, psycopg.errors.UndefinedTable) else ""
        raise MappingError(f"source.watch {watch.table}: {one_line(error)}{hint}") from error
    return found


async def _drift(conn: Connection, attachment: Attachment) -> str | None:
    """How the database differs from what is wanted."""
    row = await (await conn.execute(_sql.attached, {"table": attachment.table, "name": attachment.name})).fetchone()
    assert row is not None
    enabled = {name for name, _, state in (text.rpartition(" ") for text in row["triggers"]) if state in "OA"}
    present = {text.rpartition(" ")[0] for text in row["triggers"]}
    if absent := sorted(attachment.triggers.keys() - present):
        return f"trigger {', '.join(absent)} is missing"
    if disabled := sorted(attachment.triggers.keys() - enabled):
        return f"trigger {', '.join(disabled)} is disabled"
    if (row["version"], row["body"]) != (attachment.version, attachment.body):
        return "the trigger's function is not the one that the configuration asks for"
    if not row["is_definer"] or set(row["settings"] or ()) != attachment.settings:
        return "the trigger's function has lost SECURITY DEFINER or a setting"
    if row["is_public"]:
        return "the trigger's function may be put on any table by anybody who may use schema cdc_pusher"
    if not row["can_record"]:
        return f"the owner of the trigger's function, {row['owner']}, may not write to the change log"
    return None


async def _patiently(conn: Connection, table: str, statements: Sequence[sql.Composed], *, needs: str) -> None:
    """Run DDL on a table of the CPO in one transaction, once its lock is to be had at once.

    While we wait for a lock, the CPO's statements queue behind us. So a try waits for a millisecond, and only for a table that is never
    found at rest a little longer. And a try is one message to the server: a lock is never held while the server waits for us to go on.
    """
    for attempt in range(LOCK_TRIES):
        wait_ms = 1 if attempt < LOCK_TRIES / 2 else LOCK_TIMEOUT_MS
        try:
            await conn.execute(sql.SQL("; ").join([sql.SQL("SET LOCAL lock_timeout = {}").format(f"{wait_ms}ms"), *statements]))
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            await asyncio.sleep(LOCK_PAUSE_S)
        except psycopg.errors.InsufficientPrivilege as error:
            raise CdcPusherError(f"{table}: {one_line(error)}; {needs}") from error
    raise CdcPusherError(f"{table}: its lock was not to be had in {LOCK_TRIES} tries; is a long transaction writing to it?")
