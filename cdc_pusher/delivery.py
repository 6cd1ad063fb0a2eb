"""One lane: claims an EMP's due messages, sends them, records the answers.

    bookkeeping   one transaction: record what was answered, claim what is due          (one connection, one at a time)
    requests      up to `concurrency` at once, each on a claim of its own, outside any transaction

So that no place stands empty while books are kept, as many messages are claimed ahead as were answered since the last time.
A claim is sent only while its lease is surely ours, by the monotonic clock, with time left for the whole request: a lane that wakes up
after a pause sends nothing on an old lease. Per entity there is one row, so one claim, so one request in flight. The lane itself works
under a lease (`lease`), of which the same holds: of all daemons one serves the EMP. Lanes share nothing with each other: what one learns of
its EMP (`health`) stays with it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import psycopg
import structlog

from cdc_pusher import claims, failover, logs, metrics
from cdc_pusher.claims import Claim, Result
from cdc_pusher.client import EmpClient, TooLate
from cdc_pusher.clock import now_s
from cdc_pusher.config import EmpSettings
from cdc_pusher.database import Connection
from cdc_pusher.errors import LeaseLost
from cdc_pusher.failover import Records
from cdc_pusher.health import Health
from cdc_pusher.horizon import Pace
from cdc_pusher.lease import Lease, end_predecessor
from cdc_pusher.memory import Memory, told
from cdc_pusher.model import Kind
from cdc_pusher.part import IDLE_S, Part, wait

log = structlog.get_logger(__name__)

CLAIM_MARGIN_S = 5.0  # a claim outlasts the longest request by this
CHECK_S = 1.0
OUTCOMES = ("accepted", "retry", "station_missing", "rejected")
CLOSED = (None, 0)  # the breaker: no reason, no trips


class Lane:
    """The sending side of one EMP. `changed` is called when a message has to be captured again; `wake` wakes the lane.

    `memory`: what was told before, and is from now on.
    """

    def __init__(
        self,
        name: str,
        settings: EmpSettings,
        client: EmpClient,
        lease: Lease,
        memory: Memory,
        *,
        daemon: str,
        wake: asyncio.Event,
        changed: Callable[[], None],
    ) -> None:
        self.name = name
        self._wake = wake
        # A count that begins with its first event would not be seen to grow.
        self._counts = {(kind, outcome): metrics.requests.labels(name, kind, outcome) for kind in get_args(Kind) for outcome in OUTCOMES}
        self._lags = {kind: metrics.delivery_lag.labels(name, kind) for kind in get_args(Kind)}
        self._durations = metrics.request_duration.labels(name)
        self._width = metrics.concurrency.labels(name)
        self._lease = lease
        self._daemon = daemon
        self._settings = settings
        self._client = client
        self._changed = changed
        self._health = Health(name, settings)
        self._noted: tuple[str | None, int] = ("", 0)  # of the breaker, in the database
        rate = settings.max_requests_per_second
        self._claim_s = settings.request_timeout_s + CLAIM_MARGIN_S + (1.0 / rate if rate else 0.0)
        self._ahead: deque[tuple[Claim, float]] = deque()  # claimed, not sent yet; and until when they may be
        self._requests: dict[asyncio.Task[None], Claim] = {}
        self._orphans: set[asyncio.Task[None]] = set()  # requests whose claims the database has lost
        self._memory = memory
        self._records = Records(name, memory, claim_s=self._claim_s, quiet_s=settings.quiet_time_s)
        self._results = memory.results
        self._check_at = float("-inf")
        self._error_at = float("-inf")
        self._check_pace = Pace()
        self._horizon = claims.due_from_the_start()

    async def run(self, conn: Connection, part: Part) -> None:
        """Serve the EMP until asked to end; then finish what is in flight and record it. Ends, too, when the lease is lost.

        Raises psycopg errors: connect and run again.
        """
        try:
            await self._recover(conn)
            while not part.stop.is_set():
                is_woken = await wait(self._wake)
                part.moves()
                self._wake.clear()
                # Through a pooler, another server comes without a new connection.
                if (is_woken or not self._records.are_complete or conn.is_pooled) and not part.stop.is_set():
                    await self._keep_books(conn, send=True)
            await self.finish(part)
            await self._keep_books(conn, send=False)
        except LeaseLost as error:
            self._lease.refuse()
            log.warning("another daemon serves the EMP", emp=self.name, error=str(error))
        except psycopg.errors.LockNotAvailable:
            await end_predecessor(conn, self._lease.name)
            raise

    async def finish(self, part: Part) -> None:
        """Let requests end by themselves for a while; what is cut off then counts as possibly applied.

        Called, too, when the lane has ended without a connection: the next one under the lease records what they were answered.
        """
        self._put_back()
        until = now_s() + part.grace_s
        while self._requests and (left_s := until - now_s()) > 0:
            await asyncio.wait(self._requests, timeout=min(left_s, IDLE_S))
            part.moves()
        if hanging := list(self._requests):
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            self._results.extend(Result(claim=claim, outcome="unsent") for claim in self._requests.values())  # had not begun
            self._requests.clear()

    async def _recover(self, conn: Connection) -> None:
        """After a lost connection: requests went on meanwhile; what they were answered is recorded now."""
        self._check_at = float("-inf")
        self._horizon = claims.due_from_the_start()
        self._wake.set()
        self._records.are_complete = False
        if self._results:
            await self._keep_books(conn, send=False)

    async def _keep_books(self, conn: Connection, *, send: bool) -> None:
        self._hold_back()
        results, strays, put_off = list(self._results), list(self._memory.strays), frozenset(self._health.put_off)
        now, trips = now_s(), self._health.breaker.trips
        deadline = now + self._claim_s - self._settings.request_timeout_s
        async with conn.transaction():
            turn = await claims.lock_emp(conn, self.name, self._lease.epoch)
            self._memory.now = turn.now
            if turn.epoch < self._lease.epoch or not self._records.are_complete or now >= self._check_at:
                await self._complete(conn, turn.epoch)
            recorded = await self._record(conn, results) if results else claims.Recorded()
            await failover.doubt(conn, self.name, strays)
            error_at = await self._note_error(conn, now, results)
            if now >= self._check_at:
                await self._check(conn, now)
            noted = await self._note_breaker(conn)
            if hastened := put_off if noted == CLOSED else frozenset():
                await claims.hasten(conn, self.name, hastened)
            room = 0 if turn.paused or not send else self._room(now, len(results))
            claimed = await self._claim(conn, room, turn.now) if room > 0 else []
        del self._results[: len(results)], self._memory.strays[: len(strays)]
        self._noted, self._error_at = noted, error_at
        self._health.put_off -= hastened
        self._note(recorded.counted)
        if recorded.superseded:
            self._changed()
        ahead = [*self._ahead, *((claim, deadline) for claim in claimed)]
        self._ahead = deque(sorted(ahead, key=lambda one: one[0].priority))
        if self._health.breaker.trips > trips:  # it has opened since we asked for room
            self._put_back()
        self._width.set(self._health.window.size)
        self._send()

    async def _complete(self, conn: Connection, lane_epoch: int) -> None:
        """On another server than before, the claims of what is under way are not known: nothing is sent beside that."""
        if await self._records.complete(conn, lane_epoch):
            self._put_back()
            self._orphans |= self._requests.keys()
            self._changed()

    async def _record(self, conn: Connection, results: Sequence[Result]) -> claims.Recorded:
        return await claims.record(conn, self.name, results, quiet_s=self._settings.quiet_time_s, daemon=self._daemon)

    async def _claim(self, conn: Connection, room: int, now: datetime) -> list[Claim]:
        """Claim messages, but none beside a request of ours whose claim the database has lost."""
        not_yet = [claim.key for task, claim in self._requests.items() if task in self._orphans]
        limits: dict[str, Any] = {"limit": room, "lease_s": self._claim_s, "quiet_s": self._settings.quiet_time_s, "not_yet": not_yet}
        return await claims.claim(conn, self.name, **limits, now=now, horizon=self._horizon)

    async def _check(self, conn: Connection, now: float) -> None:
        """Now and then: claims whose daemon has died, and messages that wait for too long."""
        began = now_s()
        if expired := await claims.expire(conn, self.name):
            log.warning("claims ran out, their messages are sent again", emp=self.name, claims=expired)
            self._changed()
        await claims.forget(conn, self.name, quiet_s=self._settings.quiet_time_s)
        await claims.promote(conn, self.name)
        self._check_at = now + max(CHECK_S, self._check_pace.pause_s(now_s() - began))

    def _room(self, now: float, answered: int) -> int:
        """How many more messages may be claimed: none that could not be sent in time."""
        if not self._lease.is_valid():
            return 0
        return self._health.room(now, len(self._requests) + len(self._ahead), answered)

    def _send(self) -> None:
        """Begin as many requests as there is room for at the EMP."""
        while self._ahead and len(self._requests) < self._health.window.size:
            claim, deadline = self._ahead.popleft()
            self._requests[asyncio.create_task(self._serve(claim, deadline), name=claim.key)] = claim

    def _hold_back(self) -> None:
        """Nothing is sent ahead to an EMP that fails as a whole."""
        if self._health.breaker.reason is not None:
            self._put_back()

    def _put_back(self) -> None:
        """What was claimed ahead is not sent after all."""
        if self._ahead:
            self._results.extend(Result(claim=claim, outcome="unsent") for claim, _ in self._ahead)
            self._ahead.clear()
            self._wake.set()

    async def _note_error(self, conn: Connection, now: float, results: Sequence[Result]) -> float:
        """Write what has failed last, now and then. Returns when it was last written."""
        errors = [result.error for result in results if result.error is not None]
        if not errors or now < self._error_at + CHECK_S:
            return self._error_at
        await claims.note_error(conn, self.name, errors[-1])
        return now

    async def _note_breaker(self, conn: Connection) -> tuple[str | None, int]:
        """Write what has changed of the breaker. Returns what stands there once that is committed."""
        breaker = self._health.breaker
        state = breaker.reason, breaker.trips
        if state != self._noted:
            await claims.note_breaker(conn, self.name, breaker.reason, breaker.wait_s)
        return state

    async def _serve(self, claim: Claim, deadline: float) -> None:
        """Send one claim, if there is still time for it and the lane is still ours, and hand in the result."""

        def in_time() -> bool:
            return now_s() < deadline and self._lease.is_valid()

        result, sent_at = Result(claim=claim, outcome="unsent"), None
        try:
            if self._health.bucket is not None:
                await asyncio.sleep(self._health.bucket.take(now_s()))
            if in_time():
                sent_at, began = datetime.now(UTC), now_s()
                self._memory.sent(claim)
                answer = await self._client.send(claim.kind, claim.payload, in_time)
                result = self._health.result(claim, answer, sent_at, now_s() - began)
        except TooLate:
            pass
        except asyncio.CancelledError:
            if sent_at is not None:
                result = self._cut_off(claim, sent_at, "cut off when the daemon stopped")
            raise
        except Exception as error:
            log.exception("a request failed in an unforeseen way", emp=self.name, kind=claim.kind, key=claim.key)
            result = self._cut_off(claim, sent_at or datetime.now(UTC), f"unforeseen: {type(error).__name__}")
        finally:
            self._hand_in(result)

    @staticmethod
    def _cut_off(claim: Claim, sent_at: datetime, error: str) -> Result:
        """Nobody knows what became of the request, and the EMP is not to blame."""
        return Result(claim=claim, outcome="retry", sent_at=sent_at, uncertain=True, late=True, error=error, delay_s=1.0)

    def _hand_in(self, result: Result) -> None:
        self._results.append(result)
        self._memory.answered(result.claim, accepted=result.outcome == "accepted", uncertain=result.uncertain)
        if (task := asyncio.current_task()) is not None:
            self._requests.pop(task, None)
            if task in self._orphans and result.uncertain:
                self._memory.strays.append(told(result.claim, late=True))
            self._orphans.discard(task)
        self._hold_back()
        self._send()
        self._wake.set()

    def _note(self, counted: Sequence[Result]) -> None:
        """Count, and tell of what people should know: refusals, one by one."""
        follows = logs.is_debug()
        for result in counted:
            claim = result.claim
            self._counts[claim.kind, result.outcome].inc()
            self._durations.observe(result.duration_ms / 1000.0)
            if follows:
                gen, outcome = claim.sending_gen, result.outcome
                log.debug("answered", emp=self.name, kind=claim.kind, key=claim.key, gen=gen, outcome=outcome, lag_s=result.lag_s)
            if result.outcome == "accepted":
                self._lags[claim.kind].observe(result.lag_s)
            if result.outcome == "rejected":
                log.error("message rejected", emp=self.name, kind=claim.kind, key=claim.key, reason=result.reason)
