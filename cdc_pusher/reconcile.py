"""What to do about one outbox row, now that the CPO's database has been read again. Pure; the heart of capture.

`station` and `status` compare what the EMP should have with what the row says it has, and answer with the row as it is to be written,
`FORGET` (the EMP never had it and need not), or None (nothing to do). Rules they keep:

- A row in flight is only marked: its generation is raised, and the recording of the answer puts the station into the change log again. So
  every decision is taken on a row at rest, and what was sent is what the row says.
- Whatever the EMP acknowledged is not sent again, unless the outcome of a later request is unknown or somebody asked for it.
- Being held never forgets what the EMP has.
"""

from collections.abc import Set
from datetime import datetime
from enum import Enum
from typing import Any, Final, Literal, NamedTuple

from cdc_pusher import oioi
from cdc_pusher.model import Desired, Held, Kind, Payload

State = Literal["pending", "in_flight", "delivered", "held", "rejected"]
Resend = Literal["undelivered", "statuses", "everything"] | None

LIVE, WALK, SWEEP = 0, 10, 20
"""Priorities of a change: somebody made it; a full load or a resync looks at everything; a sweep looks for what nobody told of."""
NEVER = 30
"""The priority of a row that is not sent any more, and stays only as long as an earlier request of it may be processed late."""

WAITS_FOR_STATION = "waits until the EMP has accepted its station"
GONE = "no longer listed: forgotten when an earlier request can no longer be processed"


class Entry(NamedTuple):
    """One row of the outbox; the columns that reconciling reads or writes (see `schema.outbox`)."""

    emp: str
    kind: Kind
    key: str
    station_id: str
    payload: Payload | None = None
    acknowledged: Payload | None = None
    desired_gen: int = 0
    delivered_gen: int = 0
    sending_gen: int | None = None
    state: State = "pending"
    reason: str | None = None
    doubtful: Payload | None = None
    resend_gen: int = 0
    priority: int = 0
    attempts: int = 0
    next_attempt_at: datetime | None = None
    changed_at: datetime | None = None

    @property
    def in_flight(self) -> bool:
        return self.state == "in_flight"

    @property
    def deletes(self) -> bool:
        """Whether its message deletes a station."""
        return self.kind == "station" and self.payload is not None and oioi.is_deleted(self.payload)

    @property
    def uncertain(self) -> bool:
        """Whether the EMP may hold something else than it acknowledged."""
        return self.doubtful is not None

    @property
    def again(self) -> bool:
        """Whether it is to be sent even if the EMP has it."""
        return self.resend_gen > self.delivered_gen

    @property
    def is_gone(self) -> bool:
        """Whether the EMP has surely deleted the station: nothing is under way, in doubt, or to be said once more."""
        settled = not (self.in_flight or self.uncertain or self.again)
        return settled and self.acknowledged is not None and oioi.is_deleted(self.acknowledged)

    def is_put_off(self, now: datetime) -> bool:
        """Whether it was accepted and is sent once more later, because an earlier request may still be processed."""
        put_off = self.state == "pending" and self.again and not self.attempts
        return put_off and self.next_attempt_at is not None and self.next_attempt_at > now

    @property
    def maybe_at_emp(self) -> bool:
        """Whether the EMP has, or may have, anything of this entity."""
        return self.acknowledged is not None or self.uncertain or self.in_flight


class Forget(Enum):
    """The row can go."""

    FORGET = "forget"


FORGET: Final = Forget.FORGET
Decision = Entry | Forget | None


class Occasion(NamedTuple):
    """Why and when a station is looked at: the most urgent of the changes that named it."""

    now: datetime
    changed_at: datetime
    priority: int = 0
    resend: Resend = None

    def forces(self, kind: Kind) -> bool:
        return self.resend == "everything" or (self.resend == "statuses" and kind == "status")


def station(
    row: Entry | None,
    desired: Desired,
    occasion: Occasion,
    *,
    emp: str,
    key: str,
    connectors_changed: Literal["hold", "replace", "send"],
    elsewhere: Set[str] = frozenset(),
) -> Decision:
    """Decide about a station's row. `desired` None: the CPO no longer lists it.

    `elsewhere`: the EVSE ids of it that the EMP may have in another station.
    """
    if row is None:
        if desired is None:
            return None
        row = Entry(emp=emp, kind="station", key=key, station_id=key)
    if desired is not None and not isinstance(desired, Held):
        desired = oioi.with_id(desired, _id_at_emp(row, connectors_changed))
    if row.in_flight:
        return _mark(row, desired if desired is not None else _deletion(row), occasion)
    if desired is None:
        if not row.maybe_at_emp:
            return _forgotten(row)
        desired = _deletion(row)
    elif not isinstance(desired, Held):
        desired = _with_connector_rule(row, desired, connectors_changed, elsewhere)
    return _settle(row, desired, occasion, due=True, reason=_waits(desired, elsewhere))


def status(row: Entry | None, desired: Desired, occasion: Occasion, *, emp: str, key: str, station_id: str, due: bool) -> Decision:
    """Decide about an EVSE's row. `desired` None: no station lists the EVSE. `due`: the EMP has accepted a station that carries it."""
    if row is None:
        if desired is None:
            return None
        row = Entry(emp=emp, kind="status", key=key, station_id=station_id)
    if desired is None:
        return _mark(row, desired, occasion) if row.in_flight else _forgotten(row)
    moved = row if row.station_id == station_id else row._replace(station_id=station_id)
    if row.in_flight:
        decision = _mark(moved, desired, occasion)
    else:
        decision = _settle(moved, desired, occasion, due=due, reason=None if due else WAITS_FOR_STATION)
    return moved if decision is None and moved is not row else decision


def _forgotten(row: Entry) -> Forget | None:
    """Nobody wants the row: it goes, unless that was decided before."""
    return None if row.reason == GONE else FORGET


def heals(row: Entry | None, decision: Decision) -> bool:
    """Whether a decision of a sweep is about a difference that had not been captured before."""
    if row is None or not isinstance(decision, Entry):
        return decision is not None
    if row.in_flight:  # of what goes again because of a doubt, or goes away, nobody can say whether that was known
        return decision.desired_gen > row.desired_gen and not row.uncertain and not row.deletes
    held = "held" in (row.state, decision.state) and (row.state, row.reason) != (decision.state, decision.reason)
    return held or decision.payload != row.payload


def _waits(desired: Payload | Held, elsewhere: Set[str]) -> str | None:
    """Why a station that is ready may have to wait all the same."""
    if isinstance(desired, Held) or oioi.is_deleted(desired):
        return None
    contested = sorted(elsewhere & set(oioi.evse_ids(desired)))
    return f"waits until the EMP has let go of {', '.join(contested[:5])} in another station" if contested else None


def _deletion(row: Entry) -> Payload:
    """The deletion of what the EMP has or may have; a row that may be at the EMP has always had a payload."""
    known = next(content for content in (row.doubtful, row.acknowledged, row.payload) if content is not None)
    return oioi.deleted(known)


def _id_at_emp(row: Entry, connectors_changed: str) -> str:
    """What the station is called at the EMP: as it was last, but one that was deleted there to be replaced comes back under a new id."""
    known = row.payload if row.in_flight else row.doubtful or row.acknowledged
    if known is None:
        return row.key
    known_id: str = known["id"]
    returns = connectors_changed == "replace" and oioi.is_deleted(known) and row.is_gone
    return oioi.successor(known_id) if returns else known_id


def _replacing(row: Entry, desired: Payload) -> Payload:
    """What goes next if a station with other connectors is a new one: the deletion of the old one, until that is surely gone.

    A doubt is settled first: what may have arrived is sent again, and only what the EMP makes of it decides.
    """
    known = row.doubtful or row.acknowledged
    if known is None:
        return desired
    if oioi.is_deleted(known):
        return desired if row.is_gone else known
    if oioi.evse_ids(known) == oioi.evse_ids(desired):
        return desired
    return known if row.uncertain else oioi.deleted(known)


def _with_connector_rule(
    row: Entry, desired: Payload, connectors_changed: Literal["hold", "replace", "send"], elsewhere: Set[str]
) -> Payload | Held:
    """OIOI v4, station-post: the connectors of a station that the EMP already has may not change, neither their number nor their ids.

    `hold` keeps the new version back. `send` is for EMPs that allow it; there a station that gives EVSEs away and waits for others that are
    still elsewhere is deleted first, for two stations that swap would wait for each other for ever. Under `hold` a doubt is settled first:
    what may have arrived is sent again, and only what the EMP makes of it decides. `replace` deletes the station and posts it as another.
    """
    if connectors_changed == "replace":
        return _replacing(row, desired)
    if connectors_changed == "hold" and row.doubtful is not None and oioi.evse_ids(row.doubtful) != oioi.evse_ids(desired):
        return row.doubtful
    if connectors_changed == "send":
        return _sent_as_it_is(row, desired, elsewhere)
    if row.acknowledged is None:
        return desired
    was, is_now = oioi.evse_ids(row.acknowledged), oioi.evse_ids(desired)
    if was == is_now:
        return desired
    return Held(reason=f"connectors: {_difference(was, is_now)}; the EMP does not allow that for a station it has")


def _sent_as_it_is(row: Entry, desired: Payload, elsewhere: Set[str]) -> Payload:
    """The station, or first its deletion: if it gives EVSEs away that the EMP has, or may have, in it, and waits for others."""
    had = [known for known in (row.doubtful, row.acknowledged) if known is not None and not oioi.is_deleted(known)]
    is_now = set(oioi.evse_ids(desired))
    gives_away = any(set(oioi.evse_ids(known)) - is_now for known in had)
    return oioi.deleted(had[0]) if gives_away and is_now & elsewhere else desired


def _difference(was: tuple[str, ...], is_now: tuple[str, ...]) -> str:
    """What was added and removed, in words.

    >>> _difference(("A", "B"), ("B", "C", "C"))
    'added C, removed A'
    >>> _difference(("A", "A"), ("A",))
    '2 connectors became 1'
    """
    added, removed = sorted(set(is_now) - set(was)), sorted(set(was) - set(is_now))
    parts = [f"{verb} {', '.join(ids[:10])}" for verb, ids in (("added", added), ("removed", removed)) if ids]
    return ", ".join(parts) or f"{len(was)} connectors became {len(is_now)}"


def _mark(row: Entry, desired: Desired, occasion: Occasion) -> Entry | None:
    """A row in flight: note that it is not the last word, unless what is under way is just what is desired."""
    forced = occasion.forces(row.kind)
    if row.payload == desired and not forced:
        return None
    sending_gen = row.sending_gen or 0
    marked = row.desired_gen > sending_gen
    if marked and (row.resend_gen > sending_gen or not forced):
        return None
    gen = row.desired_gen + (not marked)
    return row._replace(desired_gen=gen, resend_gen=gen if forced else row.resend_gen, priority=min(row.priority, occasion.priority))


def _settle(row: Entry, desired: Payload | Held, occasion: Occasion, *, due: bool, reason: str | None) -> Entry | None:
    """A row at rest: bring it to what is desired."""
    fresh = row.desired_gen == 0
    urgency = occasion.priority + (row.kind == "station")
    if isinstance(desired, Held):
        if row.state == "held" and row.reason == desired.reason:
            return None
        return _undelivered(row, occasion, state="held", reason=desired.reason, next_attempt_at=None, attempts=0)
    asked = occasion.forces(row.kind)
    forced = asked or row.again
    if row.acknowledged == desired and not row.uncertain and not forced:
        return None if row.state == "delivered" else _delivered(row, desired)
    same = row.payload == desired and not fresh
    retry = occasion.resend is not None and row.state in ("rejected", "pending")
    waiting_alike = row.state == "pending" and (row.next_attempt_at is not None) == due and row.reason == reason
    if same and not asked and not retry and (row.state == "rejected" or waiting_alike or (due and row.is_put_off(occasion.now))):
        return None
    keeps_its_turn = row.state == "pending" and not fresh and not retry
    turn = (row.next_attempt_at if keeps_its_turn else None) or occasion.now
    if not same and row.attempts == 0:
        turn = min(turn, occasion.now)  # it was put off because of what is no longer desired
    return _undelivered(
        row,
        occasion,
        state="pending",
        payload=desired,
        reason=reason,
        resend_gen=row.desired_gen + 1 if forced else row.resend_gen,
        priority=min(row.priority, urgency) if keeps_its_turn else urgency,
        attempts=row.attempts if keeps_its_turn else 0,
        next_attempt_at=turn if due else None,
    )


def _undelivered(row: Entry, occasion: Occasion, **values: Any) -> Entry:
    changed_at = row.changed_at or occasion.changed_at
    return row._replace(desired_gen=row.desired_gen + 1, changed_at=changed_at, **values)


def _delivered(row: Entry, payload: Payload) -> Entry:
    """The CPO's database has gone back to what the EMP has: there is nothing to send."""
    gen = row.desired_gen + 1
    return row._replace(
        payload=payload,
        state="delivered",
        reason=None,
        attempts=0,
        next_attempt_at=None,
        changed_at=None,
        desired_gen=gen,
        delivered_gen=gen,
    )
