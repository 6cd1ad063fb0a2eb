"""Delivery, with the real daemon as a process: the full load, order, retries, restarts, and what other parts do to it."""

import asyncio
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import oracle
import psycopg
import pytest
from rig import KEY, Rig, evse_id, rig, until

from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.sandbox import Sandbox, SandboxSettings

HANG_ONCE = {"kind": "hang", "applied": True, "times": 1}
REFUSE = {"kind": "code", "code": 300}
"""Surely not applied, and tried again."""
FLOOD = """DO $$
BEGIN
    FOR n IN 1 .. 100000 LOOP
        UPDATE connector SET status = CASE n % 2 WHEN 0 THEN 'Occupied' ELSE 'Available' END;
        COMMIT;
        EXIT WHEN (SELECT name = 'enough' FROM station);
    END LOOP;
END
$$"""


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(api_key=KEY)) as emp:
        yield emp


@pytest.fixture
async def lenient() -> AsyncIterator[Sandbox]:
    """An EMP that lets connectors change."""
    async with Sandbox(SandboxSettings(api_key=KEY, connectors_may_change=True)) as emp:
        yield emp


@pytest.fixture
async def rigged(dsn: str, tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Rig]:
    """Not a station yet, no daemon yet, and the EMP `alpha`."""
    async with rig(dsn, tmp_path) as made:
        made.add_emp("alpha", sandbox)
        yield made


def told(sandbox: Sandbox, key: str | None = None, kind: str | None = None) -> list[Any]:
    """The requests that the EMP got, in the order in which it took them."""
    return [e for e in sandbox.ledger if key in (None, e["key"]) and kind in (None, e["kind"])]


def status_at(sandbox: Sandbox, station: str, n: int = 1) -> str | None:
    held = sandbox.stations.get(station, {"statuses": {}})
    status: str | None = held["statuses"].get(evse_id(station, n))
    return status


def shows(sandbox: Sandbox, station: str, status: str) -> Callable[[], bool]:
    """The condition that the EMP has been told so."""
    return lambda: status_at(sandbox, station) == status


async def assert_equal(rigged: Rig, sandbox: Sandbox) -> None:
    """The EMP holds exactly what the CPO's tables say, and the outbox knows it."""
    expected = oracle.Expected(await rigged.sql("SELECT * FROM station"), await rigged.sql("SELECT * FROM connector"))
    wrong = [
        *oracle.differences(expected, oracle.AsOne(sandbox), {}),
        *oracle.wrong_rows(expected, {}, await rigged.sql("SELECT * FROM cdc_pusher.outbox")),
        *oracle.without_statuses_after(oracle.AsOne(sandbox), expected, {}),
    ]
    assert not wrong, "\n".join(wrong)
    assert sandbox.stats()["overlaps"] == 0


# ── full load ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_full_load_goes_on_after_sigkill_and_sends_no_accepted_station_again(rigged: Rig, sandbox: Sandbox) -> None:
    rigged.page_stations = 1
    rigged.add_emp("alpha", sandbox, concurrency=4)
    sandbox.set_faults([{"kind": "delay", "seconds": 0.01}])
    await rigged.build(*(f"s{n:03}" for n in range(300)), noticed=False)
    first = rigged.daemon()
    await until(lambda: sandbox.stats()["accepted"]["station"] >= 40, "40 stations are accepted")
    await first.kill()
    in_flight = {row["key"] for row in await rigged.sql("SELECT key FROM cdc_pusher.outbox WHERE state = 'in_flight'")}
    assert len(in_flight) <= 4
    assert await rigged.value("SELECT walk FROM cdc_pusher.emp") == "full load"
    sandbox.set_faults([])
    rigged.daemon()
    await rigged.quiet()
    sent = Counter(e["key"] for e in told(sandbox, kind="station"))
    assert len(sent) == 300
    assert {key for key, times in sent.items() if times > 1} <= in_flight
    await assert_equal(rigged, sandbox)


async def test_restart_after_the_full_load_sends_nothing(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1", "s2", "s3", evses=2, noticed=False)
    daemon = await rigged.ready_daemon()
    await rigged.quiet()
    assert len(told(sandbox)) == 3 + 6
    assert await daemon.stop() < 10
    await rigged.ready_daemon()
    await rigged.set_status("s1", "Occupied")
    await until(lambda: status_at(sandbox, "s1") == "Occupied", "the change after the restart is there")
    assert len(told(sandbox)) == 3 + 6 + 1


async def test_live_changes_overtake_the_full_load(rigged: Rig, sandbox: Sandbox) -> None:
    rigged.add_emp("alpha", sandbox, concurrency=2)
    sandbox.set_faults([{"kind": "delay", "seconds": 0.02}])
    await rigged.build(*(f"s{n:03}" for n in range(300)), noticed=False)
    rigged.daemon()
    await until(lambda: status_at(sandbox, "s000") == "Available", "the full load is under way")
    await rigged.set_status("s000", "Occupied")
    await rigged.build("new")
    await until(lambda: status_at(sandbox, "s000") == "Occupied" and status_at(sandbox, "new"), "the live changes are there")
    assert len(told(sandbox, kind="station")) < 200
    sandbox.set_faults([])
    await rigged.quiet()
    await assert_equal(rigged, sandbox)


async def test_emp_that_is_added_later_gets_a_full_load_of_its_own(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1", "s2", noticed=False)
    daemon = await rigged.ready_daemon()
    await rigged.quiet()
    await daemon.stop()
    async with Sandbox(SandboxSettings(api_key="another-key")) as later:
        rigged.add_emp("beta", later)
        await rigged.ready_daemon()
        await until(lambda: len(told(later)) == 4, "the EMP that came later knows everything")
        await rigged.quiet()
        await assert_equal(rigged, later)
    assert len(told(sandbox)) == 4


# ── order and retries ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", [HANG_ONCE, {"kind": "drop_after", "times": 1}, {"kind": "garbage", "times": 1}], ids=lambda f: f["kind"])
async def test_value_is_sent_again_when_what_came_between_has_an_unknown_outcome(
    fault: dict[str, Any], rigged: Rig, sandbox: Sandbox
) -> None:
    await rigged.build("s1")
    await rigged.ready_daemon()
    await rigged.quiet()
    sandbox.set_faults([{**fault, "match": "status"}, REFUSE])
    await rigged.set_status("s1", "Occupied")
    await until(lambda: any(e["outcome"] == "fault:code" for e in told(sandbox, evse_id("s1"))), "the retry was refused")
    assert status_at(sandbox, "s1") == "Occupied"
    await rigged.set_status("s1", "Available")
    await until(lambda: rigged.value("SELECT count(*) = 0 FROM cdc_pusher.change"), "the way back is captured")
    sandbox.set_faults([])
    await rigged.quiet()
    assert status_at(sandbox, "s1") == "Available"
    assert [e["payload"]["status"] for e in told(sandbox, evse_id("s1")) if e["applied"]] == ["Available", "Occupied", "Available"]


async def test_nothing_is_sent_when_a_refused_change_is_taken_back(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1")
    await rigged.ready_daemon()
    await rigged.quiet()
    sandbox.set_faults([REFUSE])
    await rigged.set_status("s1", "Occupied")
    await until(lambda: any(e["outcome"] == "fault:code" for e in told(sandbox)), "the change was refused")
    await rigged.set_status("s1", "Available")
    await rigged.quiet()
    assert not [e for e in told(sandbox) if e["payload"].get("status") == "Available" and e["outcome"] == "fault:code"]
    await assert_equal(rigged, sandbox)


async def test_retry_waits_at_least_as_long_as_the_emp_says(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1")
    sandbox.set_faults([{"kind": "http", "status": 503, "retry_after": 1, "times": 1}])
    rigged.daemon()
    await until(lambda: status_at(sandbox, "s1"), "the station and its status are there")
    first, second = told(sandbox, "s1")
    assert first["outcome"] == "fault:http"
    assert 1.0 <= second["received_at"] - first["received_at"] < 3.0


async def test_statuses_of_a_station_that_may_have_been_deleted_wait_until_it_is_there_again(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1")
    await rigged.ready_daemon()
    await rigged.quiet()
    sandbox.set_faults([{"kind": "drop_after", "match": "station", "times": 1}, {**REFUSE, "match": "station"}])
    await rigged.sql("DELETE FROM station")
    await until(lambda: any(e["outcome"] == "fault:code" for e in told(sandbox, "s1")), "the deletion may have been applied")
    await rigged.build("s1")
    await until(lambda: rigged.value("SELECT count(*) = 1 FROM cdc_pusher.outbox WHERE kind = 'status'"), "the new station is captured")
    attempts = len(told(sandbox, "s1"))
    await until(lambda: len(told(sandbox, "s1")) > attempts + 1, "the new station was refused for a while")
    sandbox.set_faults([])
    await rigged.quiet()
    await assert_equal(rigged, sandbox)
    assert sandbox.stats()["refused"] == {}


async def test_station_whose_first_message_may_have_arrived_can_still_be_deleted(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1")
    sandbox.set_faults([{"kind": "drop_after", "times": 1}, REFUSE])
    await rigged.ready_daemon()
    await until(lambda: any(e["outcome"] == "fault:code" for e in told(sandbox, "s1")), "the station may be there")
    await rigged.sql("UPDATE connector SET evse_id = %(evse)s", evse=evse_id("s1", 2))
    await until(lambda: rigged.value("SELECT count(*) = 0 FROM cdc_pusher.change"), "the other connector is captured")
    sandbox.set_faults([])
    await rigged.quiet()
    await rigged.sql("DELETE FROM station")
    await rigged.quiet()
    await assert_equal(rigged, sandbox)


async def test_status_that_follows_its_station_is_not_forgotten_when_it_is_refused_at_first(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1", evses=2)
    await rigged.ready_daemon()
    await rigged.quiet()
    sandbox.set_faults([{**REFUSE, "match": "status"}])
    await rigged.sql("UPDATE station SET name = 'v1'")
    refused = [evse_id("s1", 1), evse_id("s1", 2)]
    await until(lambda: all(any(e["outcome"] == "fault:code" for e in told(sandbox, evse)) for evse in refused), "both were refused")
    await rigged.set_status("s1", "Occupied", 2)
    await until(lambda: rigged.value("SELECT count(*) = 0 FROM cdc_pusher.change"), "the change is captured")
    sandbox.set_faults([])
    await rigged.quiet()
    await assert_equal(rigged, sandbox)


# ── stopping, waking, reconnecting ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_sigterm_ends_within_ten_seconds_although_a_request_hangs_and_loses_nothing(rigged: Rig, sandbox: Sandbox) -> None:
    rigged.add_emp("alpha", sandbox, request_timeout_s=60)
    await rigged.build("s1")
    daemon = await rigged.ready_daemon()
    await rigged.quiet()
    sandbox.set_faults([{"kind": "hang"}])
    await rigged.set_status("s1", "Occupied")
    await until(lambda: sandbox.stats()["faults"].get("hang"), "a request hangs")
    assert await daemon.stop(signal.SIGTERM) < 10
    (row,) = await rigged.sql("SELECT state, doubtful IS NOT NULL AS uncertain, last_error FROM cdc_pusher.outbox WHERE kind = 'status'")
    assert (row["state"], row["uncertain"]) == ("pending", True)
    assert "cut off" in row["last_error"]
    sandbox.set_faults([])
    rigged.daemon()
    await until(lambda: status_at(sandbox, "s1") == "Occupied", "the status is there")


async def test_changes_are_delivered_within_two_seconds_without_any_notification(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1")
    await rigged.ready_daemon()
    await rigged.quiet()
    for status in ("Occupied", "Reserved", "Offline"):
        await rigged.sql("SELECT setval('cdc_pusher.asleep', 1)")
        await rigged.set_status("s1", status)
        took_s = await until(shows(sandbox, "s1", status), f"{status} is there")
        assert took_s < 2.5


async def test_changes_are_delivered_at_once_again_after_the_listener_lost_its_session(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1")
    daemon = await rigged.ready_daemon()
    await rigged.quiet()
    await rigged.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc-pusher listen'")
    await rigged.set_status("s1", "Occupied")
    assert await until(lambda: status_at(sandbox, "s1") == "Occupied", "the change is there") < 2.5
    await until(lambda: "database connection lost" in daemon.said, "the loss is told")
    listens = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cdc-pusher listen' AND query LIKE 'LISTEN%%'"
    await until(lambda: rigged.value(listens), "it listens again")
    delays = []
    for status in ("Available", "Reserved", "Offline"):
        await until(lambda: rigged.value("SELECT last_value = 2 FROM cdc_pusher.asleep"), "the daemon sleeps")
        await rigged.set_status("s1", status)
        delays.append(await until(shows(sandbox, "s1", status), f"{status} is there"))
    assert min(delays) < 0.3


async def test_triggers_do_not_notify_while_changes_come_thick(rigged: Rig, sandbox: Sandbox) -> None:
    """A NOTIFY in every transaction would cost the CPO most of what it can write."""
    await rigged.build("s1")
    await rigged.ready_daemon()
    await rigged.quiet()
    await until(lambda: rigged.value("SELECT last_value = 2 FROM cdc_pusher.asleep"), "the daemon sleeps")
    async with await psycopg.AsyncConnection.connect(rigged.dsn, autocommit=True) as writer:
        flood = asyncio.create_task(writer.execute(FLOOD))
        await until(lambda: rigged.value("SELECT last_value = 1 FROM cdc_pusher.asleep"), "triggers are told not to notify")
        await rigged.sql("UPDATE station SET name = 'enough' WHERE id = 's1'")
        await flood
    await until(lambda: rigged.value("SELECT last_value = 2 FROM cdc_pusher.asleep"), "triggers notify again")
    await rigged.quiet()
    assert status_at(sandbox, "s1") == await rigged.value("SELECT status FROM connector")


async def test_nothing_is_lost_when_the_database_crashes(tmp_path: Path, sandbox: Sandbox) -> None:
    with EmbeddedPostgres(settings={"fsync": "off"}) as server:
        async with rig(server.dsn(), tmp_path) as rigged:
            rigged.add_emp("alpha", sandbox)
            await rigged.build(*(f"s{n}" for n in range(20)))
            daemon = await rigged.ready_daemon()
            await rigged.quiet()
            sandbox.set_faults([{"kind": "delay", "seconds": 0.3}])
            await rigged.sql("UPDATE connector SET status = 'Occupied'")
            await until(lambda: sandbox.stats()["faults"].get("delay"), "requests are under way")
            await asyncio.to_thread(server.stop, "immediate")
            await asyncio.to_thread(server.start)
            await rigged.connect_again()
            await rigged.sql("UPDATE connector SET status = 'Reserved' WHERE station_id < 's15'")
            sandbox.set_faults([])
            await rigged.quiet()
            await assert_equal(rigged, sandbox)
            assert daemon.exit_code is None
            assert "database connected again" in daemon.said


async def test_two_daemons_share_the_work(rigged: Rig, sandbox: Sandbox) -> None:
    daemons = [rigged.daemon(), rigged.daemon()]
    for daemon in daemons:
        await daemon.ready()
    await rigged.build(*(f"s{n}" for n in range(30)), evses=2)
    for status in ("Occupied", "Reserved", "Offline", "Occupied"):
        await rigged.sql("UPDATE connector SET status = %(status)s", status=status)
        await rigged.sql("UPDATE station SET notes = %(status)s WHERE id < 's2'", status=status)
    await rigged.sql("UPDATE station SET notes = NULL")
    await rigged.quiet()
    await assert_equal(rigged, sandbox)
    assert sandbox.stats()["duplicates"] == 0
    assert [daemon.exit_code for daemon in daemons] == [None, None]


# ── healing, and what belongs to it ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_resync_heals_what_disabled_triggers_missed(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1", "s2")
    await rigged.ready_daemon()
    await rigged.quiet()
    await rigged.sql("ALTER TABLE connector DISABLE TRIGGER USER")
    await rigged.set_status("s1", "Occupied")
    await rigged.sql("ALTER TABLE connector ENABLE TRIGGER USER")
    await rigged.set_status("s2", "Reserved")
    await until(lambda: status_at(sandbox, "s2") == "Reserved", "the change that came after is there")
    assert status_at(sandbox, "s1") == "Available"
    await rigged.command("resync", "--station", "s1")
    await until(lambda: status_at(sandbox, "s1") == "Occupied", "the missed change is there")
    assert len(told(sandbox)) == 4 + 2


async def test_forced_resync_sends_everything_once(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1", "s2", "s3", evses=2)
    await rigged.ready_daemon()
    await rigged.quiet()
    before = len(told(sandbox))
    await rigged.command("resync", "--all", "--force", "--wait")
    assert Counter(e["key"] for e in told(sandbox)[before:] if e["kind"] == "station") == {"s1": 1, "s2": 1, "s3": 1}
    await rigged.quiet()
    statuses = Counter(e["key"] for e in told(sandbox)[before:] if e["kind"] == "status")
    assert len(statuses) == 6
    assert max(statuses.values()) == 1, statuses
    await assert_equal(rigged, sandbox)


async def test_truncate_deletes_every_station_at_the_emp(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build(*(f"s{n}" for n in range(10)))
    await rigged.ready_daemon()
    await rigged.quiet()
    await rigged.sql("TRUNCATE station CASCADE")
    await until(lambda: all(held["station"]["deleted"] for held in sandbox.stations.values()), "all are deleted")
    await rigged.quiet()
    assert await rigged.value("SELECT count(*) FROM cdc_pusher.outbox WHERE kind = 'status'") == 0


async def test_station_is_sent_as_soon_as_its_data_are_mended(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1", "s2")
    await rigged.sql("UPDATE station SET country = '??' WHERE id = 's1'")
    await rigged.ready_daemon()
    await rigged.quiet()
    assert sandbox.stations.keys() == {"s2"}
    problems = await rigged.sql("SELECT kind, key, state, reason FROM cdc_pusher.outbox_problems ORDER BY kind")
    assert [(p["kind"], p["state"]) for p in problems] == [("station", "held"), ("status", "pending")]
    assert "country" in problems[0]["reason"]
    assert "??" in problems[0]["reason"]
    await rigged.sql("UPDATE station SET country = 'DE' WHERE id = 's1'")
    await rigged.quiet()
    await until(lambda: status_at(sandbox, "s1") == "Available", "the station and its status are there")
    assert await rigged.value("SELECT count(*) FROM cdc_pusher.outbox_problems") == 0


async def test_status_rows_of_removed_evses_vanish(rigged: Rig, lenient: Sandbox) -> None:
    rigged.add_emp("alpha", lenient, connectors_changed="send")
    await rigged.build("s1", evses=3)
    await rigged.ready_daemon()
    await rigged.quiet()
    await rigged.sql("DELETE FROM connector WHERE evse_id = %(evse)s", evse=evse_id("s1", 2))
    await rigged.quiet()
    await assert_equal(rigged, lenient)
    rows = await rigged.sql("SELECT key FROM cdc_pusher.outbox WHERE kind = 'status' ORDER BY key")
    assert [row["key"] for row in rows] == [evse_id("s1", 1), evse_id("s1", 3)]
    assert await rigged.value("SELECT count(*) FROM cdc_pusher.evse") == 2


async def test_status_is_sent_again_if_its_evse_moved_and_changed_while_it_was_in_flight(rigged: Rig, lenient: Sandbox) -> None:
    rigged.add_emp("alpha", lenient, connectors_changed="send")
    await rigged.build("s1", "s2", evses=2)
    await rigged.ready_daemon()
    await rigged.quiet()
    lenient.set_faults([{"kind": "delay", "seconds": 0.5, "match": "status", "times": 1}])
    await rigged.set_status("s1", "Occupied")
    await until(lambda: lenient.stats()["faults"].get("delay"), "the status is in flight")
    await rigged.sql("UPDATE connector SET station_id = 's2', status = 'Reserved' WHERE evse_id = %(evse)s", evse=evse_id("s1"))
    await rigged.quiet()
    await assert_equal(rigged, lenient)


async def test_status_that_was_held_when_its_station_was_accepted_is_sent_once_it_is_mended(rigged: Rig, lenient: Sandbox) -> None:
    rigged.add_emp("alpha", lenient, connectors_changed="send")
    await rigged.build("s1", "s2", evses=2)
    await rigged.ready_daemon()
    await rigged.quiet()
    await rigged.set_status("s1", "Bogus")
    await rigged.sql("UPDATE connector SET station_id = 's2' WHERE evse_id = %(evse)s", evse=evse_id("s1"))
    await rigged.quiet()
    assert evse_id("s1") in {connector["id"] for connector in lenient.stations["s2"]["station"]["connectors"]}
    await rigged.set_status("s1", "Available")
    await rigged.quiet()
    await assert_equal(rigged, lenient)


async def test_status_waits_while_its_evse_may_have_left_a_station_that_is_held(rigged: Rig, lenient: Sandbox) -> None:
    rigged.add_emp("alpha", lenient, connectors_changed="send")
    await rigged.build("s1", "s2", evses=2)
    await rigged.ready_daemon()
    await rigged.quiet()
    lenient.set_faults([{"kind": "drop_after", "match": "station", "times": 1}, {**REFUSE, "match": "station"}])
    await rigged.sql("UPDATE connector SET station_id = 's2' WHERE evse_id = %(evse)s", evse=evse_id("s1"))
    await until(lambda: any(e["outcome"] == "fault:code" for e in told(lenient, "s1")), "the EVSE may have left")
    await rigged.sql("UPDATE station SET country = '??' WHERE id = 's1'")
    await until(lambda: rigged.value("SELECT count(*) = 1 FROM cdc_pusher.outbox WHERE state = 'held'"), "its station is held")
    await rigged.set_status("s1", "Occupied")
    await rigged.quiet()
    lenient.set_faults([])
    await rigged.sql("UPDATE station SET country = 'DE' WHERE id = 's1'")
    await rigged.quiet()
    await assert_equal(rigged, lenient)
    assert lenient.stats()["refused"] == {}


async def test_evse_in_two_stations_holds_both_until_one_lets_go(rigged: Rig, sandbox: Sandbox) -> None:
    await rigged.build("s1", "s2")
    await rigged.ready_daemon()
    await rigged.quiet()
    await rigged.sql("INSERT INTO connector (station_id, evse_id, type, speed_kw) VALUES ('s2', %(evse)s, 'Type2', 22)", evse=evse_id("s1"))
    held = "SELECT count(*) FROM cdc_pusher.outbox WHERE state = 'held' AND reason LIKE '%%more than one station (s1, s2)%%'"

    async def all_are_held() -> bool:
        return bool(await rigged.value(held) == 3)

    await until(all_are_held, "both stations and the status are held")
    await rigged.sql("DELETE FROM connector WHERE station_id = 's2' AND evse_id = %(evse)s", evse=evse_id("s1"))
    await rigged.quiet()
    await assert_equal(rigged, sandbox)


# ── EMPs and secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_emp_that_hangs_holds_up_no_other(rigged: Rig, sandbox: Sandbox) -> None:
    async with Sandbox(SandboxSettings(api_key=KEY)) as other:
        rigged.add_emp("beta", other)
        await rigged.build(*(f"s{n:02}" for n in range(40)))
        await rigged.ready_daemon()
        await rigged.quiet()

        async def latencies(status: str) -> list[float]:
            times = []
            for n in range(15):
                began = time.monotonic()
                await rigged.set_status(f"s{n:02}", status)
                await until(shows(other, f"s{n:02}", status), "the other EMP has it")
                times.append(time.monotonic() - began)
            return sorted(times)

        alone = await latencies("Occupied")
        await rigged.quiet()
        sandbox.set_faults([{"kind": "hang"}])
        await rigged.sql("UPDATE connector SET status = 'Unknown' WHERE station_id >= 's15'")
        await until(lambda: sandbox.stats()["faults"].get("hang", 0) >= 16, "the one EMP hangs with all its requests")
        beside = await latencies("Reserved")
        assert beside[7] < 3 * alone[7] + 0.1, (alone, beside)


async def test_key_is_in_no_dump_of_the_database_and_in_no_log(
    embedded_postgres: EmbeddedPostgres, rigged: Rig, sandbox: Sandbox, dsn: str
) -> None:
    echo = [{"kind": kind, "times": 1} for kind in ("garbage", "drop_before", "drop_after")]
    sandbox.set_faults([{"kind": "http", "status": 401, "times": 1, "match": "status"}, *echo])
    await rigged.build("s1", "s2", "s3")
    daemon = rigged.daemon()
    await until(lambda: all(status_at(sandbox, s) for s in ("s1", "s2", "s3")) or sandbox.stats()["faults"].get("http"), "it has failed")
    await until(
        lambda: rigged.value("SELECT count(*) >= 5 FROM cdc_pusher.attempt"),
        "three faults, what was accepted after them, and the refusal are recorded",
    )
    dump = await asyncio.to_thread(
        subprocess.run, [str(embedded_postgres.bin / "pg_dump"), "--dbname", dsn], capture_output=True, text=True, check=True
    )
    assert "cdc_pusher.attempt" in dump.stdout
    assert KEY not in dump.stdout
    await daemon.stop()
    assert "EMP fails" in daemon.said
    assert KEY not in daemon.said


# ── stations whose connectors change; stations that are not for every EMP ──────────────────────────────────────────────────────────────


async def test_swapped_connectors_replace_both_stations_and_no_evse_is_ever_in_two(rigged: Rig, dsn: str, sandbox: Sandbox) -> None:
    rigged.add_emp("alpha", sandbox, connectors_changed="replace")
    await rigged.build("s1", "s2")
    await rigged.ready_daemon()
    await rigged.quiet()
    await rigged.sql("UPDATE connector SET station_id = CASE station_id WHEN 's1' THEN 's2' ELSE 's1' END")
    await until(lambda: {"s1~2", "s2~2"} <= sandbox.stations.keys(), "both are posted anew")
    await rigged.quiet()
    assert {key: held["station"]["deleted"] for key, held in sandbox.stations.items()} == {
        "s1": True, "s2": True, "s1~2": False, "s2~2": False,
    }  # fmt: skip
    assert [e["outcome"] for e in sandbox.ledger if e["outcome"] != "accepted"] == [], "an EVSE in two live stations would be refused"
    assert set(sandbox.stations["s1~2"]["statuses"]) == {evse_id("s2")}
    await rigged.set_status("s2", "Occupied")
    await until(lambda: sandbox.stations["s1~2"]["statuses"][evse_id("s2")] == "Occupied", "statuses go on")
    await rigged.sql("UPDATE station SET name = 'other' WHERE id = 's1'")
    await until(lambda: sandbox.stations["s1~2"]["station"]["name"] == "other", "the new id is used from then on")


async def test_stations_that_leave_an_emps_condition_are_deleted_there_alone(rigged: Rig, sandbox: Sandbox, lenient: Sandbox) -> None:
    rigged.add_emp("alpha", sandbox, only="country = 'DE' AND name NOT LIKE '%x' -- not those")
    rigged.add_emp("beta", lenient)
    await rigged.build("s1", "s2")
    await rigged.sql("UPDATE station SET country = 'FR' WHERE id = 's2'")
    await rigged.ready_daemon()
    await rigged.quiet()
    assert (set(sandbox.stations), set(lenient.stations)) == ({"s1"}, {"s1", "s2"})
    await rigged.sql("UPDATE station SET country = CASE country WHEN 'FR' THEN 'DE' ELSE 'FR' END")
    await until(lambda: "s2" in sandbox.stations and sandbox.stations["s1"]["station"]["deleted"], "they change places")
    await rigged.quiet()
    assert status_at(sandbox, "s2") == "Available"
    assert not any(held["station"]["deleted"] for held in lenient.stations.values())
    assert {e["key"] for e in sandbox.ledger} == {"s1", "s2", evse_id("s1"), evse_id("s2")}
