"""What operators ask for on the command line: reads our tables, writes nothing."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from cdc_pusher.database import Connection
from cdc_pusher.model import STATION_COLUMNS, Held, Station
from cdc_pusher.sql import queries

_sql = queries("report")

Row = dict[str, Any]


async def _rows(conn: Connection, query: bytes, **parameters: object) -> list[Row]:
    return await (await conn.execute(query, parameters)).fetchall()


async def status(conn: Connection, emp: str | None = None) -> Row:
    """`emps`: progress, counts and lag (`lag_s` in seconds) for each; `changes`: what waits to be captured; `problems` by reason.

    `daemons`: those that live, and what each does; `unheld`: what nobody does.
    """
    return {
        "emps": [row for row in await _rows(conn, _sql.progress) if emp in (None, row["emp"])],
        "changes": (await _rows(conn, _sql.change_log))[0],
        "problems": await _rows(conn, _sql.reasons, emp=emp),
        "daemons": await daemons(conn),
        "unheld": await unheld(conn),
    }


async def daemons(conn: Connection) -> list[Row]:
    """The daemons that live, and the `leases` of each."""
    return await _rows(conn, _sql.daemons)


async def unheld(conn: Connection) -> list[str]:
    """The leases that nobody has."""
    return [row["name"] for row in await _rows(conn, _sql.unheld)]


async def accepted_since(conn: Connection, since: datetime | None) -> Row:
    """`at`: now; `messages`: by EMP, how many entities it has accepted something of since then (none at all, unless that is given)."""
    return (await _rows(conn, _sql.accepted_since, since=since))[0]


async def backlog(conn: Connection) -> list[Row]:
    """`messages` that are not delivered, by EMP, state and cause."""
    return await _rows(conn, _sql.backlog)


async def served(conn: Connection) -> list[Row]:
    """How each EMP does that a daemon serves."""
    return await _rows(conn, _sql.served)


async def log_depth(conn: Connection) -> Row:
    """`changes` that wait to be captured (counted up to 10,000), `age_s` of the oldest, and how many were ever `missed`."""
    return (await _rows(conn, _sql.log_depth))[0]


async def stations(conn: Connection) -> list[Row]:
    """How many stations the outbox has, by EMP."""
    return await _rows(conn, _sql.stations)


async def entries(conn: Connection, *, emp: str | None, states: Sequence[str] | None, limit: int) -> list[Row]:
    """Rows of the outbox, what needs people first."""
    return await _rows(conn, _sql.entries, emp=emp, states=list(states) if states else None, limit=limit)


async def entity(conn: Connection, key: str, emp: str | None) -> Row:
    """`rows`: all about one station or EVSE; `attempts`: its last requests."""
    return {"rows": await _rows(conn, _sql.entity, key=key, emp=emp), "attempts": await _rows(conn, _sql.attempts, key=key, emp=emp)}


def as_told(reading: Mapping[str, Station | Held], station_ids: Sequence[str]) -> Row:
    """By station id, what the mapping says of it now: its columns as text, why it cannot be read, or that it is gone."""

    def one(found: Station | Held | None) -> Any:
        if found is None:
            return "the mapping does not return it: it is gone"
        if isinstance(found, Held):
            return found.reason
        columns = {name: getattr(found, name) for name in STATION_COLUMNS if getattr(found, name) is not None}
        connectors = [f"{c.evse_id} {c.type} {c.speed_kw} kW {c.status}" for c in found.connectors]
        return {name: str(value) for name, value in columns.items()} | {"connectors": connectors, "not for": sorted(found.not_for)}

    return {station_id: one(reading.get(station_id)) for station_id in station_ids}


async def remaining(conn: Connection, emps: Sequence[str]) -> Row:
    """What a resync still has to do: `walks` under way with `walked` stations, `changes` to capture, `messages` to send."""
    return (await _rows(conn, _sql.remaining, emps=list(emps)))[0]


async def emps(conn: Connection) -> list[Row]:
    """The EMPs that a daemon has ever served: whether one does now, what people and the breaker say, and how many messages are where."""
    return await _rows(conn, _sql.emps)


async def resync_size(conn: Connection, emps: Sequence[str], stations: Sequence[str] | None) -> Row:
    """What a resync would look at: `stations` and `statuses` (messages), and how many are `undelivered`."""
    return (await _rows(conn, _sql.resync_size, emps=list(emps), stations=None if stations is None else list(stations)))[0]
