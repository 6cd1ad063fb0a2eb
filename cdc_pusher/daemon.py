"""The daemon: everything that runs, and what connects it.

    listener ──wake──▶ intake ──wake──▶ a lane for each EMP
    pulse ────wake──▶ intake and lanes

`intake` is the one loop that fills the outbox: it captures until the change log is empty, puts in the next page of a walk, and when
there is nothing at all says so to the triggers and sleeps. `pulse` looks once in a poll interval (at most a second) for anything that
no wake-up told of. Every part has a connection of its own, which is made anew with a growing pause when it breaks; a part that fails in
another way stops the daemon with its reason.
"""

import asyncio
import contextlib
import math
import os
import random
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Set
from datetime import UTC, datetime
from functools import partial

import psycopg
import structlog
from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from cdc_pusher import capture, enqueue, listen, migrate, policy, triggers
from cdc_pusher.client import EmpClient
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection, connect, one_line
from cdc_pusher.delivery import Lane
from cdc_pusher.errors import CdcPusherError, ConfigurationError, DatabaseUnavailable, MappingError
from cdc_pusher.source import Source

log = structlog.get_logger(__name__)

RECONNECT_BASE_S, RECONNECT_CAP_S = 0.2, 10.0
MAPPING_RETRY_S = 5.0
BUSY_WAKES_PER_S = 100  # more than this, and NOTIFY costs the CPO's writers more than polling costs us
BUSY_POLL_S = 0.005
IDLE_S = {"capture": 75}  # capture waits within its transaction for the operator's queries; nobody else waits for anything
STOP_S = 5.0  # whatever has not ended by then is cut off; leases take care of what it had claimed
SWEEP_CHECK_S = 30.0  # how often to look whose sweep is due
WALK_EVERY = 8  # batches; under unbroken load a walk still goes on


async def run(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then finish what is in flight (at most 10 s). Raises `CdcPusherError` when it cannot begin or go on."""
    if not settings.emp:
        raise ConfigurationError("no EMP is configured: add a section [emp.NAME]")
    async with await connect(settings.database.dsn, "start") as conn:
        await _require_writable(conn)
        await migrate.require_current(conn)
        if drift := await triggers.verify(conn, settings.source.watch):
            log.error("changes may only be found by a sweep until cdc-pusher migrate has mended the triggers", triggers=drift)
        await Source.open(conn, settings.source, settings.only)
    await Daemon(settings).run()


class Daemon:
    """One daemon process; it shares nothing with others but the database."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._lanes: dict[str, Lane] = {}
        self._receivers = capture.receivers(settings)
        self._asleep: bool | None = None
        self._wakes: list[float] = []

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin_to_stop)
        async with contextlib.AsyncExitStack() as stack:
            for name, emp in self._settings.emp.items():
                client = await stack.enter_async_context(EmpClient(emp))
                self._lanes[name] = Lane(name, emp, client, self._wake.set)
            scheduler = self._scheduler()
            scheduler.start()
            stack.callback(scheduler.shutdown, wait=False)
            try:
                async with asyncio.TaskGroup() as group:
                    parts: dict[str, Callable[[Connection], Awaitable[None]]] = {
                        "capture": self._intake,
                        "pulse": self._pulse,
                        "listen": self._listen,
                        **{f"lane {name}": partial(lane.run, stop=self._stop) for name, lane in self._lanes.items()},
                    }
                    tasks = {name: group.create_task(self._connected(name, part), name=name) for name, part in parts.items()}
                    await self._stop.wait()
                    tasks["listen"].cancel()
                    _, hanging = await asyncio.wait(tasks.values(), timeout=STOP_S)
                    for task in hanging:
                        task.cancel()
            except* CdcPusherError as errors:
                raise errors.exceptions[0] from None
            except* psycopg.Error as errors:
                raise CdcPusherError(f"the database said: {one_line(errors.exceptions[0])}") from errors
        log.info("stopped")

    def _begin_to_stop(self) -> None:
        log.info("stopping, requests in flight are finished")
        notify_systemd("STOPPING=1")
        self._stop.set()
        self._wake.set()
        for lane in self._lanes.values():
            lane.wake.set()

    async def _connected(self, purpose: str, part: Callable[[Connection], Awaitable[None]]) -> None:
        """Run a part on a connection, and again on a new one whenever that breaks; returns when the part does."""
        failures, connected_at = 0, math.inf
        while True:
            try:
                async with await connect(self._settings.database.dsn, purpose, idle_in_transaction_s=IDLE_S.get(purpose, 20)) as conn:
                    connected_at = time.monotonic()
                    if failures:
                        log.info("database connected again", part=purpose)
                    return await part(conn)
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege) as error:
                raise CdcPusherError(f"{purpose}: {one_line(error)}; run cdc-pusher migrate") from error
            except (DatabaseUnavailable, psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError, TimeoutError) as error:
                if self._stop.is_set():
                    return None
                if time.monotonic() - connected_at > RECONNECT_CAP_S:
                    failures, connected_at = 0, math.inf  # it has worked meanwhile
                pause = policy.backoff_s(failures, base_s=RECONNECT_BASE_S, cap_s=RECONNECT_CAP_S, chance=random.uniform(0.5, 1.0))
                log.warning("database connection lost", part=purpose, error=one_line(error), retry_in_s=round(pause, 2))
                failures += 1
                await self._pause(pause)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()

    async def _listen(self, conn: Connection) -> None:
        await listen.listen(conn, self._wake.set, self._stop)

    # ── intake ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _intake(self, conn: Connection) -> None:
        for emp, walk in (await enqueue.register(conn, self._settings)).items():
            log.info("all stations are gone through", emp=emp, walk=walk)
        while not self._stop.is_set():
            try:
                async with await connect(self._settings.database.dsn, "source") as source_conn:
                    source = await Source.open(source_conn, self._settings.source, self._settings.only, strict=False)
                    log.info("ready", emps=sorted(self._lanes))
                    notify_systemd("READY=1")
                    await self._fill(conn, source)
            except MappingError as error:
                log.error("the mapping fails, nothing is captured", error=str(error), retry_in_s=MAPPING_RETRY_S)
                await self._pause(MAPPING_RETRY_S)

    async def _fill(self, conn: Connection, source: Source) -> None:
        """Capture what changed, go on with walks, sleep when there is nothing to do."""
        limit, page = self._settings.daemon.capture_batch, self._settings.daemon.page_stations
        self._asleep = None
        batches = 0
        while not self._stop.is_set():
            batches += 1
            captured = await capture.batch(conn, source, self._receivers, limit)
            if captured.healed:
                await self._tell_what_was_healed(conn, captured.healed)
            for emp in captured.emps:
                self._lanes[emp].wake.set()
            if captured.changes == limit and batches % WALK_EVERY:
                continue
            walked = await enqueue.page(conn, source, list(self._lanes), page)
            if not captured.changes and walked is None:
                await self._sleep(conn)
        await enqueue.say_asleep(conn, False)

    async def _tell_what_was_healed(self, conn: Connection, healed: Mapping[str, Set[str]]) -> None:
        """A sweep found what no trigger told of: people should know why."""
        causes = await triggers.verify(conn, self._settings.source.watch)
        for emp, stations in healed.items():
            log.error(
                "a sweep found changes that no trigger had told of",
                emp=emp,
                stations=len(stations),
                examples=sorted(stations)[:5],
                cause=causes or "the triggers are as configured: the mapping reads what no watch covers, or writes passed the triggers by",
            )

    async def _sleep(self, conn: Connection) -> None:
        """Wait for something to do. The first time only say that we sleep: what came before that was said is found by another look."""
        busy = self._is_busy()
        if self._asleep is not (not busy):
            await enqueue.say_asleep(conn, not busy)
            self._asleep = not busy
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BUSY_POLL_S if busy else None):
                await self._wake.wait()
        self._wake.clear()
        if not busy:
            self._wakes.append(time.monotonic())

    def _is_busy(self) -> bool:
        """Whether wake-ups come so thick that polling is cheaper for the CPO's writers. Once busy, it lasts a second."""
        since = time.monotonic() - 1.0
        self._wakes = [at for at in self._wakes if at > since]
        return len(self._wakes) > BUSY_WAKES_PER_S

    async def _pulse(self, conn: Connection) -> None:
        emps = list(self._lanes)
        while not self._stop.is_set():
            found = await enqueue.pulse(conn, emps)
            for emp in found.due:
                self._lanes[emp].wake.set()
            if found.missed and (missed := await enqueue.answer_for_missed(conn)) is not None:
                log.error("triggers could not record changes; all stations are gone through", missed=missed)
            if found.changes or found.walks or found.missed:
                self._wake.set()
            await self._pause(self._settings.daemon.poll_interval_s)

    # ── housekeeping ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _scheduler(self) -> AsyncIOScheduler:
        scheduler = AsyncIOScheduler(timezone="UTC", job_defaults={"coalesce": True, "misfire_grace_time": None})
        scheduler.add_job(self._maintain_attempts, "interval", hours=1, next_run_time=datetime.now(UTC))
        scheduler.add_job(self._sweep, "interval", seconds=min(self._settings.daemon.sweep_interval_s / 4, SWEEP_CHECK_S))
        scheduler.add_listener(_note_failed_job, EVENT_JOB_ERROR)
        return scheduler

    async def _sweep(self) -> None:
        """Begin the sweep of the EMPs whose turn it is; when that was, the database knows."""
        limits = self._settings.daemon
        async with await connect(self._settings.database.dsn, "sweep") as conn:
            begun = await enqueue.order_sweep(
                conn, list(self._lanes), interval_s=limits.sweep_interval_s, fastest=limits.sweep_max_stations_per_s
            )
        if begun:
            log.info("a sweep begins", emps=begun)
            self._wake.set()

    async def _maintain_attempts(self) -> None:
        async with await connect(self._settings.database.dsn, "maintenance") as conn:
            await enqueue.maintain_attempts(conn, self._settings.daemon.attempt_retention_days)


async def _require_writable(conn: Connection) -> None:
    row = await (
        await conn.execute("SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS ro")
    ).fetchone()
    assert row is not None
    if row["standby"] or row["ro"]:
        what = "the server is a standby" if row["standby"] else "transactions are read-only by default"
        raise ConfigurationError(f"{what}: database.dsn has to lead to the primary (target_session_attrs=read-write)")


def _note_failed_job(event: JobExecutionEvent) -> None:
    log.error("a scheduled job failed", job=event.job_id, error=one_line(event.exception))


def notify_systemd(state: str) -> None:
    """Tell systemd, if it started us (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            sock.sendall(state.encode())
