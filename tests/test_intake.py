"""The loop that captures: what is live goes first, and what waits goes on nevertheless."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hand import settings
from rig import rig, until

from cdc_pusher import capture, outbox
from cdc_pusher.clock import now_s
from cdc_pusher.database import BY_INDEX, connect
from cdc_pusher.intake import Intake
from cdc_pusher.lease import Lease
from cdc_pusher.part import Part

PAGE, BATCH = 50, 100
LIVE_CHANGES = """
INSERT INTO cdc_pusher.change (station_id)
SELECT 's' || lpad((n %% 50)::text, 3, '0')
FROM generate_series(1, %(number)s) AS n
"""
BOUNDS = """
SELECT cardinality(histogram_bounds::text::text[])
FROM pg_stats
WHERE schemaname = 'cdc_pusher' AND tablename = 'outbox' AND attname = 'key'
"""


@pytest.mark.parametrize("live", [1, BATCH // 2, BATCH, 2 * BATCH])
async def test_full_load_goes_on_and_the_log_stays_short_while_live_changes_never_end(
    dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: int
) -> None:
    """So many come before each look. What is not live is taken a few stations at a time, so that what is live never waits for long."""
    most = 0
    beside_live: list[int] = []
    batch = capture.batch

    async def with_live_changes(*arguments: Any, **options: Any) -> capture.Captured:
        nonlocal most
        await cpo.sql(LIVE_CHANGES, number=live)
        most = max(most, await cpo.value("SELECT count(*) FROM cdc_pusher.change WHERE priority > 0"))
        captured = await batch(*arguments, **options)
        if options["beside_live"] and not captured.live:
            beside_live.append(captured.changes)
        return captured

    async with rig(dsn, tmp_path) as cpo, await connect(dsn, "capture", settings=BY_INDEX) as conn:
        await cpo.build(*(f"s{n:03}" for n in range(300)), noticed=False)
        configured = settings(dsn, "a")
        configured = configured.model_copy(
            update={"daemon": configured.daemon.model_copy(update={"page_stations": PAGE, "capture_batch": BATCH})}
        )
        await cpo.sql("ALTER TABLE cdc_pusher.outbox SET (autovacuum_enabled = off)")
        lease = Lease(name="capture", epoch=1, valid_until=now_s() + 1000.0)
        part = Part("capture", lambda _: asyncio.sleep(0))
        monkeypatch.setattr(capture, "batch", with_live_changes)
        intake = Intake(configured, lease, wake_lanes=lambda _: [], hears=lambda: True)
        task = asyncio.create_task(intake.run(conn, part), name="capture")
        try:
            captured = "SELECT count(*) = 300 FROM cdc_pusher.outbox WHERE kind = 'station'"
            await until(lambda: cpo.value(captured), "all stations are captured", 60.0)
        finally:
            part.stop.set()
            await task
        assert most <= PAGE
        assert 0 < await cpo.value(BOUNDS) <= 11, "statistics are made while all waits, of few rows"
        if live < BATCH:
            assert max(beside_live) == outbox.few(BATCH, beside_live=True)
        else:
            assert not beside_live, "what is live fills whole batches, and waits for such anyway"
