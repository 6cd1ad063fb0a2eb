"""What `cdc-pusher migrate` has set up: our schema and its revision, our rights in it, and the triggers as the configuration wants them."""

import psycopg

from cdc_pusher import revision, roles, triggers
from cdc_pusher.check.finding import Finding, ok, problem, warning
from cdc_pusher.config import Watch
from cdc_pusher.database import Connection, one_line
from cdc_pusher.errors import ConfigurationError, MappingError
from cdc_pusher.names import SCHEMA
from cdc_pusher.sql import queries

_sql = queries("check")


async def check(conn: Connection, watches: tuple[Watch, ...]) -> list[Finding]:
    """Compare what stands in the database with this version of the program and its configuration."""
    async with conn.transaction():
        schema = await (await conn.execute(_sql.schema)).fetchone()
    if schema is None:
        not_yet = warning("schema", f"there is no schema {SCHEMA} yet: cdc-pusher migrate comes next, and attaches the triggers")
        return [not_yet, *[await _watch(conn, watch, installed=False) for watch in watches]]
    if not schema["usable"]:
        return [
            problem("schema", f"our role may not use the schema {SCHEMA}: run cdc-pusher migrate as an administrator, see docs/roles.md")
        ]
    return [*await _schema(conn), *[await _watch(conn, watch, installed=True) for watch in watches], *await _leftovers(conn, watches)]


async def _schema(conn: Connection) -> list[Finding]:
    try:
        await revision.require_current(conn)
    except ConfigurationError as error:
        return [problem("schema", str(error))]
    tables = [(table, right) for table, rights in roles.RIGHTS.items() for right in rights]
    async with conn.transaction():
        asked = {"tables": [table for table, _ in tables], "rights": [right for _, right in tables]}
        lacking = await (await conn.execute(_sql.lacking, asked)).fetchall()
    if lacking:
        wanted = [f"{row['right_needed']} on {SCHEMA}.{row['object']}" for row in lacking]
        said = "our role lacks rights that the daemon needs: run cdc-pusher migrate as an administrator, see docs/roles.md"
        return [problem("schema", said, count=len(wanted), examples=wanted)]
    return [ok("schema", f"{SCHEMA} is at revision {revision.head()}, with all rights that the daemon needs")]


async def _watch(conn: Connection, watch: Watch, *, installed: bool) -> Finding:
    subject = f"watch {watch.table}"
    try:
        await triggers.try_out(conn, watch)
        drift = await triggers.drift(conn, watch) if installed else None
    except MappingError as error:
        return problem(subject, str(error))
    except psycopg.errors.InsufficientPrivilege as error:
        return problem(subject, f"{one_line(error)}: see docs/roles.md")
    if drift:
        return problem(subject, f"{drift}: run cdc-pusher migrate")
    return ok(subject, "the trigger is attached as configured" if installed else "a trigger can be attached")


async def _leftovers(conn: Connection, watches: tuple[Watch, ...]) -> list[Finding]:
    todo = "each write there has all stations gone through: run cdc-pusher migrate as the table's owner"
    return [problem("watches", f"{left}; {todo}") for left in await triggers.leftovers(conn, watches)]
