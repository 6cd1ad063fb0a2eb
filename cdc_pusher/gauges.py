"""What the database says of us, for Prometheus and for the question whether we are ready."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cdc_pusher import metrics, report, triggers
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection
from cdc_pusher.horizon import Pace

COUNT_STATIONS_EVERY_S = 60.0
VERIFY_TRIGGERS_EVERY_S = 45.0  # with every second refresh: a query or two for each watch
QUICK_S = 0.5
SHARE = 0.02  # of the time at most goes into looking: it goes through the outbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """As they were at `at` (seconds of the monotonic clock). Ages in seconds; `oldest_s` and `stations` by EMP.

    `backlog`: messages by EMP, state and cause, as `report.backlog` has them.
    """

    at: float
    trigger_faults: Sequence[str]
    change_log_age_s: float
    oldest_s: Mapping[str, float]
    undelivered: int
    backlog: Sequence[report.Row] = ()
    stations: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Gauges:
    """Read the figures now and then, and set the gauges."""

    figures: Figures | None = None
    _pace: Pace = field(default_factory=lambda: Pace(share=SHARE))
    _next_at: float = float("-inf")
    _took_s: float = 0.0
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _stations_at: float = float("-inf")
    _triggers_at: float = float("-inf")
    _trigger_faults: Sequence[str] = ()
    _stations: Mapping[str, int] = field(default_factory=dict)
    _counted: dict[str, int] = field(default_factory=dict)

    def is_due(self) -> bool:
        """Whether it is time to look again: the longer that took, the later."""
        return time.monotonic() >= self._next_at

    def is_due_for_people(self) -> bool:
        """Whether somebody who waits for the answer may look: if that was quick the last time, and nobody looks already."""
        return self.is_due() and self._took_s < QUICK_S and not self._turn.locked()

    async def refresh(self, conn: Connection, settings: Settings) -> Figures:
        """Look, one at a time, and set the gauges. Raises psycopg errors."""
        async with self._turn:
            return await self._refresh(conn, settings)

    async def _refresh(self, conn: Connection, settings: Settings) -> Figures:
        began = time.monotonic()
        self._took_s, self._next_at = QUICK_S, began + QUICK_S / SHARE  # should it fail
        if began - self._triggers_at >= VERIFY_TRIGGERS_EVERY_S:
            self._trigger_faults = await triggers.verify(conn, settings.source.watch)
            self._triggers_at = began
        oldest, backlog = await self._backlog(conn, settings)
        await self._emps(conn)
        log = await report.log_depth(conn)
        metrics.trigger_faults.set(len(self._trigger_faults))
        metrics.change_log.set(log["changes"])
        metrics.change_log_age.set(log["age_s"])
        metrics.missed.inc(self._more("", log["missed"]))
        if began - self._stations_at >= COUNT_STATIONS_EVERY_S:
            self._stations = {row["emp"]: row["stations"] for row in await report.stations(conn)}
            for emp, count in self._stations.items():
                metrics.stations.labels(emp).set(count)
            self._stations_at = began
        metrics.refreshed.set_to_current_time()
        metrics.expose_the_database()
        self._took_s = time.monotonic() - began
        self._next_at = began + self._pace.pause_s(self._took_s)
        self.figures = Figures(
            at=time.monotonic(),
            trigger_faults=self._trigger_faults,
            change_log_age_s=log["age_s"],
            oldest_s=oldest,
            undelivered=sum(row["messages"] for row in backlog),
            backlog=backlog,
            stations=self._stations,
        )
        return self.figures

    async def _backlog(self, conn: Connection, settings: Settings) -> tuple[dict[str, float], list[report.Row]]:
        now, rows = datetime.now(UTC), await report.backlog(conn)
        metrics.undelivered.clear()
        oldest = dict.fromkeys(settings.emp, 0.0)
        for row in rows:
            metrics.undelivered.labels(row["emp"], row["state"], row["cause"]).set(row["messages"])
            if row["oldest_change_at"] is not None and row["emp"] in oldest:
                oldest[row["emp"]] = max(oldest[row["emp"]], (now - row["oldest_change_at"]).total_seconds())
        metrics.oldest_age.clear()
        metrics.late_after.clear()
        for emp, age_s in oldest.items():
            metrics.oldest_age.labels(emp).set(age_s)
            metrics.late_after.labels(emp).set(settings.emp[emp].late_after_s)
        return oldest, rows

    async def _emps(self, conn: Connection) -> None:
        rows = await report.served(conn)
        for gauge in (metrics.breaker_open, metrics.paused, metrics.full_load_completed, metrics.walk_stations, metrics.sweep_completed):
            gauge.clear()
        for row in rows:
            emp = row["emp"]
            metrics.breaker_open.labels(emp).set(row["is_failing"])
            metrics.paused.labels(emp).set(row["is_paused"])
            metrics.full_load_completed.labels(emp).set(row["is_loaded"])
            metrics.walk_stations.labels(emp).set(row["walk_stations"])
            if row["sweep_completed_at"] is not None:
                metrics.sweep_completed.labels(emp).set(row["sweep_completed_at"].timestamp())
            metrics.healed.labels(emp).inc(self._more(emp, row["healed"]))

    def _more(self, what: str, count: int) -> int:
        """By how much a count of the database has grown since we looked last."""
        before, self._counted[what] = self._counted.get(what, 0), count
        return max(0, count - before)
