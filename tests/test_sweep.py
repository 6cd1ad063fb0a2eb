"""The sweep finds what no trigger told of, says so, takes its time, and is no other path to the EMP."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest
from hand import Hand, hand
from rig import Rig, evse_id, rig, until

from cdc_pusher import enqueue
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import connect
from cdc_pusher.model import Held, Station
from cdc_pusher.sandbox import Sandbox, SandboxSettings

SILENT = "ALTER TABLE connector DISABLE TRIGGER USER"


@pytest.fixture
async def cpo(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(dsn, tmp_path) as made:
        await made.build("s1", "s2")
        yield made


async def due(daemon: Hand, *emps: str, interval_s: float = 0.001, fastest: float = 1e6) -> list[str]:
    return await enqueue.order_sweep(daemon.conn, emps or ("a",), interval_s=interval_s, fastest=fastest)


async def quiet(daemon: Hand) -> None:
    """Full load, all delivered."""
    await daemon.capture()
    for emp in daemon.settings.emp:
        await daemon.deliver(emp)


async def test_sweep_heals_what_no_trigger_told_of_and_counts_it(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        await cpo.sql(SILENT)
        await cpo.set_status("s1", "Occupied")
        await cpo.sql("DELETE FROM connector WHERE station_id = 's2'")
        assert await daemon.capture() == 0
        assert await due(daemon) == ["a"]
        await daemon.capture()
        assert daemon.healed == {"a": frozenset({"s1", "s2"})}
        assert evse_id("s1") in await daemon.deliver()
        found = await cpo.sql("SELECT healed, healed_at > now() - interval '1 min' AS lately, walk, sweep_completed_at FROM cdc_pusher.emp")
        assert (found[0]["healed"], found[0]["lately"], found[0]["walk"]) == (2, True, None)
        assert found[0]["sweep_completed_at"] is not None


async def test_sweep_that_finds_nothing_writes_and_reports_nothing(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        rows = await cpo.sql("SELECT key, xmin::text FROM cdc_pusher.outbox ORDER BY key")
        assert await due(daemon) == ["a"]
        assert await daemon.capture() == 2
        assert daemon.healed == {}
        assert await cpo.sql("SELECT key, xmin::text FROM cdc_pusher.outbox ORDER BY key") == rows


@pytest.mark.parametrize("silent", ["INSERT", "DELETE"])
async def test_stations_that_came_and_went_unnoticed_are_healed(cpo: Rig, silent: str) -> None:
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        await cpo.sql("SET session_replication_role = replica")
        if silent == "INSERT":
            await cpo.build("s3")
        else:
            await cpo.sql("DELETE FROM connector WHERE station_id = 's2'")
            await cpo.sql("DELETE FROM station WHERE id = 's2'")
        await cpo.sql("RESET session_replication_role")
        await due(daemon)
        await daemon.capture()
        station = "s3" if silent == "INSERT" else "s2"
        assert daemon.healed == {"a": frozenset({station})}
        assert station in await daemon.deliver()


async def test_change_that_was_told_of_is_not_counted_as_healed(cpo: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is committed after the sweep's page was consumed and before the station is read."""
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        read = daemon.source.read

        async def read_late(station_ids: Sequence[str]) -> Mapping[str, Station | Held]:
            await cpo.set_status("s1", "Occupied")
            return await read(station_ids)

        monkeypatch.setattr(daemon.source, "read", read_late)
        await due(daemon)
        await daemon.capture()
        assert daemon.healed == {}
        assert await daemon.deliver() == [evse_id("s1")]
        assert await cpo.value("SELECT healed FROM cdc_pusher.emp") == 0


async def test_sweep_reads_each_station_once_for_all_emps(cpo: Rig) -> None:
    async with hand(cpo.dsn, "a", "b", "c") as daemon:
        await quiet(daemon)
        assert await due(daemon, "a", "b", "c") == ["a", "b", "c"]
        await enqueue.page(daemon.conn, daemon.source, ["a", "b", "c"], 100)
        assert await cpo.sql("SELECT station_id, count(*) AS n FROM cdc_pusher.change GROUP BY 1 ORDER BY 1") == [
            {"station_id": "s1", "n": 3},
            {"station_id": "s2", "n": 3},
        ]
        await daemon.capture()
        assert await cpo.value("SELECT count(*) FROM cdc_pusher.emp WHERE walk IS NULL AND sweep_completed_at IS NOT NULL") == 3


async def test_sweep_is_due_an_interval_after_the_last_one_began_and_never_beside_another_walk(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        assert await due(daemon) == [], "the full load is still to come"
        await quiet(daemon)
        assert await due(daemon, interval_s=3600) == []
        assert await due(daemon) == ["a"]
        assert await due(daemon) == [], "one is under way"
        await daemon.capture()
        assert await due(daemon, interval_s=3600) == []
        await cpo.sql("UPDATE cdc_pusher.emp SET sweep_started_at = now() - interval '61 min'")
        await cpo.sql("UPDATE cdc_pusher.emp SET paused_at = now()")
        assert await due(daemon, interval_s=3600) == [], "people have paused it"
        await cpo.sql("UPDATE cdc_pusher.emp SET paused_at = NULL")
        assert await due(daemon, interval_s=3600) == ["a"]


async def test_sweep_spreads_its_pages_over_the_interval(cpo: Rig) -> None:
    await cpo.build(*(f"t{n:02}" for n in range(98)))
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        await cpo.sql("UPDATE cdc_pusher.emp SET sweep_started_at = now() - interval '1 h'")
        await due(daemon, interval_s=10)
        assert await cpo.value("SELECT walk_pace FROM cdc_pusher.emp") == pytest.approx(25), "100 stations, twice, in 8 of 10 s"
        await cpo.sql("UPDATE cdc_pusher.emp SET walk_pace = 0.25")
        assert await enqueue.page(daemon.conn, daemon.source, ["a"], 20) == 20
        assert await enqueue.page(daemon.conn, daemon.source, ["a"], 20) is None, "the next page is not due yet"
        assert not (await enqueue.pulse(daemon.conn, ["a"])).walks
        left = await cpo.value("SELECT extract(epoch FROM walk_due_at - now()) FROM cdc_pusher.emp")
        assert 40 < left <= 80, "20 stations at one in 4 s"
        began = time.monotonic()
        await cpo.sql("UPDATE cdc_pusher.emp SET walk_due_at = now() - interval '1 h', walk_pace = 25")
        assert (await enqueue.pulse(daemon.conn, ["a"])).walks
        pages = 0
        while await enqueue.page(daemon.conn, daemon.source, ["a"], 1) is not None:
            pages += 1
        most = 25 * (5 + time.monotonic() - began) + 2
        assert 124 <= pages <= most, "five seconds' worth of what was missed is made up for"


@pytest.mark.parametrize(("interval_s", "fastest", "pace"), [(900, 1000, 10), (0.001, 500, 500), (0.001, 5, 5)])
async def test_pace_has_its_limits(cpo: Rig, interval_s: float, fastest: float, pace: float) -> None:
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        await cpo.sql("UPDATE cdc_pusher.emp SET sweep_started_at = now() - interval '1 h'")
        await due(daemon, interval_s=interval_s, fastest=fastest)
        assert await cpo.value("SELECT walk_pace FROM cdc_pusher.emp") == pytest.approx(pace)


async def test_missed_changes_make_a_sweep_hurry(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        await due(daemon, fastest=0.001)
        await enqueue.page(daemon.conn, daemon.source, ["a"], 1)
        assert await enqueue.page(daemon.conn, daemon.source, ["a"], 1) is None
        await cpo.sql("SELECT nextval('cdc_pusher.missed')")
        await enqueue.answer_for_missed(daemon.conn)
        assert await enqueue.page(daemon.conn, daemon.source, ["a"], 1) == 1
        await daemon.capture()
        assert await cpo.value("SELECT walk FROM cdc_pusher.emp") is None


async def test_resync_takes_the_place_of_a_sweep(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        await due(daemon, fastest=0.001)
        await enqueue.resync(daemon.conn, ["a"], None, None)
        assert await cpo.sql("SELECT walk, walk_pace, walk_due_at FROM cdc_pusher.emp") == [
            {"walk": "resync", "walk_pace": None, "walk_due_at": None}
        ]
        await daemon.capture()
        assert await cpo.value("SELECT walk FROM cdc_pusher.emp") is None


# ── the daemon ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_daemon_sweeps_by_itself_and_says_why_it_had_to(cpo: Rig) -> None:
    async with Sandbox(SandboxSettings()) as emp:
        cpo.daemon_options["sweep_interval_s"] = 1.0
        cpo.add_emp("emp", emp)
        daemon = await cpo.ready_daemon()
        await cpo.quiet()
        await cpo.sql(SILENT)
        await cpo.set_status("s1", "Occupied")
        await until(lambda: emp.stations["s1"]["statuses"].get(evse_id("s1")) == "Occupied", "the sweep has found it")
        await until(lambda: "a sweep found changes that no trigger had told of" in cpo.said, "it is told")
        assert f"trigger {SourceSettings().watch[1].name}_row, " in cpo.said
        assert "is disabled" in cpo.said
        await daemon.stop()


async def test_daemon_starts_with_a_broken_trigger_and_says_so(cpo: Rig) -> None:
    async with Sandbox(SandboxSettings()) as emp:
        cpo.daemon_options["sweep_interval_s"] = 1.0
        cpo.add_emp("emp", emp)
        await cpo.sql(f"DROP TRIGGER {SourceSettings().watch[1].name}_row ON connector")
        await cpo.ready_daemon()
        assert "is missing" in cpo.said
        await until(lambda: "s1" in emp.stations and emp.stations["s1"]["statuses"], "the full load is sent all the same")
        began = time.monotonic()
        await cpo.set_status("s1", "Reserved")
        await until(lambda: emp.stations["s1"]["statuses"].get(evse_id("s1")) == "Reserved", "the sweep has found it")
        assert time.monotonic() - began < 20


@pytest.mark.parametrize("reason", ["TRUNCATE", "confirm", "no watch"])
async def test_what_somebody_had_all_stations_gone_through_for_is_not_counted_as_healed(cpo: Rig, reason: str) -> None:
    async with hand(cpo.dsn, confirm_cpos="manual") as daemon:
        await quiet(daemon)
        await due(daemon)
        await enqueue.page(daemon.conn, daemon.source, ["a"], 1)
        match reason:
            case "confirm":
                assert await enqueue.confirm_cpos(daemon.conn, daemon.settings, "a", ["8ps"]) == ["8ps"]
            case "TRUNCATE":
                await cpo.sql("TRUNCATE connector")
            case _:
                await cpo.sql(SILENT)
                await cpo.sql("DELETE FROM connector")
                await cpo.sql("INSERT INTO cdc_pusher.change (watch, source_row) VALUES ('gone', '{}')")
        await daemon.capture()
        assert daemon.healed == {}
        assert await cpo.value("SELECT healed FROM cdc_pusher.emp") == 0
        assert await cpo.value("SELECT count(*) FROM cdc_pusher.outbox WHERE kind = 'station' AND state <> 'delivered'") == 2


async def test_page_of_a_walk_that_was_ordered_anew_moves_nothing(cpo: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The walk stands where it stood, but what changed before it was ordered is on no page that was read before."""
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        await enqueue.resync(daemon.conn, ["a"], None, None)
        page = daemon.source.page

        async def page_late(after: str | None, limit: int) -> list[str]:
            found = await page(after, limit)
            await cpo.sql("SET session_replication_role = replica")
            await cpo.build("a0")
            await cpo.sql("RESET session_replication_role")
            async with await connect(cpo.dsn, "test") as other:
                await enqueue.resync(other, ["a"], None, None)
            monkeypatch.setattr(daemon.source, "page", page)
            return found

        monkeypatch.setattr(daemon.source, "page", page_late)
        await daemon.capture()
        assert "a0" in await daemon.deliver()


async def test_miss_is_answered_for_the_emps_of_all_daemons(cpo: Rig) -> None:
    async with hand(cpo.dsn, "a", "b") as daemon:
        await quiet(daemon)
        await cpo.sql("SELECT nextval('cdc_pusher.missed')")
        await enqueue.answer_for_missed(daemon.conn)
        assert await cpo.value("SELECT count(*) FROM cdc_pusher.emp WHERE walk = 'sweep'") == 2


async def test_row_in_flight_that_is_in_doubt_is_not_counted_as_healed(cpo: Rig) -> None:
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        await cpo.sql("UPDATE station SET name = 'other' WHERE id = 's1'")
        await daemon.capture()
        await daemon.answer((await daemon.claim())["s1"], "retry", uncertain=True, error="cut")
        columns = "type, speed_kw, status"
        await cpo.sql(
            f"INSERT INTO connector (station_id, evse_id, {columns}) SELECT 's1', 'DE*8PS*E777*1', {columns} FROM connector LIMIT 1"
        )
        await daemon.capture()
        assert "s1" in await daemon.claim()
        await due(daemon)
        await daemon.capture()
        assert daemon.healed == {}
