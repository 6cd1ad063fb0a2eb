"""What an EMP should hold, straight from the CPO's tables, and what is wrong with how it came to hold it.

An independent judge: it knows nothing of `cdc_pusher.oioi`. Every function returns sentences, none when all is well.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rig import CPOS, Row

from cdc_pusher.sandbox import Sandbox

RANK = ("Occupied", "Reserved", "Available", "Unknown", "Offline")
TYPES = {"Type2", "Combo", "Chademo", "Schuko"}  # those that the tests use
CLOCK_S = 0.005
DATA, CONNECTORS, ELSEWHERE = "its data are wrong", "connectors: ", "waits until the EMP has let go of "
"""Excuses; the last two as the outbox words them."""


class AsOne:
    """What an EMP holds and was told, with a station that was posted anew under another id (`s1~2`) as the one it is.

    Of several ids the last counts; an earlier one that is still live stands by itself.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self.ledger = [entry if entry["kind"] != "station" else _under_its_own_id(entry) for entry in sandbox.ledger]
        self.stations: dict[str, Any] = {}
        for key, held in sorted(sandbox.stations.items(), key=lambda item: _ids_of(item[0])):
            own, _ = _ids_of(key)
            former = self.stations.pop(own, None)
            if former is not None and not former["station"]["deleted"]:
                self.stations[f"{own}, an earlier one,"] = former
            self.stations[own] = {**held, "station": {**held["station"], "id": own}}


def _ids_of(key: str) -> tuple[str, int]:
    own, _, number = key.partition("~")
    return own, int(number or 1)


def _under_its_own_id(entry: Mapping[str, Any]) -> Row:
    if entry["key"] is None:
        return dict(entry)
    own, _ = _ids_of(entry["key"])
    return {**entry, "key": own, "payload": {**entry["payload"], "id": own}}


class Expected:
    """What the CPO's tables say: `stations` as the EMP should hold them, `wrong` those that cannot be sent, `statuses` of EVSE ids."""

    def __init__(self, stations: Sequence[Row], connectors: Sequence[Row]) -> None:
        of_station: dict[str, list[Row]] = defaultdict(list)
        homes: dict[str, set[str]] = defaultdict(set)
        found: dict[str, list[str]] = defaultdict(list)
        for row in connectors:
            of_station[row["station_id"]].append(row)
            homes[row["evse_id"]].add(row["station_id"])
            found[row["evse_id"]].append(row["status"])
        self.stations = {row["id"]: _station(row, of_station[row["id"]]) for row in stations}
        shared = {evse for evse, at in homes.items() if len(at) > 1}
        self.wrong = {s for s, content in self.stations.items() if _is_wrong(content) or shared & _evses(content)}
        self.statuses = {e: min(s, key=RANK.index) for e, s in found.items() if e not in shared and set(s) <= set(RANK)}


def _station(row: Row, connectors: Iterable[Row]) -> Row:
    content = {
        "id": row["id"],
        "name": row["name"],
        "description": row["description"],
        "latitude": float(row["latitude"]),
        "longitude": float(row["longitude"]),
        "address": {
            "street": row["street"],
            "street-number": row["street_number"],
            "city": row["city"],
            "zip": row["zip"],
            "country": row["country"],
        },
        "contact": {key: row[key] for key in ("phone", "fax", "web", "email") if row[key] is not None},
        "cpo-id": CPOS[row["cpo"]],
        "is-open-24": row["is_open_24"],
        "connectors": [{"id": c["evse_id"], "name": c["type"], "speed": float(c["speed_kw"])} for c in connectors],
        "is-roofed": row["is_roofed"],
        "deleted": False,
    }
    return _sorted({key: value for key, value in content.items() if value is not None})


def _sorted(content: Mapping[str, Any]) -> Row:
    """Connectors have no order."""
    return {**content, "connectors": sorted(content["connectors"], key=lambda c: (c["id"], c["name"], c["speed"]))}


def _evses(content: Row) -> set[str]:
    return {connector["id"] for connector in content["connectors"]}


def _ids(content: Row) -> list[str]:
    return sorted(connector["id"] for connector in content["connectors"])


def _is_wrong(content: Row) -> bool:
    return content["address"]["country"] == "??" or not content["connectors"] or any(c["name"] not in TYPES for c in content["connectors"])


def excused(expected: Expected, sandbox: AsOne, in_doubt: Sequence[Row], *, connectors_may_change: bool) -> dict[str, str]:
    """The stations that the EMP may hold otherwise, with the reason that is true of them.

    `in_doubt`: EVSEs in stations of which the daemon cannot know whether the EMP has them; one that is stuck as well cannot find out.
    """
    reasons = dict.fromkeys(expected.wrong, DATA)
    if not connectors_may_change:
        for station, content in expected.stations.items():
            if station in sandbox.stations and _ids(sandbox.stations[station]["station"]) != _ids(content):
                reasons.setdefault(station, CONNECTORS)
    while blocked := list(_blocked(expected, sandbox, reasons, in_doubt)):
        reasons.update(dict.fromkeys(blocked, ELSEWHERE))
    return reasons


def _blocked(expected: Expected, sandbox: AsOne, reasons: Mapping[str, str], in_doubt: Sequence[Row]) -> Iterator[str]:
    """Stations that want an EVSE which the EMP has, or may have, in one that is stuck."""
    stuck = {e: s for s in reasons if s in sandbox.stations for e in _live(sandbox.stations[s]["station"])}
    stuck |= {row["evse_id"]: row["station_id"] for row in in_doubt if row["station_id"] in reasons}
    for station, content in expected.stations.items():
        if station not in reasons and any(stuck.get(evse, station) != station for evse in _evses(content)):
            yield station


def _live(content: Row) -> set[str]:
    return set() if content["deleted"] else _evses(content)


def differences(expected: Expected, sandbox: AsOne, reasons: Mapping[str, str]) -> Iterator[str]:
    """Where the EMP does not hold what the CPO's tables say, but for stations that are excused; and the keys that it is about, quoted."""
    for station in sorted(expected.stations.keys() | sandbox.stations.keys()):
        held = sandbox.stations.get(station)
        content = expected.stations.get(station)
        if content is None:
            if held is not None and not held["station"]["deleted"]:
                yield f"'{station}' is gone, and the EMP still has it"
        elif station not in reasons:
            if held is None:
                yield f"'{station}' is not at the EMP"
            elif _sorted(held["station"]) != content:
                yield f"'{station}' is {held['station']} at the EMP, not {content}"
            else:
                yield from _wrong_statuses(expected, station, content, held["statuses"])


def _wrong_statuses(expected: Expected, station: str, content: Row, held: Mapping[str, str]) -> Iterator[str]:
    for evse in sorted(_evses(content)):
        if evse in expected.statuses and held.get(evse) != expected.statuses[evse]:
            yield f"status of '{evse}' in '{station}' is {held.get(evse)} at the EMP, not {expected.statuses[evse]}"


def wrong_rows(expected: Expected, reasons: Mapping[str, str], outbox: Sequence[Row]) -> Iterator[str]:
    """Where the outbox says something else than what is: undelivered without an excuse, or held for a reason that is not true."""
    for row in outbox:
        if row["kind"] == "station" and row["state"] != "delivered":
            excuse = reasons.get(row["key"])
            if excuse is None:
                yield f"'{row['key']}' is {row['state']} for no reason: {row['reason']}"
            elif (
                excuse != DATA and row["state"] != "rejected" and not any(true in (row["reason"] or "") for true in (CONNECTORS, ELSEWHERE))
            ):
                yield f"'{row['key']}' is {row['state']} since {row['reason']}, which is not so: {excuse}"
        if row["kind"] == "status" and row["state"] != "delivered":
            is_fine = row["key"] in expected.statuses and row["station_id"] not in reasons
            if is_fine:
                yield f"status of '{row['key']}' is {row['state']} for no reason: {row['reason']}"
        if row["kind"] == "status" and not any(row["key"] in _evses(content) for content in expected.stations.values()):
            yield f"status of '{row['key']}' stays in the outbox, and nobody has the EVSE any more"


def without_statuses_after(sandbox: AsOne, expected: Expected, reasons: Mapping[str, str]) -> Iterator[str]:
    """EVSEs whose status was not sent after their station was accepted for the last time."""
    entries = [e for e in sandbox.ledger if e["applied"]]
    last_status = {e["key"]: e["seq"] for e in entries if e["kind"] == "status"}
    last_station = {e["key"]: e["seq"] for e in entries if e["kind"] == "station" and e["outcome"] == "accepted"}
    for station, content in expected.stations.items():
        for evse in _evses(content) & expected.statuses.keys() if station not in reasons else ():
            if last_status.get(evse, 0) < last_station.get(station, 0):
                yield f"no status of '{evse}' was sent after '{station}' was accepted"


def went_back_stations(sandbox: AsOne) -> Iterator[str]:
    """Stations that were sent with an older version after a newer one (`name` is the version; deletions have the one that was known)."""
    newest: dict[str, int] = defaultdict(int)
    for entry in sorted(sandbox.ledger, key=lambda e: e["received_at"]):
        if entry["kind"] == "station" and entry["key"] is not None and not entry["payload"]["deleted"]:
            version = int(entry["payload"]["name"].removeprefix("v"))
            if version < newest[entry["key"]]:
                yield f"'{entry['key']}' was sent as of {version} (request {entry['seq']}) after {newest[entry['key']]}"
            newest[entry["key"]] = max(version, newest[entry["key"]])


def went_back_statuses(sandbox: AsOne, history: Sequence[Row], committed_after: Mapping[int, float]) -> Iterator[str]:
    """Unique EVSEs whose requests cannot be read as their history: a value that was not committed yet, or one from before the last one.

    Each request is put as early in the history as the one before it allows, so that everything reported is wrong for sure.
    """
    story: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for row in sorted(history, key=lambda r: r["n"]):
        story[row["evse_id"]].append((row["status"], committed_after.get(row["xid"], 0.0)))
    at: dict[str, int] = defaultdict(int)
    for entry in sorted(sandbox.ledger, key=lambda e: e["received_at"]):
        evse = entry["key"]
        if entry["kind"] != "status" or evse not in story:
            continue
        places = range(at[evse], len(story[evse]))
        value, moment = entry["payload"]["status"], entry["received_at"] + CLOCK_S
        place = next((n for n in places if story[evse][n][0] == value and story[evse][n][1] <= moment), None)
        if place is None:
            yield f"'{evse}' was sent as {value} (request {entry['seq']}) when that was not the last word any more, or not yet"
        else:
            at[evse] = place


def refusals(sandbox: AsOne, *, connectors_may_change: bool) -> Iterator[str]:
    """Messages that the EMP refused and that should never have been sent.

    Excused is only the status (181) of an EVSE that may be leaving a station just then, at an EMP that lets connectors change.
    """
    wandering = _wandering(sandbox) if connectors_may_change else set()
    for entry in sandbox.ledger:
        if entry["outcome"].startswith("refused:") and not (entry["outcome"] == "refused:181" and entry["key"] in wandering):
            yield f"{entry['outcome']} {entry['kind']} '{entry['key']}' (request {entry['seq']})"


def _wandering(sandbox: AsOne) -> set[str]:
    """EVSEs that were sent in more than one station, or left out of the one they had been in."""
    homes: dict[str, set[str]] = defaultdict(set)
    left: set[str] = set()
    for entry in sandbox.ledger:
        if entry["kind"] == "station" and entry["key"] is not None and not entry["payload"]["deleted"]:
            now = _evses(entry["payload"])
            left |= {evse for evse, at in homes.items() if entry["key"] in at and evse not in now}
            for evse in now:
                homes[evse].add(entry["key"])
    return left | {evse for evse, at in homes.items() if len(at) > 1}
