"""What the daemon tells of itself over HTTP, asked as Prometheus and a load balancer ask it."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rig import KEY, Rig, rig, until

from cdc_pusher.sandbox import Sandbox, SandboxSettings


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(api_key=KEY)) as running:
        yield running


@pytest.fixture
async def rigged(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(dsn, tmp_path) as made:
        made.monitoring = "127.0.0.1:0"
        yield made


async def metrics(url: str) -> dict[tuple[str, ...], float]:
    """Samples by name and the values of their labels, in the order of the labels' names."""
    async with httpx.AsyncClient() as http:
        text = (await http.get(f"{url}/metrics")).raise_for_status().text
    return {(s.name, *s.labels.values()): s.value for family in text_string_to_metric_families(text) for s in family.samples}


async def status(url: str) -> int:
    async with httpx.AsyncClient() as http:
        return (await http.get(url)).status_code


async def test_metrics_tell_what_was_done_and_what_is_left(rigged: Rig, sandbox: Sandbox) -> None:
    rigged.add_emp("alpha", sandbox)
    await rigged.build("s1", "s2")
    await rigged.build("s3")
    await rigged.sql("UPDATE station SET country = '??' WHERE id = 's3'")
    await rigged.ready_daemon()
    await rigged.quiet()
    await rigged.set_status("s1", "Occupied")
    await rigged.quiet()
    url = await rigged.page()

    async def is_refreshed() -> bool:
        return (await metrics(url)).get(("cdc_pusher_undelivered_messages", "invalid", "alpha", "held")) == 1.0

    await until(is_refreshed, "the gauges are read", 40.0)
    found = await metrics(url)
    assert found["cdc_pusher_requests_total", "alpha", "station", "accepted"] == 2
    assert found["cdc_pusher_requests_total", "alpha", "status", "accepted"] == 3
    assert found["cdc_pusher_delivery_lag_seconds_count", "alpha", "status"] == 3
    assert 0 < found["cdc_pusher_delivery_lag_seconds_sum", "alpha", "status"] < 60
    assert found["cdc_pusher_request_duration_seconds_count", "alpha"] == 5
    assert found["cdc_pusher_captured_changes_total",] >= 6
    assert found["cdc_pusher_lease_held", "capture"] == found["cdc_pusher_lease_held", "lane alpha"] == 1
    assert found["cdc_pusher_full_load_completed", "alpha"] == 1
    assert found["cdc_pusher_oldest_undelivered_change_age_seconds", "alpha"] == 0
    assert found["cdc_pusher_undelivered_messages", "station", "alpha", "pending"] == 1
    assert found["cdc_pusher_trigger_faults",] == found["cdc_pusher_change_log_changes",] == 0
    assert found["cdc_pusher_daemons",] == found["cdc_pusher_listening",] == 1
    assert not any(KEY in part for sample in found for part in sample)


async def test_one_bad_emp_is_shown_and_not_taken_for_the_rest(rigged: Rig, sandbox: Sandbox) -> None:
    async with Sandbox(SandboxSettings(api_key=KEY)) as broken:
        rigged.add_emp("good", sandbox, late_after_s=1)
        rigged.add_emp("bad", broken, late_after_s=1)
        broken.set_faults([{"kind": "http", "status": 500}])
        await rigged.build("s1")
        await rigged.ready_daemon()
        url = await rigged.page()
        await until(lambda: late(url, "bad"), "the bad one is late", 40.0)
        async with httpx.AsyncClient() as http:
            said = await http.get(f"{url}/readyz")
            assert said.status_code == 503
            lines = said.text.splitlines()
            assert [line for line in lines if line.startswith("[-]")] == [line for line in lines if "emp bad" in line]
            assert "[+] emp good ok" in lines
            assert "[+] capture ok" in lines
            assert "[+] triggers ok" in lines
        assert await status(f"{url}/readyz/good") == 200
        assert await status(f"{url}/readyz/bad") == 503
        assert await status(f"{url}/readyz/nobody") == 404
        assert await status(f"{url}/livez") == 200
        found = await metrics(url)
        assert found["cdc_pusher_breaker_open", "bad"] >= found["cdc_pusher_breaker_open", "good"] == 0


async def late(url: str, emp: str) -> bool:
    return await status(f"{url}/readyz/{emp}") == 503


async def test_not_ready_without_triggers(rigged: Rig, sandbox: Sandbox) -> None:
    rigged.add_emp("alpha", sandbox)
    await rigged.sql("ALTER TABLE connector DISABLE TRIGGER ALL")
    await rigged.ready_daemon()
    url = await rigged.page()
    async with httpx.AsyncClient() as http:

        async def is_told() -> bool:
            return "[-] triggers: " in (await http.get(f"{url}/readyz")).text

        await until(is_told, "it is not ready", 40.0)


async def test_address_that_is_taken_is_no_reason_not_to_deliver(rigged: Rig, sandbox: Sandbox) -> None:
    rigged.monitoring = sandbox.url.split("/")[2]
    rigged.add_emp("alpha", sandbox)
    await rigged.build("s1")
    daemon = await rigged.ready_daemon()
    await rigged.quiet()
    assert "metrics cannot be served at this address" in daemon.said
    assert sandbox.stats()["accepted"]["station"] == 1
