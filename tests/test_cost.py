"""What a message costs, counted instead of timed: a regression fails on any machine.

Bounds are at most a quarter above what was counted when they were set (docs/performance.md).
"""

import gc
import re
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hand import Hand, hand
from psycopg import sql
from rig import Rig, rig, until

from cdc_pusher import capture, claims, enqueue
from cdc_pusher.claims import Result

STATIONS, EVSES = 60, 4
MESSAGES = STATIONS * EVSES
OURS = "('change', 'outbox', 'evse')"
CHANGE_ALL = "UPDATE connector SET status = CASE status WHEN 'Occupied' THEN 'Available' ELSE 'Occupied' END"
READ = f"""SELECT sum(seq_tup_read)::float8 AS scanned, sum(idx_tup_fetch)::float8 AS fetched,
        sum(n_tup_ins + n_tup_upd + n_tup_del)::float8 AS written
    FROM pg_stat_user_tables WHERE schemaname = 'cdc_pusher' AND relname IN {OURS}"""
GONE = (
    "SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'cdc-pusher %%')"
)
SCANS_OF_EMPS = "SELECT seq_scan FROM pg_stat_user_tables WHERE schemaname = 'cdc_pusher' AND relname = 'emp'"
LOG = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"


@pytest.fixture
async def cpo(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(dsn, tmp_path) as made:
        await made.build(*(f"s{n}" for n in range(STATIONS)), evses=EVSES)
        yield made


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """As many entries as statements were sent, those that begin and end transactions left out."""
    sent: list[int] = []
    execute = psycopg.AsyncConnection.execute

    async def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(1)
        return await execute(self, *arguments, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", counted)
    return sent


@contextmanager
def counting(statements: list[int], most: int) -> Iterator[None]:
    statements.clear()
    yield
    assert len(statements) <= most


async def loaded(daemon: Hand) -> None:
    await daemon.capture()
    await daemon.deliver()


async def read(cpo: Rig) -> dict[str, float]:
    """Rows of our tables, counted since the beginning; a session adds its own when it has ended, or is told to."""
    await cpo.sql("SELECT pg_stat_force_next_flush()")
    await until(lambda: cpo.sql(GONE), "our sessions have ended")
    return (await cpo.sql(READ))[0]


async def round_trip(daemon: Hand, statements: list[int]) -> int:
    """Everything from a change to its acknowledgement, with the statements of each step; returns the number of messages."""
    with counting(statements, 9):
        await capture.batch(daemon.conn, daemon.source, capture.receivers(daemon.settings), 1000)
    with counting(statements, 2):
        async with daemon.conn.transaction():
            await claims.lock_emp(daemon.conn, "a")
            claimed = await claims.claim(daemon.conn, "a", limit=1000, lease_s=60.0, quiet_s=0.0)
    with counting(statements, 2):
        async with daemon.conn.transaction():
            await claims.lock_emp(daemon.conn, "a")
            await claims.record(daemon.conn, "a", [Result(claim=claim, outcome="accepted") for claim in claimed], quiet_s=0.0)
    return len(claimed)


NAMED = re.compile(rb"%\((\w+)\)s")


def names(query: bytes) -> list[bytes]:
    """The parameters of a query, in the order in which they come first."""
    return list(dict.fromkeys(NAMED.findall(query)))


def place(query: bytes, name: bytes) -> int:
    return names(query).index(name) + 1


def rows_of(step: dict[str, Any]) -> float:
    """Rows that this step of a plan and those below it have produced or thrown away."""
    thrown = sum(number for what, number in step.items() if what.startswith("Rows Removed"))
    return float((step["Actual Rows"] + thrown) * step["Actual Loops"] + sum(rows_of(below) for below in step.get("Plans", ())))


async def test_one_change_and_many_take_as_many_statements(cpo: Rig, statements: list[int]) -> None:
    async with hand(cpo.dsn) as daemon:
        await loaded(daemon)
        await cpo.set_status("s1", "Occupied")
        assert await round_trip(daemon, statements) == 1
        await cpo.sql("UPDATE connector SET status = 'Reserved'")
        assert await round_trip(daemon, statements) == MESSAGES


async def test_changes_of_one_station_are_captured_in_one_reading(cpo: Rig) -> None:
    """However far apart they stand in the log."""
    async with hand(cpo.dsn) as daemon:
        await loaded(daemon)
        for n in range(EVSES):
            await cpo.sql("UPDATE connector SET status = 'Reserved' WHERE right(evse_id, 1) = %(n)s", n=str(n + 1))
        receivers = capture.receivers(daemon.settings)
        captured = [(await capture.batch(daemon.conn, daemon.source, receivers, STATIONS // 3)).changes for _ in range(4)]
        assert captured == [MESSAGES // 3] * 3 + [0]


async def test_message_of_a_storm_reads_and_writes_few_rows_and_little_log(cpo: Rig, statements: list[int]) -> None:
    async with hand(cpo.dsn) as daemon:
        await loaded(daemon)
    before, scans_before = await read(cpo), await cpo.value(SCANS_OF_EMPS)
    log_before = await cpo.value(LOG)
    async with hand(cpo.dsn) as daemon:
        await cpo.sql(CHANGE_ALL)
        assert await round_trip(daemon, statements) == MESSAGES
    log = float(await cpo.value(LOG) - log_before) / MESSAGES
    after = await read(cpo)
    cost = {what: (after[what] - before[what]) / MESSAGES for what in after}
    print(cost, f"{log:.0f} bytes of WAL")  # noqa: T201  # for whoever changes the bounds
    assert cost["scanned"] == 0
    assert cost["fetched"] <= 20
    assert cost["written"] <= 5  # of which the trigger writes one
    assert log <= 2500
    assert await cpo.value(SCANS_OF_EMPS) - scans_before <= 5, "whatever the number of messages"


async def test_accepted_stations_are_not_compared_each_with_every_other(cpo: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a walk: rows that a step of a plan has produced or thrown away, for each message, planned with the values and without."""
    handled: dict[str, float] = {}
    execute = psycopg.AsyncConnection.execute

    async def explained(self: Any, query: Any, values: Any = None, **options: Any) -> Any:
        if isinstance(query, bytes) and re.search(rb"(INTO|UPDATE) cdc_pusher\.evse", query):
            for mode in ("force_custom_plan", "force_generic_plan"):
                async with self.transaction(force_rollback=True):
                    await execute(self, f"SET LOCAL plan_cache_mode = {mode}")
                    await execute(self, b"PREPARE explained AS " + NAMED.sub(lambda found: b"$%d" % place(query, found[1]), query))
                    said = sql.SQL(", ").join(sql.Literal(values[name.decode()]) for name in names(query))
                    plan = sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE explained ({})").format(said)
                    step = (await (await execute(self, plan)).fetchall())[0]["QUERY PLAN"][0]["Plan"]
                    await execute(self, "DEALLOCATE explained")
                what = f"{mode}: {query.decode()}"
                handled[what] = max(handled.get(what, 0.0), rows_of(step) / MESSAGES)
        return await execute(self, query, values, **options)

    async with hand(cpo.dsn) as daemon:
        await loaded(daemon)
        await cpo.sql("ANALYZE cdc_pusher.outbox, cdc_pusher.evse")
        await enqueue.resync(daemon.conn, ["a"], [f"s{n}" for n in range(STATIONS)], "everything")
        await daemon.capture()
        monkeypatch.setattr(psycopg.AsyncConnection, "execute", explained)
        await daemon.deliver()
    assert len(handled) == 6, "exposed, doubted, settled"
    print(sorted(handled.values()))  # noqa: T201  # for whoever changes the bounds
    assert max(handled.values()) <= 2.5, max(handled, key=lambda query: handled[query])


async def test_batch_needs_little_memory_and_keeps_none(cpo: Rig, statements: list[int]) -> None:
    async with hand(cpo.dsn) as daemon:
        await loaded(daemon)
        for _ in range(8):  # what is imported, prepared and kept once is there after that
            await cpo.sql(CHANGE_ALL)
            await round_trip(daemon, statements)
        await cpo.sql(CHANGE_ALL)
        gc.collect()
        tracemalloc.start()
        try:
            assert await round_trip(daemon, statements) == MESSAGES
            most = tracemalloc.get_traced_memory()[1] / MESSAGES
            gc.collect()
            kept = tracemalloc.get_traced_memory()[0] / MESSAGES
        finally:
            tracemalloc.stop()
    print(f"{most:.0f} bytes a message at most, {kept:.0f} kept")  # noqa: T201  # for whoever changes the bounds
    assert most <= 5_000
    assert kept <= 50


async def test_trigger_writes_one_row_and_little_log(cpo: Rig) -> None:
    """In the CPO's own transaction, beside what its UPDATE writes."""
    logs = []
    for state in ("DISABLE", "ENABLE"):
        await cpo.sql(f"ALTER TABLE connector {state} TRIGGER USER")
        await cpo.sql("CHECKPOINT")
        for _ in range(2):  # the first one writes whole pages
            await cpo.sql("DELETE FROM cdc_pusher.change")
            before = await cpo.value(LOG)
            await cpo.sql(CHANGE_ALL)
            log = float(await cpo.value(LOG) - before) / MESSAGES
        logs.append(log)
    assert await cpo.value("SELECT count(*) FROM cdc_pusher.change") == MESSAGES
    more = logs[1] - logs[0]
    print(f"{more:.0f} bytes of WAL more than {logs[0]:.0f}")  # noqa: T201  # for whoever changes the bounds
    assert more <= 200
