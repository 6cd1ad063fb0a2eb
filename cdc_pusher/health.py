"""How an EMP does, as its lane learns it from answers: the breaker (`breaker`), how wide it is served (`limits`), and what that means for
the message that was answered (`policy`): whether it counts against it, and when it is tried again.
"""

import random
from datetime import UTC, datetime
from typing import Any

import structlog

from cdc_pusher import policy
from cdc_pusher.breaker import Breaker
from cdc_pusher.claims import Claim, Result
from cdc_pusher.clock import now_s
from cdc_pusher.config import EmpSettings
from cdc_pusher.limits import TokenBucket, Window
from cdc_pusher.model import Accepted, Answer, Failure, Kind, Rejected, Retry, StationMissing, Verdict

log = structlog.get_logger(__name__)

IN_LINE_S = 2.0  # for a turn under `max_requests_per_second`; a claim has 5 s
MOST_REMEMBERED = 10_000  # messages


class Health:
    """Of one EMP, while one lane serves it. `put_off`: messages that failed because the EMP does."""

    def __init__(self, name: str, settings: EmpSettings) -> None:
        rate = settings.max_requests_per_second
        self.breaker = Breaker()
        self.window = Window(settings.concurrency)
        self.bucket = TokenBucket(rate, settings.burst) if rate else None
        self.put_off: set[tuple[Kind, str]] = set()
        self._name = name
        self._settings = settings
        self._taken = 0  # messages that the EMP settled
        self._taken_before: dict[tuple[Kind, str], int] = {}  # the same when a message failed last

    def room(self, now: float, claimed: int, answered: int) -> int:
        """How many more messages may be claimed, when so many were answered since the last time: none that could not be sent in time."""
        width = self.window.size
        room = self.breaker.room(now, claimed, most=width + min(answered, width))
        return min(room, self.bucket.room(now, max(IN_LINE_S, 1.0 / self.bucket.rate))) if self.bucket else room

    def result(self, claim: Claim, answer: Answer | Failure, sent_at: datetime, took_s: float) -> Result:
        """What became of a claim, and what its answer says of the EMP."""
        now = datetime.now(UTC)
        missing = claim.attempts if claim.last_result_code == policy.EVSE_NOT_FOUND else 0
        judged = policy.judge(answer, kind=claim.kind, attempts=missing, now=now)
        failing = self._learn(claim, judged, now_s())
        strikes = 0 if failing else self._strikes(claim, judged)
        verdict = judged if failing else self._bounded(judged, claim, strikes, now)
        common: dict[str, Any] = {"claim": claim, "sent_at": sent_at, "duration_ms": round(took_s * 1000)}
        if isinstance(answer, Answer):
            common |= {"http_status": answer.http_status, "result_code": answer.code}
        match verdict:
            case Accepted():
                return Result(outcome="accepted", **common)
            case Retry(reason=reason):
                delay_s = self._delay_s(verdict, claim)
                common |= {"uncertain": verdict.uncertain, "late": verdict.late, "error": reason}
                return Result(outcome="retry", delay_s=delay_s, counts=int(not failing), strikes=strikes, **common)
            case StationMissing(reason=reason):
                return Result(outcome="station_missing", counts=1, reason=f"waits for its station: {reason}", error=reason, **common)
            case Rejected(reason=reason):
                late = isinstance(judged, Retry) and judged.late
                return Result(outcome="rejected", counts=1, reason=reason, error=reason, uncertain=verdict.uncertain, late=late, **common)

    def _learn(self, claim: Claim, verdict: Verdict, now: float) -> bool:
        """Take note of how the EMP does. Returns whether it is known to fail: then nothing counts against a message."""
        if not isinstance(verdict, Retry):
            self.window.keep_up()
            self._taken += 1
            if self.breaker.answered():
                log.info("EMP works again", emp=self._name)
            return False
        if verdict.overloaded:
            self.window.shrink(now)
        was_closed = self.breaker.state(now) == "closed"
        configuration, after_s = verdict.blames == "configuration", verdict.after_s or 0.0
        message = f"{claim.kind} {claim.key}"
        self.breaker.failed(now, message, verdict.reason, configuration=configuration, after_s=after_s, chance=random.random())
        if was_closed and self.breaker.reason is not None:
            log.error("EMP fails as a whole: only probes are sent until one succeeds", emp=self._name, error=verdict.reason)
        return configuration or not was_closed

    def _strikes(self, claim: Claim, verdict: Verdict) -> int:
        """1 if the message has failed again although the EMP took others meanwhile."""
        message = claim.kind, claim.key
        if not isinstance(verdict, Retry):
            self._taken_before.pop(message, None)
            return 0
        if len(self._taken_before) >= MOST_REMEMBERED:
            self._taken_before.clear()
        before, self._taken_before[message] = self._taken_before.get(message), self._taken
        return int(before is not None and before < self._taken)

    def _bounded(self, verdict: Verdict, claim: Claim, strikes: int, now: datetime) -> Verdict:
        return policy.bounded(
            verdict,
            strikes=claim.strikes + strikes,
            attempts=claim.attempts + 1,
            failing_s=(now - claim.failing_since).total_seconds() if claim.failing_since else 0.0,
            most_strikes=self._settings.max_attempts,
            longest_s=self._settings.give_up_after_s,
        )

    def _delay_s(self, verdict: Retry, claim: Claim) -> float:
        settings = self._settings
        backoff = policy.backoff_s(claim.attempts, base_s=settings.retry_base_s, cap_s=settings.retry_cap_s, chance=random.random())
        if self.breaker.reason is not None:
            # The next probe is another message, if there is one: perhaps it is this one that the EMP fails on.
            if len(self.put_off) < MOST_REMEMBERED:
                self.put_off.add((claim.kind, claim.key))
            backoff = max(backoff, 2 * self.breaker.wait_s)
        return max(backoff, verdict.after_s or 0.0)
