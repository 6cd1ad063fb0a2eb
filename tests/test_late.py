"""A request that is processed after nobody waits for it any more is not the last word, in the two orders that the model has found."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hand import Hand, hand
from rig import Rig, evse_id, rig

from cdc_pusher import claims, failover
from cdc_pusher.memory import Told

QUIET_S = 60.0
STATE = "SELECT state FROM cdc_pusher.outbox WHERE kind = 'status'"
QUIET_TIME_IS_OVER = "UPDATE cdc_pusher.outbox SET uncertain_at = uncertain_at - interval '1 h' WHERE uncertain_at IS NOT NULL"


@pytest.fixture
async def cpo(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(dsn, tmp_path) as made:
        await made.build("s1")
        yield made


async def _told_without_an_answer(cpo: Rig, daemon: Hand, status: str) -> None:
    """The EMP may process this status for another quiet time."""
    await daemon.capture()
    await daemon.deliver()
    await cpo.set_status("s1", status)
    await daemon.capture()
    claim = (await daemon.claim(quiet_s=QUIET_S))[evse_id("s1")]
    await daemon.answer(claim, "retry", quiet_s=QUIET_S, uncertain=True, late=True, error="no answer")


async def test_what_was_sent_within_the_quiet_time_is_sent_once_more_however_late_it_is_recorded(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await _told_without_an_answer(cpo, daemon, "Occupied")
        await cpo.set_status("s1", "Available")
        await daemon.capture()
        claim = (await daemon.claim(quiet_s=QUIET_S))[evse_id("s1")]  # the EMP takes this one first, and then the other
        await cpo.sql(QUIET_TIME_IS_OVER)
        await daemon.answer(claim, quiet_s=QUIET_S)
        assert await cpo.value(STATE) == "pending"


async def test_a_status_that_comes_back_is_sent_once_more_after_the_quiet_time(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await _told_without_an_answer(cpo, daemon, "Occupied")
        await cpo.sql("CREATE TABLE unplugged AS SELECT * FROM connector")
        await cpo.sql("DELETE FROM connector")
        await daemon.capture()
        await cpo.sql("UPDATE unplugged SET status = 'Available'")
        await cpo.sql("INSERT INTO connector OVERRIDING SYSTEM VALUE SELECT * FROM unplugged")
        await daemon.capture()
        claim = (await daemon.claim(quiet_s=QUIET_S))[evse_id("s1")]
        await daemon.answer(claim, quiet_s=QUIET_S)  # the EMP takes this one first, and then the other
        assert await cpo.value(STATE) == "pending"


async def test_what_nobody_wants_is_remembered_until_the_quiet_time_is_over_whatever_becomes_of_its_station(cpo: Rig) -> None:
    await cpo.build("s2", evses=2)
    remembered = "SELECT count(*) FROM cdc_pusher.outbox WHERE kind = 'status' AND key = %(evse)s"
    async with hand(cpo.dsn, connectors_changed="send") as daemon:
        await daemon.capture()
        await daemon.deliver()
        await cpo.set_status("s2", "Occupied")
        await daemon.capture()
        claim = (await daemon.claim())[evse_id("s2")]
        await daemon.answer(claim, "retry", quiet_s=QUIET_S, uncertain=True, late=True, error="no answer")
        await cpo.sql("DELETE FROM connector WHERE evse_id = %(evse)s", evse=evse_id("s2"))
        await daemon.capture()
        assert "s2" in await daemon.deliver()
        for quiet_is_over, rows in ((False, 1), (True, 0)):
            if quiet_is_over:
                await cpo.sql(QUIET_TIME_IS_OVER)
            async with daemon.conn.transaction():
                await claims.lock_emp(daemon.conn, "a")
                await claims.forget(daemon.conn, "a", quiet_s=QUIET_S)
            assert await cpo.value(remembered, evse=evse_id("s2")) == rows


async def test_what_may_be_processed_late_is_remembered_where_its_row_was_lost(cpo: Rig) -> None:
    late = Told(kind="status", key=evse_id("s1"), station_id="s1", payload=b'{"status": "Occupied"}', late=True)
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        assert await daemon.claim()
        await cpo.sql("DELETE FROM cdc_pusher.outbox")  # as on a server that has none of this
        async with daemon.conn.transaction():
            await claims.lock_emp(daemon.conn, "a")
            await failover.doubt(daemon.conn, "a", [late])
        await cpo.sql("UPDATE station SET name = 'captured'")
        await daemon.capture()
        await daemon.answer((await daemon.claim())["s1"])
        claim = (await daemon.claim(quiet_s=QUIET_S))[evse_id("s1")]  # the EMP takes this one first, and then the other
        await daemon.answer(claim, quiet_s=QUIET_S)
        assert await cpo.value(STATE) == "pending"
