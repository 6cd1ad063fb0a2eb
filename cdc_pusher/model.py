"""The values that pass from room to room: frozen, pure, without IO.

A `Station` is what the operator's mapping says of one station, unchecked; a protocol module turns it into payloads or into reasons why
it cannot be sent. An `Answer` is what came back from an EMP, a `Verdict` what follows from it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple

Kind = Literal["station", "status"]
Payload = Mapping[str, Any]
"""The part of a message that depends on the CPO's data: an OIOI `station`, or `connector-id` and `status`. JSON types only."""


class Connector(NamedTuple):
    """One connector as the mapping returns it, after the value maps; nothing is checked yet."""

    evse_id: Any = None
    type: Any = None
    speed_kw: Any = None
    status: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """One station as the mapping returns it, with its connectors; nothing but `station_id` is checked yet.

    The fields are the columns of `[source] stations`; a column that the mapping leaves out is None. `not_for`: the EMPs whose condition
    (`only`) it does not meet; `unclear_for`: those whose condition fails for it, and why.
    """

    station_id: str
    name: Any = None
    description: Any = None
    latitude: Any = None
    longitude: Any = None
    street: Any = None
    street_number: Any = None
    city: Any = None
    zip: Any = None
    country: Any = None
    phone: Any = None
    fax: Any = None
    web: Any = None
    email: Any = None
    cpo: Any = None
    is_open_24: Any = None
    open_hour_notes: Any = None
    notes: Any = None
    is_reservable: Any = None
    floor_level: Any = None
    is_free_charge: Any = None
    total_parking: Any = None
    is_green_power_available: Any = None
    is_plugin_charge: Any = None
    is_roofed: Any = None
    is_private: Any = None
    connectors: tuple[Connector, ...] = ()
    not_for: frozenset[str] = frozenset()
    unclear_for: Mapping[str, str] = field(default_factory=dict)


STATION_COLUMNS = tuple(f.name for f in fields(Station) if f.name not in ("connectors", "not_for", "unclear_for"))
CONNECTOR_COLUMNS = ("station_id", *Connector._fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """This cannot be a valid message; `reason` names the field and its value.

    `faults`: the same without values, to count by.
    """

    reason: str
    faults: tuple[str, ...] = field(default=(), compare=False)


Desired = Payload | Held | None
"""What an EMP should have of one entity: a payload, nothing for a reason, or nothing at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back: an HTTP status with what the protocol could read of the body.

    `code` is the protocol's result code (None: the body could not be read), `message` at most 500 printable characters.
    """

    http_status: int
    code: int | None = None
    message: str = ""
    retry_after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Nothing readable came back. `applied` is False only when the request surely never reached the EMP; `timed_out`: it took too long."""

    error: str
    applied: bool = True
    timed_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The EMP has taken the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Try again, no sooner than `after_s` seconds from now if that is given.

    `blames`: the message; the EMP, which fails as a whole; or the configuration, with which no message can succeed. `uncertain`: the EMP
    may have applied it; `late`: or may still do so. `overloaded`: it is to be asked less at once.
    """

    reason: str
    after_s: float | None = None
    blames: Literal["message", "emp", "configuration"] = "message"
    uncertain: bool = False
    late: bool = False
    overloaded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StationMissing:
    """The EMP does not know the EVSE: its station has to be sent first (result code 181)."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """This message will never be taken as it is, or was given up; `uncertain`: the EMP may have applied it all the same."""

    reason: str
    uncertain: bool = False


Verdict = Accepted | Retry | StationMissing | Rejected
