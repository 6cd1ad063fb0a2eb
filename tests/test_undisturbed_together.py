"""What happens when many write at once, or at the wrong time: the CPO's transactions end as they would without us."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from cpo_side import CHARGE, CONNECTOR, STATION, TABLES, Cpo, attach, run
from psycopg import sql

from cdc_pusher import migrate, triggers
from cdc_pusher.config import Watch
from cdc_pusher.database import connect
from cdc_pusher.embedded import EmbeddedPostgres

PLACE = Watch(table="public.place", station="SELECT s.id FROM public.station AS s WHERE s.name = place.name")


@contextlib.contextmanager
def threads(*work: Callable[[], None]) -> Iterator[list[Exception]]:
    """Run all of this beside the block; its failures are in the list after the block."""
    failures: list[Exception] = []

    def guarded(one: Callable[[], None]) -> None:
        try:
            one()
        except Exception as error:
            failures.append(error)

    running = [threading.Thread(target=guarded, args=[one]) for one in work]
    for thread in running:
        thread.start()
    try:
        yield failures
    finally:
        for thread in running:
            thread.join(60)


async def test_writers_of_two_stations_in_opposite_order_do_not_deadlock(cpo: Cpo) -> None:
    """Each holds a connector of one station and then takes one of the other; the rows are different, so nothing but us could tie them."""
    cpo.run("INSERT INTO connector VALUES (4, 'b', '')")
    both_hold = threading.Barrier(2, timeout=30)

    def writer(first: int, second: int) -> None:
        for _ in range(20):
            with psycopg.connect(cpo.dsn) as conn:
                conn.execute("UPDATE connector SET seen_at = now(), status = status || 'x' WHERE id = %s", [first])
                both_hold.wait()
                conn.execute("UPDATE connector SET seen_at = now(), status = status || 'x' WHERE id = %s", [second])

    with threads(lambda: writer(1, 4), lambda: writer(3, 2)) as failures:
        pass
    assert failures == []
    assert cpo.missed() == 0
    assert sorted(set(map(str, cpo.recorded()))) == ["a", "b"]


async def test_writers_and_the_consumer_of_the_log_do_not_wait_for_each_other(cpo: Cpo) -> None:
    with psycopg.connect(cpo.dsn) as capture:
        cpo.run(CHARGE)
        capture.execute("DELETE FROM cdc_pusher.change")
        cpo.run("SET lock_timeout = '100ms'", "UPDATE connector SET status = 'x' WHERE id = 1", "TRUNCATE connector")
    assert (cpo.recorded(), cpo.missed()) == (["a", None], 0)


@pytest.mark.parametrize("level", ["SERIALIZABLE", "REPEATABLE READ"])
async def test_serializable_transactions_commit_as_without_us(bare: Cpo, level: str) -> None:
    """Each changes a place and a station of its own. A sub-select in the trigger would make each read what the other writes."""
    bare.run("CREATE TABLE place (id int PRIMARY KEY, name text, note text)", "INSERT INTO place VALUES (1, 'A', ''), (2, 'B', '')")
    bare.run("INSERT INTO station SELECT 'x' || n, 'x' || n FROM generate_series(1, 2000) AS n", "ANALYZE")

    def both(value: str) -> None:
        with psycopg.connect(bare.dsn) as one, psycopg.connect(bare.dsn) as two:
            for conn in (one, two):
                conn.execute(f"SET TRANSACTION ISOLATION LEVEL {level}".encode())
                conn.execute("SET LOCAL enable_seqscan = off")  # else they read each other's rows themselves
            for conn, number, station in ((one, 1, "a"), (two, 2, "b")):
                conn.execute("UPDATE place SET note = %s WHERE id = %s", [value, number])
                conn.execute("UPDATE station SET name = %s WHERE id = %s", [value, station])
            one.commit()
            two.commit()

    both("without")
    await attach(bare.dsn, STATION, CONNECTOR, PLACE)
    both("with")
    assert bare.missed() == 0
    assert len(bare.noted(PLACE)) == 2
    assert sorted(map(str, bare.recorded())) == ["a", "b"]


@pytest.mark.parametrize("filled", [False, True])
async def test_partition_that_is_attached_later_is_watched(bare: Cpo, filled: bool) -> None:
    bare.run(
        "CREATE TABLE event (station_id text, n int) PARTITION BY LIST (n)", "CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1)"
    )
    watch = Watch(table="public.event", columns=("station_id", "n"), station="station_id")
    await attach(bare.dsn, watch)
    bare.run("CREATE TABLE event_2 (station_id text, n int)")
    if filled:
        bare.run("INSERT INTO event_2 VALUES ('b', 2)")
    bare.run("ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES IN (2)")
    bare.run(
        "INSERT INTO event_2 VALUES ('c', 2)", "UPDATE event SET station_id = 'd' WHERE station_id = 'c'", "DELETE FROM event WHERE n = 2"
    )
    assert bare.recorded() == ["c", "c", "d", *(["b"] if filled else []), "d"]
    bare.run("ALTER TABLE event DETACH PARTITION event_2", "INSERT INTO event_2 VALUES ('e', 2)")
    assert (bare.recorded(), bare.missed()) == ([], 0)
    assert await attach(bare.dsn, watch) == []


async def test_results_and_tags_of_statements_are_the_same(bare: Cpo) -> None:
    statements = (
        "UPDATE connector SET status = 'Occupied' WHERE station_id = 'a' RETURNING id, status",
        "INSERT INTO connector VALUES (9, 'b') ON CONFLICT DO NOTHING",
        "INSERT INTO connector VALUES (9, 'b') ON CONFLICT DO NOTHING",
        "DELETE FROM connector WHERE id = 9 RETURNING station_id",
        "WITH gone AS (DELETE FROM connector WHERE id = 3 RETURNING *) INSERT INTO connector SELECT id, 'a' FROM gone RETURNING station_id",
    )

    def results() -> list[object]:
        found: list[object] = []
        with psycopg.connect(bare.dsn) as conn:
            for statement in statements:
                cursor = conn.execute(statement.encode())
                found.append((cursor.statusmessage, cursor.rowcount, cursor.fetchall() if cursor.description else None))
            conn.rollback()
        return found

    before = results()
    await attach(bare.dsn, STATION, CONNECTOR)
    assert results() == before


async def test_deferred_constraint_still_fails_at_commit_and_records_nothing(cpo: Cpo) -> None:
    cpo.run("ALTER TABLE connector ADD FOREIGN KEY (station_id) REFERENCES station DEFERRABLE INITIALLY DEFERRED")
    cpo.run("ALTER TABLE connector DROP CONSTRAINT connector_station_id_fkey")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        cpo.run("INSERT INTO connector VALUES (7, 'nowhere')")
    assert (cpo.recorded(), cpo.missed()) == ([], 0)


async def test_statement_that_has_time_enough_ends_in_time_while_our_tables_are_locked(cpo: Cpo) -> None:
    cpo.run("INSERT INTO connector SELECT n, 'a' FROM generate_series(10, 509) AS n")
    with psycopg.connect(cpo.dsn) as locker:
        locker.execute("LOCK TABLE cdc_pusher.change, cdc_pusher.outbox, cdc_pusher.emp IN ACCESS EXCLUSIVE MODE")
        cpo.run("SET statement_timeout = '2s'", "UPDATE connector SET status = 'x'", "RESET statement_timeout")
    assert cpo.missed() >= 500, "one wait of 10 ms, then everything is counted"


async def test_session_that_sets_our_variable_to_nonsense_is_only_counted(cpo: Cpo) -> None:
    cpo.run("SET cdc_pusher.locked = 'yes'", CHARGE, "SET cdc_pusher.locked = 'nonsense'", "UPDATE connector SET status = 'y' WHERE id = 3")
    assert (cpo.recorded(), cpo.missed()) == (["b"], 1)


# ── the notification queue ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def small_queue() -> Iterator[str]:
    """A server with the smallest queue that there can be, 512 kB."""
    with EmbeddedPostgres(settings={"fsync": "off", "max_notify_queue_pages": "64"}) as server:
        run(server.dsn(), TABLES)
        migrate.to(server.dsn())
        asyncio.run(attach(server.dsn(), STATION, CONNECTOR))
        run(server.dsn(), "SELECT setval('cdc_pusher.asleep', 2)")
        yield server.dsn()


def test_full_notification_queue_does_not_reach_the_cpo(small_queue: str) -> None:
    """A listener in a transaction keeps the queue from being cleaned; then a transaction that has notified cannot be committed."""
    with contextlib.closing(Cpo(small_queue)) as cpo, psycopg.connect(small_queue, autocommit=True) as listener:
        listener.execute("LISTEN other")
        listener.execute("BEGIN")
        listener.execute("SELECT 1")
        flood = (f"SELECT pg_notify('other', repeat('x', 7000) || {number})" for number in range(1000))
        with pytest.raises(psycopg.errors.ProgramLimitExceeded):
            cpo.run(*flood)
        assert cpo.value("SELECT pg_notification_queue_usage() > 0.5")
        cpo.run(CHARGE, "TRUNCATE connector")
        assert (cpo.recorded(), cpo.missed()) == (["a", None], 0), "recorded, and found by the poll"


# ── attaching ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("action", ["attach", "detach"])
async def test_traffic_goes_on_while_triggers_come_and_go(bare: Cpo, action: str) -> None:
    """Four writers and a reader without a pause; none fails, none waits longer than our time-out, as far as a busy machine can tell."""
    if action == "detach":
        await attach(bare.dsn, CONNECTOR)
    bare.run("INSERT INTO connector SELECT n, 'a' FROM generate_series(10, 99) AS n")
    stop, longest = threading.Event(), [0.0]

    def traffic(statement: str) -> None:
        with psycopg.connect(bare.dsn, autocommit=True) as conn:
            while not stop.is_set():
                began = time.monotonic()
                conn.execute(statement.encode())
                longest[0] = max(longest[0], time.monotonic() - began)

    writes = [f"UPDATE connector SET status = random()::text WHERE id % 4 = {n}" for n in range(4)]
    with threads(*(lambda s=statement: traffic(s) for statement in (*writes, "SELECT count(*) FROM connector"))) as failures:
        try:
            for _ in range(3):
                await (attach(bare.dsn, CONNECTOR) if action == "attach" else attach(bare.dsn))
                await (attach(bare.dsn) if action == "attach" else attach(bare.dsn, CONNECTOR))
        finally:
            stop.set()
    assert failures == []
    assert longest[0] < 2.0


async def test_nobody_queues_behind_us_while_a_long_transaction_holds_the_table(bare: Cpo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "LOCK_PAUSE_S", 0.01)
    waited: list[float] = []
    with psycopg.connect(bare.dsn) as long:
        long.execute("LOCK TABLE connector IN ROW EXCLUSIVE MODE")
        async with await connect(bare.dsn, "test") as conn:
            attaching = asyncio.create_task(triggers.attach(conn, [CONNECTOR]))
            for _ in range(50):
                began = time.monotonic()
                await asyncio.to_thread(bare.run, CHARGE)
                waited.append(time.monotonic() - began)
            attaching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await attaching
    assert sorted(waited)[len(waited) // 2] < 0.2


async def test_lock_is_asked_for_briefly(bare: Cpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server is asked for, whatever this machine makes of it."""
    monkeypatch.setattr(triggers, "LOCK_TRIES", 4)
    monkeypatch.setattr(triggers, "LOCK_PAUSE_S", 0.0)
    seen: list[str] = []
    async with await connect(bare.dsn, "test") as conn:
        execute = conn.execute

        async def watched(query: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(query, sql.Composed) and (text := query.as_string()).startswith("SET LOCAL lock_timeout"):
                seen.append(text.partition(";")[0])
            return await execute(query, *args, **kwargs)

        monkeypatch.setattr(conn, "execute", watched)
        with psycopg.connect(bare.dsn) as writer:
            writer.execute(CHARGE.encode())
            with pytest.raises(Exception, match="its lock was not to be had in 4 tries"):
                await triggers.attach(conn, [CONNECTOR])
    assert seen == [f"SET LOCAL lock_timeout = '{ms}ms'" for ms in (1, 1, triggers.LOCK_TIMEOUT_MS, triggers.LOCK_TIMEOUT_MS)]
    assert triggers.LOCK_TIMEOUT_MS <= 20


def test_event_trigger_of_the_cpo_that_forbids_ddl_is_one_line(bare: Cpo) -> None:
    bare.run(
        "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no DDL today''; END'",
        "CREATE EVENT TRIGGER forbid ON ddl_command_start EXECUTE FUNCTION forbid()",
    )
    try:
        with pytest.raises(psycopg.errors.RaiseException, match="no DDL today"):
            asyncio.run(attach(bare.dsn, CONNECTOR))
    finally:
        bare.run("DROP EVENT TRIGGER forbid")
