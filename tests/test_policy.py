"""What follows from an answer: something for every answer there can be, and what the protocol's table says for those it names."""

import contextlib
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_pusher.model import Accepted, Answer, Failure, Kind, Rejected, Retry, StationMissing, Verdict
from cdc_pusher.policy import CONFIGURATION_RETRY_S, RETRY_AFTER_CAP_S, STATION_TRIES, backoff_s, judge, retry_after

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KINDS: tuple[Kind, ...] = get_args(Kind)
CODES = (None, *range(1000), -1, -200, 1000, 2**31 - 1)

# OIOI v4, "Result codes, and what a sender does", row by row: result codes with HTTP 200, HTTP statuses without a readable code.
TRANSIENT_CODES = (100, 101, 102, 300, 302, 310, 312, 400, 402)
TRANSIENT_STATUSES = (408, 425, 429, *range(500, 600))
CONFIGURATION_CODES = (210, 211, 220)
CONFIGURATION_STATUSES = (401, 403, *range(300, 400))
PERMANENT_CODES = (200, 230, 322, 180, 183)
PERMANENT_STATUSES = (400, 404, 409, 413, 422)


def verdict(status: int = 200, code: int | None = None, kind: Kind = "station", attempts: int = 0, wait: str | None = None) -> Verdict:
    return judge(Answer(http_status=status, code=code, message="words", retry_after=wait), kind=kind, attempts=attempts, now=NOW)


def each(statuses: tuple[int, ...]) -> list[tuple[int, Kind]]:
    return [(status, kind) for status in statuses for kind in KINDS]


def test_every_answer_has_a_verdict_and_only_success_is_accepted() -> None:
    """Every status with a code of each kind, and every code with a status of each kind."""
    answers = {(status, code) for status in range(100, 600) for code in (None, -1, 0, 50, 99, 100, 181, 200, 210, 322, 999)}
    answers |= {(status, code) for code in CODES for status in (100, 199, 200, 201, 299, 302, 400, 401, 403, 404, 408, 429, 500, 503, 599)}
    for status, code in answers:
        for kind in KINDS:
            found = verdict(status, code, kind)
            assert isinstance(found, Accepted) == (status == 200 and code is not None and 0 <= code <= 99), (status, code)
            assert isinstance(found, Accepted | Retry | Rejected) or (kind == "status" and code == 181), (status, code)
            assert isinstance(found, Accepted) or found.reason


@pytest.mark.parametrize("kind", KINDS)
def test_success_is_any_code_below_100_with_http_200(kind: Kind) -> None:
    assert all(verdict(200, code, kind) == Accepted() for code in range(100))


def test_transient_code_is_retried_and_was_not_applied() -> None:
    for code, kind in each(TRANSIENT_CODES):
        for attempts in (0, 5, 1000):
            assert verdict(200, code, kind, attempts) == Retry(reason=f"HTTP 200, code {code}: words")


@pytest.mark.parametrize("kind", KINDS)
def test_transient_http_status_is_retried(kind: Kind) -> None:
    for status in TRANSIENT_STATUSES:
        found = verdict(status, None, kind)
        assert isinstance(found, Retry)
        assert found.blames == ("emp" if status == 429 or status >= 500 else "message"), status
        assert found.uncertain == (status >= 500), status
        assert found.late == (status in (408, 502, 504)), status
        assert found.overloaded == (status in (408, 429, 503, 504)), status


@pytest.mark.parametrize("kind", KINDS)
def test_unreadable_success_may_have_been_applied(kind: Kind) -> None:
    assert verdict(200, None, kind) == Retry(reason="HTTP 200: words", uncertain=True)


@pytest.mark.parametrize("status", [201, 202, 500, 503])
def test_success_code_with_another_http_status_may_have_been_applied(status: int) -> None:
    """Contradictory, so unknown; an unknown outcome counts as possibly applied (design, invariant 3)."""
    for code in (0, 1, 99):
        found = verdict(status, code)
        assert isinstance(found, Retry)
        assert found.uncertain, code


@pytest.mark.parametrize("applied", [True, False])
def test_failure_without_an_answer_is_retried(applied: bool) -> None:
    for timed_out in (True, False):
        failure = Failure(error="cut", applied=applied, timed_out=timed_out)
        expected = Retry(reason="cut", blames="emp", uncertain=applied, late=applied, overloaded=timed_out)
        assert judge(failure, kind="status", attempts=9, now=NOW) == expected


@pytest.mark.parametrize("code", CONFIGURATION_CODES)
def test_configuration_code_counts_against_no_message(code: int) -> None:
    for status, kind in each((200, 400, 401, 500)):
        found = verdict(status, code, kind, attempts=50)
        assert isinstance(found, Retry)
        assert (found.blames, found.uncertain, found.after_s) == ("configuration", False, CONFIGURATION_RETRY_S)


@pytest.mark.parametrize("kind", KINDS)
def test_configuration_http_status_counts_against_no_message(kind: Kind) -> None:
    for status in CONFIGURATION_STATUSES:
        found = verdict(status, None, kind, attempts=50)
        assert isinstance(found, Retry)
        assert (found.blames, found.uncertain, found.after_s) == ("configuration", False, CONFIGURATION_RETRY_S)


@pytest.mark.parametrize("kind", KINDS)
def test_permanent_answer_is_rejected_with_what_was_said(kind: Kind) -> None:
    for code in PERMANENT_CODES:
        assert verdict(200, code, kind) == Rejected(reason=f"HTTP 200, code {code}: words")
        assert verdict(400, code, kind) == Rejected(reason=f"HTTP 400, code {code}: words")
        assert verdict(500, code, kind) == Rejected(reason=f"HTTP 500, code {code}: words")
    for status in PERMANENT_STATUSES:
        assert verdict(status, None, kind) == Rejected(reason=f"HTTP {status}: words")


def test_status_of_an_unknown_evse_sends_its_station_a_bounded_number_of_times() -> None:
    for status in (200, 400, 404, 500):
        found = [verdict(status, 181, "status", attempts) for attempts in range(STATION_TRIES + 3)]
        assert all(isinstance(one, StationMissing) for one in found[:STATION_TRIES])
        assert all(isinstance(one, Rejected) for one in found[STATION_TRIES:])


def test_unknown_evse_on_a_station_makes_no_sense_and_is_retried() -> None:
    assert isinstance(verdict(200, 181, "station"), Retry)


def test_readable_code_speaks_louder_than_the_http_status_around_it() -> None:
    for code in TRANSIENT_CODES:
        assert isinstance(verdict(400, code), Retry)
    for status in (401, 403, 302):
        assert isinstance(verdict(status, 322), Rejected), status
        assert isinstance(verdict(status, 181, "status"), StationMissing), status


def test_unknown_answer_is_retried() -> None:
    for status, code in ((200, 999), (418, None), (200, -1), (102, None), (400, 777)):
        assert isinstance(verdict(status, code), Retry), (status, code)


def test_retry_after_is_told_with_the_verdict() -> None:
    assert verdict(503, None, wait="7") == Retry(reason="HTTP 503: words", after_s=7.0, blames="emp", uncertain=True, overloaded=True)
    assert verdict(200, 100, wait="8") == Retry(reason="HTTP 200, code 100: words", after_s=8.0)
    configuration = verdict(401, None, wait="900")
    assert isinstance(configuration, Retry)
    assert configuration.after_s == 900


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("3600", RETRY_AFTER_CAP_S),
        ("9" * 5000, RETRY_AFTER_CAP_S),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("soon", None),
        ("²", None),
        ("٣", None),
        ("Thu, 01 Jan 2026 12:00:30 GMT", 30),
        ("Thu, 01 Jan 2026 13:00:30 +0100", 30),
        ("Thursday, 01-Jan-26 12:00:30 GMT", 30),
        ("Thu Jan  1 12:00:30 2026", 30),
        ("Thu, 01 Jan 2026 11:00:00 GMT", 0),
        ("Thu, 01 Jan 2099 11:00:00 GMT", RETRY_AFTER_CAP_S),
        ("Thu, 99 Jan 2026 12:00:30 GMT", None),
        ("Thu, 01 Jan 99999 12:00:30 GMT", None),
        ("Thu, 01 Jan 2026 12:00:30 +99999999999999999999", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_at_most_an_hour(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=NOW) == seconds


@given(
    st.text(max_size=40)
    | st.datetimes(timezones=st.timezones()).map(lambda at: _formatted(at))
    | st.builds(
        "{}, {} {} {} {}:{}:{} {}{}".format,
        st.sampled_from(["Thu", "x", ""]),
        st.integers(-1, 40),
        st.sampled_from(["Jan", "Feb", "0", "x"]),
        st.integers(-1, 10**12),
        st.integers(-1, 99),
        st.integers(-1, 99),
        st.integers(-1, 99),
        st.sampled_from(["+", "-", "GMT", ""]),
        st.integers(0, 10**25),
    )
)
def test_retry_after_never_fails_whatever_the_emp_sends(value: str) -> None:
    found = retry_after(value, now=NOW)
    assert found is None or 0 <= found <= RETRY_AFTER_CAP_S


def _formatted(at: datetime) -> str:
    with contextlib.suppress(ValueError, OverflowError):
        return format_datetime(at)
    return "0"


@given(st.floats(0, 3600))
def test_retry_after_reads_the_date_that_was_written(seconds: float) -> None:
    at = NOW + timedelta(seconds=seconds)
    assert retry_after(format_datetime(at, usegmt=True), now=NOW) == pytest.approx(seconds, abs=1)


@given(st.integers(0, 10**9), st.floats(0.001, 60), st.floats(0.001, 3600), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_between_nothing_and_its_bounds(attempts: int, base_s: float, cap_s: float, chance: float) -> None:
    found = backoff_s(attempts, base_s=base_s, cap_s=cap_s, chance=chance)
    assert 0 <= found <= cap_s
    assert found <= base_s * 2 ** min(attempts, 60)
    assert backoff_s(attempts + 1, base_s=base_s, cap_s=cap_s, chance=chance) >= found


def test_backoff_reaches_its_cap_and_is_spread_over_all_of_it() -> None:
    assert backoff_s(50, base_s=0.5, cap_s=60, chance=0.5) == 30
    assert backoff_s(0, base_s=0.5, cap_s=60, chance=0.5) == 0.25
    assert backoff_s(50, base_s=0.5, cap_s=60, chance=0.0) == 0
