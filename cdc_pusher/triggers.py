"""The triggers on the CPO's tables: what they are, attaching, verifying and detaching them.

They must never disturb the CPO's own work (design, invariant 1), and their form follows from that:

- One function a watch, row level, AFTER. It compares the watched columns itself, by name, when it runs: a trigger with `WHEN (OLD.x …)` or
  `UPDATE OF x` would make the CPO's own `ALTER TABLE … DROP COLUMN x` fail.
- SECURITY DEFINER with a pinned search_path: the writing role needs no right on our schema, and no other schema can shadow a name.
- Rows are compared with `*<>` (by their bytes), which every type has and no search_path can change.
- It only inserts, and waits for a lock of ours once in a transaction, for 10 ms. Whatever fails inside is caught, tried again with dynamic
  SQL, and if that fails counted in the sequence `missed`, which the daemon answers with a sweep.
- NOTIFY is sent only while the daemon sleeps, the queue is not filling up, and no transaction can be prepared (PREPARE TRANSACTION refuses
  transactions that have notified).
"""

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from cdc_pusher.config import Watch
from cdc_pusher.database import Connection, one_line
from cdc_pusher.errors import CdcPusherError, MappingError
from cdc_pusher.schema import CHANNEL
from cdc_pusher.sql import queries

_sql = queries("triggers")

LOCK_TIMEOUT_MS = 200  # writers queue behind our wait for the table's lock for no longer than this
LOCK_TRIES = 50
LOCK_PAUSE_S = 0.5

_FUNCTION = """
CREATE OR REPLACE FUNCTION cdc_pusher.{name}() RETURNS trigger
    LANGUAGE plpgsql
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET lock_timeout = '10ms'
AS $cdc_pusher$
BEGIN
    IF current_setting('cdc_pusher.locked', true) = 'yes' THEN
        PERFORM nextval('cdc_pusher.missed');
        RETURN NULL;
    ELSIF TG_OP = 'TRUNCATE' THEN
        INSERT INTO cdc_pusher.change (station_id) VALUES (NULL);
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO cdc_pusher.change (station_id)
        SELECT DISTINCT a.station_id::text {of_new} WHERE a.station_id IS NOT NULL;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO cdc_pusher.change (station_id)
        SELECT DISTINCT a.station_id::text {of_old} WHERE a.station_id IS NOT NULL;
    ELSIF {differs} THEN
        INSERT INTO cdc_pusher.change (station_id)
        SELECT a.station_id::text {of_new} WHERE a.station_id IS NOT NULL
        UNION
        SELECT a.station_id::text {of_old} WHERE a.station_id IS NOT NULL;
    ELSE
        RETURN NULL;
    END IF;
    IF (SELECT last_value FROM cdc_pusher.asleep) = 2
        AND current_setting('max_prepared_transactions') = '0'
        AND pg_notification_queue_usage() < 0.5
    THEN
        PERFORM pg_notify({channel}, '');
    END IF;
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    BEGIN
        IF SQLSTATE = '55P03' THEN
            -- Our tables are locked: one wait in a transaction is enough.
            PERFORM set_config('cdc_pusher.locked', 'yes', true), nextval('cdc_pusher.missed');
            RETURN NULL;
        END IF;
        -- A plan that this session made before the table was altered fails for ever; dynamic SQL is planned anew.
        IF TG_OP IN ('UPDATE', 'DELETE') THEN
            EXECUTE {record} USING OLD;
        END IF;
        IF TG_OP IN ('INSERT', 'UPDATE') THEN
            EXECUTE {record} USING NEW;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        BEGIN
            PERFORM nextval('cdc_pusher.missed');
        EXCEPTION WHEN OTHERS THEN
            NULL;
        END;
    END;
    RETURN NULL;
END
$cdc_pusher$
"""

_RECORD = "INSERT INTO cdc_pusher.change (station_id) SELECT DISTINCT a.station_id::text {affected} WHERE a.station_id IS NOT NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What stands, or should stand, on one table for one watch; `version` is the fingerprint of the function's text."""

    table: str
    name: str
    version: str
    function: sql.Composed

    @property
    def triggers(self) -> dict[str, str]:
        """The triggers by name, and when each fires."""
        return {
            f"{self.name}_row": "AFTER INSERT OR UPDATE OR DELETE ON {} FOR EACH ROW",
            f"{self.name}_truncate": "AFTER TRUNCATE ON {} FOR EACH STATEMENT",
        }


def wanted(watch: Watch) -> Attachment:
    """What the configuration asks for."""
    schema, _, table = watch.table.rpartition(".")
    identity = hashlib.sha256(f"{watch.table}\n{watch.station}\n{watch.columns}".encode()).hexdigest()[:8]
    name = f"cdc_pusher_{identity}"
    function = sql.SQL(_FUNCTION).format(  # one constant text
        name=sql.Identifier(name),
        of_new=_affected("NEW", table or schema, watch.station),
        of_old=_affected("OLD", table or schema, watch.station),
        differs=_differs(watch.columns),
        record=sql.Literal(_RECORD.format(affected=_affected("($1)", table or schema, watch.station).as_string())),
        channel=sql.Literal(CHANNEL),
    )
    version = hashlib.sha256(function.as_string().encode()).hexdigest()[:16]
    return Attachment(table=watch.table, name=name, version=version, function=function)


def _affected(row: str, table: str, station: str) -> sql.Composed:
    """`FROM` that yields the ids of the stations that one row concerns; its columns can be named as in a query on the table."""
    lateral = station if re.match(r"[(\s]*select\b", station, re.IGNORECASE) else f"SELECT ({station})"
    alias = sql.Identifier(table.strip('"'))
    return sql.SQL("FROM (SELECT {}.*) AS {} CROSS JOIN LATERAL ({}) AS a (station_id)").format(
        sql.SQL(row),  # NEW or OLD
        alias,
        sql.SQL(lateral),  # the operator's SQL
    )


def _differs(columns: Sequence[str] | None) -> sql.Composable:
    if columns is None:
        return sql.SQL("NEW OPERATOR(pg_catalog.*<>) OLD")
    new, old = (sql.SQL(", ").join(sql.Identifier(row, column) for column in columns) for row in ("new", "old"))
    # Without the cast the operator would be looked for column by column.
    return sql.SQL("ROW({})::record OPERATOR(pg_catalog.*<>) ROW({})::record").format(new, old)


async def attach(conn: Connection, watches: Sequence[Watch]) -> list[str]:
    """Bring functions and triggers to what the configuration asks for, and remove what it no longer asks for.

    Returns in words what was done; nothing when all was right. Raises `MappingError` when a watch does not fit its table, `CdcPusherError`
    when a table's lock could not be had (nothing is half done: each watch has its own transaction).
    """
    done = []
    attachments = [wanted(watch) for watch in watches]
    for watch, attachment in zip(watches, attachments, strict=True):
        await _try_out(conn, watch)
        if await _drift(conn, attachment):
            await _patiently(conn, attachment.table, _creation(attachment))
            done.append(f"attached to {attachment.table}")
    for row in await (await conn.execute(_sql.all_attached)).fetchall():
        if row["name"] not in {attachment.name for attachment in attachments}:
            await detach(conn, row["table"], row["name"])
            done.append(f"detached from {row['table']}")
    return done


async def verify(conn: Connection, watches: Sequence[Watch]) -> list[str]:
    """What is wrong with the triggers, in words; empty when every watch is attached as configured."""
    return [f"{a.table}: {drift}" for a in map(wanted, watches) if (drift := await _drift(conn, a))]


async def detach(conn: Connection, table: str, name: str) -> None:
    """Remove one watch from a table (both quoted as in the catalogue); the CPO's writers wait for no longer than `LOCK_TIMEOUT_MS`."""
    statements = [
        *(sql.SQL("DROP TRIGGER IF EXISTS {} ON " + table).format(sql.Identifier(f"{name}_{kind}")) for kind in ("row", "truncate")),
        sql.SQL("DROP FUNCTION IF EXISTS cdc_pusher.{}()").format(sql.Identifier(name)),
    ]
    await _patiently(conn, table, statements)


async def _try_out(conn: Connection, watch: Watch) -> None:
    """Fail now, and in words, rather than in the trigger."""
    try:
        found = await (await conn.execute(_sql.table, {"table": watch.table, "columns": list(watch.columns or ())})).fetchone()
    except psycopg.ProgrammingError as error:
        raise MappingError(f"source.watch {watch.table}: {one_line(error)}") from error
    if found is None:
        raise MappingError(f"source.watch: there is no table {watch.table}")
    if found["kind"] not in ("r", "p"):
        raise MappingError(f"source.watch: {watch.table} is not a table; watch the tables behind it")
    if found["virtual"]:
        raise MappingError(f"source.watch {watch.table}: triggers cannot see generated columns that are not stored: {found['virtual']}")
    affected = _affected(f"(NULL::{found['name']})", watch.table.rpartition(".")[2], watch.station)
    columns = sql.SQL(", ").join(map(sql.Identifier, watch.columns or ())) if watch.columns else sql.SQL("1")
    try:
        async with conn.transaction():
            await conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            await conn.execute(sql.SQL("SELECT {} FROM {} LIMIT 0").format(columns, sql.SQL(found["name"])))
            await conn.execute(sql.SQL("SELECT a.station_id::text {} LIMIT 0").format(affected))
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        raise MappingError(f"source.watch {watch.table}: {one_line(error)} (tables in `station` need their schema)") from error


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
    if row["version"] != attachment.version:
        return "the trigger's function is not the one that the configuration asks for"
    return None


def _creation(attachment: Attachment) -> list[sql.Composed]:
    function = sql.SQL("cdc_pusher.{}").format(sql.Identifier(attachment.name))
    comment = sql.SQL("COMMENT ON FUNCTION {}() IS {}").format(function, sql.Literal(attachment.version))
    triggers = [
        sql.SQL("CREATE OR REPLACE TRIGGER {} {} EXECUTE FUNCTION {}()").format(
            sql.Identifier(name),
            sql.SQL(when).format(sql.SQL(attachment.table)),  # as the operator writes it
            function,
        )
        for name, when in attachment.triggers.items()
    ]
    return [attachment.function, comment, *triggers]


async def _patiently(conn: Connection, table: str, statements: Sequence[sql.Composed]) -> None:
    """Run DDL on a table of the CPO in one transaction, asking for its lock briefly and often."""
    for _ in range(LOCK_TRIES):
        try:
            async with conn.transaction():
                await conn.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_MS}ms'".encode())
                for statement in statements:
                    await conn.execute(statement)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            await asyncio.sleep(LOCK_PAUSE_S)
        except psycopg.errors.InsufficientPrivilege as error:
            raise CdcPusherError(
                f"{table}: {one_line(error)}; the role needs TRIGGER on the table and CREATE on schema cdc_pusher"
            ) from error
    raise CdcPusherError(f"{table}: its lock was not to be had in {LOCK_TRIES} tries; is a long transaction writing to it?")
