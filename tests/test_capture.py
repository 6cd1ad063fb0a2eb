"""Capture, claims and answers step by step on a real database, in the orders that only bad luck brings about."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from hand import Hand, hand, settings
from rig import Rig, evse_id, rig

from cdc_pusher import capture, claims, enqueue, outbox
from cdc_pusher.horizon import Horizon
from cdc_pusher.reconcile import SWEEP, WALK


@pytest.fixture
async def cpo(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(dsn, tmp_path) as made:
        await made.build("s1")
        yield made


async def test_first_missed_change_is_noticed_and_swept(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        assert not (await enqueue.pulse(daemon.conn, ["a"])).missed
        await cpo.sql("SELECT nextval('cdc_pusher.missed')")
        assert (await enqueue.pulse(daemon.conn, ["a"])).missed
        assert await enqueue.answer_for_missed(daemon.conn) == 1
        assert await cpo.value("SELECT walk FROM cdc_pusher.emp") == "sweep"


async def test_missed_change_that_is_committed_after_the_sweep_is_swept_again(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon, await psycopg.AsyncConnection.connect(cpo.dsn) as writer:
        await daemon.capture()
        await daemon.deliver()
        await writer.execute("SET session_replication_role = replica")  # no trigger: the miss is counted by hand
        await writer.execute("UPDATE connector SET status = 'Occupied'")
        await writer.execute("SELECT nextval('cdc_pusher.missed')")
        assert await enqueue.answer_for_missed(daemon.conn) == 1
        await daemon.capture()
        assert await daemon.deliver() == [], "the sweep came too early to see it"
        assert not (await enqueue.pulse(daemon.conn, ["a"])).missed
        await writer.commit()
        assert (await enqueue.pulse(daemon.conn, ["a"])).missed
        assert await enqueue.answer_for_missed(daemon.conn) == 1
        await daemon.capture()
        assert await daemon.deliver() == [evse_id("s1")]
        assert not (await enqueue.pulse(daemon.conn, ["a"])).missed


async def test_sweep_that_is_ordered_during_a_walk_begins_when_that_has_ended(cpo: Rig) -> None:
    await cpo.build(*(f"t{n}" for n in range(20)))
    async with hand(cpo.dsn) as daemon:
        for _ in range(5):
            await enqueue.page(daemon.conn, daemon.source, ["a"], 2)
            await outbox.order_walk_after(daemon.conn, ["a"], "sweep")
        assert await cpo.value("SELECT walk_stations FROM cdc_pusher.emp") == 10, "the full load goes on"
        await daemon.capture()
        state = await cpo.sql("SELECT walk, walk_next, full_load_completed_at IS NOT NULL AS loaded FROM cdc_pusher.emp")
        assert state == [{"walk": None, "walk_next": None, "loaded": True}]


async def test_change_is_handed_over_to_an_emp_that_only_another_daemon_serves(cpo: Rig) -> None:
    async with hand(cpo.dsn, "a", "b") as new, hand(cpo.dsn, "a", "b") as other:
        old = Hand(settings(cpo.dsn, "a"), other.conn, other.source)
        await new.capture()
        await new.deliver("a")
        await new.deliver("b")
        await cpo.set_status("s1", "Occupied")
        await old.capture()
        assert await new.claim("b") == {}
        assert await new.capture() == 1
        assert list(await new.claim("b")) == [evse_id("s1")]
        assert list(await old.claim("a")) == [evse_id("s1")]


async def test_refusal_by_a_proxy_leaves_the_doubt_and_the_station_is_deleted_in_the_end(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        await daemon.answer((await daemon.claim())["s1"], "retry", uncertain=True, error="the answer was lost")
        await daemon.answer((await daemon.claim())["s1"], "rejected", http_status=404, reason="HTTP 404")
        await cpo.sql("DELETE FROM station")
        await daemon.capture()
        claim = (await daemon.claim())["s1"]
        assert claim.deletes


async def test_refusal_in_the_words_of_the_emp_settles_a_doubt(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        await daemon.answer((await daemon.claim())["s1"], "retry", uncertain=True)
        await daemon.answer((await daemon.claim())["s1"], "rejected", http_status=400, result_code=200, reason="malformed")
        await cpo.sql("DELETE FROM station")
        await daemon.capture()
        assert await cpo.value("SELECT count(*) FROM cdc_pusher.outbox") == 0


async def test_status_and_the_deletion_of_its_station_are_never_claimed_together(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        await daemon.deliver()
        await cpo.set_status("s1", "Occupied")
        await daemon.capture()
        status = (await daemon.claim())[evse_id("s1")]
        await cpo.sql("DELETE FROM station")
        await daemon.capture()
        assert await daemon.claim() == {}, "the deletion waits for the status in flight"
        await daemon.answer(status, "retry")
        assert list(await daemon.claim()) == ["s1"]


async def test_status_unknown_to_the_emp_waits_for_its_station_whatever_failed_before(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        await daemon.deliver()
        await cpo.set_status("s1", "Occupied")
        await daemon.capture()
        for _ in range(3):
            await daemon.answer((await daemon.claim())[evse_id("s1")], "retry", counts=1, http_status=503)
        await daemon.answer(
            (await daemon.claim())[evse_id("s1")], "station_missing", counts=1, http_status=200, result_code=181, reason="181"
        )
        await cpo.set_status("s1", "Reserved")
        await daemon.capture()
        assert await cpo.value("SELECT attempts FROM cdc_pusher.outbox WHERE kind = 'status'") == 1
        assert await daemon.deliver() == ["s1", evse_id("s1")]


async def test_claim_that_is_somebody_elses_by_now_changes_nothing(cpo: Rig) -> None:
    async with hand(cpo.dsn) as first, hand(cpo.dsn) as second:
        await first.capture()
        late = (await first.claim(lease_s=0.0))["s1"]
        async with second.conn.transaction():
            await claims.lock_emp(second.conn, "a")
            assert await claims.expire(second.conn, "a") == 1
        held = (await second.claim())["s1"]
        for outcome in ("unsent", "rejected", "accepted"):
            await first.answer(late, outcome, reason="late")
        assert await cpo.sql(
            "SELECT state, at_emp FROM cdc_pusher.outbox JOIN cdc_pusher.evse USING (station_id) WHERE kind = 'station'"
        ) == [{"state": "in_flight", "at_emp": "maybe"}]
        await second.answer(held)
        assert await second.deliver() == [evse_id("s1")]


async def test_forced_status_is_sent_although_an_attempt_failed_and_it_was_captured_again(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        await daemon.deliver()
        await enqueue.resync(daemon.conn, ["a"], ["s1"], "statuses")
        await daemon.capture()
        await daemon.answer((await daemon.claim())[evse_id("s1")], "retry", http_status=429)
        await cpo.sql("UPDATE station SET city = city || 'n'")
        await daemon.capture()
        assert evse_id("s1") in await daemon.deliver()


async def test_station_that_gives_its_last_connector_away_is_deleted_where_connectors_may_change(cpo: Rig) -> None:
    await cpo.build("s2")
    async with hand(cpo.dsn, connectors_changed="send") as daemon:
        await daemon.capture()
        await daemon.deliver()
        await cpo.sql("UPDATE connector SET station_id = 's2'")
        await daemon.capture()
        assert await daemon.deliver() == ["s1", "s2", evse_id("s1"), evse_id("s2")]
        assert await cpo.sql(
            "SELECT key, state, payload ->> 'deleted' AS deleted FROM cdc_pusher.outbox WHERE kind = 'station' ORDER BY key"
        ) == [
            {"key": "s1", "state": "held", "deleted": "true"},
            {"key": "s2", "state": "delivered", "deleted": "false"},
        ], "deleted, and since then held: it has no connector"


async def test_two_captures_take_turns(cpo: Rig) -> None:
    async with hand(cpo.dsn) as first, hand(cpo.dsn) as second:
        await first.capture()
        await cpo.set_status("s1", "Occupied")
        async with first.conn.transaction():
            await outbox.lock_capture(first.conn)
            other = asyncio.create_task(second.capture())
            await asyncio.wait([other], timeout=0.3)
            assert not other.done()
        assert await other == 1


async def test_station_that_a_trigger_named_in_another_spelling_is_captured(cpo: Rig) -> None:
    await cpo.sql("ALTER TABLE connector DROP CONSTRAINT connector_station_id_fkey")
    await cpo.sql("ALTER TABLE station ALTER id TYPE int USING 7")
    await cpo.sql("ALTER TABLE connector ALTER station_id TYPE int USING 7")
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        await daemon.deliver()
        await cpo.sql("ALTER TABLE connector DISABLE TRIGGER USER")
        await cpo.sql("UPDATE connector SET status = 'Occupied'")
        await cpo.sql("INSERT INTO cdc_pusher.change (station_id) VALUES ('007')")
        await daemon.capture()
        assert await cpo.value("SELECT payload ->> 'status' FROM cdc_pusher.outbox WHERE kind = 'status'") == "Occupied"
        assert await cpo.value("SELECT count(*) FROM cdc_pusher.outbox WHERE key IN ('7', '007')") == 1


async def test_change_that_is_committed_late_is_found_by_a_look_from_the_start(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon, await psycopg.AsyncConnection.connect(cpo.dsn) as late:
        await daemon.capture()
        horizon = outbox.changes_from_the_start()

        async def consumed() -> list[str]:
            changes, _ = await outbox.consume(daemon.conn, ["a"], 10, horizon)
            return [str(change.station_id) for change in changes]

        await late.execute("INSERT INTO cdc_pusher.change (station_id) VALUES ('late')")
        await cpo.sql("INSERT INTO cdc_pusher.change (station_id) VALUES ('early')")
        assert await consumed() == ["early"]
        for _ in range(2):
            horizon.looked(time.monotonic(), took_s=1e9)
        await late.commit()
        await cpo.sql("INSERT INTO cdc_pusher.change (station_id, priority) VALUES ('sweep', 20), ('walk', 10)")
        await cpo.sql("INSERT INTO cdc_pusher.change (station_id) VALUES ('live')")
        assert [await consumed() for _ in range(3)] == [["live"], ["walk"], ["sweep"]]
        assert await consumed() == []
        horizon.looked(time.monotonic(), took_s=0.0)
        assert await consumed() == ["late"]


@pytest.mark.parametrize("slow", [False, True])
async def test_what_is_urgent_is_taken_alone_and_nothing_is_left_behind(cpo: Rig, slow: bool) -> None:
    """`slow`: looks begin where the one before has ended."""
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        everything, what_waits = outbox.changes_from_the_start(), outbox.changes_from_the_start(WALK, SWEEP)

        async def consumed(horizon: Horizon[int] = everything) -> tuple[list[str], bool]:
            changes, more = await outbox.consume(daemon.conn, ["a"], 2, horizon)
            horizon.looked(time.monotonic(), took_s=1e9 if slow else 0.0)
            return [f"{change.station_id} {change.priority}" for change in changes], more

        stations = ["x 10", "y 10", "z 10", "a 0", "x 0", "b 0"]
        for station, _, priority in (one.partition(" ") for one in stations):
            await cpo.sql("INSERT INTO cdc_pusher.change (station_id, priority) VALUES (%(s)s, %(p)s)", s=station, p=int(priority))
        assert await consumed() == (["a 0", "x 0", "x 10"], True)
        assert await consumed() == (["b 0"], True), "not what may wait"
        await cpo.sql("INSERT INTO cdc_pusher.change (station_id) VALUES ('c')")
        assert await consumed(what_waits) == (["y 10"], True), "its turn has come: what is live waits"
        assert await consumed() == (["c 0"], True)
        assert await consumed() == (["z 10"], False)
        assert await consumed(what_waits) == ([], False)
        assert await consumed() == ([], False)


@pytest.mark.parametrize("slow", [False, True])
async def test_little_of_what_is_not_urgent_is_taken_at_once_and_nothing_is_left_behind(cpo: Rig, slow: bool) -> None:
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        horizon = outbox.changes_from_the_start()
        await cpo.sql("INSERT INTO cdc_pusher.change (station_id, priority) SELECT 's' || mod(n, 4), 10 FROM generate_series(1, 8) AS n")
        found = []
        for _ in range(3):
            changes, more = await outbox.consume(daemon.conn, ["a"], 20, horizon)
            horizon.looked(time.monotonic(), took_s=1e9 if slow else 0.0)
            found.append(([change.station_id for change in changes], more))
        assert found == [(["s1", "s2", "s1", "s2"], True), (["s3", "s0", "s3", "s0"], False), ([], False)]
        await cpo.sql("INSERT INTO cdc_pusher.change (station_id) SELECT 's' || n FROM generate_series(1, 8) AS n")
        changes, more = await outbox.consume(daemon.conn, ["a"], 20, horizon)
        assert (len(changes), more) == (8, False), "what is live is taken all at once"


async def test_more_is_left_when_all_that_was_seen_is_of_one_station(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        await cpo.sql("INSERT INTO cdc_pusher.change (station_id) SELECT 's1' FROM generate_series(1, %(n)s)", n=outbox.AHEAD + 1)
        receivers = capture.receivers(daemon.settings)
        captured = [await capture.batch(daemon.conn, daemon.source, receivers, 1) for _ in range(3)]
        assert [(one.changes, one.more) for one in captured] == [(outbox.AHEAD, True), (1, False), (0, False)]


async def test_what_capture_puts_into_the_log_itself_is_more_to_capture(cpo: Rig) -> None:
    """No trigger notifies of it."""
    await cpo.build("s2")
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        await cpo.sql("UPDATE connector SET evse_id = %(e)s WHERE station_id = 's2'", e=evse_id("s1"))
        receivers = capture.receivers(daemon.settings)
        captured = [await capture.batch(daemon.conn, daemon.source, receivers, 100) for _ in range(3)]
        assert [(one.changes, one.more) for one in captured] == [(1, True), (1, False), (0, False)]


@pytest.mark.parametrize("row", ["'s1', NULL, 'all'", "NULL, 'none', NULL", "'s1', 'none', NULL"])
async def test_row_that_somebody_has_put_into_the_log_does_not_stop_capture(cpo: Rig, row: str) -> None:
    """No constraint refuses it: that would cost the CPO's writers."""
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        await cpo.set_status("s1", "Occupied")
        await cpo.sql(f"INSERT INTO cdc_pusher.change (station_id, watch, resend) VALUES ({row})")
        await daemon.capture()
        assert await cpo.value("SELECT count(*) FROM cdc_pusher.change") == 0
        assert await cpo.value("SELECT payload ->> 'status' FROM cdc_pusher.outbox WHERE kind = 'status'") == "Occupied"


async def test_backlog_is_taken_by_hashing_whatever_the_planner_believes(cpo: Rig) -> None:
    """A join of what is taken for one row each, and is not, would take half a second a batch; psycopg prepares after the fifth."""
    async with hand(cpo.dsn) as daemon:
        await daemon.capture()
        await daemon.conn.execute("SET plan_cache_mode = force_generic_plan")
        values = {"emps": ["a"], "batch": 500, "few": 50, "ahead": 10_000, "priorities": [0, 10, 20], "since": [0, 0, 0]}
        async with daemon.conn.transaction():
            cursor = await daemon.conn.execute(b"EXPLAIN " + outbox._sql.consume, values)
            plan = [row["QUERY PLAN"] for row in await cursor.fetchall()]
        assert [line for line in plan if "Semi Join" in line] == []
        assert any("hashed SubPlan" in line for line in plan)


async def test_looks_for_due_messages_begin_where_the_one_before_ended(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await cpo.build(*(f"s{n}" for n in range(2, 8)))
        await daemon.capture()
        horizon = claims.due_from_the_start()

        async def claimed(limit: int) -> list[str]:
            async with daemon.conn.transaction():
                turn = await claims.lock_emp(daemon.conn, "a")
                found = await claims.claim(daemon.conn, "a", limit=limit, lease_s=60.0, quiet_s=0.0, now=turn.now, horizon=horizon)
                return sorted(claim.key for claim in found)

        found = await claimed(3)
        for _ in range(2):
            horizon.looked(time.monotonic(), took_s=1e9)
        for limit in (3, 3):
            found += await claimed(limit)
        assert sorted(found) == [f"s{n}" for n in range(1, 8)]
        await cpo.build("s8")
        await daemon.capture()
        assert await claimed(3) == ["s8"]
        await cpo.sql("UPDATE cdc_pusher.outbox SET next_attempt_at = now() - interval '1 h' WHERE key = %(key)s", key=evse_id("s1"))
        assert await claimed(3) == [], "nobody makes anything due in the past"
        horizon.looked(time.monotonic(), took_s=0.0)
        assert await claimed(3) == [evse_id("s1")]
