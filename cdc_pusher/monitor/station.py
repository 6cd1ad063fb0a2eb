"""One station: what the database says beside what each EMP was told, field by field, its EVSEs, and the requests there were."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import psycopg

from cdc_pusher import capture, oioi, plan, report
from cdc_pusher.database import one_line
from cdc_pusher.errors import CdcPusherError, DatabaseUnavailable
from cdc_pusher.model import Held, Payload, Station
from cdc_pusher.monitor.looking import OF_THE_CPO, Eyes, Row, rows, sql
from cdc_pusher.source import Source

ATTEMPTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of the message, as text; None: it is not there."""

    name: str
    database: str | None
    told: str | None
    differs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """One EVSE: what the database says of it now, what the EMP has accepted, how far the message about it has got."""

    evse_id: str
    database: str | None
    told: str | None
    differs: bool
    state: str
    reason: str | None
    since: datetime | None
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AtEmp:
    """The station for one EMP. `wrong`: why what the database has cannot be sent as a message; then `fields` are what was told alone."""

    emp: str
    name: str | None
    state: str
    reason: str | None
    since: datetime | None
    delivered_at: datetime | None
    uncertain: bool
    deleted: bool
    wrong: str | None
    fields: Sequence[Field]
    statuses: Sequence[Status]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One request."""

    sent_at: datetime
    emp: str
    kind: Literal["station", "status"]
    key: str
    gen: int
    duration_ms: int
    outcome: str
    http_status: int | None
    result_code: int | None
    error: str | None
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StationView:
    """A station for each EMP; the newest `ATTEMPTS` requests. `columns`: by name, what the mapping says of it now, before it is a message.

    `unread`: why the database could not be read; then nothing is compared.
    """

    station_id: str
    unread: str | None
    columns: Sequence[tuple[str, str]]
    emps: Sequence[AtEmp]
    attempts: Sequence[Attempt]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the database says of a station now (None: nothing), and of its CPO by EMP what it was told; `unread`: it could not be read."""

    found: Station | Held | None = None
    told: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    unread: str | None = None

    @property
    def station(self) -> Station | None:
        return self.found if isinstance(self.found, Station) else None


class NotFound(CdcPusherError):
    """There is nothing of that name."""


async def look(eyes: Eyes, station_id: str) -> StationView:
    """One station, by its id or that of one of its EVSEs. Raises `NotFound`."""
    async with eyes.connection() as conn:
        found = await rows(conn, sql.rows, station_id=station_id)
        if not found and (of := await rows(conn, sql.station_of, emps=eyes.emps(None), evse=station_id)):
            station_id = of[0]["station_id"]
            found = await rows(conn, sql.rows, station_id=station_id)
    reading = await _read(eyes, station_id)
    if not found and reading.found is None:
        raise NotFound(f"neither the database nor any EMP has a station '{station_id}', as far as we know")
    keys = sorted({station_id, *(row["key"] for row in found)})
    async with eyes.connection() as conn:
        attempts = [Attempt(**row) for row in await rows(conn, sql.attempts, keys=keys, limit=ATTEMPTS)]
    columns = report.as_told({station_id: reading.found} if reading.found else {}, [station_id])[station_id] if not reading.unread else {}
    emps = sorted({row["emp"] for row in found} | (set(eyes.emps(None)) if reading.found else set()))
    return StationView(
        station_id=station_id,
        unread=reading.unread,
        columns=[(name, plain_text(value)) for name, value in columns.items()] if isinstance(columns, dict) else [],
        emps=[_at_emp(eyes, emp, [row for row in found if row["emp"] == emp], reading) for emp in emps],
        attempts=attempts,
    )


async def _read(eyes: Eyes, station_id: str) -> Reading:
    """The station as the mapping says it is now."""
    try:
        async with eyes.connection(OF_THE_CPO) as conn:
            source = await Source.open(conn, eyes.settings.source, eyes.settings.only, strict=False)
            found = (await source.read([station_id])).get(station_id)
        told: dict[str, dict[str, str | None]] = defaultdict(dict)
        if isinstance(found, Station):
            async with eyes.connection() as conn:
                for row in await rows(conn, sql.cpos, cpo=str(found.cpo)):
                    told[row["emp"]][row["cpo"]] = row["told"]
    except DatabaseUnavailable:
        raise
    except (CdcPusherError, psycopg.Error) as error:
        return Reading(unread=one_line(error))
    return Reading(found=found, told=told)


def _now(eyes: Eyes, emp: str, reading: Reading) -> Payload | Held:
    """The station as it would be sent to the EMP now."""
    receiver = capture.receivers(eyes.settings).get(emp)
    found = reading.found
    if receiver is None:
        return Held(reason="the configuration does not have this EMP")
    if found is None:
        return Held(reason="the database does not have it: the mapping does not return it")
    if isinstance(found, Held):
        return found
    if emp in found.unclear_for:
        return Held(reason=f"only: {found.unclear_for[emp]}")
    if emp in found.not_for:
        return Held(reason="not for this EMP: it does not meet the condition `only`")
    return plan.encoded(found, receiver, reading.told.get(emp, {}))


_NO_ROW: Row = dict.fromkeys(("reason", "changed_at", "delivered_at", "doubtful", "payload", "acknowledged", "last_error")) | {
    "state": "not captured yet"
}


def _at_emp(eyes: Eyes, emp: str, own: Sequence[Row], reading: Reading) -> AtEmp:
    row = next((one for one in own if one["kind"] == "station"), _NO_ROW)
    told = row["acknowledged"]
    now = None if reading.unread else _now(eyes, emp, reading)
    payload = None if isinstance(now, Held) else now
    if payload is not None and told is not None:
        payload = oioi.with_id(payload, told["id"])  # its id at the EMP, which may be a successor
    return AtEmp(
        emp=emp,
        name=(payload or told or row["payload"] or {}).get("name"),
        state=row["state"],
        reason=row["reason"],
        since=row["changed_at"],
        delivered_at=row["delivered_at"],
        uncertain=row["doubtful"] is not None,
        deleted=told is not None and oioi.is_deleted(told),
        wrong=now.reason if isinstance(now, Held) else None,
        fields=list(compared(payload, told)),
        statuses=list(_statuses(own, reading)),
    )


def _statuses(own: Sequence[Row], reading: Reading) -> Iterator[Status]:
    """Of every EVSE that the database lists or the EMP was to be told of."""
    now = oioi.encode_statuses(reading.station) if reading.station is not None else {}
    known = {row["key"]: row for row in own if row["kind"] == "status"}
    for evse_id in sorted({*now, *known}):
        row, found = known.get(evse_id, _NO_ROW), now.get(evse_id)
        database = found.reason if isinstance(found, Held) else found["status"] if found is not None else None
        told = row["acknowledged"]["status"] if row["acknowledged"] else None
        yield Status(
            evse_id=evse_id,
            database=database,
            told=told,
            differs=not reading.unread and database != told,
            state=row["state"],
            reason=row["reason"] or row["last_error"],
            since=row["changed_at"],
            delivered_at=row["delivered_at"],
        )


def compared(database: Payload | None, told: Payload | None) -> Iterator[Field]:
    """Two station messages, field by field, in the order of the message; where there is one alone, nothing differs.

    >>> [(f.name, f.database, f.told, f.differs) for f in compared({"a": 1, "b": {"c": True}}, {"a": 1, "b": {"c": False}, "d": "x"})]
    [('a', '1', '1', False), ('b.c', 'true', 'false', True), ('d', None, 'x', True)]
    """
    ours, theirs = dict(_flat(database or {})), dict(_flat(told or {}))
    both = database is not None and told is not None
    for name in dict.fromkeys([*ours, *theirs]):
        differs = both and ours.get(name) != theirs.get(name)
        yield Field(name=name, database=ours.get(name), told=theirs.get(name), differs=differs)


def plain_text(value: Any) -> str:
    """A value that may be a list."""
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    match value:
        case dict():
            for key, one in value.items():
                yield from _flat(one, f"{name}.{key}" if name else key)
        case list() if all(isinstance(one, dict) and "id" in one for one in value):
            for one in value:
                yield from _flat({key: part for key, part in one.items() if key != "id"}, f"{name} {one['id']}")
        case list():
            yield name, ", ".join(text for one in value for _, text in _flat(one, "x"))
        case bool():
            yield name, str(value).lower()
        case float():
            yield name, str(int(value)) if value.is_integer() else repr(value)
        case _:
            yield name, str(value)
