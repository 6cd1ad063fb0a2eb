"""What OIOI v4 allows in a message: reads and checks it, pure. An independent reading of the protocol text, not the sender's.

`read_message` always gives a `Message`: as much as could be read of it, and a `Refusal` if it may not be taken. The text names no
ranges, so only what cannot be true is refused (a latitude of 91, a speed below 0 kW). What depends on what the EMP holds is in `emp`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cdc_pusher.model import Kind
from cdc_pusher.sandbox.shape import (
    Check,
    Mismatch,
    array,
    each,
    fields,
    flag,
    integer,
    matching,
    number,
    one_of,
    some_text,
    text,
)

MALFORMED = 200
EVSE_NOT_FOUND = 181
INVALID_API_KEY = 210
INVALID_PARTNER = 211
EVSE_ELSEWHERE = 322
"""Result codes, named (OIOI v4, request, result codes)."""

CONNECTOR_TYPES = frozenset(
    {
        "Type1",
        "Type2",
        "Type3",
        "Combo",
        "Chademo",
        "Schuko",
        "CeeBlue",
        "CeeRed",
        "CeePlus",
        "Cee2Poles",
        "3PinSquare",
        "Tesla",
        "Scame",
        "Nema5",
        "T13",
        "T15",
        "T23",
        "Marechal",
        "TypeE",
    }
)
STATUSES = frozenset({"Available", "Occupied", "Offline", "Reserved", "Unknown"})
DAYS = frozenset({"Mo", "Tu", "We", "Th", "Fr", "Sa", "Su"})

_evse_id = matching(re.compile(r"[A-Za-z]{2}\*?[A-Za-z0-9]{3}\*?E[A-Za-z0-9*]{1,30}"), "an EVSE id")
"""OIOI v4, glossary, EVSE."""
_country = matching(re.compile(r"[A-Z]{2}"), "a country code of two upper-case letters")
_time = matching(re.compile(r"(?:[01][0-9]|2[0-3]):[0-5][0-9]|24:00"), "a time of day (HH:MM)")
_day = one_of(DAYS)

_connector = fields({"id": _evse_id, "name": one_of(CONNECTOR_TYPES), "speed": number(low=0)})
_open_hours = fields({"times": array(_time, _time), "days": array(_day, _day)})
_address = fields({"street": some_text, "street-number": some_text, "city": some_text, "zip": some_text, "country": _country})
_contact = fields({"phone": some_text}, {"fax": text, "web": text, "email": text})

STATION = fields(
    {
        "id": some_text,
        "name": some_text,
        "latitude": number(-90, 90),
        "longitude": number(-180, 180),
        "address": _address,
        "contact": _contact,
        "cpo-id": some_text,
        "is-open-24": flag,
        "connectors": each(_connector, empty=False),
        "deleted": flag,
    },
    {
        "description": text,
        "open-hour-notes": each(_open_hours, empty=True),
        "notes": text,
        "is-reservable": flag,
        "floor-level": integer(),
        "is-free-charge": flag,
        "total-parking": integer(low=0),
        "is-green-power-available": flag,
        "is-plugin-charge": flag,
        "is-roofed": flag,
        "is-private": flag,
    },
    name="station",
)
"""OIOI v4, station-post, fields of `station`. `contact.web`, not `website`: the text's example and its implementations agree on it."""

STATUS = fields({"connector-id": _evse_id, "status": one_of(STATUSES)}, name="connector-post-status")
"""OIOI v4, connector-post-status, without the partner identifier."""

_CALLS: dict[str, Kind] = {"station-post": "station", "connector-post-status": "status"}
_PARTNER = "partner-identifier"
_CONTENTS: dict[Kind, Check] = {"station": fields({"station": STATION}, name="station-post"), "status": STATUS}
_KEYS: dict[Kind, str] = {"station": "id", "status": "connector-id"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why a message is not taken: an OIOI result code and `<field>: <what>`."""

    code: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What could be read of a request: `payload` is the station, or connector id and status, never the partner identifier.

    `kind` is None for an unknown call, `key` (station id or EVSE id) where there is no string in its place.
    """

    kind: Kind | None = None
    key: str | None = None
    payload: Any = None
    refusal: Refusal | None = None


def read_message(body: bytes, *, partner_identifier: str) -> Message:
    """Reads one request body and judges it by itself: the call, then the partner identifier (211), then every field (200)."""
    try:
        call = _call(_document(body))
    except Mismatch as error:
        return Message(refusal=Refusal(code=MALFORMED, message=str(error)))
    kind, content, partner = call
    payload = content.get("station") if kind == "station" else content
    key = payload.get(_KEYS[kind]) if isinstance(payload, dict) else None
    return Message(
        kind=kind,
        key=key if isinstance(key, str) else None,
        payload=payload,
        refusal=_judge(kind, content, partner, partner_identifier),
    )


def _judge(kind: Kind, content: dict[str, Any], partner: Any, expected: str) -> Refusal | None:
    try:
        if partner is None:
            raise Mismatch(_PARTNER, "is missing")
        text(partner, _PARTNER)
        if partner != expected:
            return Refusal(code=INVALID_PARTNER, message=f"{_PARTNER}: is not known here")
        _CONTENTS[kind](content, "")
    except Mismatch as error:
        return Refusal(code=MALFORMED, message=str(error).removeprefix("station."))
    return None


def _call(document: Any) -> tuple[Kind, dict[str, Any], Any]:
    """The call, its content without the partner identifier, and that (None if it is missing). OIOI v4, request, the body."""
    if not isinstance(document, dict):
        raise Mismatch("body", "must be an object")
    if len(document) != 1 or not document.keys() <= _CALLS.keys():
        raise Mismatch("body", f"must have exactly one key, {' or '.join(_CALLS)}, not {', '.join(document) or 'none'}")
    name, content = document.popitem()
    if not isinstance(content, dict):
        raise Mismatch(name, "must be an object")
    return _CALLS[name], content, content.pop(_PARTNER, None)


def _document(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise Mismatch("body", "is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise Mismatch("body", f"is not JSON: {error}") from error


def _no_constant(name: str) -> None:
    raise Mismatch("body", f"{name} is not JSON")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise Mismatch("body", "has the same field twice in one object")
    return content
