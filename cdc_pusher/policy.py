"""What follows from an answer, and how long to wait: the one place for it. Pure: `now` and randomness are arguments.

    answer                                                          verdict
    HTTP 200 with code 0xx                                          accepted
    181 on a status                                                 the station goes first, at most twice; then rejected
    200 230 322 180 183; HTTP 400 404 409 413 422                   rejected: nothing helps but other data, or a person
    210 211 220; HTTP 401 403, 3xx                                  retry later: the configuration is to blame, no message can succeed
    HTTP 429 5xx; no connection, a broken one, no answer in time    retry: the EMP is to blame
    everything else, known (100 102 300 312 …; 408 425) or not      retry: the message may be to blame

A readable result code speaks louder than the HTTP status around it. When several messages in a row are not settled, the EMP fails as a
whole (`breaker`), and nothing counts against a message. What fails again and again while others are taken is given up (`bounded`).
Source: OIOI v4, "Result codes, and what a sender does".
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from cdc_pusher.model import Accepted, Answer, Failure, Kind, Rejected, Retry, StationMissing, Verdict

CONFIGURATION_CODES = frozenset({210, 211, 220})
CONFIGURATION_STATUSES = frozenset({401, 403})
PERMANENT_CODES = frozenset({180, 183, 200, 230, 322})
PERMANENT_STATUSES = frozenset({400, 404, 409, 413, 422})
TOO_MANY_REQUESTS = 429
OVERLOADED = frozenset({408, 429, 503, 504})
MAY_COME_LATE = frozenset({408, 499, 502, 504})  # of something in between, which gave up waiting
EVSE_NOT_FOUND = 181
FEWEST_ATTEMPTS = 5  # a message that fails for long but was hardly tried is not given up
STATION_TRIES = 2  # how often a status that the EMP does not know may send its station again
CONFIGURATION_RETRY_S = 30.0
RETRY_AFTER_CAP_S = 3600.0


def judge(answer: Answer | Failure, *, kind: Kind, attempts: int, now: datetime) -> Verdict:
    """The verdict on one answer; `attempts` are the failed ones before it."""
    if isinstance(answer, Failure):
        return Retry(reason=answer.error, blames="emp", uncertain=answer.applied, late=answer.applied, overloaded=answer.timed_out)
    said = f"HTTP {answer.http_status}" + (f", code {answer.code}" if answer.code is not None else "")
    reason = f"{said}: {answer.message}" if answer.message else said
    after_s = retry_after(answer.retry_after, now=now)
    code, status = answer.code, answer.http_status
    success = code is not None and 0 <= code <= 99
    if success and status == 200:
        return Accepted()
    if code in CONFIGURATION_CODES or (code is None and (status in CONFIGURATION_STATUSES or 300 <= status < 400)):
        return Retry(reason=reason, after_s=max(after_s or 0.0, CONFIGURATION_RETRY_S), blames="configuration")
    if code == EVSE_NOT_FOUND and kind == "status":
        return StationMissing(reason=reason) if attempts < STATION_TRIES else Rejected(reason=reason)
    if code in PERMANENT_CODES or (code is None and status in PERMANENT_STATUSES):
        return Rejected(reason=reason)
    # A body that cannot be read or contradicts its status says nothing about what was done: only a refusal is sure not to be applied.
    return Retry(
        reason=reason,
        after_s=after_s,
        blames="emp" if status >= 500 or status == TOO_MANY_REQUESTS else "message",
        uncertain=success or (code is None and (status < 400 or status >= 500)),
        late=code is None and status in MAY_COME_LATE,
        overloaded=status in OVERLOADED,
    )


def bounded(verdict: Verdict, *, strikes: int, attempts: int, failing_s: float, most_strikes: int, longest_s: float) -> Verdict:
    """The same verdict, or that the message is given up, this attempt included. Not to be asked while the EMP is known to fail.

    `strikes`: how often it has failed while the EMP took others; `attempts`: at all. What the EMP answers with a code of its own is given
    up after `longest_s` seconds of failing, too, even if there is no other message to tell by.

    >>> bounded(Retry(reason="HTTP 500", blames="emp"), strikes=20, attempts=31, failing_s=60, most_strikes=20, longest_s=86400)
    Rejected(reason='given up after 31 attempts: HTTP 500', uncertain=False)
    >>> bounded(Retry(reason="code 100"), strikes=0, attempts=70, failing_s=90000, most_strikes=20, longest_s=86400)
    Rejected(reason='given up after 70 attempts in 25 h: code 100', uncertain=False)
    """
    if not isinstance(verdict, Retry) or verdict.blames == "configuration":
        return verdict
    too_long = verdict.blames == "message" and failing_s >= longest_s and attempts >= FEWEST_ATTEMPTS
    if strikes < most_strikes and not too_long:
        return verdict
    during = f" in {failing_s / 3600:.0f} h" if strikes < most_strikes else ""
    return Rejected(reason=f"given up after {attempts} attempts{during}: {verdict.reason}", uncertain=verdict.uncertain)


def retry_after(value: str | None, *, now: datetime) -> float | None:
    """Seconds to wait by a `Retry-After` header, between 0 and an hour; None: there is none, or it makes no sense (RFC 9110, 10.2.3).

    >>> at = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
    >>> retry_after("120", now=at), retry_after("Thu, 01 Jan 2026 12:00:30 GMT", now=at), retry_after("soon", now=at)
    (120.0, 30.0, None)
    """
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), RETRY_AFTER_CAP_S)
    try:
        at = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # a zone or a year beyond any clock
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return min(max((at - now).total_seconds(), 0.0), RETRY_AFTER_CAP_S)


def backoff_s(attempts: int, *, base_s: float, cap_s: float, chance: float) -> float:
    """Full jitter: a moment between 0 and `base_s` doubled with each failed attempt, at most `cap_s`; `chance` is uniform in [0, 1).

    >>> [backoff_s(n, base_s=0.5, cap_s=60, chance=0.999999) // 0.1 / 10 for n in (0, 1, 4, 99)]
    [0.4, 0.9, 7.9, 59.9]
    """
    return chance * min(cap_s, base_s * 2.0 ** min(attempts, 32))
