"""The breaker and the limits of a lane: each rule by itself, and that a breaker never stays open for good."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_pusher.breaker import BASE_S, CAP_S, LIMIT, Breaker
from cdc_pusher.limits import SHRINK_EVERY_S, TokenBucket, Window
from cdc_pusher.policy import CONFIGURATION_RETRY_S

MOST = 16


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for n in range(LIMIT):
        breaker.failed(now, f"m{n}", "HTTP 500")
    return breaker


def test_breaker_opens_after_failures_in_a_row_and_not_before() -> None:
    breaker = Breaker()
    for n in range(LIMIT - 1):
        breaker.failed(0.0, f"m{n}", "HTTP 500")
    assert (breaker.state(0.0), breaker.room(0.0, 3, most=MOST)) == ("closed", MOST - 3)
    assert not breaker.answered(), "it was not open"
    for n in range(LIMIT):
        assert breaker.state(0.0) == "closed"
        breaker.failed(0.0, f"m{n}", "HTTP 500")
    assert (breaker.state(0.0), breaker.room(0.0, 0, most=MOST), breaker.reason) == ("open", 0, "HTTP 500")


def test_one_message_that_always_fails_says_nothing_about_the_emp() -> None:
    breaker = Breaker()
    for _ in range(10 * LIMIT):
        breaker.failed(0.0, "m", "HTTP 500")
    assert breaker.state(0.0) == "closed"


def test_breaker_opens_at_once_when_the_configuration_is_to_blame() -> None:
    breaker = Breaker()
    breaker.failed(0.0, "m", "code 210", configuration=True)
    assert breaker.state(CONFIGURATION_RETRY_S - 1) == "open"
    assert breaker.state(CONFIGURATION_RETRY_S) == "half open"


def test_half_open_breaker_lets_one_probe_pass() -> None:
    breaker = opened()
    assert breaker.room(BASE_S, 0, most=MOST) == 1
    assert breaker.room(BASE_S, 1, most=MOST) == 0


def test_answers_to_what_was_sent_before_it_opened_do_not_lengthen_the_wait() -> None:
    breaker = opened()
    for _ in range(20):
        breaker.failed(0.5 * BASE_S, "m", "HTTP 500")
    assert (breaker.trips, breaker.state(BASE_S)) == (1, "half open")


def test_failed_probes_wait_ever_longer_up_to_a_limit_and_as_long_as_the_emp_says() -> None:
    breaker, now, waits = opened(), 0.0, []
    for _ in range(9):
        waits.append(breaker.wait_s)
        now += breaker.wait_s
        breaker.failed(now, "m", "HTTP 500")
    assert waits == [1, 2, 4, 8, 16, 32, CAP_S, CAP_S, CAP_S]
    breaker.failed(now + CAP_S, "m", "HTTP 503", after_s=900.0)
    assert breaker.wait_s == 900


def test_any_answer_closes_it_and_all_is_forgotten() -> None:
    breaker = opened()
    assert breaker.answered()
    assert (breaker.state(0.0), breaker.trips, breaker.room(0.0, 0, most=MOST)) == ("closed", 0, MOST)
    breaker.failed(0.0, "m", "HTTP 500")
    assert breaker.state(0.0) == "closed", "it counts from the beginning"


@given(st.lists(st.tuples(st.sampled_from(["failed", "configuration", "answered"]), st.floats(0, 200), st.floats(0, 1)), max_size=60))
def test_breaker_is_never_open_for_longer_than_the_longest_wait(story: list[tuple[str, float, float]]) -> None:
    breaker, now = Breaker(), 0.0
    for what, pause, chance in story:
        now += pause
        if what == "answered":
            breaker.answered()
            assert breaker.room(now, 0, most=MOST) == MOST
        else:
            breaker.failed(now, f"m{now}", what, configuration=what == "configuration", chance=chance)
        assert breaker.room(now + CAP_S, 0, most=MOST) >= 1
        assert 0 <= breaker.room(now, 0, most=MOST) <= MOST


@pytest.mark.parametrize("burst", [1, 5])
def test_bucket_keeps_to_its_rate_after_the_burst(burst: int) -> None:
    bucket = TokenBucket(rate=10, burst=burst)
    waits = [bucket.take(100.0) for _ in range(25)]
    assert waits[:burst] == pytest.approx([0] * burst)
    assert waits[burst:] == pytest.approx([n / 10 for n in range(1, 26 - burst)])
    assert bucket.take(200.0) == 0.0, "a pause fills it again"


@given(st.floats(0.01, 1000), st.integers(1, 50), st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_no_second_has_more_than_the_rate_and_the_burst(rate: float, burst: int, pauses: list[float]) -> None:
    bucket, now, sent = TokenBucket(rate=rate, burst=burst), 0.0, []
    for pause in pauses:
        now += pause
        sent.append(now + bucket.take(now))
    for first, at in enumerate(sent):
        assert sum(at <= other < at + 1.0 for other in sent[first:]) <= burst + rate + 1


def test_window_halves_once_a_second_and_grows_by_one_a_round() -> None:
    window = Window(16)
    for _ in range(10):
        window.shrink(5.0)
    assert window.size == 8
    window.shrink(5.0 + SHRINK_EVERY_S)
    assert window.size == 4
    for _ in range(4):
        window.keep_up()
    assert window.size == 4
    window.keep_up()
    assert window.size == 5
    for _ in range(1000):
        window.keep_up()
    assert window.size == 16
    for second in range(100):
        window.shrink(10.0 + second)
    assert window.size == 1
