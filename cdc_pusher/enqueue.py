"""Full load, resync and sweep: walks that put every station into the change log, page by page. Not another path to the EMP.

The cursor of a walk stands in `cdc_pusher.emp` and moves in the transaction that puts the page into the log, so a walk goes on where it was
after any crash. `page` is called when nothing of the page before is left in the log: live changes go first and the log stays short.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from cdc_pusher import outbox
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection
from cdc_pusher.errors import ConfigurationError
from cdc_pusher.names import LANE_CHANNEL
from cdc_pusher.reconcile import LIVE, SWEEP, WALK, Resend
from cdc_pusher.source import Source
from cdc_pusher.sql import queries

_sql = queries("enqueue")

ANALYZE_FROM = 256  # stations of a walk; and again whenever they have doubled
PRIORITY = {"full load": WALK, "resync": WALK, "sweep": SWEEP}
SLOWEST_SWEEP = 10.0  # stations a second; a small operator's sweep need not take the whole interval


async def register(conn: Connection, settings: Settings, epoch: int | None = None) -> dict[str, str]:
    """Make the EMPs and CPOs of the configuration known. Returns the walks that this began, by EMP. Raises `LeaseLost`."""
    mappings = {name: _fingerprint(settings, name) for name in sorted(settings.emp)}
    cpos = [(name, cpo, cpo_id) for name, emp in sorted(settings.emp.items()) for cpo, cpo_id in sorted(emp.cpos.items())]
    async with conn.transaction():
        await outbox.lock_capture(conn, epoch)
        await outbox.lock_emps(conn, None)
        await conn.execute(_sql.unregister, {"names": list(mappings)})
        begun = await conn.execute(_sql.register, {"names": list(mappings), "mappings": list(mappings.values())})
        await conn.execute(_sql.drop_changes)
        walks = {row["name"]: row["walk"] for row in await begun.fetchall()}
        columns = {"names": list(mappings), "emps": [c[0] for c in cpos], "cpos": [c[1] for c in cpos], "cpo_ids": [c[2] for c in cpos]}
        automatic = [settings.emp[c[0]].confirm_cpos == "automatic" for c in cpos]
        await conn.execute(_sql.unregister_cpos, columns)
        await conn.execute(_sql.register_cpos, {**columns, "automatic": automatic})
    return walks


def _fingerprint(settings: Settings, emp: str) -> str:
    """Of all configuration that decides what the EMP should have."""
    of_emp = settings.emp[emp].model_dump(mode="json", include={"protocol", "cpos", "confirm_cpos", "connectors_changed", "only"})
    text = json.dumps([settings.source.model_dump(mode="json"), of_emp], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def page(conn: Connection, source: Source, emps: Sequence[str], limit: int) -> int | None:
    """Put the next page of one walk into the change log. Returns the number of stations, None when no walk is due.

    EMPs whose walks stand at the same place go on together: a station is read once for all of them.
    """
    walk = await (await conn.execute(_sql.next_walk, {"emps": list(emps)})).fetchone()
    if walk is None:
        return None
    together, phase, cursor = walk["emps"], walk["walk_phase"], walk["walk_cursor"]
    if phase == "source":
        stations = seen = await source.page(cursor, limit)
    else:
        rows = await (await conn.execute(_sql.outbox_page, {"emps": together, "after": cursor or "", "limit": limit})).fetchall()
        seen = [row["key"] for row in rows]
        stations = await source.missing(seen) if seen else []
    end_of_phase = "outbox" if phase == "source" else None
    progress = {
        "emps": together,
        "numbers": walk["numbers"],
        "was_phase": phase,
        "was_cursor": cursor,
        "cursor": seen[-1] if seen else None,
        "phase": phase if seen else end_of_phase,
        "seen": len(seen),
        "stations": len(stations),
    }
    async with conn.transaction():
        await outbox.lock_emps(conn, together)
        moved = await (await conn.execute(_sql.advance, progress)).fetchall()
        if moved and stations:
            names = [row["name"] for row in moved]
            await outbox.record_changes(conn, stations, names, priority=PRIORITY[walk["walk"]], resend=walk["walk_resend"])
    if any(_has_doubled(row["walk_stations"], len(stations)) for row in moved):
        await conn.execute(_sql.refresh_statistics)
    return len(stations)


def _has_doubled(stations: int, of_them_now: int) -> bool:
    """Whether a walk has come to so many more stations that what the planner believes is wrong.

    >>> [_has_doubled(total, 200) for total in (200, 400, 600, 800, 1000, 1200)]
    [False, True, True, False, False, True]
    """
    return stations >= ANALYZE_FROM and stations.bit_length() > max(stations - of_them_now, ANALYZE_FROM - 1).bit_length()


async def order_sweep(conn: Connection, emps: Sequence[str], *, interval_s: float, fastest: float) -> list[str]:
    """Begin the periodic sweep of the EMPs whose turn it is. Returns their names.

    `interval_s`: seconds from the beginning of one to that of the next; `fastest`: stations a second.
    """
    limits = {"interval_s": interval_s, "fastest": fastest, "slowest": min(SLOWEST_SWEEP, fastest)}
    async with conn.transaction():
        await outbox.lock_emps(conn, emps)
        return [row["name"] for row in await (await conn.execute(_sql.order_sweep, {"emps": list(emps), **limits})).fetchall()]


async def answer_for_missed(conn: Connection) -> int | None:
    """Order a sweep if the trigger could not record changes, and another when all that was missed is surely committed.

    It is for the EMPs of all daemons: each miss is noticed by one of them. Returns the count of misses so far, None when there is none.
    """
    async with conn.transaction():
        await outbox.lock_capture(conn)
        noted = await (await conn.execute(_sql.note_missed)).fetchone()
        settled = await (await conn.execute(_sql.settle_missed)).fetchone()
        found = noted or settled
        if found is None:
            return None
        emps = [row["name"] async for row in await conn.execute(_sql.served)]
        await outbox.lock_emps(conn, emps)
        await outbox.order_walk_after(conn, emps, "sweep")
    return int(found["missed"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outstanding:
    """What there is to do; `due` names the EMPs with due messages or expired claims."""

    read_only: bool
    changes: bool
    walks: bool
    missed: bool
    due: list[str]


async def pulse(conn: Connection, emps: Sequence[str]) -> Outstanding:
    """Look at everything that can be outstanding, with one query. Raises psycopg errors: ReadOnlySqlTransaction, too, on a standby."""
    row = await (await conn.execute(_sql.pulse, {"emps": list(emps)})).fetchone()
    assert row is not None
    found = Outstanding(**row)
    if found.read_only:
        raise psycopg.errors.ReadOnlySqlTransaction("the server takes no writes any more")
    return found


async def say_asleep(conn: Connection, asleep: bool) -> None:
    """Tell the triggers whether a NOTIFY is wanted."""
    await conn.execute(_sql.sleep, {"value": 2 if asleep else 1})


async def wake_elsewhere(conn: Connection, emps: Sequence[str]) -> None:
    """Wake the lanes of these EMPs, which other daemons serve."""
    await conn.execute(_sql.wake_elsewhere, {"channel": LANE_CHANNEL, "emps": list(emps)})


async def maintain_attempts(conn: Connection, retention_days: int) -> None:
    """Create the audit trail's partitions ahead of time and drop those that are older than `retention_days`."""
    await conn.execute(_sql.ensure_partitions, {"retention_days": retention_days})


async def confirm_cpos(conn: Connection, settings: Settings, emp: str, cpos: Sequence[str]) -> list[str]:
    """Note that the EMP has been told of these CPOs of its configuration, and have their stations looked at again.

    Returns those that were not confirmed before.
    """
    columns = {"emps": [emp] * len(cpos), "cpos": list(cpos), "cpo_ids": [settings.emp[emp].cpos[cpo] for cpo in cpos]}
    async with conn.transaction():
        await outbox.lock_emps(conn, [emp])
        await conn.execute(_sql.register_cpos, {**columns, "automatic": [False] * len(cpos)})
        confirmed = [row["cpo"] for row in await (await conn.execute(_sql.confirm_cpos, {"emp": emp, "cpos": list(cpos)})).fetchall()]
        if confirmed:
            await outbox.order_walk_after(conn, [emp], "resync")
    return confirmed


async def resync(conn: Connection, emps: Sequence[str], stations: Sequence[str] | None, resend: Resend) -> int:
    """Have stations looked at again for these EMPs: those named, or every one (None). Returns the number of rows put into the change log.

    Raises `ConfigurationError` for an EMP that no daemon has served yet.
    """
    async with conn.transaction():
        known = {row["name"] async for row in await conn.execute("SELECT name FROM cdc_pusher.emp WHERE name = ANY (%s)", [list(emps)])}
        if unknown := sorted(set(emps) - known):
            raise ConfigurationError(f"no daemon has served {', '.join(unknown)} yet; its full load begins with cdc-pusher run")
        await outbox.lock_emps(conn, emps)
        if stations is None:
            await outbox.order_walk(conn, emps, resend)
            return 0
        await outbox.record_changes(conn, stations, emps, priority=LIVE, resend=resend)
    return len(stations) * len(emps)


async def retry(conn: Connection, emps: Sequence[str], keys: Sequence[str] | None) -> int:
    """Have messages that were rejected, or are in back-off, tried again now: of these stations and EVSEs, or all. Returns how many."""
    values = {"emps": list(emps), "keys": None if keys is None else list(keys)}
    row = await (await conn.execute(_sql.retry, values)).fetchone()
    return int(row["messages"]) if row else 0


async def pause(conn: Connection, emps: Sequence[str], *, paused: bool) -> list[str]:
    """Send these EMPs nothing until they are resumed, or go on. Returns those that a daemon has served."""
    return [row["name"] async for row in await conn.execute(_sql.pause, {"emps": list(emps), "paused": paused})]


async def forget(conn: Connection, emp: str, *, force: bool = False) -> bool:
    """Delete all that is known of an EMP that no configuration has any more.

    False: there is none, or a daemon still serves it, or (unless `force`) it has stations under ids that `replace` gave.
    """
    async with conn.transaction():
        await outbox.lock_capture(conn)
        await outbox.lock_emps(conn, [emp])
        return await (await conn.execute(_sql.forget, {"emp": emp, "force": force})).fetchone() is not None
