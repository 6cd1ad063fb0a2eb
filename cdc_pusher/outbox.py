"""SQL of capture on our own tables: the change log is consumed, the outbox looked up and written (`claims` has what the lanes do with it).

Functions take a connection inside a transaction that the caller opened, never commit and never do HTTP; the queries stand in `sql/*.sql`.
Whoever writes rows of an EMP holds the lock of its `emp` row first (`lock_emps`, `claims.lock_emp`): capture and lanes take turns, and no
decision rests on a row that somebody else is changing. `capture` is locked before `emp`; nothing is locked the other way round.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

import orjson

from cdc_pusher.database import Connection, as_json, made
from cdc_pusher.errors import LeaseLost
from cdc_pusher.horizon import Horizon
from cdc_pusher.model import Kind, Payload
from cdc_pusher.plan import Evse, Plan
from cdc_pusher.reconcile import GONE, LIVE, NEVER, SWEEP, WALK, Entry, Resend
from cdc_pusher.sql import queries

AHEAD = 20  # times a batch: how far to look for more changes of the same stations


def changes_from_the_start(*priorities: int) -> Horizon[int]:
    """No change of these priorities (of all, if none is named) was looked for yet; by their number."""
    return Horizon(dict.fromkeys(priorities or (LIVE, WALK, SWEEP), 0))


_sql = queries("outbox")


class Change(NamedTuple):
    """A row of the change log. `emp` None: for every EMP.

    `id` orders them by arrival. `station_id` None: the sub-select of `watch` says which stations `source_row` concerns; without a watch,
    any station may have changed.
    """

    id: int
    station_id: str | None
    watch: str | None
    source_row: Any
    emp: str | None
    priority: int
    resend: Resend
    changed_at: datetime


async def lock_capture(conn: Connection, epoch: int | None = None) -> datetime:
    """Become the only capture, under the lease of this epoch. Returns the database's clock. Raises `LeaseLost`."""
    row = await (await conn.execute(_sql.lock)).fetchone()
    assert row is not None, "cdc_pusher.capture has one row"
    if is_newer(epoch, row["epoch"]):
        await conn.execute(_sql.raise_epoch, {"epoch": epoch})
    now: datetime = row["now"]
    return now


def is_newer(epoch: int | None, last: int) -> bool:
    """Whether nobody has written under this lease yet. Raises `LeaseLost` if somebody has under a later one."""
    if epoch is not None and epoch < last:
        raise LeaseLost(f"the lease of epoch {epoch} is lost: {last} is at work")
    return epoch is not None and epoch > last


def few(batch: int, emps: int = 1, *, beside_live: bool = False) -> int:
    """So many changes are taken at once when they are not live, so that what is live never waits for long: fewer still while such come.

    A station of a walk is a change for each EMP.

    >>> few(500), few(500, beside_live=True), few(500, 3, beside_live=True), few(500, 20, beside_live=True), few(5)
    (50, 10, 30, 50, 1)
    """
    most = batch // 10
    return max(1, min(most, emps * (batch // 50)) if beside_live else most)


async def consume(
    conn: Connection, emps: Sequence[str], batch: int, horizon: Horizon[int], *, beside_live: bool = False
) -> tuple[list[Change], bool]:
    """Take the most urgent changes that concern these EMPs out of the log, and others that are in it for the same stations.

    They are of one priority, of those in `horizon`: `batch` of them, or `few` if they are not live. Returns, too, whether more are left.
    """
    began = time.monotonic()
    if from_the_start := horizon.from_the_start(began):
        horizon.ends = dict.fromkeys(horizon.ends, 0)
    at_most = few(batch, len(emps), beside_live=beside_live)
    values = {"emps": list(emps), "batch": batch, "few": at_most, "ahead": AHEAD * batch, **horizon.parameters}
    rows = await made(await conn.execute(_sql.consume, values), lambda more, *values: (more, Change._make(values)))
    ended = time.monotonic()
    if from_the_start:
        horizon.looked(ended, ended - began)
    more, changes = any(row[0] for row in rows), [row[1] for row in rows]
    limit = batch if not changes or changes[0].priority == LIVE else at_most
    found = [(change.priority, change.id) for change in changes if change.priority == changes[0].priority][:limit]
    horizon.found(found, up_to=max((number for _, number in found), default=0), complete=len(found) < limit and not more)
    return changes, more


async def lock_emps(conn: Connection, emps: Iterable[str] | None) -> frozenset[str]:
    """Take our turn at the outbox of these EMPs (None: of all). Returns those that there are: people may have made us forget one."""
    cursor = await conn.execute(_sql.lock_emps, {"emps": None if emps is None else list(emps)})
    return frozenset(row["name"] for row in await cursor.fetchall())


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What we know of stations for one EMP: their rows and the status rows of their EVSEs; which EVSEs they have; of their CPOs, those that
    are known for the EMP, and the cpo-id that it was told (None: it has not been).
    """

    entries: list[Entry] = field(default_factory=list)
    evses: list[Evse] = field(default_factory=list)
    cpos: dict[str, str | None] = field(default_factory=dict)


async def standing(
    conn: Connection, emps: Iterable[str], stations: Sequence[str], evses: Sequence[str], cpos: Sequence[str]
) -> dict[str, Standing]:
    """Take our turn at the outbox of these EMPs, and look up what is known of these stations.

    `evses`, `cpos`: those that the stations list now. Returns it for those EMPs that there are.
    """
    values = {"emps": sorted(emps), "stations": stations, "evses": evses, "cpos": cpos}
    async with conn.pipeline():  # each statement sees what was committed before the lock was ours
        locked = await conn.execute(_sql.lock_emps, values)
        of_evses = await conn.execute(_sql.evses, values)
        of_entries = await conn.execute(_sql.entries, values)
        of_cpos = await conn.execute(_sql.cpos, values)
    found = {row["name"]: Standing() for row in await locked.fetchall()}
    for emp, evse in await made(of_evses, lambda emp, *values: (emp, Evse._make(values))):
        found[emp].evses.append(evse)
    for entry in await made(of_entries, _entry):
        found[entry.emp].entries.append(entry)
    for row in await of_cpos.fetchall():
        found[row["emp"]].cpos[row["cpo"]] = row["told"]
    return found


def _entry(
    same: bool, emp: str, kind: Kind, key: str, station_id: str, payload: str | None, acknowledged: Payload | None, *others: Any
) -> Entry:
    content: Payload | None = None if payload is None else orjson.loads(payload)
    return Entry(emp, kind, key, station_id, content, content if same else acknowledged, *others)


async def write(conn: Connection, plans: Iterable[Plan]) -> None:
    """Write what was decided."""
    plans = list(plans)
    for query, rows in (
        (_sql.insert_entries, [_row(entry) for plan in plans for entry in plan.insert]),
        (_sql.update_entries, [_row(entry) for plan in plans for entry in plan.update]),
    ):
        if rows:
            await conn.execute(query, {"rows": as_json(rows)})
    if forget := [entry for plan in plans for entry in plan.forget]:
        columns = {"emp": [e.emp for e in forget], "kind": [e.kind for e in forget], "key": [e.key for e in forget]}
        await conn.execute(_sql.forget_entries, {**columns, "reason": GONE, "priority": NEVER})
    for query, pairs in (
        (_sql.list_evses, [(plan.emp, *pair) for plan in plans for pair in plan.listed]),
        (_sql.unlist_evses, [(plan.emp, *pair) for plan in plans for pair in plan.unlisted]),
    ):
        if pairs:
            await conn.execute(query, {"emp": [p[0] for p in pairs], "evse": [p[1] for p in pairs], "station": [p[2] for p in pairs]})
    for plan in plans:
        if plan.look_again:
            await record_changes(conn, sorted(plan.look_again), [plan.emp], priority=LIVE)
    if cpos := [(plan.emp, cpo) for plan in plans for cpo in sorted(plan.cpos)]:
        await conn.execute(_sql.note_cpos, {"emps": [c[0] for c in cpos], "cpos": [c[1] for c in cpos]})


_WRITTEN = tuple(name for name in Entry._fields if name not in ("acknowledged", "sending_gen", "doubtful"))


def _row(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in _WRITTEN}


async def told_of(conn: Connection, stations: Sequence[str]) -> frozenset[str]:
    """Those of these stations that a live change in the log concerns, or may concern."""
    return frozenset(row["station_id"] for row in await (await conn.execute(_sql.told_of, {"stations": list(stations)})).fetchall())


async def note_healed(conn: Connection, emp: str, stations: int) -> bool:
    """Count stations that a sweep found changed although nobody had told of it. False: all stations are being gone through for a reason."""
    return await (await conn.execute(_sql.note_healed, {"emp": emp, "stations": stations})).fetchone() is not None


async def record_changes(
    conn: Connection,
    stations: Sequence[str],
    emps: Sequence[str | None] = (None,),
    *,
    priority: int,
    resend: Resend = None,
    changed_at: datetime | None = None,
) -> None:
    """Put stations into the change log, for each of these EMPs (None: for every one)."""
    values = {"stations": list(stations), "emps": list(emps), "priority": priority, "resend": resend, "changed_at": changed_at}
    await conn.execute(_sql.record_changes, values)


async def order_walk(conn: Connection, emps: Iterable[str], resend: Resend) -> None:
    """Have every station gone through for these EMPs, from the beginning."""
    await conn.execute(_sql.order_walk, {"emps": list(emps), "resend": resend})


async def order_walk_after(conn: Connection, emps: Iterable[str], walk: Literal["resync", "sweep"]) -> None:
    """Have every station gone through for these EMPs, after the walk that may be under way."""
    await conn.execute(_sql.order_walk_after, {"emps": list(emps), "walk": walk})


def concerned(changes: Iterable[Change], emps: Sequence[str]) -> Mapping[str, list[Change]]:
    """By EMP, the changes that concern it."""
    found: dict[str, list[Change]] = {emp: [] for emp in emps}
    for change in changes:
        for emp in emps if change.emp is None else (change.emp,):
            found[emp].append(change)
    return found
