"""One station: what the database says beside what each EMP was told, field by field, its EVSEs, and the requests there were."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from cdc_pusher import capture, oioi, plan
from cdc_pusher.errors import CdcPusherError
from cdc_pusher.model import Held, Payload, Station
from cdc_pusher.monitor.looking import Eyes, Row, rows, sql
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
    """The station for one EMP. `wrong`: why the database's station cannot be sent, or that there is none."""

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
    """A station by its id, for each EMP; the newest `ATTEMPTS` requests. `mapping_fails`: why the database could not be read."""

    station_id: str
    mapping_fails: str | None
    emps: Sequence[AtEmp]
    attempts: Sequence[Attempt]


class NotFound(CdcPusherError):
    """There is nothing of that name."""


async def look(eyes: Eyes, station_id: str) -> StationView:
    """One station, by its id or that of one of its EVSEs. Raises `NotFound`."""
    async with eyes.connection() as conn:
        found = await rows(conn, sql.rows, station_id=station_id)
        if not found:
            raise NotFound(f"no EMP has, or is to have, a station '{station_id}'")
        keys = sorted({row["key"] for row in found})
        attempts = [Attempt(**row) for row in await rows(conn, sql.attempts, keys=keys, limit=ATTEMPTS)]
    reading, mapping_fails = None, None
    try:
        async with eyes.connection() as conn:
            source = await Source.open(conn, eyes.settings.source, eyes.settings.only, strict=False)
            reading = (await source.read([station_id])).get(station_id)
        async with eyes.connection() as conn:
            cpo = str(reading.cpo) if isinstance(reading, Station) else None
            told = {(row["emp"], row["cpo"]): row["told"] for row in await rows(conn, sql.cpos, cpo=cpo)}
    except CdcPusherError as error:
        mapping_fails, told = str(error), {}
    emps = []
    for emp in sorted({row["emp"] for row in found}):
        own = [row for row in found if row["emp"] == emp]
        now = None if mapping_fails else _now(eyes, emp, reading, {c: one for (e, c), one in told.items() if e == emp})
        emps.append(_at_emp(emp, own, now, reading if isinstance(reading, Station) else None, unread=mapping_fails is not None))
    return StationView(station_id=station_id, mapping_fails=mapping_fails, emps=emps, attempts=attempts)


def _now(eyes: Eyes, emp: str, reading: Station | Held | None, told: Mapping[str, str | None]) -> Payload | Held:
    """The station as it would be sent to the EMP now."""
    receiver = capture.receivers(eyes.settings).get(emp)
    if receiver is None:
        return Held(reason="the configuration does not have this EMP")
    if isinstance(reading, Held):
        return reading
    if reading is None:
        return Held(reason="the database does not have it: the mapping does not return it")
    if emp in reading.unclear_for:
        return Held(reason=f"only: {reading.unclear_for[emp]}")
    if emp in reading.not_for:
        return Held(reason="not for this EMP: it does not meet the condition `only`")
    return plan.encoded(reading, receiver, told)


def _at_emp(emp: str, own: Sequence[Row], now: Payload | Held | None, reading: Station | None, *, unread: bool) -> AtEmp:
    row = next((one for one in own if one["kind"] == "station"), None)
    acknowledged = row["acknowledged"] if row else None
    deleted = acknowledged is not None and oioi.is_deleted(acknowledged)
    payload = now if not isinstance(now, Held) and now is not None else None
    if payload is not None and acknowledged is not None:
        payload = oioi.with_id(payload, acknowledged["id"])  # its id at the EMP, which may be a successor
    known = row or {"state": "unknown", "reason": None, "changed_at": None, "delivered_at": None, "doubtful": None, "payload": None}
    statuses = oioi.encode_statuses(reading) if reading is not None else {}
    return AtEmp(
        emp=emp,
        name=(payload or acknowledged or known["payload"] or {}).get("name"),
        state=known["state"],
        reason=known["reason"],
        since=known["changed_at"],
        delivered_at=known["delivered_at"],
        uncertain=known["doubtful"] is not None,
        deleted=deleted,
        wrong=now.reason if isinstance(now, Held) else None,
        fields=list(compared(payload, acknowledged)),
        statuses=[_status(one, statuses.get(one["key"]), unread=unread) for one in own if one["kind"] == "status"],
    )


def _status(row: Row, now: Payload | Held | None, *, unread: bool) -> Status:
    database = now.reason if isinstance(now, Held) else now["status"] if now is not None else None
    told = row["acknowledged"]["status"] if row["acknowledged"] else None
    return Status(
        evse_id=row["key"],
        database=database,
        told=told,
        differs=not unread and database != told,
        state=row["state"],
        reason=row["reason"] or row["last_error"],
        since=row["changed_at"],
        delivered_at=row["delivered_at"],
    )


def compared(database: Payload | None, told: Payload | None) -> Iterator[Field]:
    """Two station messages, field by field, in the order of the message.

    >>> [(f.name, f.database, f.told, f.differs) for f in compared({"a": 1, "b": {"c": True}}, {"a": 1, "b": {"c": False}, "d": "x"})]
    [('a', '1', '1', False), ('b.c', 'true', 'false', True), ('d', None, 'x', True)]
    """
    ours, theirs = dict(_flat(database or {})), dict(_flat(told or {}))
    for name in dict.fromkeys([*ours, *theirs]):
        yield Field(name=name, database=ours.get(name), told=theirs.get(name), differs=ours.get(name) != theirs.get(name))


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
            yield name, f"{value:g}" if value.is_integer() else repr(value)
        case _:
            yield name, str(value)
