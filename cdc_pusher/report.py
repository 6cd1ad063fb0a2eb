"""What operators ask for on the command line: reads our tables, writes nothing."""

from collections.abc import Sequence
from typing import Any

from cdc_pusher.database import Connection
from cdc_pusher.sql import queries

_sql = queries("report")

Row = dict[str, Any]


async def _rows(conn: Connection, query: bytes, **parameters: object) -> list[Row]:
    return await (await conn.execute(query, parameters)).fetchall()


async def status(conn: Connection, emp: str | None = None) -> Row:
    """`emps`: progress, counts and lag (`lag_s` in seconds) for each; `changes`: what waits to be captured; `problems` by reason."""
    emps = [row for row in await _rows(conn, _sql.progress) if emp in (None, row["emp"])]
    return {"emps": emps, "changes": (await _rows(conn, _sql.change_log))[0], "problems": await _rows(conn, _sql.reasons, emp=emp)}


async def entries(conn: Connection, *, emp: str | None, states: Sequence[str] | None, limit: int) -> list[Row]:
    """Rows of the outbox, what needs people first."""
    return await _rows(conn, _sql.entries, emp=emp, states=list(states) if states else None, limit=limit)


async def entity(conn: Connection, key: str, emp: str | None) -> Row:
    """`rows`: all about one station or EVSE; `attempts`: its last requests."""
    return {"rows": await _rows(conn, _sql.entity, key=key, emp=emp), "attempts": await _rows(conn, _sql.attempts, key=key, emp=emp)}


async def remaining(conn: Connection, emps: Sequence[str]) -> Row:
    """What a resync still has to do: `walks` under way with `walked` stations, `changes` to capture, `messages` to send."""
    return (await _rows(conn, _sql.remaining, emps=list(emps)))[0]
