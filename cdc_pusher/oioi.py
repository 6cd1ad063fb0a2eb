"""OIOI v4: what goes on the wire for a station or a status, and what an answer says.

A `Station` as the mapping returns it becomes a payload, or a `Held` with all that is wrong, by column and value; an answer of any bytes
becomes an `Answer`. Never does IO, never raises on the CPO's data or an EMP's answer, never decides what follows (`policy` does).
"""

import json
import re
import reprlib
from collections.abc import Sequence
from decimal import Decimal
from math import isfinite
from operator import itemgetter
from typing import Any

import orjson

from cdc_pusher.model import Answer, Connector, Held, Kind, Payload, Station

_TYPES = "Type1 Type2 Type3 Combo Chademo Schuko CeeBlue CeeRed CeePlus Cee2Poles 3PinSquare Tesla Scame Nema5 T13 T15 T23 Marechal TypeE"
CONNECTOR_TYPES = frozenset(_TYPES.split())
_RANK = {status: rank for rank, status in enumerate(("Occupied", "Reserved", "Available", "Unknown", "Offline"))}
STATUSES = frozenset(_RANK)
# ISO 3166-1 alpha-2, officially assigned: a first letter, then all its second letters.
_ASSIGNED = """
    ADEFGILMOQRSTUWXZ BABDEFGHIJLMNOQRSTVWYZ CACDFGHIKLMNORUVWXYZ DEJKMOZ ECEGHRST FIJKMOR GABDEFGHILMNPQRSTUWY HKMNRTU IDELMNOQRST JEMOP
    KEGHIMNPRWYZ LABCIKRSTUVY MACDEFGHKLMNOPQRSTUVWXYZ NACEFGILOPRUZ OM PAEFGHKLMNRSTWY QA REOSUW SABCDEGHIJKLMNORSTVXYZ
    TCDFGHJKLMNORTVWZ UAGMSYZ VACEGINU WFS YET ZAMW"""
_COUNTRIES = frozenset(letters[0] + second for letters in _ASSIGNED.split() for second in letters[1:])

# Our own limits: the protocol names none, but one absurd row must not become an absurd request or an absurd reason.
_MAX_ITEMS = 1_000  # connectors, and open-hour notes, of one station
_MAX_NOTES = 65_536  # characters; any other text 10,000
_MAX_EXACT = 2**53
_MAX_INTEGER = 2**31 - 1  # what a receiver's `int` and our own integer columns hold
_MAX_VALUE = 60  # characters of one value in a reason
_MAX_REASON = 980  # characters, before "… and N more"
_MAX_MESSAGE = 500  # characters of an answer's message

_CALL = {"station": "station-post", "status": "connector-post-status"}
_EVSE_ID = re.compile(r"[A-Za-z]{2}\*?[A-Za-z0-9]{3}\*?E[A-Za-z0-9*]{1,30}")
_TIME = re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00")
_DAY = re.compile(r"Mo|Tu|We|Th|Fr|Sa|Su")
_SUCCESSOR = re.compile(r"(.+)~([2-9]|[1-9][0-9]{1,8})", re.DOTALL)
_UNSENDABLE = re.compile(r"[\x00-\x1f\ud800-\udfff]")
_UNSENDABLE_IN_LINES = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")
_ANSI_SEQUENCE = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]")

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxlong = _repr.maxother = _MAX_VALUE


def encode_station(station: Station, *, cpo_id: str | None, confirmed: bool = True) -> Payload | Held:
    """Make the `station` object of a `station-post`, or say everything that is wrong with the station.

    Keys stand in the order of the protocol's table, optional fields that are None are left out, `deleted` is False, and connectors are
    sorted, so that equal stations have equal payloads whatever the order of their rows. `cpo_id` is the CPO's EVSE prefix as this EMP
    knows it (`DE*8PS`), None when there is none; `confirmed`: the EMP was told of it. Source: OIOI v4, `station-post`, the three steps.
    """
    s, check = station, _Check()
    content = {
        "id": check.text("station_id", s.station_id, integer=True),
        "name": check.text("name", s.name),
        "description": check.text("description", s.description, required=False, lines=True),
        "latitude": check.degrees("latitude", s.latitude, 90),
        "longitude": check.degrees("longitude", s.longitude, 180),
        "address": {
            "street": check.text("street", s.street),
            "street-number": check.text("street_number", s.street_number, integer=True),
            "city": check.text("city", s.city),
            "zip": check.text("zip", s.zip, integer=True),
            "country": check.one_of(_COUNTRIES, "country", "is no assigned ISO 3166-1 code of two upper-case letters", s.country),
        },
        "contact": check.contact(s),
        "cpo-id": check.cpo_id(s.cpo, cpo_id, confirmed),
        "is-open-24": check.boolean("is_open_24", s.is_open_24, required=True),
        "connectors": check.connectors(s.connectors),
        "open-hour-notes": check.open_hour_notes(s.open_hour_notes),
        "notes": check.text("notes", s.notes, required=False, lines=True, limit=_MAX_NOTES),
        "is-reservable": check.boolean("is_reservable", s.is_reservable),
        "is-free-charge": check.boolean("is_free_charge", s.is_free_charge),
        "is-green-power-available": check.boolean("is_green_power_available", s.is_green_power_available),
        "is-plugin-charge": check.boolean("is_plugin_charge", s.is_plugin_charge),
        "is-roofed": check.boolean("is_roofed", s.is_roofed),
        "is-private": check.boolean("is_private", s.is_private),
        "floor-level": check.integer("floor_level", s.floor_level),
        "total-parking": check.integer("total_parking", s.total_parking),
        "deleted": False,
    }
    return check.held() if check.problems else _without_none(content)


def encode_statuses(station: Station) -> dict[str, Payload | Held]:
    """Make the `connector-id` and `status` of a `connector-post-status` for each EVSE id of a station.

    Connectors with one EVSE id have one: Occupied if any is, else Reserved, Available, Unknown, Offline. What the protocol does not know
    is held. No EVSE id (None, empty, not text), no entry: the station is held for it. Source: OIOI v4, `connector-post-status`.
    """
    statuses: dict[str, list[Any]] = {}
    for connector in station.connectors:
        if isinstance(connector.evse_id, str) and connector.evse_id:
            statuses.setdefault(connector.evse_id, []).append(connector.status)
    return {evse_id: _shared_status(evse_id, found) for evse_id, found in statuses.items()}


def deleted(payload: Payload) -> Payload:
    """Return the same station marked as deleted, with its connectors. Source: OIOI v4, `station-post`, `deleted`."""
    return {**payload, "deleted": True}


def is_deleted(payload: Payload) -> bool:
    """Say whether a station payload deletes its station."""
    return payload["deleted"] is True


def with_id(payload: Payload, station_id: str) -> Payload:
    """Return the same station under another id."""
    return payload if payload["id"] == station_id else {**payload, "id": station_id}


def successor(station_id: str) -> str:
    """Return the id under which a station is posted anew, when this one was deleted.

    >>> successor("x"), successor("x~2"), successor("x~y")
    ('x~2', 'x~3', 'x~y~2')
    """
    if found := _SUCCESSOR.fullmatch(station_id):
        return f"{found[1]}~{int(found[2]) + 1}"
    return f"{station_id}~2"


def is_successor(station_id: str) -> bool:
    """Say whether an id has the form that only `successor` may give."""
    return _SUCCESSOR.fullmatch(station_id) is not None


def evse_ids(payload: Payload) -> tuple[str, ...]:
    """Return the EVSE ids of a station payload, sorted, one for each connector, whatever `deleted` says: what may not change."""
    return tuple(sorted(connector["id"] for connector in payload["connectors"]))


def body(kind: Kind, payload: Payload, *, partner_identifier: str) -> bytes:
    """Return the whole request body, compact JSON in UTF-8, of a payload that this module made. Source: OIOI v4, transport."""
    partner = {"partner-identifier": partner_identifier}
    content = {"station": payload, **partner} if kind == "station" else {**payload, **partner}
    return orjson.dumps({_CALL[kind]: content})


def headers(api_key: str) -> dict[str, str]:
    """Return the headers of every request; a charset beside the content type is refused somewhere. Source: OIOI v4, transport."""
    return {"Authorization": f"key={api_key}", "Content-Type": "application/json"}


def decode(http_status: int, content: bytes, *, kind: Kind, retry_after: str | None = None) -> Answer:
    """Read an EMP's answer to a call of this kind, whatever its bytes; never raises.

    `code` is `result.code`, or 0 for an older receiver's `success: true` under the name of this call; None when there is neither, when
    it is no 32-bit integer, or when a code of success stands beside an `error` or `success: false`. `message`: at most 500 printable
    characters of what is said, else of the raw text. Strike the API key from `content` first, it may be echoed. Source: OIOI v4, transport.
    """
    raw = content[: 4 * _MAX_MESSAGE].decode("utf-8", "replace")
    try:
        answer = _object(_loaded(content))
    except (ValueError, RecursionError):  # no JSON, no UTF, an integer of thousands of digits; nested too deeply
        answer = {}
    error, result, older = answer.get("error"), _object(answer.get("result")), _object(answer.get(_CALL[kind]))
    code = result.get("code") if result else 0 if older.get("success") is True else None
    refused = error or older.get("success") is False
    if type(code) is not int or abs(code) > _MAX_INTEGER or (refused and 0 <= code <= 99):  # `true` is no code
        code = None
    said = (result.get("message"), older.get("message"), older.get("error"), error, _object(error).get("message"))
    message = next((text for text in said if isinstance(text, str) and text.strip()), raw if code is None else "")
    message = " ".join(_visible(message[: 4 * _MAX_MESSAGE]).split())[:_MAX_MESSAGE]
    return Answer(http_status=http_status, code=code, message=message, retry_after=retry_after)


def _loaded(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except ValueError:  # which is stricter than many who write JSON: half a surrogate pair, NaN
        return json.loads(content)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value is not None}


def _visible(text: str) -> str:
    """Replace what a terminal or Postgres could trip over: white space by a space, any other unprintable character by U+FFFD."""
    text = _ANSI_SEQUENCE.sub("\N{REPLACEMENT CHARACTER}", text)
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _shown(value: Any) -> str:
    try:
        text = _visible(_repr.repr(value))
    except Exception:  # whatever the value is, it must not hide the reason: an integer too long to print, say
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 1]}…"


def _shared_status(evse_id: str, statuses: Sequence[Any]) -> Payload | Held:
    check = _Check()
    check.evse_id(evse_id)
    for status in statuses:
        check.one_of(STATUSES, "status", "is no OIOI status", status)
    return check.held() if check.problems else {"connector-id": evse_id, "status": min(statuses, key=_RANK.__getitem__)}


def _number(value: Any) -> int | float | None:
    """Return a finite number as JSON shall show it, an integral one without a fraction, as far as floats tell integers apart; or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):  # an integer beyond any float; a signalling NaN
        return None
    return (int(number) if number.is_integer() and abs(number) <= _MAX_EXACT else number) if isfinite(number) else None


def _pair(value: Any, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) and pattern.fullmatch(one) for one in value)


def _is_note(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"times", "days"} and _pair(value["times"], _TIME) and _pair(value["days"], _DAY)


class _Check:
    """The checks of one station or status: each returns what to send and notes what is wrong, in which case nothing is sent."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.faults: list[str] = []

    def wrong(self, field: str, fault: str, value: Any, *, at: Any = None) -> None:
        """Note `field: what is wrong (value)`; `at` is the connector's EVSE id, where the field alone does not lead to it."""
        where = "" if at is None else f", at {_shown(at)}"
        fault = f"{field}: {'is missing' if value is None else fault}"
        self.problems.append(f"{fault}{where} ({_shown(value)})")
        self.faults.append(fault)

    def held(self) -> Held:
        return Held(reason=self._reason(), faults=tuple(dict.fromkeys(self.faults)))

    def _reason(self) -> str:
        found = list(dict.fromkeys(self.problems))
        reason = found[0]
        for count, problem in enumerate(found[1:], start=1):
            if len(reason) + len(problem) > _MAX_REASON:
                return f"{reason}; … and {len(found) - count} more"
            reason = f"{reason}; {problem}"
        return reason

    def text(self, field: str, value: Any, *, required: bool = True, integer: bool = False, lines: bool = False, limit: int = 10**4) -> Any:
        if isinstance(value, str) and value.isprintable() and len(value) <= limit and (not required or value.strip()):
            return value  # the common case, decided in C
        if value is None and not required:
            return None
        if integer and isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 128:
            return str(int(value))  # a longer one is no id, and Python refuses to print the longest
        if not isinstance(value, str):
            self.wrong(field, "must be text or an integer" if integer else "must be text", value)
        elif required and not value.strip():
            self.wrong(field, "is blank", value)
        elif len(value) > limit:
            self.wrong(field, f"has more than {limit} characters", value)
        elif found := (_UNSENDABLE_IN_LINES if lines else _UNSENDABLE).search(value):
            self.wrong(field, f"has the character U+{ord(found[0]):04X} at position {found.start() + 1}", value)
        return value

    def contact(self, s: Station) -> dict[str, Any]:
        phone, fax = self.text("phone", s.phone, integer=True), self.text("fax", s.fax, required=False, integer=True)
        web, email = self.text("web", s.web, required=False), self.text("email", s.email, required=False)
        return _without_none({"phone": phone, "fax": fax, "web": web, "email": email})  # `website` stands only in the protocol's text

    def one_of(self, known: frozenset[str], field: str, fault: str, value: Any, *, at: Any = None) -> Any:
        if not (isinstance(value, str) and value in known):
            self.wrong(field, fault, value, at=at)
        return value

    def cpo_id(self, cpo: Any, cpo_id: str | None, confirmed: bool) -> Any:
        if cpo is None:
            self.wrong("cpo", "", cpo)
        elif cpo_id is None:
            self.wrong("cpo", "has no cpo-id for this EMP", cpo)
        elif not confirmed:
            self.wrong("cpo", "is not confirmed for this EMP (cdc-pusher cpo confirm)", cpo)
        return self.text("cpo-id", cpo_id, required=cpo_id is not None)

    def boolean(self, field: str, value: Any, *, required: bool = False) -> Any:
        if not (value is True or value is False or (value is None and not required)):
            self.wrong(field, "must be true or false", value)
        return value

    def degrees(self, field: str, value: Any, limit: int) -> int | float | None:
        number = _number(value)
        if number is None or abs(number) > limit:
            self.wrong(field, f"must be a number from -{limit} to {limit}", value)
        return number

    def integer(self, field: str, value: Any) -> int | float | None:
        number = _number(value)
        if value is not None and not (isinstance(number, int) and abs(number) <= _MAX_INTEGER):
            self.wrong(field, "must be an integer of 32 bits", value)
        return number

    def connectors(self, connectors: Sequence[Connector]) -> list[dict[str, Any]]:
        if not 1 <= len(connectors) <= _MAX_ITEMS:
            self.wrong("connectors", f"must be 1 to {_MAX_ITEMS}", len(connectors))
            return []
        found = [self.connector(connector) for connector in connectors]
        return found if self.problems else sorted(found, key=itemgetter("id", "name", "speed"))

    def connector(self, connector: Connector) -> dict[str, Any]:
        evse_id = self.evse_id(connector.evse_id)
        name = self.one_of(CONNECTOR_TYPES, "type", "is no OIOI connector type", connector.type, at=evse_id)
        speed = _number(connector.speed_kw)
        if speed is None or speed <= 0:
            self.wrong("speed_kw", "must be a number above 0", connector.speed_kw, at=evse_id)
        return {"id": evse_id, "name": name, "speed": speed}

    def evse_id(self, value: Any) -> Any:
        if not (isinstance(value, str) and _EVSE_ID.fullmatch(value)):
            self.wrong("evse_id", "is no EVSE id", value)
        elif value[:2].upper() not in _COUNTRIES:
            self.wrong("evse_id", "starts with no assigned ISO 3166-1 country code", value)
        return value

    def open_hour_notes(self, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, list) or len(value) > _MAX_ITEMS:
            self.wrong("open_hour_notes", f"must be a list of at most {_MAX_ITEMS} notes", value)
        elif wrong := [note for note in value if not _is_note(note)]:
            self.wrong("open_hour_notes", 'must be like {"times": ["07:30", "19:00"], "days": ["Mo", "Fr"]}', wrong[:1])
        return value
