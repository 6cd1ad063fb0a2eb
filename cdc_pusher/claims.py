"""SQL of the lanes: what may be sent is claimed, and what was answered is recorded, with all that follows for other rows.

As in `outbox`: on a connection inside a transaction that the caller opened, which holds the lock of the EMP's row (`lock_emp`).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from cdc_pusher import oioi
from cdc_pusher.database import Connection, as_json, made
from cdc_pusher.horizon import Horizon
from cdc_pusher.model import Kind, Payload
from cdc_pusher.outbox import is_newer
from cdc_pusher.reconcile import LIVE, NEVER, SWEEP, WALK
from cdc_pusher.sql import queries

_sql = queries("claims")
_EVER = datetime.min.replace(tzinfo=UTC)


def due_from_the_start() -> Horizon[datetime]:
    """No due message was looked for yet; by when they are due. A status comes after the stations of its kind."""
    return Horizon(dict.fromkeys((LIVE, LIVE + 1, WALK, WALK + 1, SWEEP, SWEEP + 1), _EVER))


class Claim(NamedTuple):
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


class Result(NamedTuple):
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


_RECORDED = tuple(name for name in Result._fields if name not in ("claim", "lag_s"))


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
    row = await (await conn.execute(_sql.lock_emp, {"emp": emp})).fetchone()
    if row is None:
        return Turn(paused=True, now=_EVER, epoch=epoch or 0)
    if is_newer(epoch, row["lane_epoch"]):
        await conn.execute(_sql.raise_epoch, {"emp": emp, "epoch": epoch})
    return Turn(paused=row["paused_at"] is not None, now=row["now"], epoch=row["lane_epoch"])


async def forget(conn: Connection, emp: str, *, quiet_s: float) -> None:
    """Forget what no station lists any more, of which no request can be processed after `quiet_s` seconds."""
    await conn.execute(_sql.forget, {"emp": emp, "never": NEVER, "quiet_s": quiet_s})


async def promote(conn: Connection, emp: str) -> None:
    """Let the oldest of the messages that more urgent ones keep waiting go first."""
    await conn.execute(_sql.promote, {"emp": emp})


async def note_breaker(conn: Connection, emp: str, reason: str | None, probe_in_s: float) -> None:
    """Let people see whether the EMP fails as a whole, and when it is tried again; None: it works."""
    await conn.execute(_sql.note_breaker, {"emp": emp, "reason": reason, "probe_in_s": probe_in_s})


async def note_error(conn: Connection, emp: str, error: str) -> None:
    """Let people see what a request has failed with last."""
    await conn.execute(_sql.note_error, {"emp": emp, "error": error})


async def hasten(conn: Connection, emp: str, messages: Iterable[tuple[Kind, str]]) -> None:
    """Have these messages (kind and key), which failed because their EMP did, tried again at once."""
    found = list(messages)
    await conn.execute(_sql.hasten, {"emp": emp, "kinds": [kind for kind, _ in found], "keys": [key for _, key in found]})


async def expire(conn: Connection, emp: str) -> int:
    """Take back the claims that have run out. Returns how many."""
    row = await (await conn.execute(_sql.expire, {"emp": emp})).fetchone()
    return int(row["expired"]) if row else 0


async def claim(
    conn: Connection,
    emp: str,
    *,
    limit: int,
    lease_s: float,
    quiet_s: float,
    not_yet: Sequence[str] = (),
    now: datetime | None = None,
    horizon: Horizon[datetime] | None = None,
) -> list[Claim]:
    """Claim at most `limit` due messages for `lease_s` seconds, of other keys than `not_yet`.

    `quiet_s`: how long a request may be processed after it has ended without an answer. `now`: when this transaction began;
    `horizon`: where the looks before have ended.
    """
    horizon = horizon or due_from_the_start()
    began = time.monotonic()
    if from_the_start := horizon.from_the_start(began):
        horizon.ends = due_from_the_start().ends
    values = {"emp": emp, "limit": limit, "lease_s": lease_s, "quiet_s": quiet_s, "not_yet": list(not_yet), **horizon.parameters}
    claims = await made(await conn.execute(_sql.claim, values), _claim)
    ended = time.monotonic()
    if from_the_start:
        horizon.looked(ended, ended - began)
    horizon.found([(claim.priority, claim.due_at) for claim in claims], up_to=now or _EVER, complete=len(claims) < limit)
    claims.sort(key=lambda c: (c.priority, c.changed_at))
    await expose(conn, emp, {c.key: c.payload for c in claims if c.kind == "station"})
    return claims


def _claim(kind: Kind, key: str, station_id: str, payload: str, *others: Any) -> Claim:
    return Claim(kind, key, station_id, orjson.loads(payload), *others)


async def expose(conn: Connection, emp: str, stations: Mapping[str, Payload]) -> None:
    """From now on the EMP may have the EVSEs of these stations (payloads by key) in them, and may have lost others that it had there."""
    if not stations:
        return
    carried = [(evse_id, key) for key, one in stations.items() if not oioi.is_deleted(one) for evse_id in set(oioi.evse_ids(one))]
    columns = {"emp": emp, "evse": [evse for evse, _ in carried], "station": [station for _, station in carried]}
    if carried:
        await conn.execute(_sql.expose_evses, columns)
    await conn.execute(_sql.doubt_evses, {**columns, "stations": list(stations)})


async def record(conn: Connection, emp: str, results: Sequence[Result], *, quiet_s: float, daemon: str = "") -> Recorded:
    """Record what came of claims, with all that follows for other rows; `daemon` had sent them.

    What was claimed within `quiet_s` seconds of a request that may be processed late is sent once more after that.
    """
    unsent = [r.claim for r in results if r.outcome == "unsent"]
    answered = {(r.claim.kind, r.claim.key): r for r in results if r.outcome != "unsent"}
    look_again: set[str] = set()
    counted: list[Result] = []
    refused: list[Claim] = []
    if unsent:
        claims = {(c.kind, c.key): c for c in unsent}
        released = await conn.execute(_sql.release_claims, {"emp": emp, "claims": as_json([c.identity for c in unsent])})
        for row in await released.fetchall():
            if row["superseded"]:
                look_again.add(row["station_id"])
            if not row["uncertain"]:
                refused.append(claims[row["kind"], row["key"]])
    if answered:
        values = {"emp": emp, "answers": as_json([r.row for r in answered.values()]), "quiet_s": quiet_s, "daemon": daemon}
        for row in await (await conn.execute(_sql.record, values)).fetchall():
            result = answered[row["kind"], row["key"]]._replace(lag_s=row["lag_s"])
            counted.append(result)
            if row["superseded"] or _changes_the_question(result):
                look_again.add(row["station_id"])
            if result.outcome != "accepted" and not row["uncertain"]:
                refused.append(result.claim)
    await _follow(conn, emp, counted, [c for c in refused if c.kind == "station"])
    if look_again:
        await conn.execute(_sql.look_again, {"emp": emp, "stations": sorted(look_again)})
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
        await conn.execute(_sql.restore_evses, {"emp": emp, "stations": stations})
        await conn.execute(_sql.withdraw_evses, {"emp": emp, "stations": stations})
    if accepted:
        carried = [(evse_id, c.key) for c in accepted if not c.deletes for evse_id in sorted(set(oioi.evse_ids(c.payload)))]
        columns = {"evse": [e for e, _ in carried], "station": [s for _, s in carried], "stations": [c.key for c in accepted]}
        await conn.execute(_sql.settle_evses, {"emp": emp, "never": NEVER, **columns})
        if carried:
            await conn.execute(_sql.release_statuses, {"emp": emp, "evses": columns["evse"], "never": NEVER})
    if missing:
        await conn.execute(_sql.send_stations_again, {"emp": emp, "evses": missing})
