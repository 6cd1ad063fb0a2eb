"""Takes cdc-pusher out of a database: the triggers, the rights that were granted, the schema `cdc_pusher`, the roles that were created.

The CPO's tables are left as they were before. Nothing is dropped with CASCADE: what somebody has built on our schema stops us, by name.
Every step can be repeated, so an uninstall that was interrupted is finished by another. What the EMPs have is left alone.
"""

import asyncio
from collections.abc import Sequence

from cdc_pusher import migrate, roles, triggers
from cdc_pusher.config import DatabaseSettings
from cdc_pusher.database import Connection, connect
from cdc_pusher.errors import CdcPusherError
from cdc_pusher.names import SCHEMA
from cdc_pusher.sql import queries

_sql = queries("uninstall")


async def run(dsn: str, database: DatabaseSettings) -> list[str]:
    """Remove everything. Returns in words what was done; `database` says which roles there may be.

    Raises `CdcPusherError`: a daemon is still connected, a lock was not to be had, something else depends on our schema.
    """
    async with await connect(dsn, "uninstall") as conn:
        if not await _is_there(conn):
            return [f"the database has no schema {SCHEMA}", *await roles.drop(conn, _roles(database))]
        await _require_no_daemon(conn)
        await asyncio.to_thread(migrate.remove, dsn, rehearse=True)
        done, ours = [], list(_roles(database))
        for table, name in await triggers.attached(conn):
            await triggers.detach(conn, table, name)
            done.append(f"detached from {table}")
        await conn.execute(_sql.drop_leftover_functions)
        if await _has_grants(conn):
            ours += [role for role in await roles.created(conn) if role not in ours]
            done += await roles.revoke(conn)
    await asyncio.to_thread(migrate.remove, dsn)
    done.append(f"dropped schema {SCHEMA}")
    async with await connect(dsn, "uninstall") as conn:
        return [*done, *await roles.drop(conn, ours)]


def _roles(database: DatabaseSettings) -> Sequence[str]:
    return [role for role in (database.runtime_role, database.owner_role) if role]


async def _is_there(conn: Connection) -> bool:
    row = await (await conn.execute(_sql.schema)).fetchone()
    return row is not None


async def _has_grants(conn: Connection) -> bool:
    row = await (await conn.execute(_sql.has_grants)).fetchone()
    return row is not None and row["has_grants"]


async def _require_no_daemon(conn: Connection) -> None:
    found = await (await conn.execute(_sql.daemons)).fetchall()
    if found:
        where = ", ".join(f"process {row['pid']} from {row['client']}" for row in found[:5])
        raise CdcPusherError(f"a daemon is still connected ({where}): stop it first")
