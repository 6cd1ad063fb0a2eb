"""The kinds of faults. A strike is one fault: it breaks something, mends it again, and says what it was (None: it did not come to it)."""

import asyncio
import functools
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from rig import until

from cdc_pusher import enqueue
from cdc_pusher.database import connect
from faults.points import CAPTURE, DELIVERY, LEASES, WALKS, Do, armed
from faults.stage import Needs, Stage

Strike = Callable[[Stage], Awaitable[str | None]]

TOGETHER = {"alpha": "send", "beta": "hold", "gamma": "replace"}
OURS = "datname = current_database() AND application_name LIKE 'cdc-pusher %%'"
OLDEST_S = """
SELECT coalesce(extract(epoch FROM max(clock_timestamp() - changed_at))::float, 0)
FROM cdc_pusher.outbox
WHERE emp = %(emp)s
  AND state IN ('pending', 'in_flight')
  AND next_attempt_at IS NOT NULL
  AND reason IS NULL
"""
NOT_REACHED_S = 6.0
BESIDE_S = 4.0  # beside an EMP that hangs; on a busy machine a change takes a second
EMP_FAULTS: Sequence[dict[str, Any]] = (
    {"kind": "delay", "seconds": [0, 0.4]},
    {"kind": "http", "status": 500},
    {"kind": "http", "status": 503, "retry_after": 1},
    {"kind": "http", "status": 429, "retry_after": 0},
    {"kind": "code", "code": 300},
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "garbage"},
    {"kind": "hang"},
    {"kind": "hang", "applied": True},
)
LATE = {"kind": "late", "seconds": [0.1, 0.35]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """`strikes`: one after the other in a run, with so much time between two of them (`every_s`: from, to).

    `cuts_cpo`: the CPO's own sessions break, too. `goes_back`: the CPO's database does. `disorders`: the EMP does not know what it was
    told, or learns of it late, and refuses what it would have taken. `is_sure`: it is always sure what became of a request, so nothing is
    ever to be sent twice.
    """

    name: str
    strikes: Sequence[Strike]
    needs: Needs = field(default_factory=Needs)
    cuts_cpo: bool = False
    goes_back: bool = False
    disorders: bool = False
    is_sure: bool = False
    every_s: tuple[float, float] = (0.3, 2.0)


# ── from within ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def at(point: str, do: Do) -> Strike:
    """A daemon is struck at this place; another one, if there is one, goes on."""

    async def strike(stage: Stage) -> str | None:
        for daemon in stage.daemons:
            await daemon.stop()
        others, stage.daemons = len(stage.daemons) - 1, []
        told = stage.directory / "struck"
        told.unlink(missing_ok=True)
        daemon = stage.start(armed(point, stage.chance.choice((1, 1, 2, 4)), do, told, cut=stage.database.port, program=stage.checkout))
        await until(lambda: told.exists() or '"event": "ready"' in daemon.said, "the daemon is ready, with all leases")
        for _ in range(others):
            stage.start()
        if point in WALKS:
            await resync(stage)
        with suppress(AssertionError):
            await until(told.exists, "the place is reached", NOT_REACHED_S)
        if do == "kill":
            await daemon.kill()
            await leases_run_out(stage)
        elif not told.exists():
            await daemon.kill()  # before it comes to the place after all
        elif do == "stop":
            await asyncio.sleep(stage.chance.choice((0.3, 3.0, 9.0)))
            daemon.send_signal(signal.SIGCONT)
        stage.revive()
        return f"{do} when {point}" if told.exists() else None

    return strike


async def resync(stage: Stage) -> None:
    """All stations are gone through."""
    async with await connect(stage.dsn, "faults") as conn:
        known = [row["name"] async for row in await conn.execute("SELECT name FROM cdc_pusher.emp")]
        await enqueue.resync(conn, known, None, "undelivered")


async def leases_run_out(stage: Stage) -> None:
    """At once, if nobody lives who could hold one; claims take their time."""
    if all(daemon.exit_code is not None for daemon in stage.daemons):
        await stage.rig.sql("UPDATE cdc_pusher.lease SET expires_at = clock_timestamp()")


# ── the process ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def killed(stage: Stage) -> str | None:
    """SIGKILL, at any moment."""
    await stage.chance.choice(stage.daemons).kill()
    await leases_run_out(stage)
    stage.revive()
    return "SIGKILL"


async def ended(stage: Stage) -> str | None:
    """SIGTERM: everything that is under way is finished."""
    took_s = await stage.chance.choice(stage.daemons).stop()
    assert took_s < 10, f"SIGTERM took {took_s:.1f} s"
    stage.revive()
    return "SIGTERM"


async def paused(stage: Stage) -> str | None:
    """SIGSTOP, and SIGCONT when others have taken over, or not yet."""
    daemon = stage.chance.choice(stage.daemons)
    daemon.send_signal(signal.SIGSTOP)
    await asyncio.sleep(stage.chance.choice((0.5, 3.0, 9.0, 12.0)))
    daemon.send_signal(signal.SIGCONT)
    return "SIGSTOP, SIGCONT"


# ── the database ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def sessions_ended(stage: Stage) -> str | None:
    """The database ends sessions of the daemons."""
    share = stage.chance.choice((0.3, 1.0))
    await stage.rig.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS} AND random() < %(share)s", share=share)
    return "sessions terminated"


async def server_crashed(stage: Stage) -> str | None:
    """Immediate shutdown, and crash recovery."""
    async with stage.without_server():
        await asyncio.sleep(stage.chance.choice((0.0, 2.0)))
    return "immediate shutdown"


async def disk_full(stage: Stage) -> str | None:
    """No byte is left on the server's disk, for three seconds."""
    directory = Path(stage.server.host)
    filling = directory.parent / "filling"
    with suppress(OSError), filling.open("wb", buffering=0) as file:  # no space left
        while file.write(bytes(1 << 16)):
            pass
    await asyncio.sleep(3.0)
    filling.unlink()
    try:
        await stage.rig.sql("CHECKPOINT")
    except psycopg.OperationalError:  # it has crashed: no space for its log
        async with stage.without_server():
            pass
    await stage.rig.connect_again()
    return "disk full"


async def database_unreachable(stage: Stage) -> str | None:
    """Nothing arrives, and no connection ends."""
    stage.database.cut()
    await asyncio.sleep(stage.chance.choice((1.0, 4.0, 9.0)))
    stage.database.mend()
    return "database cut off"


async def database_far(stage: Stage) -> str | None:
    """Every packet takes long, and some are lost and sent again."""
    stage.database.delay_s = functools.partial(_weather, stage)
    await asyncio.sleep(4.0)
    stage.database.delay_s = None
    return "database far away"


async def tables_locked(stage: Stage) -> str | None:
    """Somebody rewrites our tables (VACUUM FULL, say) and holds the locks for a while."""
    async with await psycopg.AsyncConnection.connect(stage.dsn) as conn:
        table = stage.chance.choice(("change", "outbox", "emp", "missed"))
        await conn.execute(f"LOCK TABLE cdc_pusher.{table} IN ACCESS EXCLUSIVE MODE" if table != "missed" else LOCK_MISSED)
        await asyncio.sleep(stage.chance.choice((0.5, 2.0)))
        await conn.rollback()
    return "our tables locked"


LOCK_MISSED = "ALTER SEQUENCE cdc_pusher.missed CACHE 1"


async def queue_full(stage: Stage) -> str | None:
    """The queue of notifications fills up, since somebody who listens does not read.

    A transaction that had notified when the queue was not half full must have ended before it is full: Postgres would refuse its commit.
    """
    async with (
        await psycopg.AsyncConnection.connect(stage.dsn) as deaf,
        await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True) as loud,
    ):
        await deaf.execute("LISTEN elsewhere")
        await deaf.commit()
        await deaf.execute("SELECT 1")  # a transaction that stays open
        for enough in (0.55, 1.0):
            with suppress(psycopg.OperationalError):  # too many notifications
                while await _usage(loud) < enough:
                    await loud.execute("SELECT pg_notify('elsewhere', repeat('x', 7900) || n) FROM generate_series(1, 2) AS n")
            await asyncio.sleep(3.0)
    return "notifications full"


async def _usage(conn: psycopg.AsyncConnection[Any]) -> float:
    row = await (await conn.execute("SELECT pg_notification_queue_usage()")).fetchone()
    return float(row[0]) if row else 0.0


async def clock_set(stage: Stage) -> str | None:
    """The clock of the database's machine is set: ahead by half a minute or an hour, or back by a little.

    Back by an hour, Postgres' own time-outs would not strike for an hour, those of the CPO's locks neither.
    """
    assert stage.clock is not None
    offset_s = float(stage.clock.read_text()) + stage.chance.choice((30.0, 3600.0, -2.0))
    stage.clock.write_text(f"{offset_s:+.0f}")
    await asyncio.sleep(4.0)
    return "clock set"


async def restored(stage: Stage) -> str | None:
    """A dump is put back: the database is as it was some seconds ago, the EMP is not."""
    binaries, dump = stage.server.bin, stage.directory / "dump"
    await _run(str(binaries / "pg_dump"), "-Fc", "-f", str(dump), stage.dsn)
    await stage.pause(2.0, 4.0)
    async with await psycopg.AsyncConnection.connect(stage.server.dsn("template1"), autocommit=True) as conn:
        await conn.execute("CREATE DATABASE restored")
        await _run(str(binaries / "pg_restore"), "-d", stage.server.dsn("restored"), "--single-transaction", str(dump))
        await conn.execute("DROP DATABASE postgres WITH (FORCE)")
        await conn.execute("ALTER DATABASE restored RENAME TO postgres")
    await stage.rig.connect_again()
    return "dump restored"


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0, command


# ── the EMP ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def emp_fault(fault: dict[str, Any]) -> Strike:
    """For two seconds, every third request meets this."""

    async def strike(stage: Stage) -> str | None:
        emp = stage.emps[stage.chance.choice(sorted(stage.emps))]
        emp.set_faults([{**fault, "probability": 0.3}], seed=stage.chance.randrange(1 << 30))
        await asyncio.sleep(2.0)
        emp.set_faults([])
        return None  # each request that met it counts

    return strike


async def emp_unreachable(stage: Stage) -> str | None:
    """Nothing arrives, and no connection ends."""
    wire = stage.wires[stage.chance.choice(sorted(stage.wires))]
    wire.cut()
    await asyncio.sleep(stage.chance.choice((0.5, 2.0, 5.0)))
    wire.mend()
    return "EMP cut off"


async def emp_gone(stage: Stage) -> str | None:
    """Connections break, and none is taken."""
    wire = stage.wires[stage.chance.choice(sorted(stage.wires))]
    wire.refuse()
    await asyncio.sleep(stage.chance.choice((0.2, 2.0)))
    wire.mend()
    return "EMP gone"


async def emp_far(stage: Stage) -> str | None:
    """Every packet takes long, and some are lost and sent again."""
    wire = stage.wires[stage.chance.choice(sorted(stage.wires))]
    wire.delay_s = functools.partial(_weather, stage)
    await asyncio.sleep(4.0)
    wire.delay_s = None
    return "EMP far away"


async def one_hangs(stage: Stage) -> str | None:
    """One EMP answers nothing any more, and the others notice nothing of it."""
    hangs, *others = sorted(stage.emps)
    stage.emps[hangs].set_faults([{"kind": "hang"}])
    for _ in range(4):
        await asyncio.sleep(2.0)
        for other in others:
            age_s = await stage.rig.value(OLDEST_S, emp=other)
            assert age_s < BESIDE_S, f"beside an EMP that hangs, {other} has waited for {age_s:.1f} s"
    stage.emps[hangs].set_faults([])
    return "one EMP hangs"


def _weather(stage: Stage) -> float:
    """Seconds that a packet takes; TCP sends a lost one again after 200 ms at the soonest."""
    return stage.chance.uniform(0.001, 0.03) if stage.chance.random() < 0.97 else stage.chance.choice((0.2, 0.6))


# ── all of them ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

# A daemon that is stopped between its last look at the clock and the call that sends, for longer than claim and quiet time, sends what may
# be old when it goes on; nobody but the EMP could refuse that.
UNTENABLE = ("the EMP is connected", "stop")
WITHIN: Mapping[str, Do] = {"killed": "kill", "cut off": "cut", "stopped": "stop"}
PLACES = {"capture": CAPTURE, "delivery": DELIVERY, "walks": WALKS, "leases": LEASES}
_OUTSIDE: Sequence[Strike] = (killed, killed, ended, paused, sessions_ended, database_unreachable, emp_unreachable, emp_gone, tables_locked)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(
            Kind(
                name=f"{what} in {where}",
                strikes=[at(point, do) for point in places if (point, do) != UNTENABLE],
                needs=Needs(daemons=2 if do == "stop" else 1),
                every_s=(0.0, 0.3),
            )
            for what, do in WITHIN.items()
            for where, places in PLACES.items()
        ),
        Kind(name="killed", strikes=[killed] * 8),
        Kind(
            name="killed while looks from the start are slow",  # as beside a transaction of somebody else that stays open: `horizon`
            strikes=[killed, sessions_ended] * 3,
            needs=Needs(patch="import cdc_pusher.horizon as h; h.SLOW_S = -1.0"),
        ),
        Kind(name="ended", strikes=[ended] * 6, is_sure=True),
        Kind(name="paused", strikes=[paused] * 4, needs=Needs(daemons=2)),
        Kind(name="sessions ended", strikes=[sessions_ended] * 6),
        Kind(name="server crashed", strikes=[server_crashed] * 3, cuts_cpo=True),
        Kind(
            name="disk full",
            strikes=[disk_full] * 2,
            needs=Needs(disk_mb=400, settings={"max_wal_size": "64MB", "min_wal_size": "32MB"}),
            cuts_cpo=True,
        ),
        Kind(name="database unreachable", strikes=[database_unreachable] * 3, needs=Needs(daemons=2)),
        Kind(name="database far", strikes=[database_far] * 2),
        Kind(name="tables locked", strikes=[tables_locked] * 6),
        Kind(name="notifications full", strikes=[queue_full] * 2, needs=Needs(settings={"max_notify_queue_pages": "64"})),
        Kind(name="clock set", strikes=[clock_set] * 4, needs=Needs(clock=True)),
        Kind(name="restored", strikes=[restored] * 2, cuts_cpo=True, goes_back=True, disorders=True),
        Kind(name="EMP at fault", strikes=[emp_fault(fault) for fault in EMP_FAULTS]),
        Kind(name="EMP late", strikes=[emp_fault(LATE)] * 5, disorders=True),
        Kind(name="EMP unreachable", strikes=[emp_unreachable] * 3),
        Kind(name="one EMP hangs", strikes=[one_hangs] * 2, needs=Needs(emps={"alpha": "send", "beta": "send"})),
        Kind(name="EMP gone", strikes=[emp_gone] * 4),
        Kind(name="EMP far", strikes=[emp_far] * 2),
        Kind(
            name="all together",
            strikes=[*_OUTSIDE, *(emp_fault(fault) for fault in EMP_FAULTS)],
            needs=Needs(daemons=3, emps=TOGETHER),
        ),
    )
}
