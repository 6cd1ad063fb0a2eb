"""The database fails over: the daemon finds the new primary by itself, and in the end the EMP holds what that one holds.

What was confirmed survives when replication is synchronous. When it is not, Postgres loses the last transactions, those of the CPO and our
own records of what the EMP was told; what such a loss leaves behind is stated here, too.
"""

import asyncio
import contextlib
import itertools
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import oracle
import psycopg
import pytest
from pair import Disaster, Pair, can_vanish, pair
from psycopg.conninfo import make_conninfo
from rig import KEY, Daemon, Rig, Row, connected, evse_id, rig, until
from verdict import concerned, story, verdict
from workload import Workload

from cdc_pusher.sandbox import Sandbox, SandboxSettings

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="a machine that vanishes is made with a socket filter of Linux"),
]
needs_socket_filters = pytest.mark.skipif(
    sys.platform == "linux" and not can_vanish(), reason="this kernel leaves filters on sockets to root, so no machine can vanish"
)

MOST_S = 180.0
AT_WORK_S = 3.0
# How soon a connection to a machine that is not there any more is given up.
LIVELY: Row = {"tcp_user_timeout": 2000, "keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 2, "connect_timeout": 3}
TOLD_LATE = ({"kind": "delay", "seconds": [0, 0.4], "probability": 0.3},)
Standby = Literal["prompt", "slow", "behind"]
LOSSES = {
    "status": f"UPDATE connector SET status = 'Occupied' WHERE evse_id = '{evse_id('s1')}'",
    "edit": "UPDATE station SET name = 'lost' WHERE id = 's1'",
    "deletion": "DELETE FROM station WHERE id = 's1'",
    "creation": """
        WITH s AS (
            INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
            SELECT 'lost', name, latitude, longitude, street, street_number, city, zip, country, phone, cpo FROM station WHERE id = 's1'
        )
        INSERT INTO connector (station_id, evse_id, type, speed_kw, status) VALUES ('lost', 'DE*8PS*ELOST*1', 'Type2', 22, 'Available')
    """,
}


@asynccontextmanager
async def at_work(made: Pair, directory: Path, **emp: object) -> AsyncIterator[tuple[Rig, Sandbox]]:
    """The pair with our schema, and an EMP; no daemon yet."""
    async with rig(make_conninfo(made.dsn, **LIVELY), directory) as rigged, Sandbox(SandboxSettings(api_key=KEY)) as sandbox:
        rigged.add_emp("alpha", sandbox, **emp)
        yield rigged, sandbox


async def differences(rigged: Rig, sandbox: Sandbox) -> list[str]:
    """Where the EMP does not hold what the CPO's tables say."""
    expected = oracle.Expected(await rigged.sql("SELECT * FROM station"), await rigged.sql("SELECT * FROM connector"))
    return list(oracle.differences(expected, oracle.AsOne(sandbox), {}))


async def seconds_until_served(rigged: Rig, since: float) -> float:
    """Wait until the new primary has a record of a request that was sent after `since`; returns how long after."""
    first = "SELECT extract(epoch FROM min(sent_at))::float FROM cdc_pusher.attempt WHERE sent_at > to_timestamp(%(since)s)"

    async def served() -> bool:
        return await rigged.value(first, since=since) is not None

    try:
        await until(served, "the daemon serves the new primary", 45)
    except AssertionError as error:
        raise AssertionError(f"{error}; connected to it: {await parts_connected(rigged)}\n{rigged.said}") from None
    return float(await rigged.value(first, since=since)) - since


def lost_connections(said: str) -> Counter[str]:
    """How often each part of the daemon said that it lost its connection, or could not make one."""
    parts = ("capture", "pulse", "listen", "lane alpha")
    lines = [line for line in said.splitlines() if '"event": "database connection lost"' in line]
    return Counter({part: sum(f'"part": "{part}"' in line for line in lines) for part in parts})


def tell(request: pytest.FixtureRequest, text: str) -> None:
    print(f"{request.node.name}: {text}")  # noqa: T201  # for people


@pytest.mark.parametrize("disaster", ["crash", pytest.param("vanish", marks=needs_socket_filters)])
async def test_nothing_that_was_confirmed_is_lost_when_replication_is_synchronous(
    disaster: Disaster, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    async with pair(synchronous=True) as made, at_work(made, tmp_path) as (rigged, sandbox):
        sandbox.set_faults(TOLD_LATE)
        workload = Workload(rigged.dsn, time.monotonic_ns(), MOST_S, stubborn=True)
        await workload.build()
        daemon = await rigged.ready_daemon()
        async with asyncio.TaskGroup() as group:
            group.create_task(workload.run())
            await asyncio.wait_for(_told(sandbox, AT_WORK_S), 60)
            before = len(workload.confirmed)
            await made.fail_over(disaster)
            promoted_at = time.time()
            await rigged.connect_again()
            served_s = await seconds_until_served(rigged, promoted_at)
            await until(lambda: len(workload.confirmed) > before + 50, "the CPO goes on writing", 60)
            workload.finish()
        await workload.end(0)
        quiet_s = await rigged.quiet()
        written = {row["id"] for row in await rigged.sql("SELECT id FROM written")}
        wrong = await verdict(rigged, "alpha", sandbox, workload, "hold")
        tell(
            request,
            f"served {served_s:.1f} s after the promotion, quiet {quiet_s:.1f} s after the last write; {before} transactions before, "
            f"{len(workload.confirmed) - before} after; lost connections {dict(lost_connections(rigged.said))}; {sandbox.stats()}",
        )
        assert before > 50
        assert workload.done["cut"]
        assert workload.confirmed <= written
        assert not wrong, "\n".join([*wrong[:12], await rigged.dump(*concerned(wrong)), *story(sandbox, concerned(wrong))])
        assert sandbox.stats()["overlaps"] == 0
        assert daemon.exit_code is None


async def _told(sandbox: Sandbox, seconds: float) -> None:
    """Wait until the EMP has been told something for so many seconds."""
    await until(lambda: sandbox.ledger and sandbox.ledger[-1]["received_at"] - sandbox.ledger[0]["received_at"] > seconds, "told", 60)


# ── what Postgres itself loses ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@asynccontextmanager
async def after_a_loss(loss: str, directory: Path, standby: Standby = "prompt") -> AsyncIterator[tuple[Rig, Sandbox]]:
    """A change was committed, told to the EMP and recorded as delivered; then the primary crashed before the standby had any of it.

    `standby`: a slow one becomes the new primary so late that the daemon has lost its leases; one that is behind has not even got to the
    daemon's first record.

    The daemon works on the new primary and has swept it.
    """
    async with pair(synchronous=False) as made, at_work(made, directory) as (rigged, sandbox):
        rigged.daemon_options = {"sweep_interval_s": 1.0}
        rigged.add_emp("alpha", sandbox)
        await rigged.build("s1", "s2")
        if standby == "behind":
            await made.cut()
        daemon = await rigged.ready_daemon()
        await rigged.quiet()
        before = await contents(rigged)
        if standby != "behind":
            await made.cut()
        await rigged.sql(LOSSES[loss])
        await until(lambda: told_of(sandbox, loss), "the EMP is told of what will be lost")
        await rigged.quiet()
        assert await differences(rigged, sandbox) == []
        if standby == "slow":
            await asyncio.to_thread(made.primary.stop, "immediate")
            await until(lambda: "leases are lost" in daemon.said, "the daemon has lost its leases")
            await made.promote()
        else:
            await made.fail_over("crash")
        await rigged.connect_again()
        assert await contents(rigged) == before
        await rigged.set_status("s2", "Reserved")
        await until(lambda: sandbox.stations["s2"]["statuses"][evse_id("s2")] == "Reserved", "the daemon serves the new primary", 60)
        served_at = await rigged.value("SELECT now()")

        async def swept() -> bool:
            query = "SELECT sweep_started_at > %(at)s AND sweep_completed_at > sweep_started_at FROM cdc_pusher.emp"
            return bool(await rigged.value(query, at=served_at))

        await until(swept, "the new primary is swept", 60)
        await rigged.quiet()
        yield rigged, sandbox
        assert daemon.exit_code is None
        assert sandbox.stats()["overlaps"] == 0


async def contents(rigged: Rig) -> tuple[list[Row], list[Row]]:
    return await rigged.sql("SELECT * FROM station ORDER BY id"), await rigged.sql("SELECT * FROM connector ORDER BY id")


def told_of(sandbox: Sandbox, loss: str) -> bool:
    """Whether the EMP has taken the change that will be lost."""
    s1, lost = sandbox.stations["s1"], sandbox.stations.get("lost")
    told: dict[str, bool] = {
        "status": s1["statuses"].get(evse_id("s1")) == "Occupied",
        "edit": s1["station"]["name"] == "lost",
        "deletion": bool(s1["station"]["deleted"]),
        "creation": lost is not None and bool(lost["statuses"]),
    }
    return told[loss]


@pytest.mark.parametrize(
    ("loss", "standby"),
    [*((loss, "prompt") for loss in LOSSES), ("creation", "slow"), ("status", "slow"), *((loss, "behind") for loss in LOSSES)],
)
async def test_what_postgres_lost_is_taken_back_at_the_emp(loss: str, standby: Standby, tmp_path: Path) -> None:
    async with after_a_loss(loss, tmp_path, standby) as (rigged, sandbox):
        assert await differences(rigged, sandbox) == []
        assert "what it may have lost is sent again" in rigged.said
        assert standby == "behind" or sandbox.stats()["accepted"]["station"] <= 5, "nothing else is sent again"


async def test_everything_is_sent_again_where_nobody_remembers(dsn: str, tmp_path: Path) -> None:
    """The database was restored from a copy, and the daemon began anew."""
    async with rig(dsn, tmp_path) as rigged, Sandbox(SandboxSettings(api_key=KEY)) as sandbox:
        rigged.add_emp("alpha", sandbox)
        await rigged.build("s1", "s2")
        daemon = await rigged.ready_daemon()
        await rigged.quiet()
        await daemon.kill()
        await rigged.sql("UPDATE cdc_pusher.emp SET timeline = 'another place'")
        await rigged.sql("ALTER TABLE connector DISABLE TRIGGER ALL")
        await rigged.sql("UPDATE connector SET status = 'Occupied' WHERE station_id = 's1'")  # as the copy has it, and its outbox, too
        await rigged.sql(
            'UPDATE cdc_pusher.outbox SET payload = payload || \'{"status": "Occupied"}\','
            " acknowledged = acknowledged || '{\"status\": \"Occupied\"}' WHERE kind = 'status' AND station_id = 's1'"
        )
        again = await rigged.ready_daemon()
        await until(lambda: "everything is sent again" in again.said, "it has seen that")
        await until(lambda: rigged.value("SELECT timeline <> 'another place' FROM cdc_pusher.emp"), "what it has ordered is committed")
        await rigged.quiet()
        assert await differences(rigged, sandbox) == []
        assert sandbox.stats()["accepted"]["station"] == 4


async def test_what_is_told_by_a_daemon_that_was_restarted_is_taken_back_where_there_is_no_record(tmp_path: Path) -> None:
    """The lane has had an earlier lease: on the new primary there is none at all."""
    async with pair(synchronous=False) as made, at_work(made, tmp_path) as (rigged, sandbox):
        await rigged.build("s1", "s2")
        await made.cut()
        await (await rigged.ready_daemon()).kill()
        daemon = await rigged.ready_daemon()
        await rigged.quiet()
        await rigged.sql(LOSSES["creation"])
        await until(lambda: told_of(sandbox, "creation"), "the EMP is told of what will be lost")
        await rigged.quiet()
        await made.fail_over("crash")
        await rigged.connect_again()
        await until(lambda: "everything is sent again" in daemon.said, "who was served by others before looks after that", 60)
        await until(partial(holds_the_same, rigged, sandbox), "what was lost is taken back")
        await rigged.set_status("s2", "Reserved")
        await until(partial(holds_the_same, rigged, sandbox), "the new primary is served")


@pytest.mark.parametrize("way", ["given", "taken"])
async def test_what_another_daemon_told_under_a_lease_that_was_lost_is_taken_back(way: str, tmp_path: Path) -> None:
    """As the new primary has it, the lane never went over: it is that of the first daemon, which does not know what was told since."""
    async with pair(synchronous=False) as made, two_emps(made, tmp_path) as (rigged, alpha, beta):
        await rigged.build("s1", "s2")
        first = await rigged.ready_daemon()
        await rigged.quiet()
        if way == "given":
            await made.cut()
            second = await rigged.ready_daemon()
            await until(partial(serves, second, "beta"), "the lane has gone over")
        else:
            second = await rigged.ready_daemon()
            await until(partial(serves, second, "beta"), "the lanes are shared")
            await rigged.quiet()
            await made.cut()
            first.send_signal(signal.SIGSTOP)
            await until(partial(serves, second, "alpha"), "the lane is taken over", 30)
        emp = beta if way == "given" else alpha
        await rigged.sql(LOSSES["status"])
        await until(lambda: told_of(emp, "status"), "the second daemon has told the EMP what will be lost")
        await rigged.quiet()
        await second.kill()
        await made.fail_over("crash")
        first.send_signal(signal.SIGCONT)
        await rigged.connect_again()
        await rigged.set_status("s2", "Reserved")
        await until(lambda: emp.stations["s2"]["statuses"][evse_id("s2")] == "Reserved", "the first daemon serves the new primary", 60)
        await until(partial(holds_the_same, rigged, emp), "what the second daemon told is taken back", 60)
        assert "everything is sent again" in first.said
        assert first.exit_code is None


async def test_who_has_taken_a_lane_keeps_it_when_that_is_lost(tmp_path: Path) -> None:
    async with pair(synchronous=False) as made, two_emps(made, tmp_path) as (rigged, alpha, beta):
        await rigged.build("s1", "s2")
        await rigged.ready_daemon()
        await rigged.quiet()
        await made.cut()
        second = await rigged.ready_daemon()
        await until(partial(serves, second, "beta"), "the lane has gone over")
        await rigged.sql(LOSSES["creation"])
        await until(lambda: told_of(alpha, "creation") and told_of(beta, "creation"), "both EMPs are told what will be lost")
        await rigged.quiet()
        await made.fail_over("crash")
        await rigged.connect_again()
        for emp in (alpha, beta):
            await until(partial(holds_the_same, rigged, emp), "the EMP holds what is in the database", 60)
            assert emp.stats()["overlaps"] == 0


async def holds_the_same(rigged: Rig, sandbox: Sandbox) -> bool:
    return await differences(rigged, sandbox) == []


@asynccontextmanager
async def two_emps(made: Pair, directory: Path) -> AsyncIterator[tuple[Rig, Sandbox, Sandbox]]:
    async with at_work(made, directory) as (rigged, alpha), Sandbox(SandboxSettings(api_key=KEY)) as beta:
        rigged.add_emp("beta", beta)
        yield rigged, alpha, beta


def serves(daemon: Daemon, emp: str) -> bool:
    """Whether it has ever served this EMP."""
    return f'"lease": "lane {emp}", "epoch"' in daemon.said


async def test_request_that_outlives_every_record_of_it_is_not_the_last_word(tmp_path: Path) -> None:
    """The EMP processes it when nobody waits for it any more, and after what follows it."""
    async with pair(synchronous=False) as made, at_work(made, tmp_path, request_timeout_s=6.0, quiet_time_s=5.0) as (rigged, sandbox):
        await rigged.build("s1", "s2")
        await made.cut()
        await rigged.ready_daemon()
        await rigged.quiet()
        sandbox.set_faults([{"kind": "delay", "seconds": 9.0, "match": "status", "times": 1}])
        await rigged.set_status("s1", "Occupied")
        await until(lambda: sandbox.stats()["faults"], "the request is at the EMP")
        await made.fail_over("crash")
        await rigged.connect_again()
        await rigged.set_status("s1", "Reserved")
        await until(lambda: {"Occupied", "Reserved"} <= statuses_told(sandbox, "s1"), "the EMP has taken both")
        await rigged.quiet()
        assert await differences(rigged, sandbox) == []
        assert sandbox.stats()["overlaps"] == 0


async def test_request_whose_claim_was_lost_is_neither_overtaken_nor_the_last_word(tmp_path: Path) -> None:
    async with pair(synchronous=False) as made, at_work(made, tmp_path, request_timeout_s=20.0) as (rigged, sandbox):
        await rigged.build("s1", "s2")
        daemon = await rigged.ready_daemon()
        await rigged.quiet()
        await made.cut()
        sandbox.set_faults([{"kind": "delay", "seconds": 8.0, "match": "status"}])
        await rigged.set_status("s1", "Occupied")
        await until(lambda: sandbox.stats()["faults"], "the request is at the EMP")
        sandbox.set_faults([])
        await made.fail_over("crash")
        await rigged.connect_again()
        await rigged.set_status("s1", "Reserved")
        await until(lambda: {"Occupied", "Reserved"} <= statuses_told(sandbox, "s1"), "the EMP has taken both")
        await rigged.quiet()
        assert daemon.exit_code is None
        assert await differences(rigged, sandbox) == []
        assert sandbox.stats()["overlaps"] == 0


async def test_request_of_a_daemon_that_has_gone_is_not_the_last_word_where_there_is_no_record(tmp_path: Path) -> None:
    async with pair(synchronous=False) as made, at_work(made, tmp_path, quiet_time_s=12.0) as (rigged, sandbox):
        await rigged.build("s1", "s2")
        await made.cut()
        first = await rigged.ready_daemon()
        await rigged.quiet()
        sandbox.set_faults([{"kind": "delay", "seconds": 12.0, "match": "status", "times": 1}])
        await rigged.set_status("s1", "Occupied")
        await until(lambda: sandbox.stats()["faults"], "the request is at the EMP")
        await first.kill()
        second = rigged.daemon()
        await until(partial(serves, second, "alpha"), "another daemon has the lane", 30)
        await made.fail_over("crash")
        await rigged.connect_again()
        await rigged.set_status("s1", "Reserved")
        await until(lambda: {"Occupied", "Reserved"} <= statuses_told(sandbox, "s1"), "the EMP has taken both", 60)
        await until(partial(holds_the_same, rigged, sandbox), "the EMP holds what is in the database", 60)
        assert "everything is sent again" in second.said


def statuses_told(sandbox: Sandbox, station: str) -> set[str]:
    """Every status that the EMP has taken of the first EVSE of the station."""
    return {entry["payload"]["status"] for entry in sandbox.ledger if entry["key"] == evse_id(station) and entry["applied"]}


@pytest.mark.parametrize("loss", ["status", "edit", "deletion"])
async def test_forced_resync_takes_back_what_postgres_lost_but_for_new_stations(loss: str, tmp_path: Path) -> None:
    async with after_a_loss(loss, tmp_path) as (rigged, sandbox):
        await rigged.command("resync", "--all", "--force")
        await rigged.quiet()
        assert await differences(rigged, sandbox) == []


# ── a server that takes no writes any more ────────────────────────────────────────────────────────────────────────────────────────────────


async def changes(rigged: Rig, sandbox: Sandbox) -> float:
    """Have every part of the daemon do something on the new primary; returns the seconds until the EMP holds it."""
    began = time.monotonic()
    await rigged.set_status("s1", "Reserved")
    await rigged.sql("UPDATE station SET name = 'v1' WHERE id = 's2'")

    async def held() -> bool:
        return await differences(rigged, sandbox) == []

    try:
        await until(held, "the EMP holds what the new primary holds", 20)
    except AssertionError as error:
        raise AssertionError(f"{error}; connected to it: {await parts_connected(rigged)}\n{await rigged.dump()}") from None
    await rigged.quiet()
    return time.monotonic() - began


async def everybody_is_connected(rigged: Rig) -> bool:
    return {"capture", "lane alpha", "listen", "pulse", "source"} <= set(await parts_connected(rigged))


async def parts_connected(rigged: Rig) -> list[str]:
    """The parts of the daemon that are connected to the server that takes writes."""
    rows = await rigged.sql("SELECT application_name AS name FROM pg_stat_activity WHERE application_name LIKE 'cdc-pusher %%' ORDER BY 1")
    return [row["name"].removeprefix("cdc-pusher ") for row in rows]


async def test_daemon_follows_a_switch_over_and_stays_when_the_old_primary_is_back(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    async with pair(synchronous=True) as made, at_work(made, tmp_path) as (rigged, sandbox):
        await rigged.build("s1", "s2")
        daemon = await rigged.ready_daemon()
        await rigged.quiet()
        await made.switch_over()
        await rigged.connect_again()
        took_s = await changes(rigged, sandbox)
        await until(lambda: everybody_is_connected(rigged), "every part of the daemon is connected to the new primary")
        tell(request, f"held by the EMP after {took_s:.1f} s; lost connections {dict(lost_connections(rigged.said))}")
        assert max(lost_connections(rigged.said).values()) <= 6
        assert daemon.exit_code is None
        assert sandbox.stats()["overlaps"] == 0


async def test_daemon_waits_ever_longer_while_no_server_takes_writes(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    async with pair(synchronous=False) as made, at_work(made, tmp_path) as (rigged, sandbox):
        await rigged.build("s1", "s2")
        daemon = await rigged.ready_daemon()
        await rigged.quiet()
        await asyncio.to_thread(made.primary.stop)
        began = time.monotonic()
        await until(lambda: lost_connections(rigged.said)["pulse"] >= 5, "the daemon has tried several times", 60)
        waited_s = time.monotonic() - began
        await made.promote()
        await rigged.connect_again()
        took_s = await changes(rigged, sandbox)
        lost = lost_connections(rigged.said)
        tell(request, f"{waited_s:.1f} s without a server, then held by the EMP after {took_s:.1f} s; lost connections {dict(lost)}")
        assert waited_s > 1.4  # 0.1 + 0.2 + 0.4 + 0.8 at least
        assert max(lost.values()) <= 10
        assert daemon.exit_code is None


async def keep_writing(dsn: str, over: asyncio.Event) -> None:
    """Set statuses, on a new connection whenever the server takes no more writes."""
    statuses = itertools.cycle(("Occupied", "Available"))
    while not over.is_set():
        with contextlib.suppress(psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction):
            async with await connected(dsn) as conn:
                while not over.is_set():
                    await conn.execute("UPDATE connector SET status = %s WHERE evse_id LIKE '%%S2%%'", [next(statuses)])
                    await asyncio.sleep(0.02)  # the pace of the writer, not a wait


@pytest.mark.parametrize("idle", [False, True], ids=["busy", "idle"])
async def test_daemon_leaves_a_server_that_became_read_only(idle: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    async with pair(synchronous=False) as made, at_work(made, tmp_path) as (rigged, sandbox):
        await rigged.build("s1", "s2")
        daemon = await rigged.ready_daemon()
        await rigged.quiet()
        async with asyncio.TaskGroup() as group:
            over = asyncio.Event()
            if not idle:
                group.create_task(keep_writing(rigged.dsn, over))
                await until(lambda: sandbox.stats()["requests"] > 50, "the daemon has work to do")
            await made.forbid_writing()
            await made.promote()
            await rigged.connect_again()
            if not idle:
                await seconds_until_served(rigged, time.time())
            over.set()
        took_s = await changes(rigged, sandbox)
        lost = lost_connections(rigged.said)
        tell(request, f"held by the EMP after {took_s:.1f} s; lost connections {dict(lost)}; connected {await parts_connected(rigged)}")
        assert daemon.exit_code is None
        assert max(lost.values()) <= 12
        await until(lambda: everybody_is_connected(rigged), "every part of the daemon is connected to the new primary")
