"""What the daemon does by the clock, beside its parts: partitions of the audit trail, sweeps, gauges, history.

Each job connects for itself. One that fails is logged, counted and run again at its next time; the daemon goes on.
"""

from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from cdc_pusher import enqueue, history, metrics, systemd
from cdc_pusher.config import Settings
from cdc_pusher.database import connect, one_line
from cdc_pusher.gauges import Gauges
from cdc_pusher.history import History
from cdc_pusher.lease import Leases
from cdc_pusher.roster import CAPTURE

log = structlog.get_logger(__name__)

SWEEP_CHECK_S = 120.0  # how often to look whose sweep is due
GAUGES_S = 30.0
HISTORY_AT = "0,20,40"  # seconds of the minute


class Housekeeping:
    """`settings`: those of now; `wake_intake` is called when a sweep has begun."""

    def __init__(self, settings: Callable[[], Settings], leases: Leases, gauges: Gauges, *, wake_intake: Callable[[], None]) -> None:
        self._settings = settings
        self._leases = leases
        self._gauges = gauges
        self._history = History(leases.me)
        self._wake_intake = wake_intake

    def scheduler(self) -> AsyncIOScheduler:
        """All jobs, with their times; begins when it is started."""
        scheduler = AsyncIOScheduler(timezone="UTC", job_defaults={"coalesce": True, "misfire_grace_time": None})
        sweep_s = min(self._settings().daemon.sweep_interval_s / 4, SWEEP_CHECK_S)
        scheduler.add_job(self._maintain_attempts, "interval", id="attempts", hours=1, next_run_time=datetime.now(UTC))
        scheduler.add_job(self._sweep, "interval", id="sweep", seconds=sweep_s)
        scheduler.add_job(self._refresh_gauges, "interval", id="gauges", seconds=GAUGES_S, next_run_time=datetime.now(UTC))
        scheduler.add_job(self._write_history, "cron", id="history", second=HISTORY_AT)
        scheduler.add_listener(_note_failed_job, EVENT_JOB_ERROR)
        return scheduler

    async def _maintain_attempts(self) -> None:
        settings = self._settings()
        async with await connect(settings.database.dsn, "maintenance") as conn:
            await enqueue.maintain_attempts(conn, settings.daemon.attempt_retention_days)
            await history.forget(conn)

    async def _sweep(self) -> None:
        """Begin the sweep of the EMPs whose turn it is; when that was, the database knows."""
        if CAPTURE not in self._leases.held:
            return
        settings = self._settings()
        limits = settings.daemon
        async with await connect(settings.database.dsn, "sweep") as conn:
            begun = await enqueue.order_sweep(
                conn, list(settings.emp), interval_s=limits.sweep_interval_s, fastest=limits.sweep_max_stations_per_s
            )
        if begun:
            log.debug("a sweep begins", emps=begun)
            self._wake_intake()

    async def _refresh_gauges(self) -> None:
        settings = self._settings()
        metrics.daemons.set(self._leases.daemons)
        if self._gauges.is_due():
            async with await connect(settings.database.dsn, "gauges") as conn:
                await self._gauges.refresh(conn, settings)
        if (found := self._gauges.figures) is None:
            return
        oldest_s = max(found.oldest_s.values(), default=0.0)
        does = ", ".join(sorted(self._leases.held)) or "nothing, a spare one"
        systemd.notify(f"STATUS={does}; {found.undelivered} undelivered, the oldest change on its way is {oldest_s:.0f} s old")

    async def _write_history(self) -> None:
        look = self._history.look(datetime.now(UTC))
        if look.minutes:
            async with await connect(self._settings().database.dsn, "history") as conn:
                await history.write(conn, look.minutes)
        self._history.wrote(look)


def _note_failed_job(event: JobExecutionEvent) -> None:
    metrics.job_failures.labels(event.job_id).inc()
    log.error("a scheduled job failed", job=event.job_id, error=one_line(event.exception))
