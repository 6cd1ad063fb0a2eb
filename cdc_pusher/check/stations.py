"""Every station, read and encoded as it would be sent: what is held and why, by reason, with examples. Keeps nothing of a station.

What the CPO lacks at an EMP (a cpo-id, the confirmation) is for `setup` to tell, once for each CPO and not for each station.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from cdc_pusher import capture, oioi, plan
from cdc_pusher.check.finding import EXAMPLES, Finding, number, ok, problem, warning
from cdc_pusher.check.tally import WORDS, Faults, Words
from cdc_pusher.config import Settings
from cdc_pusher.model import Held, Station
from cdc_pusher.plan import Receiver
from cdc_pusher.source import Source

Progress = Callable[[int, int | None], None]
"""Told how many stations are done, of how many."""

WORD_EXAMPLES = 20
PAGE_LIMIT = 500  # stations in the memory at once, each with texts of up to `mapping.TEXT_LIMIT` characters

# Told once for all stations of a CPO, and once for all connectors with a word.
_TOLD_ELSEWHERE = ("cpo: has no cpo-id", "cpo: is not confirmed", "status: is no OIOI", "type: is no OIOI")

_TOO_LONG = f"station_id: has more than {capture.STATION_ID_LIMIT} characters"


async def check(source: Source, settings: Settings, *, verbose: bool, progress: Progress) -> list[Finding]:
    """Go through all stations, page by page. Raises `MappingError`."""
    cpos = await source.cpos()
    total = sum(row["stations"] for row in cpos)
    survey = Survey(receivers(settings, [row["cpo"] for row in cpos if row["cpo"] is not None]), None if verbose else EXAMPLES)
    done, after = 0, None
    progress(done, total)
    while page := await source.page(after, min(settings.daemon.page_stations, PAGE_LIMIT)):
        reading = await source.read(page)
        for station_id in page:
            if (found := reading.get(station_id)) is not None:  # else it has been deleted meanwhile
                survey.look(station_id, found)
        after, done = page[-1], done + len(page)
        progress(done, max(done, total))
    return list(survey.findings())


def receivers(settings: Settings, cpos: Sequence[str]) -> Mapping[tuple[str, ...], Receiver]:
    """One receiver for all EMPs that are sent alike; without any EMP, one that knows every CPO."""
    alikes: dict[object, list[Receiver]] = {}
    for name, receiver in capture.receivers(settings).items():
        alike = tuple(sorted(receiver.cpos.items())), settings.only.get(name), receiver.connectors_changed == "replace"
        alikes.setdefault(alike, []).append(receiver)
    if not alikes:
        return {(): Receiver(name="", connectors_changed="hold", cpos=dict.fromkeys(cpos, "DE*XXX"))}
    return {tuple(receiver.name for receiver in alike): alike[0] for alike in alikes.values()}


class Survey:
    """What has been found so far."""

    def __init__(self, receivers: Mapping[tuple[str, ...], Receiver], limit: int | None) -> None:
        self._receivers = receivers
        self._limit = limit
        self._confirmed = {emps: dict(receiver.cpos) for emps, receiver in receivers.items()}
        self._faults = {emps: Faults(limit) for emps in receivers}
        self._statuses = Faults(limit)
        self._words = {"statuses": Words(), "connector_types": Words()}
        self._sendable = dict.fromkeys(receivers, 0)
        self._stations = self._evses = self._sendable_statuses = 0

    def look(self, station_id: str, found: Station | Held) -> None:
        """Encode one station, and the status of each of its EVSEs."""
        self._stations += 1
        if len(station_id) > capture.STATION_ID_LIMIT:
            found = Held(reason=_TOO_LONG, faults=(_TOO_LONG,))
        for emps, receiver in self._receivers.items():
            if isinstance(found, Station) and receiver.name in found.not_for:
                continue
            outcome = found if isinstance(found, Held) else plan.encoded(found, receiver, self._confirmed[emps])
            if isinstance(outcome, Held):
                self._faults[emps].note(station_id, outcome, only=_is_told_here)
            else:
                self._sendable[emps] += 1
        if isinstance(found, Station):
            self._look_at_statuses(found)

    def _look_at_statuses(self, station: Station) -> None:
        for evse_id, outcome in oioi.encode_statuses(station).items():
            self._evses += 1
            if isinstance(outcome, Held):
                self._statuses.note(evse_id, outcome, only=_is_missing_status)
            else:
                self._sendable_statuses += 1
        for connector in station.connectors:
            if _is_strange(connector.status, oioi.STATUSES):
                self._words["statuses"].note(connector.status, station.station_id)
            if _is_strange(connector.type, oioi.CONNECTOR_TYPES):
                self._words["connector_types"].note(connector.type, station.station_id)

    def findings(self) -> Iterator[Finding]:
        """The outcome: how many can be sent, then what is wrong."""
        if not self._stations:
            yield warning("stations", "source.stations returns no station: is it the right database, or is its condition too narrow?")
            return
        for emps, count in self._sendable.items():
            to = f"to {', '.join(emps)}" if emps else "once there is an EMP"
            stations, statuses = number(self._stations, "station"), number(self._evses, "EVSE")
            yield ok("stations", f"{count:,} of {stations} and the status of {self._sendable_statuses:,} of {statuses} can be sent {to}")
        yield from self._held_stations()
        for fault, count, examples in self._statuses.most_common():
            yield problem("statuses", f"{number(count, 'EVSE')}: {fault}; held until it is there", count=count, examples=examples)
        for name, words in self._words.items():
            yield from _unmapped(name, words, self._limit and WORD_EXAMPLES)

    def _held_stations(self) -> Iterator[Finding]:
        """What holds stations for all EMPs alike is told once."""
        same: dict[tuple[str, int, tuple[str, ...]], list[str]] = {}
        for emps, faults in self._faults.items():
            for found in faults.most_common():
                same.setdefault(found, []).extend(emps)
        everyone = sum(len(emps) for emps in self._faults)
        for (fault, count, examples), emps_held in sorted(same.items(), key=lambda item: (-item[0][1], item[0][0])):
            whose = "" if len(emps_held) == everyone else f" of {', '.join(emps_held)}"
            text = f"{number(count, 'station')}: {fault}; held until the data, or the mapping, are mended"
            yield problem(f"stations{whose}", text, count=count, examples=examples)


def _is_told_here(fault: str) -> bool:
    return not fault.startswith(_TOLD_ELSEWHERE)


def _is_missing_status(fault: str) -> bool:
    return fault.startswith("status:") and _is_told_here(fault)


def _is_strange(word: object, known: frozenset[str]) -> bool:
    return word is not None and not (isinstance(word, str) and word in known)


def _unmapped(name: str, words: Words, limit: int | None) -> Iterator[Finding]:
    found = list(words.most_common())
    if not found:
        return
    text = f"{number(words.connectors, 'connector has', 'connectors have')} a word that OIOI does not know: translate it in [source.{name}]"
    examples = [f"'{word}': {number(count, 'connector')}, the first of station {station_id}" for word, count, station_id in found[:limit]]
    if words.others:
        examples.append(f"after {WORDS} different words, {number(words.others, 'connector')} with others")
    yield problem(f"source.{name}", text, count=words.connectors, examples=examples)
