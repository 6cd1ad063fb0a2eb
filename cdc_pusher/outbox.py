"""The only module that runs SQL on our own tables while the daemon works (the queries stand in `sql/*.sql`).

Functions take a connection inside a transaction that the caller opened, never commit and never do HTTP. Whoever writes rows of an EMP
holds the lock of its `emp` row first (`lock_emps`, `lock_emp`): capture and lanes take turns, and no decision rests on a row that
somebody else is changing. `capture` is locked before `emp`; nothing is locked the other way round.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from psycopg.types.json import Jsonb

from cdc_pusher import oioi
from cdc_pusher.database import Connection
from cdc_pusher.errors import LeaseLost
from cdc_pusher.horizon import Horizon
from cdc_pusher.model import Kind, Payload
from cdc_pusher.plan import Evse, Plan
from cdc_pusher.reconcile import LIVE, SWEEP, WALK, Entry, Resend
from cdc_pusher.sql import queries

AHEAD = 20  # times a batch: how far to look for more changes of the same stations
_EVER = datetime.min.replace(tzinfo=UTC)


def changes_from_the_start() -> Horizon[int]:
    """No change was looked for yet; by their number."""
    return Horizon(dict.fromkeys((LIVE, WALK, SWEEP), 0))


def due_from_the_start() -> Horizon[datetime]:
    """No due message was looked for yet; by when they are due. A status comes after the stations of its kind."""
    return Horizon(dict.fromkeys((LIVE, LIVE + 1, WALK, WALK + 1, SWEEP, SWEEP + 1), _EVER))


_capture = queries("capture")
_delivery = queries("delivery")


def _json(rows: object) -> Jsonb:
    return Jsonb(rows, dumps=orjson.dumps)


# ── capture ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
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
    row = await (await conn.execute(_capture.lock)).fetchone()
    assert row is not None, "cdc_pusher.capture has one row"
    if _is_newer(epoch, row["epoch"]):
        await conn.execute(_capture.raise_epoch, {"epoch": epoch})
    now: datetime = row["now"]
    return now


def _is_newer(epoch: int | None, last: int) -> bool:
    """Whether nobody has written under this lease yet. Raises `LeaseLost` if somebody has under a later one."""
    if epoch is not None and epoch < last:
        raise LeaseLost(f"the lease of epoch {epoch} is lost: {last} is at work")
    return epoch is not None and epoch > last


async def consume(conn: Connection, emps: Sequence[str], batch: int, horizon: Horizon[int], *, mixed: bool) -> tuple[list[Change], bool]:
    """Take the `batch` most urgent changes that concern these EMPs out of the log, and others that are in it for the same stations.

    Not `mixed`: of one priority alone, so that what is urgent need not wait for what is not. Returns, too, whether more are left.
    """
    began = time.monotonic()
    if from_the_start := horizon.from_the_start(began):
        horizon.ends = changes_from_the_start().ends
    values = {"emps": list(emps), "batch": batch, "ahead": AHEAD * batch, "mixed": mixed, **_since(horizon)}
    rows = await (await conn.execute(_capture.consume, values)).fetchall()
    ended = time.monotonic()
    if from_the_start:
        horizon.looked(ended, ended - began)
    more = any([row.pop("more") for row in rows])
    found = [(row["priority"], row["id"]) for row in rows if mixed or row["priority"] == rows[0]["priority"]][:batch]
    horizon.found(found, up_to=max((number for _, number in found), default=0), complete=len(found) < batch and not more)
    return [Change(**row) for row in rows], more


def _since(horizon: Horizon[Any]) -> dict[str, Any]:
    return {"priorities": list(horizon.ends), "since": list(horizon.ends.values())}


async def lock_emps(conn: Connection, emps: Iterable[str] | None) -> frozenset[str]:
    """Take our turn at the outbox of these EMPs (None: of all). Returns those that there are: people may have made us forget one."""
    cursor = await conn.execute(_capture.lock_emps, {"emps": None if emps is None else list(emps)})
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
        locked = await conn.execute(_capture.lock_emps, values)
        of_evses = await conn.execute(_capture.evses, values)
        of_entries = await conn.execute(_capture.entries, values)
        of_cpos = await conn.execute(_capture.cpos, values)
    found = {row["name"]: Standing() for row in await locked.fetchall()}
    for row in await of_evses.fetchall():
        found[row.pop("emp")].evses.append(Evse(**row))
    for row in await of_entries.fetchall():
        payload, same = row["payload"], row.pop("same")
        row["payload"] = payload = None if payload is None else orjson.loads(payload)
        if same:
            row["acknowledged"] = payload
        found[row["emp"]].entries.append(Entry(**row))
    for row in await of_cpos.fetchall():
        found[row["emp"]].cpos[row["cpo"]] = row["told"]
    return found


async def write(conn: Connection, plans: Iterable[Plan]) -> None:
    """Write what was decided."""
    plans = list(plans)
    for query, rows in (
        (_capture.insert_entries, [_row(entry) for plan in plans for entry in plan.insert]),
        (_capture.update_entries, [_row(entry) for plan in plans for entry in plan.update]),
    ):
        if rows:
            await conn.execute(query, {"rows": _json(rows)})
    if forget := [entry for plan in plans for entry in plan.forget]:
        columns = {"emp": [e.emp for e in forget], "kind": [e.kind for e in forget], "key": [e.key for e in forget]}
        await conn.execute(_capture.forget_entries, columns)
    for query, pairs in (
        (_capture.list_evses, [(plan.emp, *pair) for plan in plans for pair in plan.listed]),
        (_capture.unlist_evses, [(plan.emp, *pair) for plan in plans for pair in plan.unlisted]),
    ):
        if pairs:
            await conn.execute(query, {"emp": [p[0] for p in pairs], "evse": [p[1] for p in pairs], "station": [p[2] for p in pairs]})
    for plan in plans:
        if plan.look_again:
            await record_changes(conn, sorted(plan.look_again), [plan.emp], priority=LIVE)
    if cpos := [(plan.emp, cpo) for plan in plans for cpo in sorted(plan.cpos)]:
        await conn.execute(_capture.note_cpos, {"emps": [c[0] for c in cpos], "cpos": [c[1] for c in cpos]})


_WRITTEN = tuple(f.name for f in fields(Entry) if f.name not in ("acknowledged", "sending_gen", "doubtful"))


def _row(entry: Entry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in _WRITTEN}


async def told_of(conn: Connection, stations: Sequence[str]) -> frozenset[str]:
    """Those of these stations that a live change in the log concerns, or may concern."""
    return frozenset(row["station_id"] for row in await (await conn.execute(_capture.told_of, {"stations": list(stations)})).fetchall())


async def note_healed(conn: Connection, emp: str, stations: int) -> bool:
    """Count stations that a sweep found changed although nobody had told of it. False: all stations are being gone through for a reason."""
    return await (await conn.execute(_capture.note_healed, {"emp": emp, "stations": stations})).fetchone() is not None


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
    await conn.execute(_capture.record_changes, values)


async def order_walk(conn: Connection, emps: Iterable[str], resend: Resend) -> None:
    """Have every station gone through for these EMPs, from the beginning."""
    await conn.execute(_capture.order_walk, {"emps": list(emps), "resend": resend})


async def order_walk_after(conn: Connection, emps: Iterable[str], walk: Literal["resync", "sweep"]) -> None:
    """Have every station gone through for these EMPs, after the walk that may be under way."""
    await conn.execute(_capture.order_walk_after, {"emps": list(emps), "walk": walk})


# ── delivery ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A message that this daemon, and nobody else, may send until its lease ends."""

    kind: Kind
    key: str
    station_id: str
    payload: Payload
    sending_gen: int
    lease_until: datetime
    due_at: datetime
    attempts: int
    last_result_code: int | None
    uncertain: bool
    priority: int
    changed_at: datetime
    failing_since: datetime | None = None
    strikes: int = 0

    @property
    def deletes(self) -> bool:
        return self.kind == "station" and oioi.is_deleted(self.payload)

    @property
    def identity(self) -> dict[str, Any]:
        """What a recording statement finds the claim by."""
        return {"kind": self.kind, "key": self.key, "sending_gen": self.sending_gen, "lease_until": self.lease_until}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a claim; `outcome` as in the table `attempt`, plus 'unsent'. Times: `delay_s` seconds, `duration_ms` milliseconds."""

    claim: Claim
    outcome: str
    sent_at: datetime | None = None
    duration_ms: int = 0
    reason: str | None = None
    delay_s: float = 0.0
    counts: int = 0
    strikes: int = 0
    uncertain: bool = False
    late: bool = False
    http_status: int | None = None
    result_code: int | None = None
    error: str | None = None
    lag_s: float = 0.0  # from the change to the record of its answer

    @property
    def row(self) -> dict[str, Any]:
        return self.claim.identity | {name: getattr(self, name) for name in _RECORDED}


_RECORDED = tuple(f.name for f in fields(Result) if f.name not in ("claim", "lag_s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The results that still counted, and whether stations went into the change log because of them."""

    counted: Sequence[Result] = ()
    superseded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Our turn at an EMP's outbox: whether it is paused by people, or forgotten, when the transaction began, who has written last."""

    paused: bool
    now: datetime
    epoch: int


async def lock_emp(conn: Connection, emp: str, epoch: int | None = None) -> Turn:
    """Take our turn at the EMP's outbox, under the lease of this epoch. Raises `LeaseLost`."""
    row = await (await conn.execute(_delivery.lock_emp, {"emp": emp})).fetchone()
    if row is None:
        return Turn(paused=True, now=_EVER, epoch=epoch or 0)
    if _is_newer(epoch, row["lane_epoch"]):
        await conn.execute(_delivery.raise_epoch, {"emp": emp, "epoch": epoch})
    return Turn(paused=row["paused_at"] is not None, now=row["now"], epoch=row["lane_epoch"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the EMP was told, or may have been; kept in case the database loses its record. `late`: it may still be processed."""

    kind: Kind
    key: str
    station_id: str
    payload: bytes  # JSON
    late: bool = False

    def made_late(self) -> "Told":
        """The same, but a request may be processed after it."""
        return replace(self, late=True)


def told(claim: Claim, *, late: bool = False) -> Told:
    """What this claim's request has told the EMP."""
    payload = bytes(memoryview(orjson.dumps(claim.payload)))  # what orjson returns holds on to more memory than it says
    return Told(kind=claim.kind, key=claim.key, station_id=claim.station_id, payload=payload, late=late)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """On which server the EMP's records were made (`recorded_on`, None: on none yet), and on which we are now."""

    recorded_on: str | None
    timeline: str


async def place(conn: Connection, emp: str) -> Place | None:
    """Where the EMP's records were made. None: the database does not know it."""
    row = await (await conn.execute(_delivery.place, {"emp": emp})).fetchone()
    return Place(**row) if row else None


async def last_delivery(conn: Connection, emp: str) -> datetime | None:
    """When the EMP last accepted something, as far as the records reach."""
    row = await (await conn.execute(_delivery.last_delivery, {"emp": emp})).fetchone()
    return row["at"] if row else None


async def note_timeline(conn: Connection, emp: str, timeline: str) -> None:
    """From now on records are made on this server."""
    await conn.execute(_delivery.note_timeline, {"emp": emp, "timeline": timeline})


async def doubt(conn: Connection, emp: str, lost: Iterable[Told]) -> int:
    """The EMP was told this, and the database may have lost the record of it: send again what differs. Returns the number of stations."""
    names = ("kind", "key", "station_id", "late")
    rows = [{name: getattr(one, name) for name in names} | {"payload": orjson.loads(one.payload)} for one in lost]
    if not rows:
        return 0
    stations = {row["key"]: row["payload"] for row in rows if row["kind"] == "station"}
    carried = [
        (evse_id, key) for key, content in stations.items() if not oioi.is_deleted(content) for evse_id in set(oioi.evse_ids(content))
    ]
    columns = {"emp": emp, "evse": [e for e, _ in carried], "station": [s for _, s in carried]}
    found = await (await conn.execute(_delivery.doubt, {"emp": emp, "told": _json(rows)})).fetchall()
    await conn.execute(_delivery.expose_evses, columns)
    await conn.execute(_delivery.doubt_evses, {**columns, "stations": list(stations)})
    return len({row["station_id"] for row in found})


async def promote(conn: Connection, emp: str) -> None:
    """Let the oldest of the messages that more urgent ones keep waiting go first."""
    await conn.execute(_delivery.promote, {"emp": emp})


async def note_breaker(conn: Connection, emp: str, reason: str | None, probe_in_s: float) -> None:
    """Let people see whether the EMP fails as a whole, and when it is tried again; None: it works."""
    await conn.execute(_delivery.note_breaker, {"emp": emp, "reason": reason, "probe_in_s": probe_in_s})


async def hasten(conn: Connection, emp: str, messages: Iterable[tuple[Kind, str]]) -> None:
    """Have these messages (kind and key), which failed because their EMP did, tried again at once."""
    found = list(messages)
    await conn.execute(_delivery.hasten, {"emp": emp, "kinds": [kind for kind, _ in found], "keys": [key for _, key in found]})


async def expire(conn: Connection, emp: str) -> int:
    """Take back the claims that have run out. Returns how many."""
    row = await (await conn.execute(_delivery.expire, {"emp": emp})).fetchone()
    return int(row["expired"]) if row else 0


async def claim(
    conn: Connection,
    emp: str,
    *,
    limit: int,
    lease_s: float,
    not_yet: Sequence[str] = (),
    now: datetime | None = None,
    horizon: Horizon[datetime] | None = None,
) -> list[Claim]:
    """Claim at most `limit` due messages for `lease_s` seconds, of other keys than `not_yet`.

    `now`: when this transaction began; `horizon`: where the looks before have ended.
    """
    horizon = horizon or due_from_the_start()
    began = time.monotonic()
    if from_the_start := horizon.from_the_start(began):
        horizon.ends = due_from_the_start().ends
    values = {"emp": emp, "limit": limit, "lease_s": lease_s, "not_yet": list(not_yet), **_since(horizon)}
    rows = await (await conn.execute(_delivery.claim, values)).fetchall()
    ended = time.monotonic()
    if from_the_start:
        horizon.looked(ended, ended - began)
    horizon.found([(row["priority"], row["due_at"]) for row in rows], up_to=now or _EVER, complete=len(rows) < limit)
    claims = sorted((Claim(**{**row, "payload": orjson.loads(row["payload"])}) for row in rows), key=lambda c: (c.priority, c.changed_at))
    sent = [(evse_id, c.key) for c in claims if c.kind == "station" and not c.deletes for evse_id in set(oioi.evse_ids(c.payload))]
    if sent:
        await conn.execute(_delivery.expose_evses, {"emp": emp, "evse": [e for e, _ in sent], "station": [s for _, s in sent]})
    if stations := [c.key for c in claims if c.kind == "station"]:
        carried = {"evse": [e for e, _ in sent], "station": [s for _, s in sent]}
        await conn.execute(_delivery.doubt_evses, {"emp": emp, "stations": stations, **carried})
    return claims


async def record(conn: Connection, emp: str, results: Sequence[Result], *, quiet_s: float, daemon: str = "") -> Recorded:
    """Record what came of claims, with all that follows for other rows; `daemon` had sent them.

    What is accepted within `quiet_s` seconds of a request that may be processed late is sent once more after that.
    """
    unsent = [r.claim for r in results if r.outcome == "unsent"]
    answered = {(r.claim.kind, r.claim.key): r for r in results if r.outcome != "unsent"}
    look_again: set[str] = set()
    counted: list[Result] = []
    refused: list[Claim] = []
    if unsent:
        claims = {(c.kind, c.key): c for c in unsent}
        released = await conn.execute(_delivery.release_claims, {"emp": emp, "claims": _json([c.identity for c in unsent])})
        for row in await released.fetchall():
            if row["superseded"]:
                look_again.add(row["station_id"])
            if not row["uncertain"]:
                refused.append(claims[row["kind"], row["key"]])
    if answered:
        values = {"emp": emp, "answers": _json([r.row for r in answered.values()]), "quiet_s": quiet_s, "daemon": daemon}
        for row in await (await conn.execute(_delivery.record, values)).fetchall():
            result = replace(answered[row["kind"], row["key"]], lag_s=row["lag_s"])
            counted.append(result)
            if row["superseded"] or _changes_the_question(result):
                look_again.add(row["station_id"])
            if result.outcome != "accepted" and not row["uncertain"]:
                refused.append(result.claim)
    await _follow(conn, emp, counted, [c for c in refused if c.kind == "station"])
    if look_again:
        await conn.execute(_delivery.look_again, {"emp": emp, "stations": sorted(look_again)})
    return Recorded(counted=counted, superseded=bool(look_again))


def _changes_the_question(result: Result) -> bool:
    """Whether what the EMP has now may call for another message: after a deletion or a rejection, or when a doubt was settled."""
    claim = result.claim
    settled = result.outcome == "accepted" and (claim.deletes or claim.uncertain)
    return claim.kind == "station" and (settled or result.outcome == "rejected")


async def _follow(conn: Connection, emp: str, results: Iterable[Result], refused: Sequence[Claim]) -> None:
    """What an answer about one row means for the rows beside it."""
    accepted = [r.claim for r in results if r.outcome == "accepted" and r.claim.kind == "station"]
    missing = [r.claim.key for r in results if r.outcome == "station_missing"]
    if refused:
        stations = [c.key for c in refused]
        await conn.execute(_delivery.restore_evses, {"emp": emp, "stations": stations})
        await conn.execute(_delivery.withdraw_evses, {"emp": emp, "stations": stations})
    if accepted:
        carried = [(evse_id, c.key) for c in accepted if not c.deletes for evse_id in sorted(set(oioi.evse_ids(c.payload)))]
        columns = {"evse": [e for e, _ in carried], "station": [s for _, s in carried], "stations": [c.key for c in accepted]}
        await conn.execute(_delivery.settle_evses, {"emp": emp, **columns})
        if carried:
            await conn.execute(_delivery.release_statuses, {"emp": emp, "evses": columns["evse"]})
    if missing:
        await conn.execute(_delivery.send_stations_again, {"emp": emp, "evses": missing})


def concerned(changes: Iterable[Change], emps: Sequence[str]) -> Mapping[str, list[Change]]:
    """By EMP, the changes that concern it."""
    found: dict[str, list[Change]] = {emp: [] for emp in emps}
    for change in changes:
        for emp in emps if change.emp is None else (change.emp,):
            found[emp].append(change)
    return found
