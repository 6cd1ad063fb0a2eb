"""What the EMP holds, and the rules that follow from it; pure.

Stations stay when they are deleted (a soft delete). What counts as a duplicate is what a correct sender never sends: an accepted
message like the last accepted one of its entity, whose acceptance the sender was told. So a message that was applied without an
answer, or that failed in between, forgives the next one; an accepted station forgives the statuses of its EVSEs.
"""

from collections import Counter
from typing import Any

from cdc_pusher.model import Kind
from cdc_pusher.sandbox.rules import EVSE_ELSEWHERE, EVSE_NOT_FOUND, MALFORMED, Message, Refusal

Content = dict[str, Any]


class Emp:
    """The stations and statuses that one partner has pushed, and how often that went wrong."""

    def __init__(self, *, connectors_may_change: bool = False) -> None:
        self.stations: dict[str, Content] = {}
        """Station id → `{"station": last accepted content, "statuses": {EVSE id: status}}`."""
        self.duplicates = 0
        self.status_before_station = 0
        self._connectors_may_change = connectors_may_change
        self._home: dict[str, str] = {}
        self._told: dict[tuple[Kind, str], Content] = {}

    def take(self, message: Message, *, answered: bool = True) -> Refusal | None:
        """Applies the message, or says why not. `answered` is False if the sender will not hear of it."""
        refusal = message.refusal or self._judge(message)
        if refusal is None:
            self._accept(message, answered=answered)
        elif refusal.code == EVSE_NOT_FOUND:
            self.status_before_station += 1
        return refusal

    def forgive(self, message: Message, *, station_too: bool = False) -> None:
        """The sender cannot know any more what is held of this entity (nor, `station_too`, of its station): sending again is right."""
        if message.kind is not None and message.key is not None:
            self._told.pop((message.kind, message.key), None)
            if station_too:
                self._told.pop(("station", self._home.get(message.key, "")), None)

    def _judge(self, message: Message) -> Refusal | None:
        if message.kind == "station":
            return self._judge_station(message.payload)
        evse_id = message.payload["connector-id"]
        if evse_id in self._home:
            return None
        return Refusal(code=EVSE_NOT_FOUND, message=f"connector-id: no station was pushed that has {evse_id}")

    def _judge_station(self, station: Content) -> Refusal | None:
        held = self.stations.get(station["id"])
        if held and not self._connectors_may_change:
            before, after = _evse_ids(held["station"]), _evse_ids(station)
            if before != after:
                return Refusal(
                    code=MALFORMED,
                    message=f"connectors: may not change; added: {_names(after - before)}; removed: {_names(before - after)}",
                )
        if not station["deleted"]:
            for evse_id in _evse_ids(station):
                home = self._home.get(evse_id, station["id"])
                if home != station["id"]:
                    return Refusal(code=EVSE_ELSEWHERE, message=f"connectors: {evse_id} is at station {home}")
        return None

    def _accept(self, message: Message, *, answered: bool) -> None:
        if message.kind is None or message.key is None:
            raise ValueError("a message without a refusal has a kind and a key")
        entity = message.kind, message.key
        if self._told.pop(entity, None) == message.payload:
            self.duplicates += 1
        if message.kind == "station":
            self._accept_station(message.key, message.payload)
        else:
            self.stations[self._home[message.key]]["statuses"][message.key] = message.payload["status"]
        if answered:
            self._told[entity] = message.payload

    def _accept_station(self, station_id: str, station: Content) -> None:
        held = self.stations.get(station_id)
        statuses: dict[str, str] = {}
        if held and not held["station"]["deleted"]:
            statuses = held["statuses"]
            self._leave(held["station"])
        live = frozenset() if station["deleted"] else frozenset(_evse_ids(station))
        for evse_id in live:
            self._home[evse_id] = station_id
        self.stations[station_id] = {"station": station, "statuses": {e: s for e, s in statuses.items() if e in live}}

    def _leave(self, station: Content) -> None:
        """The EVSEs of a station that was live are free for another one."""
        for evse_id in _evse_ids(station):
            self._home.pop(evse_id, None)
            self._told.pop(("status", evse_id), None)


def _evse_ids(station: Content) -> Counter[str]:
    return Counter(connector["id"] for connector in station["connectors"])


def _names(evse_ids: Counter[str]) -> str:
    return ", ".join(sorted(evse_ids.elements())) or "none"
