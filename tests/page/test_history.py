"""The minutes of an EMP: complete, counted once, and gone after a week."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from cdc_pusher import history, metrics
from cdc_pusher.database import connect
from cdc_pusher.history import History

NOON = datetime(2026, 1, 1, 12, 0, 20, tzinfo=UTC)


@pytest.fixture
def emp(request: pytest.FixtureRequest) -> str:
    """An EMP that nobody else counts for."""
    return str(request.node.name)


def send(emp: str, *lags_s: float, failed: int = 0) -> None:
    for lag_s in lags_s:
        metrics.requests.labels(emp, "status", "accepted").inc()
        metrics.delivery_lag.labels(emp, "status").observe(lag_s)
    metrics.requests.labels(emp, "station", "retry").inc(failed)


def test_minute_grows_until_it_is_over_and_the_next_begins_at_nothing(emp: str) -> None:
    past = History("d")

    def look(seconds: int) -> list[tuple[int, int, int]]:
        found = past.look(NOON + timedelta(seconds=seconds))
        past.wrote(found)
        return [(one.minute.minute, one.delivered, one.failed) for one in found.minutes if one.emp == emp]

    send(emp, 0.2)
    assert look(0) == [(0, 1, 0)]
    assert look(20) == []
    send(emp, 0.2, failed=2)
    assert look(20) == [(0, 2, 2)]
    send(emp, 0.2)
    assert look(40) == [(0, 3, 2)]
    assert look(60) == []
    send(emp, failed=1)
    assert look(60) == [(1, 0, 1)]
    send(emp, 0.2)
    assert look(200) == [(1, 1, 1)]
    send(emp, 0.2, 0.2)
    assert look(220) == [(3, 2, 0)]
    assert look(240) == []


def test_delay_is_that_of_the_minute(emp: str) -> None:
    past = History("d")
    send(emp, *[0.3] * 1000)
    past.wrote(past.look(NOON))
    past.wrote(past.look(NOON + timedelta(seconds=40)))
    send(emp, *[7.0] * 10)
    found = next(one for one in past.look(NOON + timedelta(seconds=60)).minutes if one.emp == emp)
    assert found.lag_p50_s is not None
    assert 5 < found.lag_p50_s < 10


def test_what_could_not_be_written_is_written_the_next_time_and_a_clock_set_back_takes_nothing_away(emp: str) -> None:
    past = History("d")
    send(emp, *[0.2] * 100)
    assert [one.delivered for one in past.look(NOON).minutes if one.emp == emp] == [100]
    again = past.look(NOON + timedelta(seconds=10))
    assert [one.delivered for one in again.minutes if one.emp == emp] == [100]
    past.wrote(again)
    send(emp, 0.2)
    back = past.look(NOON - timedelta(minutes=2))
    assert [(one.minute, one.delivered) for one in back.minutes if one.emp == emp] == [(NOON.replace(second=0), 101)]


async def test_written_again_it_is_replaced_and_what_is_old_goes(watched_dsn: str, emp: str) -> None:
    minute = history.Minute(
        emp=emp, minute=datetime.now(UTC).replace(second=0, microsecond=0), daemon="d", delivered=1, failed=0, lag_p50_s=0.1, lag_p99_s=None
    )
    async with await connect(watched_dsn, "test") as conn:
        for days in (8, 6):
            age = f"now() - interval '{days} days'"
            await conn.execute(f"INSERT INTO cdc_pusher.minute VALUES ('{emp}', {age}, 'd', {days}, 0, NULL, NULL)".encode())
        await history.write(conn, [minute])
        await history.forget(conn)
        await history.write(conn, [replace(minute, delivered=5)])
        found = await (await conn.execute("SELECT delivered FROM cdc_pusher.minute ORDER BY minute")).fetchall()
    assert [row["delivered"] for row in found] == [6, 5]
