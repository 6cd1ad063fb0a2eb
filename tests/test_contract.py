"""The delivery contract, with the real daemon as a process: an EMP that fails as a whole, that throttles, that processes late; give-ups."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hand import hand
from rig import KEY, Rig, evse_id, rig, until

from cdc_pusher import claims
from cdc_pusher.sandbox import Sandbox, SandboxSettings


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(api_key=KEY)) as emp:
        yield emp


@pytest.fixture
async def rigged(dsn: str, tmp_path: Path, sandbox: Sandbox) -> AsyncIterator[Rig]:
    """Twenty stations, delivered to `alpha`; the daemon runs."""
    async with rig(dsn, tmp_path) as made:
        made.add_emp("alpha", sandbox, max_attempts=3)
        await made.build(*(f"s{n:02}" for n in range(20)))
        await made.ready_daemon()
        await made.quiet()
        yield made


async def breaker(rigged: Rig) -> dict[str, Any]:
    (row,) = await rigged.sql("SELECT breaker_reason AS reason, breaker_probe_at > breaker_open_since AS later FROM cdc_pusher.emp")
    return row


async def set_all(rigged: Rig, status: str) -> None:
    await rigged.sql(f"UPDATE connector SET status = '{status}'")


def requests(sandbox: Sandbox, since: int) -> list[Any]:
    return sandbox.ledger[since:]


async def is_given_up(rigged: Rig) -> bool:
    await rigged.sql("UPDATE station SET name = 'v' || clock_timestamp() WHERE id = 's01'")
    await asyncio.sleep(0.2)
    return bool(await rigged.value("SELECT state = 'rejected' FROM cdc_pusher.outbox WHERE key = %(key)s", key=evse_id("s00")))


async def put_off(rigged: Rig) -> bool:
    (row,) = await rigged.sql("SELECT state, reason FROM cdc_pusher.outbox WHERE key = %(key)s", key=evse_id("s00"))
    return row == {"state": "pending", "reason": "sent once more soon: an earlier request may still be processed"}


# ── the breaker ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", [{"kind": "http", "status": 500}, {"kind": "drop_before"}, {"kind": "code", "code": 210}])
async def test_emp_that_fails_as_a_whole_is_probed_and_everything_follows_when_it_works(
    rigged: Rig, sandbox: Sandbox, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.set_faults([fault])
    before = len(sandbox.ledger)
    await set_all(rigged, "Occupied")
    await until(lambda: "only probes are sent" in rigged.said, "the breaker opens")
    await asyncio.sleep(3)
    asked = len(requests(sandbox, before))
    assert asked <= 16 + 5, "those in flight when it opened, then probes"
    assert (await breaker(rigged))["reason"], "people see why"
    attempts = await rigged.sql("SELECT key FROM cdc_pusher.outbox WHERE attempts > 1 OR state = 'rejected'")
    assert attempts == [], "nothing is counted against a message while it is open"
    status = await rigged.command("status")
    assert "alpha" in status
    assert "fails" in status
    sandbox.set_faults([])
    if fault["kind"] == "code":
        return  # the next probe comes after half a minute
    await rigged.quiet()
    assert all(held["statuses"] == {evse_id(key): "Occupied"} for key, held in sandbox.stations.items())
    assert (await breaker(rigged))["reason"] is None
    assert "EMP works again" in rigged.said


async def test_message_that_the_emp_fails_on_does_not_stand_in_the_way_of_others(rigged: Rig, sandbox: Sandbox) -> None:
    """Each request for one EVSE ends in a 500; it is the most urgent, and would be the probe for ever."""
    sandbox.set_faults([{"kind": "http", "status": 500}])
    await rigged.set_status("s00", "Occupied")
    await set_all(rigged, "Occupied")
    await until(lambda: "only probes are sent" in rigged.said, "the breaker opens")
    sandbox.set_faults([{"kind": "http", "status": 500, "times": 2}])
    await rigged.quiet()
    assert all(held["statuses"] == {evse_id(key): "Occupied"} for key, held in sandbox.stations.items())


# ── messages that are given up ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_general_code_for_ever_ends_in_a_rejection_that_a_change_or_a_person_revives(rigged: Rig, sandbox: Sandbox) -> None:
    sandbox.set_faults([{"kind": "code", "code": 100, "match": "status"}])
    await rigged.set_status("s00", "Occupied")
    await until(lambda: is_given_up(rigged), "it is given up, since others are taken meanwhile")
    (row,) = await rigged.sql("SELECT state, reason, attempts FROM cdc_pusher.outbox WHERE key = %(key)s", key=evse_id("s00"))
    assert row["state"] == "rejected"
    assert row["reason"].startswith(f"given up after {row['attempts']} attempts: HTTP 200, code 100")
    sandbox.set_faults([])
    assert "1 message" in await rigged.command("outbox", "retry", evse_id("s00"))
    await until(lambda: sandbox.stations["s00"]["statuses"][evse_id("s00")] == "Occupied", "a person has it tried again")
    await rigged.quiet()


# ── unknown outcomes ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["late", "hang"])
async def test_value_is_sent_once_more_when_an_earlier_one_may_be_processed_late(rigged: Rig, sandbox: Sandbox, kind: str) -> None:
    """The EMP cuts the connection, and processes `Reserved` only after `Occupied` was accepted."""
    rigged.add_emp("alpha", sandbox, quiet_time_s=3.0)
    await rigged._daemons[-1].stop()
    await rigged.ready_daemon()
    sandbox.set_faults([{"kind": "late", "seconds": 2.0, "times": 1}] if kind == "late" else [{"kind": "hang", "times": 1}])
    await rigged.set_status("s00", "Reserved")
    await until(lambda: any(e["key"] == evse_id("s00") and e["payload"]["status"] == "Reserved" for e in sandbox.ledger), "it is sent")
    await rigged.set_status("s00", "Occupied")
    await until(lambda: sandbox.stations["s00"]["statuses"][evse_id("s00")] == "Occupied", "the newest word is there")
    await until(lambda: put_off(rigged), "it is to be sent once more")
    await rigged.quiet()
    assert sandbox.stations["s00"]["statuses"][evse_id("s00")] == "Occupied"
    told = [e["payload"]["status"] for e in sandbox.ledger if e["key"] == evse_id("s00")]
    assert (told[-1], told.count("Occupied")) == ("Occupied", 2)


async def test_change_does_not_wait_for_the_quiet_time(rigged: Rig, sandbox: Sandbox) -> None:
    rigged.add_emp("alpha", sandbox, quiet_time_s=600.0)
    await rigged._daemons[-1].stop()
    await rigged.ready_daemon()
    sandbox.set_faults([{"kind": "drop_after", "times": 1}])
    await rigged.set_status("s00", "Reserved")
    await until(
        lambda: len([e for e in sandbox.ledger if e["key"] == evse_id("s00") and e["payload"]["status"] == "Reserved"]) == 2, "again"
    )
    began = time.monotonic()
    await rigged.set_status("s00", "Occupied")
    await until(lambda: sandbox.stations["s00"]["statuses"][evse_id("s00")] == "Occupied", "at once")
    assert time.monotonic() - began < 10


async def test_outage_that_speaks_result_codes_rejects_nothing(rigged: Rig, sandbox: Sandbox) -> None:
    """A maintenance page, or a general code to everything: the EMP is to blame, whatever it says."""
    sandbox.set_faults([{"kind": "code", "code": 100}])
    await set_all(rigged, "Occupied")
    await until(lambda: "only probes are sent" in rigged.said, "the breaker opens")
    await asyncio.sleep(2)
    assert await rigged.value("SELECT count(*) FROM cdc_pusher.outbox WHERE state = 'rejected'") == 0
    sandbox.set_faults([])
    await rigged.quiet()
    assert all(held["statuses"] == {evse_id(key): "Occupied"} for key, held in sandbox.stations.items())


async def test_burst_that_is_larger_than_the_rate_does_not_stop_the_lane(rigged: Rig, sandbox: Sandbox) -> None:
    rigged.add_emp("alpha", sandbox, max_requests_per_second=4.0, burst=12, concurrency=64)
    await rigged._daemons[-1].stop()
    await rigged.ready_daemon()
    began, before = time.monotonic(), len(sandbox.ledger)
    await set_all(rigged, "Occupied")
    await rigged.quiet()
    took_s, sent = time.monotonic() - began, len(sandbox.ledger) - before
    assert sent == 20
    assert took_s >= (sent - 12 - 1) / 4.0
    assert await rigged.value("SELECT count(*) FROM cdc_pusher.attempt WHERE outcome <> 'accepted'") == 0


async def test_daemon_that_is_stopped_blames_nobody(rigged: Rig, sandbox: Sandbox) -> None:
    sandbox.set_faults([{"kind": "hang", "seconds": 30}])
    rigged.add_emp("alpha", sandbox, request_timeout_s=20.0)
    await rigged._daemons[-1].stop()
    daemon = await rigged.ready_daemon()
    await set_all(rigged, "Occupied")
    await until(lambda: flying(rigged), "requests hang")
    await daemon.stop()
    rows = await rigged.sql("SELECT state, attempts, doubtful IS NOT NULL AS doubted FROM cdc_pusher.outbox WHERE kind = 'status'")
    assert {(row["state"], row["attempts"]) for row in rows} == {("pending", 0)}
    assert sum(row["doubted"] for row in rows) >= 5
    assert (await breaker(rigged))["reason"] is None


async def flying(rigged: Rig) -> bool:
    return int(await rigged.value("SELECT count(*) FROM cdc_pusher.outbox WHERE state = 'in_flight'")) >= 5


# ── outages, order ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(240)
async def test_hundred_thousand_changes_in_an_outage_are_at_most_one_message_an_evse(dsn: str, tmp_path: Path, sandbox: Sandbox) -> None:
    """2,000 connectors, and 50 times all of them change while the EMP is down."""
    async with rig(dsn, tmp_path) as made:
        made.add_emp("alpha", sandbox, concurrency=64)
        await made.build(*(f"s{n:03}" for n in range(500)), evses=4)
        await made.ready_daemon()
        await made.quiet(120)
        sandbox.set_faults([{"kind": "http", "status": 503}])
        for turn in range(50):
            await set_all(made, ("Occupied", "Reserved", "Available", "Offline")[turn % 4])
        await until(lambda: nothing_to_capture(made), "all is captured", 120)
        before = len(sandbox.ledger)
        sandbox.set_faults([])
        await set_all(made, "Unknown")
        await made.quiet(120)
        told = Counter(e["key"] for e in sandbox.ledger[before:] if e["outcome"] == "accepted" and e["kind"] == "status")
        assert len(told) == 2000
        assert max(told.values()) <= 2, "one for the outage, one for what changed after it"
        assert sum(told.values()) <= 2000 + 64 * 2
        assert all(set(held["statuses"].values()) == {"Unknown"} for held in sandbox.stations.values())
        assert await made.value("SELECT count(*) FROM cdc_pusher.outbox") == 2500, "one row for each EMP and entity"


async def nothing_to_capture(rigged: Rig) -> bool:
    return bool(await rigged.value("SELECT NOT EXISTS (SELECT FROM cdc_pusher.change)"))


async def test_what_waits_behind_urgent_messages_is_let_forward(dsn: str, tmp_path: Path) -> None:
    async with rig(dsn, tmp_path) as made:
        await made.build(*(f"s{n}" for n in range(9)))
        async with hand(dsn) as daemon:
            await daemon.capture()
            await made.sql("UPDATE cdc_pusher.outbox SET priority = 21, next_attempt_at = now() - interval '4 s' WHERE kind = 'station'")
            await claims.promote(daemon.conn, "a")
            assert await made.value("SELECT count(*) FROM cdc_pusher.outbox WHERE priority = 0 AND kind = 'station'") == 0
            await made.sql("UPDATE cdc_pusher.outbox SET next_attempt_at = now() - interval '6 s' WHERE kind = 'station'")
            await made.sql("UPDATE cdc_pusher.outbox SET next_attempt_at = now() - interval '7 s' WHERE key IN ('s4', 's7')")
            await claims.promote(daemon.conn, "a")
            rows = await made.sql("SELECT key FROM cdc_pusher.outbox WHERE priority = 0 AND kind = 'station' ORDER BY key")
            assert [row["key"] for row in rows] == ["s4", "s7"]
