"""One batch of captured stations against one EMP's outbox: what to write. Pure.

`reconcile` decides about single rows; here stands what ties rows together: an EVSE belongs to one station, a status follows its
station, and an EVSE that the EMP has elsewhere must leave there first.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cdc_pusher import oioi, reconcile
from cdc_pusher.model import Desired, Held, Payload, Station
from cdc_pusher.reconcile import FORGET, SWEEP, Decision, Entry, Occasion

Reading = Mapping[str, Station | Held]
"""The stations of one batch as the source has them, by id; Held: the mapping returns nonsense for it. Missing: the station is gone."""


CPO_LIMIT = 500  # characters; an index entry of Postgres holds 2,700 bytes
EVSE_ID_LIMIT = 100  # characters; what is longer can never be valid, and must not reach an index


class Evse(NamedTuple):
    """A row of `cdc_pusher.evse`, and whether its station is about to be deleted at the EMP."""

    evse_id: str
    station_id: str
    listed: bool
    at_emp: Literal["no", "maybe", "yes"]
    leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """What the plan needs to know of an EMP's configuration."""

    name: str
    connectors_changed: Literal["hold", "replace", "send"]
    cpos: Mapping[str, str]


@dataclass(slots=True, kw_only=True)
class Plan:
    """The rows to write for one EMP, and the stations to look at again because a change here concerns them.

    `cpos`: CPOs that occur in the stations and were not known. `healed`: the stations that a sweep found changed.
    """

    emp: str
    insert: list[Entry] = field(default_factory=list)
    update: list[Entry] = field(default_factory=list)
    forget: list[Entry] = field(default_factory=list)
    listed: list[tuple[str, str]] = field(default_factory=list)
    unlisted: list[tuple[str, str]] = field(default_factory=list)
    look_again: set[str] = field(default_factory=set)
    cpos: set[str] = field(default_factory=set)
    healed: set[str] = field(default_factory=set)

    def note(self, row: Entry | None, decision: Decision, occasion: Occasion, station_id: str) -> None:
        if occasion.priority == SWEEP and reconcile.heals(row, decision):
            self.healed.add(station_id)
        if decision is FORGET:
            if row is not None:
                self.forget.append(row)
        elif decision is not None:
            (self.insert if row is None else self.update).append(decision)


def _storable(text: str, limit: int) -> bool:
    """Whether a text may stand in a table of ours; one with a NUL or half a surrogate pair can come out of a document."""
    return 0 < len(text) <= limit and text.isprintable()


def listed_evses(found: Station | Held | None) -> frozenset[str]:
    """The EVSE ids that the source lists for a station."""
    if not isinstance(found, Station):
        return frozenset()
    return frozenset(c.evse_id for c in found.connectors if isinstance(c.evse_id, str) and _storable(c.evse_id, EVSE_ID_LIMIT))


def listed_cpos(found: Station | Held | None) -> frozenset[str]:
    """The CPO's internal identifier of a station, if it has one that can be told."""
    cpo = str(found.cpo) if isinstance(found, Station) and found.cpo is not None else ""
    return frozenset([cpo] if _storable(cpo, CPO_LIMIT) else ())


def make(
    receiver: Receiver,
    occasions: Mapping[str, Occasion],
    reading: Reading,
    entries: Iterable[Entry],
    evses: Iterable[Evse],
    cpos: Mapping[str, str | None],
) -> Plan:
    """What to write for one EMP after the stations in `occasions` were read again.

    `entries` and `evses` hold every row of these stations and of the EVSEs they list; `cpos` the CPOs of
    these stations that are known for the EMP, and the cpo-id that it was told.
    """
    return _Batch(receiver, occasions, reading, list(entries), list(evses), cpos).plan()


def encoded(found: Station, receiver: Receiver, cpos: Mapping[str, str | None]) -> Payload | Held:
    """The station as this EMP is to be sent it; `cpos`: the CPOs that are known for it, and the cpo-id that it was told."""
    cpo = str(found.cpo)
    if receiver.connectors_changed == "replace" and oioi.is_successor(found.station_id):
        fault = "station_id: ends like an id that connectors_changed = replace gives"
        return Held(reason=f"{fault} ('{found.station_id}')", faults=(fault,))
    return oioi.encode_station(found, cpo_id=receiver.cpos.get(cpo), confirmed=cpos.get(cpo) == receiver.cpos.get(cpo))


class _Batch:
    def __init__(
        self,
        receiver: Receiver,
        occasions: Mapping[str, Occasion],
        reading: Reading,
        entries: list[Entry],
        evses: list[Evse],
        cpos: Mapping[str, str | None],
    ) -> None:
        self.receiver, self.occasions, self.reading, self.evses, self.cpos = receiver, occasions, reading, evses, cpos
        self.rows = {(e.kind, e.key): e for e in entries}
        self.result = Plan(emp=receiver.name)
        self.listing: dict[str, set[str]] = defaultdict(set)
        self.holders: dict[str, set[str]] = defaultdict(set)
        self.accepted: dict[str, set[str]] = defaultdict(set)
        for e in evses:
            if e.at_emp != "no":
                self.holders[e.evse_id].add(e.station_id)
            if e.at_emp == "yes":
                self.accepted[e.evse_id].add(e.station_id)
        self.leaving = {e.station_id for e in evses if e.leaving}
        self.lists = {station_id: listed_evses(reading.get(station_id)) for station_id in occasions}
        self.statuses: dict[str, Mapping[str, Desired]] = {}
        self.outcomes: dict[str, Entry | None] = {}

    def plan(self) -> Plan:
        self._compare_listings()
        for station_id, occasion in self.occasions.items():
            self._station(station_id, occasion)
        for evse_id, occasion in self._concerned_evses().items():
            self._status(evse_id, occasion)
        return self.result

    def _compare_listings(self) -> None:
        """Which station lists which EVSE, before and now; a station outside the batch that shares a changed one is looked at again."""
        before: dict[str, set[str]] = defaultdict(set)
        for e in self.evses:
            if e.listed:
                before[e.station_id].add(e.evse_id)
                if e.station_id not in self.occasions:
                    self.listing[e.evse_id].add(e.station_id)
        for station_id, now in self.lists.items():
            if now != (was := before[station_id]):
                self.result.listed += [(evse_id, station_id) for evse_id in now - was]
                self.result.unlisted += [(evse_id, station_id) for evse_id in was - now]
                for evse_id in now ^ was:
                    self.result.look_again |= self.listing[evse_id] - self.occasions.keys()
        for station_id, now in self.lists.items():
            for evse_id in now:
                self.listing[evse_id].add(station_id)

    def _station(self, station_id: str, occasion: Occasion) -> None:
        row = self.rows.get(("station", station_id))
        decision = reconcile.station(
            row,
            self._desired(station_id),
            occasion,
            emp=self.receiver.name,
            key=station_id,
            connectors_changed=self.receiver.connectors_changed,
            elsewhere={e for e in self.lists[station_id] if self.holders[e] - {station_id}},
        )
        self.result.note(row, decision, occasion, station_id)
        self.result.cpos |= listed_cpos(self.reading.get(station_id)) - self.cpos.keys()
        outcome = self.outcomes[station_id] = decision if isinstance(decision, Entry) else row
        goes = outcome is not None and outcome.state in ("pending", "in_flight") and outcome.deletes
        (self.leaving.add if goes else self.leaving.discard)(station_id)

    def _is_sent(self, owners: Iterable[str]) -> bool:
        return any((row := self.outcomes.get(owner)) is not None and row.state in ("pending", "in_flight") for owner in owners)

    def _desired(self, station_id: str) -> Desired:
        found = self.reading.get(station_id)
        if found is None or isinstance(found, Held):
            return found
        row = self.rows.get(("station", station_id))
        if not found.connectors and self.receiver.connectors_changed != "hold" and row is not None and row.maybe_at_emp and not row.is_gone:
            return None  # it has given its last connector away: no message can say so but its deletion
        statuses = oioi.encode_statuses(found)
        self.statuses[station_id] = {evse_id: status for evse_id, status in statuses.items() if _storable(evse_id, EVSE_ID_LIMIT)}
        shared = sorted(evse_id for evse_id in self.lists[station_id] if len(self.listing[evse_id]) > 1)
        if shared:
            return Held(reason="; ".join(self._shared(evse_id) for evse_id in shared[:5]))
        return encoded(found, self.receiver, self.cpos)

    def _shared(self, evse_id: str) -> str:
        return f"evse_id: '{evse_id}' stands in more than one station ({', '.join(sorted(self.listing[evse_id])[:5])})"

    def _concerned_evses(self) -> dict[str, Occasion]:
        """Every EVSE that a station of the batch lists, listed, or has at the EMP, with the most urgent occasion."""
        concerned: dict[str, Occasion] = {}
        pairs = [(e.evse_id, e.station_id) for e in self.evses]
        pairs += [(r.key, r.station_id) for r in self.rows.values() if r.kind == "status"]
        pairs += [(evse_id, station_id) for station_id in self.occasions for evse_id in self.statuses.get(station_id, ())]
        for evse_id, station_id in pairs:
            occasion = self.occasions.get(station_id)
            if occasion is not None and (evse_id not in concerned or occasion.priority < concerned[evse_id].priority):
                concerned[evse_id] = occasion
        return concerned

    def _status(self, evse_id: str, occasion: Occasion) -> None:
        row = self.rows.get(("status", evse_id))
        owners = sorted(self.listing.get(evse_id, ()))
        desired: Desired
        match owners:
            case []:
                desired = None
            case [owner] if owner in self.occasions:
                desired = self.statuses[owner].get(evse_id)
            case [owner]:
                if row is None or row.payload is None or row.state == "held":
                    return
                desired = row.payload
            case _:
                desired = Held(reason=self._shared(evse_id))
        if occasion.resend == "everything" and self._is_sent(owners):
            occasion = occasion._replace(resend="undelivered")  # it follows when its station is accepted
        due = bool(self.accepted[evse_id] - self.leaving)
        station_id = owners[0] if owners else (row.station_id if row else "")
        decision = reconcile.status(row, desired, occasion, emp=self.receiver.name, key=evse_id, station_id=station_id, due=due)
        self.result.note(row, decision, occasion, station_id)
