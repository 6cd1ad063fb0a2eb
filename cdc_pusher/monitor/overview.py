"""How each EMP does, and whether what drivers see is right."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from cdc_pusher import metrics, report
from cdc_pusher.gauges import Figures
from cdc_pusher.monitor.looking import Eyes, Row, rows, sql

CAUSES = {
    "due": "due now",
    "sending": "being sent",
    "backoff": "failed, tried again soon",
    "late": "sent once more, because an earlier request may be processed late",
    "station": "waits for its station",
    "capture": "waits to be captured again",
    "cpo": "the EMP does not know its CPO",
    "connectors": "connectors changed, which the EMP does not allow",
    "evse": "its EVSE is still in another station",
    "mapping": "the mapping fails",
    "invalid": "cannot be a valid message",
    "refused": "refused by the EMP",
}
"""The causes of `report.backlog`, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Messages that are not delivered, for one reason."""

    state: str
    cause: str
    meaning: str
    messages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One minute, so many minutes `ago`: requests, and the delay from change to acceptance in seconds."""

    ago: int
    delivered: int
    failed: int
    lag_p50_s: float | None
    lag_p99_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Emp:
    """One EMP. `oldest_s`: the age of the oldest change on its way; `concurrency`: requests at once, if this daemon serves it."""

    name: str
    is_well: bool
    state: str
    stations: int | None
    undelivered: int
    problems: int
    oldest_s: float
    late_after_s: float | None
    full_load_completed_at: datetime | None
    walk: str | None
    walk_stations: int
    paused_at: datetime | None
    breaker_reason: str | None
    breaker_probe_at: datetime | None
    last_error: str | None
    last_error_at: datetime | None
    sweep_completed_at: datetime | None
    healed: int
    daemon: str | None
    concurrency: int | None
    concurrency_limit: int | None
    max_requests_per_second: float | None
    backlog: Sequence[Backlog]
    minutes: Sequence[Past]


@dataclass(frozen=True, slots=True, kw_only=True)
class Daemon:
    """One that lives."""

    name: str
    version: str
    started_at: datetime
    listens: bool
    leases: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """`wrong`: what keeps EMPs from being told, in words; `problems`: messages that wait for people, who are to mend data.

    `as_of`: when messages were counted. The rest is of this moment.
    """

    is_well: bool
    problems: int
    wrong: Sequence[str]
    changes: int
    changes_oldest_s: float
    as_of: datetime
    emps: Sequence[Emp]
    daemons: Sequence[Daemon]


async def look(eyes: Eyes) -> Overview:
    """How each EMP does."""
    async with eyes.connection() as conn:
        figures = await eyes.figures(conn)
        found = await rows(conn, sql.emps)
        minutes: dict[str, list[Past]] = defaultdict(list)
        for row in await rows(conn, sql.minutes, emps=[row["emp"] for row in found]):
            minutes[row.pop("emp")].append(Past(**row))
        log = await report.log_depth(conn)
        daemons = [Daemon(name=row.pop("daemon"), **row) for row in await report.daemons(conn)]
        unheld = await report.unheld(conn)
    emps = [_emp(eyes, row, figures, minutes.get(row["emp"], [])) for row in found]
    wrong = [f"EMP {emp.name} {emp.state}{f': {emp.breaker_reason}' if emp.breaker_reason else ''}" for emp in emps if not emp.is_well]
    wrong += [f"{name}: {what}" for name, what in eyes.probes.checks() if what is not None]
    wrong += [f"no daemon does this: {name}" for name in unheld]
    age_s = monotonic() - figures.at
    return Overview(
        is_well=not wrong,
        problems=sum(emp.problems for emp in emps),
        wrong=wrong,
        changes=log["changes"],
        changes_oldest_s=log["age_s"],
        as_of=datetime.fromtimestamp(datetime.now(UTC).timestamp() - age_s, UTC),
        emps=emps,
        daemons=daemons,
    )


def _emp(eyes: Eyes, row: Row, figures: Figures, minutes: Sequence[Past]) -> Emp:
    name = row["emp"]
    backlog = [
        Backlog(state=one["state"], cause=one["cause"], meaning=CAUSES[one["cause"]], messages=one["messages"])
        for one in sorted(figures.backlog, key=lambda one: -one["messages"])
        if one["emp"] == name
    ]
    settings = eyes.settings.emp.get(name)
    oldest_s = figures.oldest_s.get(name, 0.0)
    late_after_s = settings.late_after_s if settings else None
    state, is_well = state_of(row, is_late=late_after_s is not None and oldest_s > late_after_s)
    return Emp(
        name=name,
        is_well=is_well,
        state=state,
        stations=figures.stations.get(name),
        undelivered=sum(one.messages for one in backlog),
        problems=sum(one.messages for one in backlog if one.state in ("held", "rejected")),
        oldest_s=oldest_s,
        late_after_s=late_after_s,
        concurrency=_concurrency(name) if row["daemon"] == eyes.me else None,
        concurrency_limit=settings.concurrency if settings else None,
        max_requests_per_second=settings.max_requests_per_second if settings else None,
        backlog=backlog,
        minutes=minutes,
        **{column: row[column] for column in _AS_THEY_ARE},
    )


_AS_THEY_ARE = (
    "full_load_completed_at",
    "walk",
    "walk_stations",
    "paused_at",
    "breaker_reason",
    "breaker_probe_at",
    "last_error",
    "last_error_at",
    "sweep_completed_at",
    "healed",
    "daemon",
)


def state_of(row: Mapping[str, object], *, is_late: bool) -> tuple[str, bool]:
    """The state of an EMP in words, and whether it is as it should be.

    >>> works = {"served": True, "paused_at": None, "breaker_reason": None, "daemon": "d", "full_load_completed_at": 1}
    >>> state_of(works, is_late=False), state_of(works | {"full_load_completed_at": None}, is_late=False), state_of(works, is_late=True)
    (('works', True), ('full load under way', True), ('is late', False))
    """
    if not row["served"]:
        return "in no configuration", True
    if row["paused_at"]:
        return "is paused", False
    if row["daemon"] is None:
        return "is served by no daemon", False
    if row["breaker_reason"]:
        return "fails", False
    if is_late:
        return "is late", False
    return ("works", True) if row["full_load_completed_at"] else ("full load under way", True)


def _concurrency(emp: str) -> int | None:
    found = metrics.registry.get_sample_value("cdc_pusher_concurrency", {"emp": emp})
    return None if found is None else int(found)
