"""One lane: claims an EMP's due messages, sends them, records the answers.

    bookkeeping   one transaction: record what was answered, claim what is due          (one connection, one at a time)
    requests      up to `concurrency` at once, each on a claim of its own, outside any transaction

A claim is sent only while its lease is surely ours, by the monotonic clock, with time left for the whole request: a lane that wakes up
after a pause sends nothing on an old lease. Per entity there is one row, so one claim, so one request in flight. Lanes share nothing
with each other. What a lane learns of its EMP stays with it: the breaker (`breaker`), and how wide and fast it is served (`limits`).
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import structlog

from cdc_pusher import outbox, policy
from cdc_pusher.breaker import Breaker
from cdc_pusher.client import EmpClient
from cdc_pusher.config import EmpSettings
from cdc_pusher.database import Connection
from cdc_pusher.limits import TokenBucket, Window
from cdc_pusher.model import Accepted, Answer, Failure, Rejected, Retry, StationMissing, Verdict
from cdc_pusher.outbox import Claim, Result

log = structlog.get_logger(__name__)

LEASE_MARGIN_S = 5.0  # a lease outlasts the longest request by this
CHECK_S = 1.0
STOP_GRACE_S = 4.0


class Lane:
    """The sending side of one EMP. `changed` is called when a message has to be captured again."""

    def __init__(self, name: str, settings: EmpSettings, client: EmpClient, changed: Callable[[], None]) -> None:
        self.name = name
        self.wake = asyncio.Event()
        self.wake.set()
        self._settings = settings
        self._client = client
        self._changed = changed
        rate = settings.max_requests_per_second
        self._bucket = TokenBucket(rate, settings.burst) if rate else None
        self._window = Window(settings.concurrency)
        self._breaker = Breaker()
        self._noted: tuple[str | None, int] = ("", 0)  # of the breaker, in the database
        self._put_off: dict[tuple[str, str], Claim] = {}  # probes that failed
        self._lease_s = settings.request_timeout_s + LEASE_MARGIN_S + (1.0 / rate if rate else 0.0)
        # No more than two seconds' worth of requests, or a burst, wait for their turn, however many might run at once.
        self._most = min(settings.concurrency, max(1, int(rate * 2), settings.burst)) if rate else settings.concurrency
        self._requests: set[asyncio.Task[None]] = set()
        self._results: list[Result] = []
        self._checked_at = float("-inf")

    async def run(self, conn: Connection, stop: asyncio.Event) -> None:
        """Serve the EMP until `stop` is set; then finish what is in flight and record it. Raises psycopg errors: connect and run again."""
        await self._recover(conn)
        while not stop.is_set():
            await self.wake.wait()
            self.wake.clear()
            if not stop.is_set():
                await self._keep_books(conn, send=True)
        await self._finish()
        await self._keep_books(conn, send=False)

    async def _finish(self) -> None:
        """Let requests end by themselves for a while; what is cut off then counts as possibly applied."""
        if self._requests:
            _, hanging = await asyncio.wait(self._requests, timeout=STOP_GRACE_S)
            for task in hanging:
                task.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)

    async def _recover(self, conn: Connection) -> None:
        """After a lost connection: requests went on meanwhile; what they were answered is recorded now."""
        self._checked_at = float("-inf")
        self.wake.set()
        if self._results:
            await self._keep_books(conn, send=False)

    async def _keep_books(self, conn: Connection, *, send: bool) -> None:
        results = list(self._results)
        now = time.monotonic()
        deadline = now + self._lease_s - self._settings.request_timeout_s
        async with conn.transaction():
            paused = await outbox.lock_emp(conn, self.name)
            recorded = await outbox.record(conn, self.name, results, quiet_s=self._settings.quiet_time_s) if results else outbox.Recorded()
            if now - self._checked_at >= CHECK_S:
                await self._check(conn, now)
            await self._note_breaker(conn, now)
            room = self._breaker.room(now, len(self._requests), most=min(self._most, self._window.size))
            claims = [] if paused or not send or room <= 0 else await outbox.claim(conn, self.name, limit=room, lease_s=self._lease_s)
        del self._results[: len(results)]
        self._note(recorded.counted)
        if recorded.superseded:
            self._changed()
        for claim in claims:
            self._requests.add(asyncio.create_task(self._serve(claim, deadline), name=f"{self.name} {claim.kind} {claim.key}"))

    async def _check(self, conn: Connection, now: float) -> None:
        """Now and then: claims whose daemon has died, and messages that wait for too long."""
        self._checked_at = now
        if expired := await outbox.expire(conn, self.name):
            log.warning("claims ran out, their messages are sent again", emp=self.name, claims=expired)
            self._changed()
        await outbox.promote(conn, self.name)

    async def _note_breaker(self, conn: Connection, now: float) -> None:
        """Write what has changed of the breaker, and let go what was put off while it was open."""
        breaker = self._breaker
        if (breaker.reason, breaker.trips) == self._noted:
            return
        await outbox.note_breaker(conn, self.name, breaker.reason, breaker.wait_s)
        if breaker.reason is None and self._put_off:
            await outbox.hasten(conn, self.name, list(self._put_off.values()))
            self._put_off.clear()
        self._noted = breaker.reason, breaker.trips

    async def _serve(self, claim: Claim, deadline: float) -> None:
        """Send one claim, if there is still time for it, and hand in the result."""
        sent_at, began = datetime.now(UTC), time.monotonic()
        try:
            result = await self._attempt(claim, deadline)
        except asyncio.CancelledError:
            self._hand_in(self._result(claim, Failure(error="cut off when the daemon stopped"), sent_at, began))
            raise
        except Exception as error:
            log.exception("a request failed in an unforeseen way", emp=self.name, kind=claim.kind, key=claim.key)
            result = self._result(claim, Failure(error=f"unforeseen: {type(error).__name__}"), sent_at, began)
        self._hand_in(result)

    def _hand_in(self, result: Result) -> None:
        self._results.append(result)
        if (task := asyncio.current_task()) is not None:
            self._requests.discard(task)
        self.wake.set()

    async def _attempt(self, claim: Claim, deadline: float) -> Result:
        await self._wait_for_slot()
        if time.monotonic() >= deadline:
            return Result(claim=claim, outcome="unsent")
        sent_at, began = datetime.now(UTC), time.monotonic()
        answer = await self._client.send(claim.kind, claim.payload)
        return self._result(claim, answer, sent_at, began)

    async def _wait_for_slot(self) -> None:
        """Keep to `max_requests_per_second`: every request takes the next slot in line."""
        if self._bucket is not None:
            await asyncio.sleep(self._bucket.take(time.monotonic()))

    def _result(self, claim: Claim, answer: Answer | Failure, sent_at: datetime, began: float) -> Result:
        now, clock = datetime.now(UTC), time.monotonic()
        missing = claim.attempts if claim.last_result_code == policy.EVSE_NOT_FOUND else 0
        judged = policy.judge(answer, kind=claim.kind, attempts=missing, now=now)
        counts = self._learn(judged, clock)
        verdict = self._bounded(judged, claim, now) if counts else judged
        common: dict[str, Any] = {"claim": claim, "sent_at": sent_at, "duration_ms": round((clock - began) * 1000)}
        if isinstance(answer, Answer):
            common |= {"http_status": answer.http_status, "result_code": answer.code}
        match verdict:
            case Accepted():
                return Result(outcome="accepted", **common)
            case Retry(reason=reason):
                delay_s = self._delay_s(verdict, claim)
                common |= {"uncertain": verdict.uncertain, "late": verdict.late, "error": reason}
                return Result(outcome="retry", delay_s=delay_s, counts=int(counts), **common)
            case StationMissing(reason=reason):
                return Result(outcome="station_missing", counts=1, reason=f"waits for its station: {reason}", error=reason, **common)
            case Rejected(reason=reason):
                late = isinstance(judged, Retry) and judged.late
                return Result(outcome="rejected", counts=1, reason=reason, error=reason, uncertain=verdict.uncertain, late=late, **common)

    def _learn(self, verdict: Verdict, now: float) -> bool:
        """Take note of how the EMP does. Returns whether a failure counts against its message: not while the EMP is known to fail."""
        if not isinstance(verdict, Retry) or verdict.blames == "message":
            if isinstance(verdict, Retry) and verdict.overloaded:
                self._window.shrink(now)
            else:
                self._window.keep_up()
            if self._breaker.answered():
                log.info("EMP works again", emp=self.name)
            return True
        if verdict.overloaded:
            self._window.shrink(now)
        was = self._breaker.state(now)
        configuration = verdict.blames == "configuration"
        self._breaker.failed(now, verdict.reason, configuration=configuration, after_s=verdict.after_s or 0.0, chance=random.random())
        if was == "closed" and self._breaker.reason is not None:
            log.error("EMP fails as a whole: only probes are sent until one succeeds", emp=self.name, error=verdict.reason)
        return was == "closed" and not configuration

    def _bounded(self, verdict: Verdict, claim: Claim, now: datetime) -> Verdict:
        failing_s = (now - claim.failing_since).total_seconds() if claim.failing_since else 0.0
        settings = self._settings
        return policy.bounded(
            verdict,
            attempts=claim.attempts + 1,
            failing_s=failing_s,
            most_attempts=settings.max_attempts,
            longest_s=settings.give_up_after_s,
        )

    def _delay_s(self, verdict: Retry, claim: Claim) -> float:
        settings = self._settings
        backoff = policy.backoff_s(claim.attempts, base_s=settings.retry_base_s, cap_s=settings.retry_cap_s, chance=random.random())
        if self._breaker.reason is not None and verdict.blames != "message":
            # The next probe is another message, if there is one: perhaps it is this one that the EMP fails on.
            self._put_off[claim.kind, claim.key] = claim
            backoff = max(backoff, 2 * self._breaker.wait_s)
        return max(backoff, verdict.after_s or 0.0)

    def _note(self, counted: Sequence[Result]) -> None:
        """Tell of what people should know: refusals, one by one."""
        for result in counted:
            if result.outcome == "rejected":
                log.error("message rejected", emp=self.name, kind=result.claim.kind, key=result.claim.key, reason=result.reason)
