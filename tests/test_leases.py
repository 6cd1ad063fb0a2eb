"""Many daemons on one database: each lane is served by one, and what a dead, hung or lost one did is taken over in time."""

import asyncio
import itertools
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from relay import Relay, relay
from rig import KEY, Daemon, Rig, connected, rig, until

from cdc_pusher.sandbox import Sandbox, SandboxSettings

TAKE_OVER_S = 10.0
HOLDERS = "SELECT name, holder FROM cdc_pusher.lease WHERE expires_at > clock_timestamp()"

Emps = dict[str, Sandbox]


class Machine:
    """A daemon with a network of its own to the database and to the EMPs, which can be cut."""

    def __init__(self, daemon: Daemon, database: Relay, emps: list[Relay]) -> None:
        self.daemon, self.database, self._emps = daemon, database, emps

    @property
    def sent(self) -> int:
        """The bytes that it has sent to EMPs."""
        return sum(emp.forwarded for emp in self._emps)


@pytest.fixture
async def emps() -> AsyncIterator[Emps]:
    async with AsyncExitStack() as stack:
        names = ("alpha", "beta", "gamma")
        yield {name: await stack.enter_async_context(Sandbox(SandboxSettings(api_key=KEY))) for name in names}


@pytest.fixture
async def rigged(dsn: str, tmp_path: Path, emps: Emps) -> AsyncIterator[Rig]:
    async with rig(dsn, tmp_path) as made:
        for name, sandbox in emps.items():
            made.add_emp(name, sandbox)
        yield made


@asynccontextmanager
async def machines(rigged: Rig, emps: Emps, count: int) -> AsyncIterator[list[Machine]]:
    """So many daemons that are ready, one after the other, and share the leases."""
    where = conninfo_to_dict(rigged.dsn)
    async with AsyncExitStack() as stack:
        made = []
        for number in range(count):
            database = await stack.enter_async_context(relay(f"{where['host']}/.s.PGSQL.{where['port']}"))
            text = rigged.config.read_text().replace(
                json.dumps(rigged.dsn), json.dumps(make_conninfo(rigged.dsn, host="127.0.0.1", port=database.port))
            )
            relays = []
            for sandbox in emps.values():
                address = sandbox.url.split("/")[2]
                relays.append(await stack.enter_async_context(relay(int(address.split(":")[1]))))
                text = text.replace(address, f"127.0.0.1:{relays[-1].port}")
            config = rigged.directory / f"machine-{number}.toml"
            config.write_text(text)
            made.append(Machine(await rigged.ready_daemon(config), database, relays))
        await until(lambda: evenly(rigged, *(machine.daemon for machine in made)), "the leases are shared")
        await rigged.quiet()
        yield made


async def held_by(rigged: Rig, daemon: Daemon) -> set[str]:
    return {row["name"] for row in await rigged.sql(HOLDERS) if row["holder"] == daemon.name}


async def evenly(rigged: Rig, *daemons: Daemon) -> bool:
    """Whether all leases are held, and no daemon has two more than another one."""
    counts = [len(await held_by(rigged, daemon)) for daemon in daemons]
    return sum(counts) == 4 and max(counts) - min(counts) <= 1


async def take_over(rigged: Rig, emps: Emps, by: Daemon, lost: set[str]) -> float:
    """The seconds until the other daemon has all, and every EMP has been told of a change."""
    assert lost, "there was something to take over"
    await rigged.set_status("s1", "Occupied")

    async def is_done() -> bool:
        told = all(
            any(e["kind"] == "status" and e["payload"]["status"] == "Occupied" and e["applied"] for e in emp.ledger)
            for emp in emps.values()
        )
        return told and lost <= await held_by(rigged, by)

    return await until(is_done, "all is taken over")


def overlaps(emps: Emps) -> int:
    return sum(emp.stats()["overlaps"] for emp in emps.values())


@pytest.mark.parametrize("fate", ["killed", "stopped", "cut off"])
async def test_what_a_lost_daemon_did_is_taken_over_and_it_sends_nothing_any_more(
    fate: str, rigged: Rig, emps: Emps, capsys: pytest.CaptureFixture[str]
) -> None:
    await rigged.build("s1")
    async with machines(rigged, emps, 2) as (first, second):
        lost = await held_by(rigged, first.daemon)
        match fate:
            case "killed":
                await first.daemon.kill()
            case "stopped":
                first.daemon.send_signal(signal.SIGSTOP)
            case "cut off":
                first.database.cut()
        took_s = await take_over(rigged, emps, second.daemon, lost)
        with capsys.disabled():
            print(f"\n{fate}: taken over after {took_s:.1f} s")  # noqa: T201  # for people
        assert took_s <= TAKE_OVER_S
        sent = first.sent
        await rigged.set_status("s1", "Available")
        await rigged.quiet()
        if fate == "stopped":
            first.daemon.send_signal(signal.SIGCONT)
        first.database.mend()
        if fate != "killed":
            await until(lambda: "ours no more" in first.daemon.said or "leases are lost" in first.daemon.said, "it has noticed")
            assert first.sent == sent
            await until(lambda: evenly(rigged, first.daemon, second.daemon), "it has its share again")
            assert first.daemon.exit_code is None
        await rigged.quiet()
        assert overlaps(emps) == 0


async def test_a_daemon_that_wakes_up_sends_nothing_of_what_it_had_claimed(rigged: Rig, emps: Emps) -> None:
    for name, sandbox in emps.items():
        rigged.add_emp(name, sandbox, max_requests_per_second=10)
    await rigged.build(*(f"s{n}" for n in range(1, 20)))
    async with machines(rigged, emps, 2) as (first, second):
        for emp in emps.values():
            emp.set_faults([{"kind": "delay", "seconds": 0.3}])
        asked = sum(emp.stats()["requests"] for emp in emps.values())
        await rigged.sql("UPDATE connector SET status = 'Occupied'")
        await until(
            lambda: sum(emp.stats()["requests"] for emp in emps.values()) > asked + 2, "requests are in flight, others wait for their turn"
        )
        first.daemon.send_signal(signal.SIGSTOP)
        await rigged.quiet()
        sent = first.sent
        first.daemon.send_signal(signal.SIGCONT)
        await until(lambda: evenly(rigged, first.daemon, second.daemon), "it has its share again")
        await rigged.quiet()
        assert first.sent == sent
        assert overlaps(emps) == 0


async def test_a_daemon_that_cannot_renew_sends_nothing_that_waits_for_its_turn(rigged: Rig, emps: Emps) -> None:
    for name, sandbox in emps.items():
        rigged.add_emp(name, sandbox, max_requests_per_second=0.15, burst=20)
    await rigged.build("s1", "s2", "s3")
    async with machines(rigged, emps, 2) as (first, second):
        name = min(name.removeprefix("lane ") for name in await held_by(rigged, first.daemon) if name != "capture")
        await until(lambda: one_waits_in_line(rigged, emps[name], name), "all that may be sent at once is sent")
        first.database.cut()
        await until(lambda: "leases are lost" in first.daemon.said, "it has noticed")
        sent = first.sent
        await until(lambda: holds(rigged, second.daemon, f"lane {name}"), "the other one has it")
        await asyncio.sleep(3.0)  # its turn has come meanwhile
        assert first.sent == sent
        first.database.mend()


async def test_answers_that_come_while_the_database_is_away_are_recorded_when_it_is_back(rigged: Rig, emps: Emps) -> None:
    for name, sandbox in emps.items():
        rigged.add_emp(name, sandbox, request_timeout_s=10.0)
    await rigged.build(*(f"s{n}" for n in range(1, 11)))
    async with machines(rigged, emps, 1) as (alone,):
        for emp in emps.values():
            emp.set_faults([{"kind": "delay", "seconds": 6.0}])
        await rigged.sql("UPDATE connector SET status = 'Occupied'")
        await until(lambda: sum(sum(emp.stats()["faults"].values()) for emp in emps.values()) == 30, "all are under way")
        for emp in emps.values():
            emp.set_faults([])
        alone.database.refuse()
        await until(lambda: "leases are lost" in alone.daemon.said, "the leases are lost")
        alone.database.mend()
        await rigged.quiet()
        assert sum(emp.stats()["duplicates"] for emp in emps.values()) == 0
        assert await rigged.value("SELECT count(*) FROM cdc_pusher.attempt WHERE outcome = 'accepted'") == 3 * 3 * 10


async def one_waits_in_line(rigged: Rig, sandbox: Sandbox, emp: str) -> bool:
    """Change statuses until a claim is not answered at once. A lease is lost after 4.5 s, and a turn comes every 6.7 s."""
    await rigged.sql("UPDATE connector SET status = CASE status WHEN 'Available' THEN 'Occupied' ELSE 'Available' END")
    before, asked = sandbox.stats()["requests"], 0
    while sandbox.stats()["requests"] < before + 3:
        asked, is_claimed = sandbox.stats()["requests"], await in_flight(rigged, emp)
        await asyncio.sleep(0.3)  # what is sent at once is answered by then
        if is_claimed and sandbox.stats()["requests"] == asked and await in_flight(rigged, emp):
            return True
    return False


async def in_flight(rigged: Rig, emp: str) -> bool:
    return bool(await rigged.value("SELECT count(*) FROM cdc_pusher.outbox WHERE emp = %(emp)s AND state = 'in_flight'", emp=emp))


async def holds(rigged: Rig, daemon: Daemon, name: str) -> bool:
    return name in await held_by(rigged, daemon)


async def test_leases_are_given_back_at_the_end_and_taken_at_once(rigged: Rig, emps: Emps) -> None:
    await rigged.build("s1")
    async with machines(rigged, emps, 2) as (first, second):
        lost = await held_by(rigged, first.daemon)
        await first.daemon.stop()
        assert not await held_by(rigged, first.daemon)
        assert await take_over(rigged, emps, second.daemon, lost) < 3.0
        assert [row["name"] for row in await rigged.sql("SELECT name FROM cdc_pusher.daemon")] == [second.daemon.name]


async def test_lanes_go_over_to_daemons_that_join_and_nothing_is_sent_twice(rigged: Rig, emps: Emps) -> None:
    await rigged.build(*(f"s{n}" for n in range(1, 200)))
    for emp in emps.values():
        emp.set_faults([{"kind": "delay", "seconds": 0.4}])
    daemons = [await rigged.ready_daemon() for _ in range(3)]
    await until(lambda: evenly(rigged, *daemons), "the leases are shared")
    await rigged.quiet()
    for emp in emps.values():
        assert emp.stats()["accepted"]["station"] == 199, "every station once"
        assert emp.stats()["duplicates"] == 0
    assert overlaps(emps) == 0
    served = await rigged.sql(
        'SELECT emp, host, min(sent_at) AS "from", max(sent_at) AS until FROM cdc_pusher.attempt GROUP BY 1, 2 ORDER BY 1, 3'
    )
    for one, other in itertools.pairwise(served):
        assert one["emp"] != other["emp"] or one["until"] <= other["from"], "two daemons served one lane at once"
    assert len({row["host"] for row in served}) > 1, "a lane has gone over"


async def test_who_has_lost_a_lease_without_knowing_it_takes_another_before_it_writes(rigged: Rig, emps: Emps) -> None:
    """The clock of the database has jumped, say, and another daemon has come and gone. Who finds nobody there takes the lease anew."""
    await rigged.build("s1")
    daemon = await rigged.ready_daemon()
    await rigged.quiet()
    async with await connected(rigged.dsn) as other, other.transaction():
        await other.execute("LOCK TABLE cdc_pusher.lease")  # nobody takes one meanwhile
        await rigged.sql("UPDATE cdc_pusher.emp SET lane_epoch = lane_epoch + 5")
        await rigged.sql("UPDATE cdc_pusher.capture SET epoch = epoch + 5")
        await rigged.set_status("s1", "Occupied")
        await until(lambda: "another daemon captures" in daemon.said, "capture has noticed")
        assert await rigged.value("SELECT count(*) FROM cdc_pusher.outbox WHERE state <> 'delivered'") == 0
    await rigged.quiet()
    assert await rigged.value("SELECT min(epoch) FROM cdc_pusher.lease") == 7
    assert all(emp.ledger[-1]["payload"]["status"] == "Occupied" for emp in emps.values())
    assert daemon.exit_code is None


async def test_what_fails_at_one_daemon_is_left_to_another(rigged: Rig, emps: Emps) -> None:
    """Its certificates are not there, say: it lives, and can serve nobody."""
    await rigged.build("s1")
    able = await rigged.ready_daemon()
    unable_config = rigged.directory / "unable.toml"
    unable_config.write_text(re.sub(r"^url = ", 'ca_file = "/no/such/file"\nurl = ', rigged.config.read_text(), flags=re.MULTILINE))
    unable = rigged.daemon(unable_config)
    await until(lambda: "the EMP cannot be served as configured" in unable.said, "it was given a lane")
    await until(lambda: "others may try" in unable.said, "it lets go", 40.0)
    await until(lambda: all_lanes_held_by(rigged, able), "the other one serves everybody")
    await rigged.set_status("s1", "Occupied")
    await until(lambda: all(emp.ledger[-1]["payload"].get("status") == "Occupied" for emp in emps.values()), "everybody is told")
    assert unable.exit_code is None


async def all_lanes_held_by(rigged: Rig, daemon: Daemon) -> bool:
    return {"lane alpha", "lane beta", "lane gamma"} <= await held_by(rigged, daemon)
