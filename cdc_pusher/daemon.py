"""The daemon: which parts run, and what connects them.

    lease     which of the following are ours, among all daemons on the database
    capture   change log → outbox (`intake`)                          under the lease `capture`
    lane X    outbox → EMP X (`delivery`)                             under the lease `lane X`
    pulse     looks once a second for what no wake-up told of ──wake──▶ capture and lanes
    listen    hears NOTIFY                                    ──wake──▶ capture and lanes

What is done by the clock beside them is `housekeeping`.

There is one rule: what should run follows from the leases that we hold and from the configuration (`_wanted`), and `_arrange` makes it
so. A lease that comes or goes, a new configuration (SIGHUP) and the end (SIGTERM) only change what is wanted. A part that is wanted for
something else ends first, finishing what it has begun. A part that fails in a way that no new connection mends stops the daemon with its
reason.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path

import psycopg
import structlog

from cdc_pusher import enqueue, logs, metrics, start, systemd
from cdc_pusher.client import EmpClient
from cdc_pusher.config import EmpSettings, Settings
from cdc_pusher.database import Connection, one_line
from cdc_pusher.delivery import Lane
from cdc_pusher.errors import CdcPusherError, ConfigurationError
from cdc_pusher.gauges import Gauges
from cdc_pusher.horizon import Pace
from cdc_pusher.housekeeping import Housekeeping
from cdc_pusher.intake import Intake
from cdc_pusher.lease import Leases, daemon_name
from cdc_pusher.listen import Listener
from cdc_pusher.memory import Memory
from cdc_pusher.monitor import Monitor
from cdc_pusher.names import CHANNEL, LANE_CHANNEL
from cdc_pusher.part import Part, wait
from cdc_pusher.roster import CAPTURE, lane

log = structlog.get_logger(__name__)

ARRANGE_S = 1.0  # how often to look whether leases have run out
STOP_GRACE_S = 4.0  # for requests in flight when the process ends; what is cut off counts as possibly applied
STOP_S = 8.0  # whatever has not ended by then is cut off; leases take care of what it had claimed
FAILS_S = 20.0  # a lease is left to others when what works under it has failed for so long
CONFIGURATION_RETRY_S = 10.0
HANGS_S = 90.0  # longer than any statement of ours may take

Work = Callable[[Connection, Part], Awaitable[None]]


async def run(settings: Settings, path: Path | None = None) -> None:
    """Work until SIGTERM or SIGINT, then finish what is in flight (at most 10 s). Raises `CdcPusherError` when it cannot begin or go on.

    `path`: where the configuration came from, to read it again on SIGHUP.
    """
    await start.prepare(settings)
    await Daemon(settings, path).run()


class Daemon:
    """One daemon process; it shares nothing with others but the database."""

    def __init__(self, settings: Settings, path: Path | None = None) -> None:
        self._settings = settings
        self._path = path
        self._me = daemon_name()
        self._changed = asyncio.Event()
        self._parts: dict[str, Part] = {}
        self._leases = Leases(self._me, frozenset(), self._changed.set)
        self._listener = Listener(settings.database.dsn, self._me, self._heard)
        self._memories: dict[str, Memory] = {}
        self._gauges = Gauges()
        self._monitor = Monitor(self._me, lambda: self._settings, self._gauges, self._hanging)
        self._housekeeping = Housekeeping(lambda: self._settings, self._leases, self._gauges, wake_intake=self._wake_intake)
        self._intake: Intake | None = None
        self._is_stopping = False
        self._is_ready = False
        self._reloading: asyncio.Task[None] | None = None
        self._wants_reload = False
        self._watchdog_s = systemd.watchdog_s()
        self._fed_at = float("-inf")

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        metrics.reload_successful.set(1)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._begin_to_stop)
        scheduler = self._housekeeping.scheduler()
        scheduler.start()
        try:
            async with asyncio.TaskGroup() as group:
                loop.add_signal_handler(signal.SIGHUP, self._begin_to_reload, group)
                self._leases.want(self._our_leases())
                while not (self._is_stopping and not self._parts):
                    self._leases.expire()
                    self._leases.listens = self._listener.hears
                    self._arrange(group)
                    self._tell()
                    if await wait(self._changed, ARRANGE_S):
                        self._changed.clear()
        except* CdcPusherError as errors:
            raise errors.exceptions[0] from None
        except* psycopg.Error as errors:
            raise CdcPusherError(f"the database said: {one_line(errors.exceptions[0])}") from errors
        finally:
            scheduler.shutdown(wait=False)
        log.info("stopped")

    # ── what runs ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _our_leases(self) -> list[str]:
        return [CAPTURE, *map(lane, sorted(self._settings.emp))]

    def _wanted(self) -> dict[str, Part]:
        """The parts that should run now, as yet unbegun."""
        parts = [self._part("lease", self._leases.keep)]  # ends by itself when all is given back
        if not self._is_stopping:
            parts += [self._part("pulse", self._pulse), self._part("listen", self._listener.run, dsn=self._settings.database.listen_dsn)]
            if address := self._settings.monitoring.listen:
                parts.append(Part("monitor", self._monitor.run, key=address))
        held = {name: lease for name, lease in self._leases.held.items() if not lease.leaving}
        if CAPTURE in held:
            parts.append(Part(CAPTURE, self._capture, key=(held[CAPTURE], self._settings), dsn=self._settings.database.dsn))
        for emp, settings in self._settings.emp.items():
            if (name := lane(emp)) in held:
                parts.append(Part(name, partial(self._serve, emp), key=(held[name], settings), dsn=self._settings.database.dsn))
        return {part.name: part for part in parts}

    def _part(self, name: str, work: Work, *, dsn: str = "") -> Part:
        return Part(name, lambda part: part.connected(work), dsn=dsn or self._settings.database.dsn)

    def _arrange(self, group: asyncio.TaskGroup) -> None:
        """End what is not wanted, begin what is, and let go of the leases under which nothing works any more."""
        wanted = self._wanted()
        for name, part in list(self._parts.items()):
            if part.has_ended:
                del self._parts[name]
            elif (new := wanted.get(name)) is None or new.key != part.key:
                self._end(part)
        for name, lease in self._leases.held.items():
            if lease.leaving and name not in self._parts:
                self._leases.give_back(name)
            elif self._leases.daemons > 1 and name in self._parts and self._fails(self._parts[name]):
                log.error("what this daemon has a lease for fails here: others may try", lease=name)
                self._leases.avoid(name)
        if not self._is_stopping:
            for name, part in wanted.items():
                if name not in self._parts:
                    self._parts[name] = part
                    part.begin(group, self._changed.set)

    def _fails(self, part: Part) -> bool:
        """Whether the part has not worked for some time, though the database is there: its lease could be renewed."""
        now = time.monotonic()
        if part.is_working and (part.name != CAPTURE or self._intake is None or self._intake.is_reading):
            part.worked_at = now
        return now - part.worked_at > FAILS_S

    def _end(self, part: Part) -> None:
        """Requests in flight are finished, unless the process has to end."""
        if not isinstance(part.key, tuple):
            part.cut_off()
        elif self._is_stopping:
            part.end(STOP_GRACE_S)
        else:
            settings = part.key[1]
            part.end(settings.request_timeout_s if isinstance(settings, EmpSettings) else STOP_GRACE_S)

    async def _capture(self, part: Part) -> None:
        lease, settings = part.key
        self._intake = Intake(settings, lease, wake_lanes=self._wake_lanes, hears=lambda: self._listener.hears)
        try:
            await part.connected(self._intake.run, waits=False)
        finally:
            self._intake = None

    async def _serve(self, emp: str, part: Part) -> None:
        lease, settings = part.key
        memory = self._memories.setdefault(emp, Memory())
        memory.begin(lease.epoch, has_gap=lease.had_lapsed)
        while not part.stop.is_set():
            try:
                async with EmpClient(settings) as client:
                    served = Lane(emp, settings, client, lease, memory, daemon=self._me, wake=part.wake, changed=self._wake_intake)
                    await part.connected(served.run)
                    await served.finish(part)
                return
            except ConfigurationError as error:  # of this EMP alone: a certificate that cannot be read any more
                log.error("the EMP cannot be served as configured", emp=emp, error=str(error), retry_in_s=CONFIGURATION_RETRY_S)
                await part.pause(CONFIGURATION_RETRY_S)

    # ── what wakes it ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _wake_intake(self) -> None:
        if (part := self._parts.get(CAPTURE)) is not None:
            part.wake.set()

    def _wake_lanes(self, emps: Iterable[str]) -> list[str]:
        """Wake the lanes of these EMPs. Returns those that are not here."""
        elsewhere = []
        for emp in emps:
            if (part := self._parts.get(lane(emp))) is not None:
                part.wake.set()
            else:
                elsewhere.append(emp)
        return elsewhere

    def _heard(self, channel: str, payload: str) -> None:
        if channel == LANE_CHANNEL:
            self._wake_lanes([payload])
        elif channel == CHANNEL:
            self._wake_intake()

    async def _pulse(self, conn: Connection, part: Part) -> None:
        self._wake_lanes(self._settings.emp)  # if the server is another one, those that have nothing to do have to look at it, too
        pace = Pace()
        while not part.stop.is_set():
            began = time.monotonic()
            found = await enqueue.pulse(conn, list(self._settings.emp))
            took_s = time.monotonic() - began
            part.moves()
            self._wake_lanes(found.due)
            if self._intake is not None:
                if found.missed and (missed := await enqueue.answer_for_missed(conn)) is not None:
                    log.error("triggers could not record changes; all stations are gone through", missed=missed)
                if found.changes or found.walks or found.missed:
                    self._wake_intake()
            await part.pause(max(self._settings.daemon.poll_interval_s, pace.pause_s(took_s)))

    # ── what systemd and people see ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _is_running(self) -> bool:
        """Whether capture and every lane run, here or at another daemon."""
        here = {name for name, part in self._parts.items() if part.is_working}
        reads = self._intake is None or self._intake.is_reading
        return reads and all(name in here or name in self._leases.elsewhere for name in self._our_leases())

    def _hanging(self) -> list[str]:
        now = time.monotonic()
        return sorted(name for name, part in self._parts.items() if now - part.moved_at > HANGS_S)

    def _tell(self) -> None:
        """Tell systemd that we are ready, and that we move: every part has to have moved lately, of itself."""
        now = time.monotonic()
        if not self._is_ready and self._is_running():
            self._is_ready = True
            log.info("ready", daemon=self._me, leases=sorted(self._leases.held))
            systemd.notify("READY=1")
        if self._watchdog_s is None or now < self._fed_at + self._watchdog_s / 4:
            return
        if hanging := self._hanging():
            log.critical("a part does not move any more, so the watchdog is not fed", parts=hanging)
        else:
            systemd.notify("WATCHDOG=1")
        self._fed_at = now

    # ── signals ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _begin_to_stop(self) -> None:
        if self._is_stopping:
            return
        log.info("stopping, requests in flight are finished")
        systemd.notify("STOPPING=1")
        self._is_stopping = True
        self._leases.leave()
        if (leases := self._parts.get("lease")) is not None:
            leases.stop.set()  # it goes on until all is given back, but not on a new connection
        asyncio.get_running_loop().call_later(STOP_S, self._cut_off)
        self._changed.set()

    def _cut_off(self) -> None:
        for part in self._parts.values():
            part.cut_off()

    def _begin_to_reload(self, group: asyncio.TaskGroup) -> None:
        self._wants_reload = True
        if self._reloading is None and not self._is_stopping:
            self._reloading = group.create_task(self._reload(), name="reload")

    async def _reload(self) -> None:
        """Read the configuration again. What is new begins when what was there has ended, and what has not changed is not touched."""
        systemd.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        while self._wants_reload:
            self._wants_reload = False
            try:
                self._settings = await start.reloaded(self._settings, self._path)
            except (CdcPusherError, psycopg.Error, OSError) as error:
                log.error("the new configuration is refused, the former one stays", error=one_line(error))
                metrics.reload_successful.set(0)
            else:
                logs.configure(self._settings.daemon.log_level)
                metrics.reload_successful.set(1)
                log.info("the new configuration is in use", emps=sorted(self._settings.emp))
                gone = [emp for emp in self._memories if emp not in self._settings.emp and lane(emp) not in self._leases.held]
                for emp in gone:
                    del self._memories[emp]
        self._leases.want(self._our_leases())
        self._changed.set()
        self._reloading = None
        if self._is_ready and not self._is_stopping:
            systemd.notify("READY=1")
