"""The one loop that fills the outbox: captures until the change log is empty, goes on with a walk, and sleeps when there is nothing to do.

Of all daemons one does this, under the lease `capture`. Before it sleeps it says so to the triggers, which then send a NOTIFY, and looks
once more, so that no change falls between. When changes come thick, or NOTIFY cannot be heard at all, the triggers are told not to bother.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set

import psycopg
import structlog

from cdc_pusher import capture, enqueue, metrics, outbox, triggers
from cdc_pusher.capture import Captured
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection, connect
from cdc_pusher.errors import LeaseLost, MappingError
from cdc_pusher.lease import Lease, end_predecessor
from cdc_pusher.part import IDLE_S, Part, wait
from cdc_pusher.reconcile import SWEEP, WALK
from cdc_pusher.source import Source

log = structlog.get_logger(__name__)

MAPPING_RETRY_S = 5.0
BUSY_CHANGES_PER_S = 100  # more than this, and NOTIFY costs the CPO's writers more than polling costs us
BUSY_POLL_S = 0.005
BESIDE_LIVE_S = 1.0  # for so long after a live change the next one is expected, and what is not urgent is taken in smaller pieces
WALK_EVERY = 8  # batches; under unbroken load, too, a walk goes on, and what is not urgent has its turn


class Intake:
    """`wake_lanes` is called with the EMPs that have something to send; `hears`: whether a NOTIFY would reach us."""

    def __init__(
        self, settings: Settings, lease: Lease, *, wake_lanes: Callable[[Iterable[str]], Iterable[str]], hears: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._lease = lease
        self._receivers = capture.receivers(settings)
        self._wake_lanes = wake_lanes
        self._hears = hears
        self._said: bool | None = None  # that we sleep and want a NOTIFY
        self._recent: deque[float] = deque(maxlen=BUSY_CHANGES_PER_S + 1)  # when the last changes were captured
        self._live_at = float("-inf")  # when changes of the CPO's were captured last, and did not fill a batch
        self.is_reading = False

    async def run(self, conn: Connection, part: Part) -> None:
        """Capture until asked to end, or the lease is lost. Raises psycopg errors: connect and run again."""
        try:
            for emp, walk in (await enqueue.register(conn, self._settings, self._lease.epoch)).items():
                log.info("all stations are gone through", emp=emp, walk=walk)
            while not part.stop.is_set():
                await self._with_source(conn, part)
        except LeaseLost as error:
            self._lease.refuse()
            log.warning("another daemon captures", error=str(error))
        except psycopg.errors.LockNotAvailable:
            await end_predecessor(conn, self._lease.name)
            raise
        finally:
            self.is_reading = False

    async def _with_source(self, conn: Connection, part: Part) -> None:
        try:
            async with await connect(self._settings.database.dsn, "source") as source_conn:
                source_conn.moves = part.moves
                source = await Source.open(source_conn, self._settings.source, self._settings.only, strict=False)
                self.is_reading = True
                await self._fill(conn, source, part)
        except MappingError as error:
            self.is_reading = False
            log.error("the mapping fails, nothing is captured", error=str(error), retry_in_s=MAPPING_RETRY_S)
            await part.pause(MAPPING_RETRY_S)

    async def _fill(self, conn: Connection, source: Source, part: Part) -> None:
        """Capture what changed, go on with walks, sleep when there is nothing to do.

        A little of what is not urgent is taken whenever all that is live has been, and now and then in any case.
        """
        limit, page = self._settings.daemon.capture_batch, self._settings.daemon.page_stations
        self._said = None
        everything, what_waits = outbox.changes_from_the_start(), outbox.changes_from_the_start(WALK, SWEEP)
        batches, is_walking, has_turn = 0, True, False  # it is the turn of what waits
        while not part.stop.is_set():
            batches += 1
            part.moves()
            began = time.monotonic()
            horizon = what_waits if has_turn else everything
            beside_live, epoch = began < self._live_at + BESIDE_LIVE_S, self._lease.epoch
            captured = await capture.batch(conn, source, self._receivers, limit, epoch=epoch, horizon=horizon, beside_live=beside_live)
            await self._note(conn, captured, began, is_walking=is_walking)
            is_late = not batches % WALK_EVERY
            if not captured.more and (is_walking or is_late or not captured.changes):
                is_walking = await enqueue.page(conn, source, list(self._receivers), page) is not None
            # If we had said that we sleep when we looked, what has come since has sent a NOTIFY.
            if not (has_turn or is_walking or captured.more) and (self._said or not captured.changes):
                await self._sleep(conn, part)
            has_turn = captured.more and not has_turn and (is_late or captured.changes < limit)
        if self._lease.is_valid():
            await enqueue.say_asleep(conn, False)

    async def _note(self, conn: Connection, captured: Captured, began: float, *, is_walking: bool) -> None:
        """Tell all who should know of a batch: the triggers, too, that they need not notify while we look again anyway."""
        if captured.live and captured.changes < self._settings.daemon.capture_batch:
            self._live_at = time.monotonic()
        if captured.changes:
            metrics.captured.inc(captured.changes)
            metrics.capture_duration.observe(time.monotonic() - began)
        if captured.healed:
            await self._tell_what_was_healed(conn, captured.healed)
        if elsewhere := sorted(self._wake_lanes(captured.emps)):
            await enqueue.wake_elsewhere(conn, elsewhere)
        if not is_walking:
            self._recent.extend([began] * captured.changes)
        if self._said and (is_walking or captured.more or self._is_busy()):
            await self._say(conn, False)

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

    async def _sleep(self, conn: Connection, part: Part) -> None:
        """Wait for something to do. Whenever the triggers are told another thing, only that: what came before is found by another look."""
        busy = self._is_busy()
        wants_notify = self._hears() and not busy
        if self._said is not wants_notify:
            await self._say(conn, wants_notify)
            return
        while not await wait(part.wake, BUSY_POLL_S if busy else IDLE_S) and not busy and self._hears() == wants_notify:
            part.moves()
        part.wake.clear()

    async def _say(self, conn: Connection, wants_notify: bool) -> None:
        await enqueue.say_asleep(conn, wants_notify)
        self._said = wants_notify

    def _is_busy(self) -> bool:
        """Whether changes come so thick that polling is cheaper for the CPO's writers. Once busy, it lasts a second."""
        since = time.monotonic() - 1.0
        while self._recent and self._recent[0] <= since:
            self._recent.popleft()
        return len(self._recent) > BUSY_CHANGES_PER_S
