"""Full load, resync and sweep: walks that put every station into the change log, page by page. Not another path to the EMP.

The cursor of a walk stands in `cdc_pusher.emp` and moves in the transaction that puts the page into the log, so a walk goes on where it was
after any crash. `page` is called when the log is empty, or now and then when it is not: live changes go first and the log stays short.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from cdc_pusher import outbox
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection
from cdc_pusher.errors import ConfigurationError
from cdc_pusher.reconcile import Resend
from cdc_pusher.source import Source
from cdc_pusher.sql import queries

_sql = queries("enqueue")

ANALYZE_EVERY = 5000  # stations of a walk
PRIORITY = {"full load": 10, "resync": 10, "sweep": 20}


async def register(conn: Connection, settings: Settings) -> dict[str, str]:
    """Make the EMPs and CPOs of the configuration known. Returns the walks that this began, by EMP."""
    mappings = {name: _fingerprint(settings, name) for name in sorted(settings.emp)}
    cpos = [(name, cpo, cpo_id) for name, emp in sorted(settings.emp.items()) for cpo, cpo_id in sorted(emp.cpos.items())]
    async with conn.transaction():
        await outbox.lock_emps(conn, mappings)
        await conn.execute(_sql.unregister, {"names": list(mappings)})
        begun = await conn.execute(_sql.register, {"names": list(mappings), "mappings": list(mappings.values())})
        await conn.execute(_sql.drop_changes)
        walks = {row["name"]: row["walk"] for row in await begun.fetchall()}
        columns = {"emps": [c[0] for c in cpos], "cpos": [c[1] for c in cpos], "cpo_ids": [c[2] for c in cpos]}
        await conn.execute(_sql.register_cpos, columns)
    return walks


def _fingerprint(settings: Settings, emp: str) -> str:
    """Of all configuration that decides what the EMP should have."""
    of_emp = settings.emp[emp].model_dump(mode="json", include={"protocol", "cpos", "connectors_changed"})
    text = json.dumps([settings.source.model_dump(mode="json"), of_emp], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def page(conn: Connection, source: Source, emps: Sequence[str], limit: int) -> int | None:
    """Put the next page of one walk into the change log. Returns the number of stations, None when no walk is under way."""
    walk = await (await conn.execute(_sql.next_walk, {"emps": list(emps)})).fetchone()
    if walk is None:
        return None
    emp, phase, cursor = walk["name"], walk["walk_phase"], walk["walk_cursor"]
    if phase == "source":
        stations = seen = await source.page(cursor, limit)
    else:
        rows = await (await conn.execute(_sql.outbox_page, {"emp": emp, "after": cursor or "", "limit": limit})).fetchall()
        seen = [row["key"] for row in rows]
        stations = await source.missing(seen) if seen else []
    end_of_phase = "outbox" if phase == "source" else None
    progress = {
        "emp": emp,
        "walk": walk["walk"],
        "was_phase": phase,
        "was_cursor": cursor,
        "resend": walk["walk_resend"],
        "cursor": seen[-1] if seen else None,
        "phase": phase if seen else end_of_phase,
        "stations": len(stations),
    }
    async with conn.transaction():
        moved = await (await conn.execute(_sql.advance, progress)).fetchone()
        if moved and stations:
            await outbox.record_changes(conn, stations, emp=emp, priority=PRIORITY[walk["walk"]], resend=walk["walk_resend"])
    if moved and moved["walk_stations"] % ANALYZE_EVERY < len(stations):
        # The first plans of a full load are made for empty tables; autovacuum comes too late for them.
        await conn.execute("ANALYZE cdc_pusher.outbox, cdc_pusher.evse")
    return len(stations)


async def answer_for_missed(conn: Connection, emps: Sequence[str]) -> int | None:
    """Order a sweep if the trigger could not record changes, and another when all that was missed is surely committed.

    Returns the count of misses so far, None when there is none to answer for.
    """
    async with conn.transaction():
        await outbox.lock_capture(conn)
        noted = await (await conn.execute(_sql.note_missed)).fetchone()
        settled = await (await conn.execute(_sql.settle_missed)).fetchone()
        found = noted or settled
        if found is None:
            return None
        await outbox.lock_emps(conn, emps)
        await outbox.order_sweep(conn, emps)
    return int(found["missed"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outstanding:
    """What there is to do; `due` names the EMPs with due messages or expired claims."""

    changes: bool
    walks: bool
    missed: bool
    due: list[str]


async def pulse(conn: Connection, emps: Sequence[str]) -> Outstanding:
    """Look at everything that can be outstanding, with one query."""
    row = await (await conn.execute(_sql.pulse, {"emps": list(emps)})).fetchone()
    assert row is not None
    return Outstanding(**row)


async def say_asleep(conn: Connection, asleep: bool) -> None:
    """Tell the triggers whether a NOTIFY is wanted."""
    await conn.execute(_sql.sleep, {"value": 2 if asleep else 1})


async def maintain_attempts(conn: Connection, retention_days: int) -> None:
    """Create the audit trail's partitions ahead of time and drop those that are older than `retention_days`."""
    await conn.execute(_sql.ensure_partitions, {"retention_days": retention_days})


async def resync(conn: Connection, emps: Sequence[str], stations: Sequence[str], resend: Resend) -> int:
    """Have stations looked at again for these EMPs: those named, or every one. Returns the number of rows put into the change log.

    Raises `ConfigurationError` for an EMP that no daemon has served yet.
    """
    async with conn.transaction():
        known = {row["name"] async for row in await conn.execute("SELECT name FROM cdc_pusher.emp WHERE name = ANY (%s)", [list(emps)])}
        if unknown := sorted(set(emps) - known):
            raise ConfigurationError(f"no daemon has served {', '.join(unknown)} yet; its full load begins with cdc-pusher run")
        await outbox.lock_emps(conn, emps)
        if not stations:
            await outbox.order_walk(conn, emps, "resync", resend)
            return 0
        for emp in emps:
            await outbox.record_changes(conn, stations, emp=emp, priority=0, resend=resend)
    return len(stations) * len(emps)
