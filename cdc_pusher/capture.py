"""Change log → outbox: consume changes, read those stations as they are now, and write what each EMP should have.

One transaction a batch. The lock on `cdc_pusher.capture` makes it the only one: the source is read after the changes were consumed and
before anybody else can read it for the same station, so an older reading never overwrites a newer one. The source is read on another
connection, so what fails in the operator's SQL rolls nothing of ours back but the batch. Never sends anything.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from functools import reduce

import structlog

from cdc_pusher import logs, outbox, plan
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection, kept_alive
from cdc_pusher.errors import MappingError
from cdc_pusher.horizon import Horizon
from cdc_pusher.model import Held, Station
from cdc_pusher.outbox import Change
from cdc_pusher.plan import Plan, Reading, Receiver
from cdc_pusher.reconcile import LIVE, Occasion
from cdc_pusher.source import Source

log = structlog.get_logger(__name__)

STATION_ID_LIMIT = 500  # characters; an index entry of Postgres holds 2,700 bytes
AFFECTED_LIMIT = 10_000  # stations that one change of a watched row concerns; beyond that, all stations are gone through


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What one batch did: changes consumed, whether some were the CPO's, and whether there are more in the log; the EMPs that have
    something to send or to wait for now; and by EMP what a sweep healed.
    """

    changes: int
    live: bool
    more: bool
    emps: frozenset[str]
    healed: Mapping[str, frozenset[str]]


def receivers(settings: Settings) -> dict[str, Receiver]:
    """The EMPs of the configuration, as planning needs them."""
    return {
        name: Receiver(name=name, connectors_changed=emp.connectors_changed, cpos=emp.cpos) for name, emp in sorted(settings.emp.items())
    }


async def batch(
    conn: Connection,
    source: Source,
    emps: Mapping[str, Receiver],
    limit: int,
    *,
    epoch: int | None = None,
    horizon: Horizon[int] | None = None,
    beside_live: bool = False,
) -> Captured:
    """Capture the `limit` most urgent changes, under the lease of this epoch; `horizon`: where the looks before have ended.

    `beside_live`: live changes have come lately, so `few` of others are taken.

    Raises `MappingError` and `LeaseLost`, and then nothing was consumed.
    """
    async with conn.transaction():
        now = await outbox.lock_capture(conn, epoch)
        looked_for = horizon or outbox.changes_from_the_start()
        changes, more = await outbox.consume(conn, list(emps), limit, looked_for, beside_live=beside_live)
        async with kept_alive(conn):
            unsure = await _find_out_stations(conn, source, emps, [change for change in changes if change.station_id is None])
        concerned = outbox.concerned((c for c in changes if c.station_id is not None and _storable(c.station_id)), list(emps))
        occasions = {emp: _occasions(found, now) for emp, found in concerned.items() if found}
        stations = sorted({station_id for found in occasions.values() for station_id in found})
        async with kept_alive(conn):
            reading = await source.read(stations) if stations else {}
        if spelled := sorted(reading.keys() - set(stations)):
            stations += spelled
            occasions = {emp: _spelled(found, spelled, reading) for emp, found in occasions.items()}
        plans = await _plans(conn, emps, occasions, stations, reading, unsure)
        if unsure:
            await outbox.order_walk_after(conn, unsure, "resync")
        await outbox.write(conn, plans)
        healed = await _healed(conn, plans)
    _tell(plans)
    more |= any(change.station_id is None for change in changes) or any(one.look_again for one in plans)  # put into the log just now
    live = any(change.priority == LIVE and change.emp is None for change in changes)  # what we put into the log ourselves names an EMP
    return Captured(changes=len(changes), live=live, more=more, emps=frozenset(p.emp for p in plans if p.insert or p.update), healed=healed)


def _tell(plans: Iterable[Plan]) -> None:
    for one in plans if logs.is_debug() else ():
        for entry in (*one.insert, *one.update):
            log.debug("captured", emp=one.emp, kind=entry.kind, key=entry.key, gen=entry.desired_gen, state=entry.state)


async def _find_out_stations(conn: Connection, source: Source, emps: Iterable[str], changes: Iterable[Change]) -> Set[str]:
    """Put into the log which stations are concerned by changes that do not say so.

    Returns the EMPs whose stations have all to be gone through, since nobody can say.
    """
    unsure: set[str] = set()
    rows: dict[tuple[str | None, str | None], list[Change]] = defaultdict(list)
    for change in changes:
        rows[change.watch, change.emp].append(change)
    for (watch, emp), found in rows.items():
        stations = await _affected(source, watch, [change.source_row for change in found]) if watch else None
        if stations is None:
            unsure |= set(emps) if emp is None else {emp}
        else:
            await outbox.record_changes(conn, stations, [emp], priority=LIVE, changed_at=min(change.changed_at for change in found))
    return unsure


async def _affected(source: Source, watch: str, rows: Sequence[object]) -> Sequence[str] | None:
    try:
        return await source.affected(watch, rows, AFFECTED_LIMIT)
    except MappingError as error:
        log.error("a watch cannot say which stations are concerned; all are gone through", watch=watch, error=str(error))
        return None


async def _plans(
    conn: Connection,
    emps: Mapping[str, Receiver],
    occasions: Mapping[str, Mapping[str, Occasion]],
    stations: Sequence[str],
    reading: Reading,
    others: Set[str],
) -> Sequence[Plan]:
    """What to write for each EMP, now that the stations were read. Takes our turn at the outbox of these EMPs, and of the others."""
    if not occasions and not others:
        return ()
    listed = sorted({evse_id for found in reading.values() for evse_id in plan.listed_evses(found)})
    cpos = sorted({cpo for found in reading.values() for cpo in plan.listed_cpos(found)})
    standing = await outbox.standing(conn, occasions.keys() | others, stations, listed, cpos)
    return [
        plan.make(emps[name], occasions[name], _for_emp(reading, name), known.entries, known.evses, known.cpos)
        for name, known in sorted(standing.items())
        if name in occasions
    ]


def _for_emp(reading: Reading, emp: str) -> Reading:
    """What an EMP is to know of: for it, a station that is not meant for it is not there."""
    found: dict[str, Station | Held] = {}
    for station_id, one in reading.items():
        if isinstance(one, Held):
            found[station_id] = one
        elif emp in one.unclear_for:
            found[station_id] = Held(reason=f"only: {one.unclear_for[emp]}", faults=("only: the condition fails",))
        elif emp not in one.not_for:
            found[station_id] = one
    return found


async def _healed(conn: Connection, plans: Iterable[Plan]) -> Mapping[str, frozenset[str]]:
    """By EMP, the stations that a sweep found changed. Not those whose change was made just now and is in the log by the time we look."""
    suspects = {p.emp: p.healed for p in plans if p.healed}
    if not suspects:
        return {}
    told = await outbox.told_of(conn, sorted(set[str]().union(*suspects.values())))
    healed = {emp: frozenset(stations - told) for emp, stations in suspects.items() if stations - told}
    return {emp: stations for emp, stations in healed.items() if await outbox.note_healed(conn, emp, len(stations))}


def _storable(station_id: str) -> bool:
    if len(station_id) <= STATION_ID_LIMIT:
        return True
    log.error("a station is left out: its id is too long", station_id=station_id[:STATION_ID_LIMIT], length=len(station_id))
    return False


def _spelled(occasions: Mapping[str, Occasion], spelled: Iterable[str], reading: Reading) -> dict[str, Occasion]:
    """The occasions, and those of stations that were named by another spelling of their id (007, a number): one that was not found."""
    misspelled = [occasion for station_id, occasion in occasions.items() if station_id not in reading]
    return {**occasions, **dict.fromkeys(spelled, reduce(_merged, misspelled))} if misspelled else dict(occasions)


def _occasions(changes: Iterable[Change], now: datetime) -> dict[str, Occasion]:
    """By station, the most urgent reason to look at it; what is to be sent again is not lost when changes meet."""
    found: dict[str, Occasion] = {}
    for change in changes:
        assert change.station_id is not None
        new = Occasion(now=now, changed_at=min(change.changed_at, now), priority=change.priority, resend=change.resend)
        old = found.get(change.station_id)
        found[change.station_id] = new if old is None else _merged(old, new)
    return found


def _merged(one: Occasion, other: Occasion) -> Occasion:
    strength = (None, "undelivered", "statuses", "everything")
    return one._replace(
        changed_at=min(one.changed_at, other.changed_at),
        priority=min(one.priority, other.priority),
        resend=max(one.resend, other.resend, key=strength.index),
    )
