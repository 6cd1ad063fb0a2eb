"""SIGHUP: the configuration changes under a daemon that works on, and no message is lost or sent twice."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import certifi
import pytest
from rig import KEY, Daemon, Rig, connected, rig, until

from cdc_pusher.sandbox import Sandbox, SandboxSettings

AUTHORITIES = Path(certifi.where()).read_text()
STATIONS = [f"s{n}" for n in range(1, 31)]


@pytest.fixture
async def emps() -> AsyncIterator[dict[str, Sandbox]]:
    async with AsyncExitStack() as stack:
        yield {name: await stack.enter_async_context(Sandbox(SandboxSettings(api_key=KEY))) for name in ("alpha", "beta")}


@pytest.fixture
async def rigged(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(dsn, tmp_path) as made:
        yield made


async def reload(daemon: Daemon, *, refused: bool = False) -> None:
    said = daemon.said.count("the new configuration is")
    daemon.send_signal(signal.SIGHUP)
    await until(lambda: daemon.said.count("the new configuration is") > said, "it has read its configuration")
    last = [line for line in daemon.said.splitlines() if "the new configuration is" in line][-1]
    assert ("refused" in last) == refused, last


async def traffic(rigged: Rig, over: asyncio.Event) -> None:
    """Statuses change all the time, each to one that it has not had."""
    n = 0
    while not over.is_set():
        n += 1
        for station in STATIONS[n % 5 :: 5]:
            await rigged.set_status(station, ("Occupied", "Available", "Reserved")[n // 5 % 3])


async def test_emps_come_and_go_and_limits_change_under_load(rigged: Rig, emps: dict[str, Sandbox]) -> None:
    alpha, beta = emps.values()
    rigged.add_emp("alpha", alpha)
    await rigged.build(*STATIONS)
    for emp in emps.values():
        emp.set_faults([{"kind": "delay", "seconds": 0.02}])
    daemon = await rigged.ready_daemon()
    over = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(traffic(rigged, over), name="traffic")
        rigged.add_emp("beta", beta)
        await reload(daemon)
        await until(lambda: beta.stats()["accepted"]["station"] == len(STATIONS), "the new EMP has its full load")
        for concurrency in (1, 3, 5, 2):
            rigged.add_emp("alpha", alpha, concurrency=concurrency)
            await reload(daemon)
            asked = alpha.stats()["requests"]
            await until(lambda asked=asked: alpha.stats()["requests"] > asked + 20, "it goes on")  # type: ignore[misc]
        over.set()
    await rigged.quiet()
    for emp in emps.values():
        stats = emp.stats()
        assert stats["accepted"]["station"] == len(STATIONS), "no station was sent again"
        assert stats["duplicates"] == stats["overlaps"] == 0
    assert await rigged.value("SELECT count(*) FROM cdc_pusher.attempt WHERE outcome <> 'accepted'") == 0
    rigged.remove_emp("beta")
    await reload(daemon)
    await until(lambda: rigged.value("SELECT mapping IS NULL FROM cdc_pusher.emp WHERE name = 'beta'"), "nobody serves it")
    asked = beta.stats()["requests"]
    await rigged.set_status("s1", "Offline")
    await rigged.quiet()
    assert beta.stats()["requests"] == asked


async def test_another_mapping_is_used_and_only_what_differs_is_sent(rigged: Rig, emps: dict[str, Sandbox]) -> None:
    rigged.add_emp("alpha", emps["alpha"])
    await rigged.build(*STATIONS)
    daemon = await rigged.ready_daemon()
    await rigged.quiet()
    rigged.add_emp("alpha", emps["alpha"], only="station_id <> 's1'")
    await reload(daemon)
    await until(lambda: "all stations are gone through" in daemon.said.partition("the new configuration")[2], "capture has it")
    await rigged.quiet()
    told = [e for e in emps["alpha"].ledger if e["kind"] == "station"][len(STATIONS) :]
    assert [(e["key"], e["payload"]["deleted"]) for e in told] == [("s1", True)]


@pytest.mark.parametrize(
    ("spoil", "because"),
    [
        (lambda text: text + "\nnonsense", "not valid TOML"),
        (lambda text: text.replace("concurrency = 2", "concurrency = 0"), "concurrency"),
        (lambda text: text.replace("[emp.alpha]", "[emp.alpha]\nonly = 'no_such_column = 1'"), "no_such_column"),
        (lambda text: text.replace("[emp.alpha]", "[emp.alpha]\nca_file = '/no/such/file'"), "/no/such/file"),
        (lambda text: text.replace("[database]", "[database]\nlisten_dsn = 'host=/nowhere'"), "restart"),
        (lambda text: "[database]" + text.partition("[database]")[2].partition("[emp")[0], "no EMP"),
    ],
)
async def test_bad_configuration_is_refused_and_the_former_one_stays(
    spoil: object, because: str, rigged: Rig, emps: dict[str, Sandbox]
) -> None:
    rigged.add_emp("alpha", emps["alpha"], concurrency=2)
    await rigged.build("s1")
    daemon = await rigged.ready_daemon()
    await rigged.quiet()
    rigged.config.write_text(spoil(rigged.config.read_text()))  # type: ignore[operator]
    await reload(daemon, refused=True)
    refusal = next(json.loads(line) for line in daemon.said.splitlines() if "refused" in line)
    assert because in refusal["error"]
    await rigged.set_status("s1", "Occupied")
    await rigged.quiet()
    assert emps["alpha"].ledger[-1]["payload"]["status"] == "Occupied"
    assert daemon.exit_code is None


async def test_reload_that_the_database_does_not_answer_is_refused(rigged: Rig, emps: dict[str, Sandbox]) -> None:
    rigged.add_emp("alpha", emps["alpha"])
    await rigged.build("s1")
    daemon = await rigged.ready_daemon()
    await rigged.quiet()
    async with await connected(rigged.dsn) as other, other.transaction():
        await other.execute("LOCK TABLE cdc_pusher.alembic_version")
        await reload(daemon, refused=True)
    assert daemon.exit_code is None
    await reload(daemon)


async def test_end_during_a_reload_gives_everything_back(rigged: Rig, emps: dict[str, Sandbox]) -> None:
    rigged.add_emp("alpha", emps["alpha"])
    await rigged.build("s1")
    daemon = await rigged.ready_daemon()
    await rigged.quiet()
    daemon.send_signal(signal.SIGHUP)
    assert await daemon.stop() < 5
    assert await rigged.value("SELECT count(holder) FROM cdc_pusher.lease") == 0
    assert await rigged.value("SELECT count(*) FROM cdc_pusher.daemon") == 0


async def test_certificate_that_has_gone_stops_its_emp_alone(rigged: Rig, emps: dict[str, Sandbox], tmp_path: Path) -> None:
    authorities = tmp_path / "ca.pem"
    authorities.write_text(AUTHORITIES)
    rigged.add_emp("alpha", emps["alpha"], ca_file=str(authorities))
    rigged.add_emp("beta", emps["beta"])
    await rigged.build("s1")
    first = await rigged.ready_daemon()
    await rigged.quiet()
    authorities.unlink()
    await first.stop()
    second = rigged.daemon()
    await until(lambda: "the EMP cannot be served as configured" in second.said, "it says so")
    await rigged.set_status("s1", "Occupied")
    await until(lambda: emps["beta"].ledger[-1]["payload"].get("status") == "Occupied", "the other one is served")
    authorities.write_text(AUTHORITIES)
    await rigged.quiet()
    assert emps["alpha"].ledger[-1]["payload"]["status"] == "Occupied"
    assert second.exit_code is None
