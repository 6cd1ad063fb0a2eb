"""Attaching and detaching wait for the CPO, who does not wait for them: what the server says of locks while statements go on."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest
from cpo_side import CHARGE, Cpo, attach, verify
from rig import until

from cdc_pusher import triggers
from cdc_pusher.config import Watch
from cdc_pusher.database import Connection, connect

PLUG = Watch(table="public.plug", columns=("station_id", "status"), station="station_id")
PLAIN = "CREATE TABLE plug (id int, station_id text, status text)"
PARTITIONED = (
    "CREATE TABLE plug (id int, station_id text, status text) PARTITION BY RANGE (id)",
    *(f"CREATE TABLE plug_{n} PARTITION OF plug FOR VALUES FROM ({n * 100}) TO ({n * 100 + 100})" for n in range(4)),
)
# How long we have waited for a lock so far, in seconds.
WAITS = """
SELECT max(extract(epoch FROM clock_timestamp() - waitstart))::float8
FROM pg_locks
WHERE pid = %s
  AND NOT granted
"""
# The locks on the table that we hold and that are more than a reader's.
HELD = "SELECT count(*) FROM pg_locks WHERE pid = %s AND granted AND relation::regclass::text ~ '^plug' AND mode <> 'AccessShareLock'"


@dataclass(slots=True)
class Traffic:
    """Statements of the CPO, one after the other on each of some connections, until the end of the block."""

    longest_s: float = 0.0
    statements: int = 0
    failures: list[Exception] = field(default_factory=list)

    def work(self, dsn: str, statement: str, stop: threading.Event) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as conn:
                while not stop.is_set():
                    began = time.monotonic()
                    conn.execute(statement.encode())
                    self.longest_s = max(self.longest_s, time.monotonic() - began)
                    self.statements += 1
        except Exception as error:
            self.failures.append(error)


@contextlib.contextmanager
def traffic(dsn: str, *statements: str) -> Iterator[Traffic]:
    made, stop = Traffic(), threading.Event()
    running = [threading.Thread(target=made.work, args=(dsn, statement, stop)) for statement in statements]
    for thread in running:
        thread.start()
    try:
        yield made
    finally:
        stop.set()
        for thread in running:
            thread.join(60)


MISSING = ", ".join(f"{PLUG.name}_{kind}" for kind in ("row", "truncate"))
WRITERS = tuple(f"UPDATE plug SET status = random()::text WHERE id / 100 = {n}" for n in range(3))
READER = "SELECT count(*) FROM plug"


@pytest.fixture(params=["plain", "partitioned"])
def plugs(bare: Cpo, request: pytest.FixtureRequest) -> Cpo:
    bare.run(*((PLAIN,) if request.param == "plain" else PARTITIONED))
    bare.run("INSERT INTO plug SELECT n, 'a' FROM generate_series(0, 399, 10) AS n")
    return bare


@pytest.fixture
async def conn(plugs: Cpo) -> AsyncIterator[Connection]:
    async with await connect(plugs.dsn, "test") as made:
        yield made


async def attaching(conn: Connection) -> object:
    return await triggers.attach(conn, [PLUG])


async def detaching(conn: Connection) -> object:
    return await triggers.attach(conn, [])


@pytest.mark.parametrize("change", [attaching, detaching])
async def test_no_table_is_locked_while_the_server_waits_for_our_next_statement(
    plugs: Cpo, conn: Connection, change: Callable[[Connection], Coroutine[Any, Any, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is stopped there, or a network that is cut, would stop the CPO."""
    if change is detaching:
        await attaching(conn)
    execute, held = conn.execute, []

    async def looked_after(query: Any, *args: Any, **kwargs: Any) -> Any:
        result = await execute(query, *args, **kwargs)
        with psycopg.connect(plugs.dsn) as observer:
            held.extend(observer.execute(HELD.encode(), [conn.info.backend_pid]).fetchall())
        return result

    monkeypatch.setattr(conn, "execute", looked_after)
    assert await change(conn)
    assert held
    assert set(held) == {(0,)}


@pytest.mark.parametrize(
    ("change", "long_transaction"),
    [
        (attaching, "UPDATE plug SET status = 'long' WHERE id = 390"),
        (attaching, "LOCK TABLE plug IN ROW EXCLUSIVE MODE"),
        (detaching, "SELECT FROM plug WHERE id = 390"),
        (detaching, "UPDATE plug SET status = 'long' WHERE id = 390"),
    ],
)
async def test_nobody_queues_behind_us_while_a_long_transaction_holds_the_table(
    plugs: Cpo,
    conn: Connection,
    change: Callable[[Connection], Coroutine[Any, Any, object]],
    long_transaction: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """We go on trying, first for a millisecond, then for longer, and have the lock as soon as the long transaction has ended."""
    monkeypatch.setattr(triggers, "LOCK_PAUSE_S", 0.001)
    monkeypatch.setattr(triggers, "LOCK_TRIES", 800)
    if change is detaching:
        await attaching(conn)
    waits = [0.0]
    with psycopg.connect(plugs.dsn) as long, psycopg.connect(plugs.dsn, autocommit=True) as observer:
        long.execute(long_transaction.encode())

        def seen_waiting() -> bool:
            ((waited,),) = observer.execute(WAITS.encode(), [conn.info.backend_pid]).fetchall()
            waits.append(waited or 0.0)
            return max(waits) * 1000 > triggers.LOCK_TIMEOUT_MS / 3

        with traffic(plugs.dsn, *WRITERS, READER) as cpo:
            changing = asyncio.create_task(change(conn))
            await until(seen_waiting, "we have waited for longer than the first tries do")
            done_by_then = cpo.statements
            await until(lambda: seen_waiting() and cpo.statements > done_by_then + 100, "a hundred more statements")
            assert not changing.done()
            long.commit()
            assert await changing
            await until(lambda: cpo.statements > done_by_then + 200, "the traffic goes on afterwards")
    assert cpo.failures == []
    assert cpo.longest_s < 1.0
    assert max(waits) < triggers.LOCK_TIMEOUT_MS / 1000 + 0.2
    assert await verify(plugs.dsn, PLUG) == ([] if change is attaching else [f"public.plug: trigger {MISSING} is missing"])


async def test_triggers_come_and_go_in_full_traffic(plugs: Cpo) -> None:
    with traffic(plugs.dsn, *WRITERS, READER) as cpo:
        for _ in range(3):
            assert await attach(plugs.dsn, PLUG) == ["attached to public.plug"]
            assert await attach(plugs.dsn) == ["detached from public.plug"]
    assert cpo.failures == []
    assert cpo.longest_s < 1.0
    assert cpo.statements > 0
    assert plugs.missed() == 0


async def test_attaching_that_gives_up_leaves_nothing_behind(plugs: Cpo, conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "LOCK_TRIES", 2)
    monkeypatch.setattr(triggers, "LOCK_PAUSE_S", 0.0)
    with psycopg.connect(plugs.dsn) as long:
        long.execute("UPDATE plug SET status = 'long' WHERE id = 390")
        with pytest.raises(Exception, match=r"public\.plug: its lock was not to be had in 2 tries"):
            await attaching(conn)
        plugs.run("SET lock_timeout = '100ms'", "UPDATE plug SET status = 'x' WHERE id < 390", "SELECT FROM plug", CHARGE)
        assert plugs.value("SELECT count(*) FROM pg_proc WHERE proname LIKE 'cdc\\_pusher\\_%'") == 0
    assert (plugs.recorded(), plugs.missed()) == ([], 0)
