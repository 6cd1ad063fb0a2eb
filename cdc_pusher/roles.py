"""Two roles with the least rights: an owner of the schema `cdc_pusher` and of the triggers' functions, and a runtime role for the daemon.

The owner cannot log in and has no right on the CPO's tables: the triggers only write to our change log. The runtime role may read what the
mapping reads, and work in our schema; it owns nothing. What is granted on the CPO's own things is noted in `cdc_pusher.granted`, so that
`revoke` takes back just that. Runs as an administrator; never sets a password.
"""

from collections.abc import Iterable, Sequence

import psycopg
from psycopg import sql

from cdc_pusher.config import SourceSettings, Watch
from cdc_pusher.database import Connection, one_line
from cdc_pusher.errors import CdcPusherError, MappingError
from cdc_pusher.mapping import subquery
from cdc_pusher.sql import queries

_sql = queries("roles")

CREATED = "created by cdc-pusher migrate"  # the comment that tells our roles from those that were there before

RIGHTS = {
    "alembic_version": ("SELECT",),
    "attempt": ("SELECT", "INSERT"),
    "capture": ("SELECT", "UPDATE"),
    "change": ("SELECT", "INSERT", "DELETE"),
    "cpo": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    **dict.fromkeys(("daemon", "emp", "lease"), ("SELECT", "INSERT", "UPDATE", "DELETE")),
    "evse": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "minute": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "outbox": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    **dict.fromkeys(("delivery_lag", "emp_progress", "outbox_problems", "station_state"), ("SELECT",)),
}
"""What the daemon and the commands of operators need of our tables and views."""

_OTHER_RIGHTS = """
GRANT USAGE ON SCHEMA cdc_pusher TO {role};
GRANT SELECT, UPDATE ON SEQUENCE cdc_pusher.asleep TO {role};
GRANT SELECT ON SEQUENCE cdc_pusher.missed TO {role};
GRANT EXECUTE ON FUNCTION cdc_pusher.maintain_attempts(integer), cdc_pusher.refresh_statistics() TO {role}
"""

_NO_RIGHTS = """
REVOKE ALL ON ALL TABLES IN SCHEMA cdc_pusher FROM {role};
REVOKE ALL ON ALL SEQUENCES IN SCHEMA cdc_pusher FROM {role};
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA cdc_pusher FROM {role};
REVOKE ALL ON SCHEMA cdc_pusher FROM {role}
"""


async def create(conn: Connection, owner: str, runtime: str) -> list[str]:
    """Create the roles that are not there yet. Returns in words what was done. Raises `CdcPusherError`."""
    done = []
    for role, login in ((owner, False), (runtime, True)):
        name = sql.Identifier(role)
        try:
            if not await _exists(conn, role):
                await conn.execute(sql.SQL("CREATE ROLE {} {}").format(name, sql.SQL("LOGIN" if login else "NOLOGIN")))
                await conn.execute(sql.SQL("COMMENT ON ROLE {} IS {}").format(name, sql.Literal(CREATED)))
                done.append(f"created role {role}" + (" (give it a password, or let it in by peer authentication)" if login else ""))
            if not login and not await _may_become(conn, role):
                await conn.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(name))
        except psycopg.errors.InsufficientPrivilege as error:
            raise CdcPusherError(f"role {role}: {one_line(error)}; create it by hand, or migrate as an administrator (--dsn)") from error
    return done


async def grant(conn: Connection, runtime: str, source: SourceSettings) -> list[str]:
    """Give the runtime role what it needs, and take back what an earlier mapping needed.

    Returns in words what was done on the CPO's things.
    Raises `MappingError`, and `CdcPusherError` when we may not grant something.
    """
    role = sql.Identifier(runtime)
    async with conn.transaction():
        for table, rights in RIGHTS.items():
            statement = sql.SQL("GRANT {} ON cdc_pusher.{} TO {}")
            await conn.execute(statement.format(sql.SQL(", ").join(map(sql.SQL, rights)), sql.Identifier(table), role))
        await conn.execute(sql.SQL(_OTHER_RIGHTS).format(role=role))
        needed = {(row["kind"], row["object"]) for row in await _needed(conn, source)}
        wanting = await (await conn.execute(_sql.wanting, _columns(runtime, needed))).fetchall()
        for row in wanting:
            await _give(conn, runtime, row["kind"], row["object"])
        taken = await _take(conn, runtime, [one for one in await _granted(conn, runtime) if one not in needed])
        for other in await _grantees(conn):
            if other != runtime:
                taken += await _take(conn, other, await _granted(conn, other))
                await conn.execute(sql.SQL(_NO_RIGHTS).format(role=sql.Identifier(other)))
    return [*(f"granted {_right(row['kind'])} on {row['object']} to {runtime}" for row in wanting), *taken]


async def revoke(conn: Connection) -> list[str]:
    """Take back all that was granted on the CPO's things. Returns in words what was done."""
    async with conn.transaction():
        return [line for role in await _grantees(conn) for line in await _take(conn, role, await _granted(conn, role))]


async def created(conn: Connection) -> list[str]:
    """The roles that `create` made for this database, as far as the database knows."""
    return [row["role"] for row in await (await conn.execute(_sql.created, {"comment": CREATED})).fetchall()]


async def drop(conn: Connection, roles: Iterable[str]) -> list[str]:
    """Drop those of these roles that `create` made, unless they are used elsewhere. Returns in words what was done."""
    done = []
    for role in roles:
        row = await (await conn.execute(_sql.role, {"role": role})).fetchone()
        if row is None or row["comment"] != CREATED:
            continue
        try:
            await conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
            done.append(f"dropped role {role}")
        except psycopg.errors.DependentObjectsStillExist:
            done.append(f"role {role} stays: something else belongs to it, or gives it rights")
    return done


async def _exists(conn: Connection, role: str) -> bool:
    return await (await conn.execute(_sql.role, {"role": role})).fetchone() is not None


async def _may_become(conn: Connection, role: str) -> bool:
    row = await (await conn.execute("SELECT pg_has_role(%s, 'USAGE') AS member", [role])).fetchone()
    return row is not None and row["member"]


async def _needed(conn: Connection, source: SourceSettings) -> Sequence[dict[str, str]]:
    """What the mapping reads: Postgres itself tells, of views made for the purpose and never committed."""
    reads = [subquery(source.stations), subquery(source.connectors)]
    reads += [await _sub_select(conn, watch) for watch in source.watch if watch.is_deferred]
    try:
        async with conn.transaction(force_rollback=True):
            for number, read in enumerate(reads):
                name = sql.Identifier("cdc_pusher", f"reads_{number}")
                await conn.execute(sql.SQL("CREATE VIEW {} AS SELECT 1 AS one FROM {} AS s").format(name, read), {})
            views = [f"cdc_pusher.reads_{number}" for number in range(len(reads))]
            watched = [watch.table for watch in source.watch]
            return await (await conn.execute(_sql.needed, {"views": views, "watched": watched})).fetchall()
    except psycopg.ProgrammingError as error:
        raise MappingError(f"source: {one_line(error)}") from error


async def _sub_select(conn: Connection, watch: Watch) -> sql.Composed:
    """The sub-select of a watch over a row that only looks like one of its table: the table itself is not read."""
    row = await (await conn.execute(_sql.row_like, {"table": watch.table})).fetchone()
    assert row is not None
    station = sql.SQL(watch.query.replace("%", "%%"))  # the operator's SQL
    return sql.SQL("(SELECT 1 FROM (SELECT {}) AS {} CROSS JOIN LATERAL ({}) AS a)").format(
        sql.SQL(row["columns"].replace("%", "%%")),
        sql.Identifier(watch.alias.replace("%", "%%")),
        station,  # quoted by the database
    )


async def _granted(conn: Connection, role: str) -> list[tuple[str, str]]:
    return [(row["kind"], row["object"]) for row in await (await conn.execute(_sql.granted, {"role": role})).fetchall()]


async def _give(conn: Connection, role: str, kind: str, thing: str) -> None:
    statement = sql.SQL("GRANT {} ON {} {} TO {}").format(sql.SQL(_right(kind)), sql.SQL(kind), sql.SQL(thing), sql.Identifier(role))
    try:
        await conn.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        raise CdcPusherError(f"{one_line(error)}; its owner has to run: {statement.as_string(conn)}") from error
    # Without the grant option there is only a warning.
    if await (await conn.execute(_sql.wanting, _columns(role, [(kind, thing)]))).fetchone():
        raise CdcPusherError(f"{thing}: no right to grant on it; its owner has to run: {statement.as_string(conn)}")
    await conn.execute(_sql.note_granted, {"role": role, "kind": kind, "object": thing})


async def _take(conn: Connection, role: str, things: Iterable[tuple[str, str]]) -> list[str]:
    """Take back rights on the CPO's things, leaving those on single columns, which a REVOKE on the table takes along."""
    done = []
    for kind, thing in things:
        noted = {"role": role, "kind": kind, "object": thing}
        held = await (await conn.execute(_sql.held_by, noted)).fetchone()
        if held is not None:
            revoking = sql.SQL("REVOKE {} ON {} {} FROM {}")
            name, to = sql.SQL(held["object"]), sql.Identifier(role)  # quoted by the database
            await conn.execute(revoking.format(sql.SQL(_right(kind)), sql.SQL(kind), name, to))
            if held["columns"]:
                columns = sql.SQL(", ").join(map(sql.Identifier, held["columns"]))
                await conn.execute(sql.SQL("GRANT SELECT ({}) ON TABLE {} TO {}").format(columns, name, to))
            left = await (await conn.execute(_sql.held_by, noted)).fetchone()
            stays = left is not None and left["granted"]
            verb = f"{role} keeps {_right(kind)} on {held['object']}, by another grant" if stays else ""
            done.append(verb or f"revoked {_right(kind)} on {held['object']} from {role}")
        await conn.execute(_sql.forget_granted, noted)
    return done


async def _grantees(conn: Connection) -> list[str]:
    return [row["role"] for row in await (await conn.execute(_sql.grantees)).fetchall()]


def _right(kind: str) -> str:
    return "SELECT" if kind == "TABLE" else "USAGE"


def _columns(role: str, things: Iterable[tuple[str, str]]) -> dict[str, object]:
    found = sorted(things)
    return {"role": role, "kinds": [kind for kind, _ in found], "objects": [thing for _, thing in found]}
