"""What no trigger could record is found by the sweep, which names it, and what two transactions do at once is lost to neither."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import psycopg
import pytest
from hand import Hand, hand
from rig import Rig, evse_id, rig
from test_affected import TABLES, cities, source, watching

from cdc_pusher import enqueue, triggers
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import connect

OCCUPY = f"UPDATE connector SET status = 'Occupied' WHERE evse_id = '{evse_id('s1')}'"
LOCK_LOG = "LOCK TABLE cdc_pusher.change IN ACCESS EXCLUSIVE MODE"
LOCK_COUNTER = "ALTER SEQUENCE cdc_pusher.missed MINVALUE 1"


@pytest.fixture
async def cpo(either_dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(either_dsn, tmp_path) as made:
        await made.build("s1", "s2")
        yield made


async def quiet(daemon: Hand) -> None:
    await daemon.capture()
    await daemon.deliver()


async def swept(daemon: Hand) -> frozenset[str]:
    """The stations that a periodic sweep finds changed."""
    assert await enqueue.order_sweep(daemon.conn, ["a"], interval_s=0.001, fastest=1e6) == ["a"]
    await daemon.capture()
    return daemon.healed.get("a", frozenset())


async def healed_for_misses(daemon: Hand) -> frozenset[str]:
    """The stations that the sweep finds changed which a miss brings about."""
    await daemon.capture()
    assert (await enqueue.pulse(daemon.conn, ["a"])).missed
    await enqueue.answer_for_missed(daemon.conn)
    await daemon.capture()
    return daemon.healed.get("a", frozenset())


async def write(dsn: str, *statements: str) -> None:
    """One transaction of the CPO, on a connection of its own."""
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        for statement in statements:
            await conn.execute(statement.encode())


@pytest.mark.parametrize(
    ("obstacle", "taken_back"),
    [
        ("SET cdc_pusher.locked = 'yes'", ""),
        ("ALTER TABLE cdc_pusher.change ADD CONSTRAINT no CHECK (priority > 0)", "ALTER TABLE cdc_pusher.change DROP CONSTRAINT no"),
        ("ALTER TABLE connector RENAME COLUMN station_id TO site", "ALTER TABLE connector RENAME COLUMN site TO station_id"),
    ],
)
async def test_miss_brings_a_sweep_that_names_the_station(cpo: Rig, obstacle: str, taken_back: str) -> None:
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        await write(cpo.dsn, obstacle, OCCUPY)
        await cpo.sql(taken_back)
        assert await healed_for_misses(daemon) == {"s1"}
        assert await daemon.deliver() == [evse_id("s1")]


@pytest.mark.parametrize("locks", [(LOCK_LOG,), (LOCK_LOG, LOCK_COUNTER)])
async def test_write_beside_a_locked_log_is_healed(cpo: Rig, locks: Sequence[str]) -> None:
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        async with await psycopg.AsyncConnection.connect(cpo.dsn) as migration:
            for lock in locks:
                await migration.execute(lock.encode())
            await write(cpo.dsn, OCCUPY)
        assert await (healed_for_misses if len(locks) == 1 else swept)(daemon) == {"s1"}
        assert await daemon.deliver() == [evse_id("s1")]


@pytest.mark.parametrize("statement", [OCCUPY, "UPDATE station SET city = 'Bonn' WHERE id = 's1'", "DELETE FROM station WHERE id = 's1'"])
async def test_write_under_replica_is_healed_by_the_periodic_sweep(cpo: Rig, statement: str) -> None:
    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        await write(cpo.dsn, "SET session_replication_role = replica", statement)
        assert await daemon.capture() == 0
        assert not (await enqueue.pulse(daemon.conn, ["a"])).missed
        assert await swept(daemon) == {"s1"}
        assert await daemon.deliver()


@pytest.mark.parametrize(
    "loss",
    [
        "TRUNCATE part_1",
        "ALTER TABLE parts DETACH PARTITION part_1",
        "DROP TABLE part_1",
        "ALTER TABLE parts ATTACH PARTITION more FOR VALUES IN ('s2')",
    ],
)
async def test_partition_that_comes_or_goes_as_a_whole_is_healed_by_the_periodic_sweep(cpo: Rig, loss: str) -> None:
    await cpo.sql("ALTER TABLE connector RENAME TO old_connector")
    for statement in (
        "CREATE TABLE parts (station_id text, evse_id text, type text, speed_kw numeric, status text) PARTITION BY LIST (station_id)",
        "CREATE TABLE part_1 PARTITION OF parts FOR VALUES IN ('s1')",
        "CREATE TABLE more (LIKE parts)",
        "INSERT INTO part_1 SELECT station_id, evse_id, type, speed_kw, status FROM old_connector WHERE station_id = 's1'",
        "INSERT INTO more SELECT station_id, evse_id, type, speed_kw, status FROM old_connector WHERE station_id = 's2'",
    ):
        await cpo.sql(statement)
    plain = SourceSettings()
    parts = {"table": "public.parts", "station": "station_id"}
    settings = SourceSettings.model_validate({"connectors": "SELECT * FROM public.parts", "watch": [plain.watch[0], parts]})
    async with await connect(cpo.dsn, "test") as conn:
        await triggers.attach(conn, settings.watch)
    async with hand(cpo.dsn, source=settings) as daemon:
        await quiet(daemon)
        await cpo.sql(loss)
        assert await daemon.capture() == 0
        assert await swept(daemon) == {"s2" if "ATTACH" in loss else "s1"}


# ── two at once ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def shared(either_dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """Two stations in Berlin, one in Bonn."""
    async with rig(either_dsn, tmp_path) as made:
        for statement in TABLES:
            await made.sql(statement)
        await made.build("s1", "s2", "s3")
        await made.sql("INSERT INTO stands SELECT id, CASE id WHEN 's3' THEN 2 ELSE 1 END FROM station")
        yield made


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("first", ["mover", "editor"])
async def test_station_that_moves_to_a_place_while_that_changes_gets_the_new_content(shared: Rig, level: str, first: str) -> None:
    """Both have begun before either ends, so neither sees the other; each commit is captured at once. None fails, as without triggers."""
    async with watching(shared, source()) as daemon, AsyncExitStack() as stack:
        writers = {name: await stack.enter_async_context(await psycopg.AsyncConnection.connect(shared.dsn)) for name in ("mover", "editor")}
        for writer in writers.values():
            await writer.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
            await writer.execute("SELECT 1")
        await writers["editor"].execute("""UPDATE "Place" SET "cityName" = 'Potsdam' WHERE id = 1""")
        await writers["mover"].execute("UPDATE stands SET place = 1 WHERE station = 's3'")
        await daemon.capture()
        for name in (first, *(writers.keys() - {first})):
            await writers[name].commit()
            await daemon.capture()
        assert await cities(shared) == dict.fromkeys(("s1", "s2", "s3"), "Potsdam")
        assert await swept(daemon) == frozenset()


async def test_writers_in_opposite_order_pass_a_daemon_at_work(cpo: Rig) -> None:
    """Each writer takes a connector of one station and then of the other, in one transaction, while changes are captured and delivered."""
    await cpo.sql("INSERT INTO connector (station_id, evse_id, type, speed_kw) SELECT station_id, evse_id || '*2', type, 22 FROM connector")
    rows = await cpo.sql("SELECT station_id, min(id) AS low, max(id) AS high FROM connector GROUP BY 1 ORDER BY 1")
    (one, two), rounds = rows, 40
    both_hold = asyncio.Barrier(2)

    async def writer(first: int, second: int) -> None:
        async with await psycopg.AsyncConnection.connect(cpo.dsn) as conn:
            await conn.execute("SET lock_timeout = '5s'")
            for number in range(rounds):
                for connector in (first, second):
                    status = ("Occupied", "Available")[number % 2]
                    await conn.execute("UPDATE connector SET status = %s WHERE id = %s", [status, connector])
                    await both_hold.wait()
                await conn.commit()

    async with hand(cpo.dsn) as daemon:
        await quiet(daemon)
        writers = asyncio.gather(writer(one["low"], two["low"]), writer(two["high"], one["high"]))
        while not writers.done():
            await quiet(daemon)
            await asyncio.sleep(0)
        await writers
        await quiet(daemon)
        assert await cpo.value("SELECT is_called FROM cdc_pusher.missed") is False
        assert await swept(daemon) == frozenset()
        assert await cpo.value("SELECT count(*) FROM cdc_pusher.outbox WHERE state <> 'delivered'") == 0
