"""Change log → outbox: consume changes, read those stations as they are now, and write what each EMP should have.

One transaction a batch. The lock on `cdc_pusher.capture` makes it the only one: the source is read after the changes were consumed and
before anybody else can read it for the same station, so an older reading never overwrites a newer one. The source is read on another
connection, so what fails in the operator's SQL rolls nothing of ours back but the batch. Never sends anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from cdc_pusher import outbox, plan
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection
from cdc_pusher.outbox import Change
from cdc_pusher.plan import Receiver
from cdc_pusher.reconcile import Occasion
from cdc_pusher.source import Source

log = structlog.get_logger(__name__)

STATION_ID_LIMIT = 500  # characters; an index entry of Postgres holds 2,700 bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What one batch did: changes consumed, and the EMPs that have something to send or to wait for now."""

    changes: int
    emps: frozenset[str]


def receivers(settings: Settings) -> dict[str, Receiver]:
    """The EMPs of the configuration, as planning needs them."""
    return {
        name: Receiver(name=name, connectors_changed=emp.connectors_changed, cpos=emp.cpos) for name, emp in sorted(settings.emp.items())
    }


async def batch(conn: Connection, source: Source, emps: Mapping[str, Receiver], limit: int) -> Captured:
    """Capture at most `limit` changes. Raises `MappingError`, and then nothing was consumed."""
    async with conn.transaction():
        _, now = await outbox.lock_capture(conn)
        changes = await outbox.consume(conn, list(emps), limit)
        if any(change.station_id is None for change in changes):
            await outbox.lock_emps(conn, emps)
            await outbox.order_sweep(conn, emps)
        concerned = outbox.concerned((c for c in changes if c.station_id is not None and _storable(c.station_id)), list(emps))
        occasions = {emp: _occasions(found, now) for emp, found in concerned.items() if found}
        written = await _bring_up_to_date(conn, source, emps, occasions)
    return Captured(changes=len(changes), emps=frozenset(written))


async def _bring_up_to_date(
    conn: Connection, source: Source, emps: Mapping[str, Receiver], occasions: Mapping[str, Mapping[str, Occasion]]
) -> Sequence[str]:
    if not occasions:
        return ()
    names = sorted(occasions)
    stations = sorted({station_id for found in occasions.values() for station_id in found})
    reading = await source.read(stations)
    listed = sorted({evse_id for found in reading.values() for evse_id in plan.listed_evses(found)})
    await outbox.lock_emps(conn, names)
    evses = await outbox.evses(conn, names, stations, listed)
    known = sorted({*listed, *(e.evse_id for found in evses.values() for e in found)})
    entries = await outbox.entries(conn, names, stations, known)
    plans = [plan.make(emps[name], occasions[name], reading, entries[name], evses[name]) for name in names]
    await outbox.write(conn, plans)
    return [p.emp for p in plans if p.insert or p.update]


def _storable(station_id: str) -> bool:
    if len(station_id) <= STATION_ID_LIMIT:
        return True
    log.error("a station is left out: its id is too long", station_id=station_id[:STATION_ID_LIMIT], length=len(station_id))
    return False


def _occasions(changes: Iterable[Change], now: datetime) -> dict[str, Occasion]:
    """By station, the most urgent reason to look at it; what is to be sent again is not lost when changes meet."""
    strength = (None, "undelivered", "statuses", "everything")
    found: dict[str, Occasion] = {}
    for change in changes:
        assert change.station_id is not None
        new = Occasion(now=now, changed_at=min(change.changed_at, now), priority=change.priority, resend=change.resend)
        if (old := found.get(change.station_id)) is not None:
            new = replace(
                new,
                changed_at=min(old.changed_at, new.changed_at),
                priority=min(old.priority, new.priority),
                resend=max(old.resend, new.resend, key=strength.index),
            )
        found[change.station_id] = new
    return found
