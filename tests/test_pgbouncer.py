"""Behind PgBouncer in transaction mode, which hands a server's session to somebody else after every transaction."""

import asyncio
import contextlib
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console
from rig import KEY, Rig, rig, until

from cdc_pusher import check, config
from cdc_pusher.database import connect
from cdc_pusher.demo import traffic
from cdc_pusher.demo.fleet import CPOS, generate
from cdc_pusher.demo.play import Play
from cdc_pusher.demo.stage import set_stage
from cdc_pusher.sandbox import Sandbox, SandboxSettings

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
POOL = 4
SETTINGS = [
    *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "IntervalStyle", "bytea_output"),
    *("extra_float_digits", "search_path", "role"),
]

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed on this machine")


@pytest.fixture
def pooled(dsn: str) -> Iterator[str]:
    """The same database through a pooler with few sessions."""
    where = conninfo_to_dict(dsn)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    directory = Path(str(where["host"])) / f"pooler-{port}"
    directory.mkdir()
    user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    if user:
        os.chown(directory, user.pw_uid, user.pw_gid)
    (directory / "users").write_text('"postgres" ""\n')
    (directory / "ini").write_text(
        f"[databases]\n* = host={where['host']} port={where['port']}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"unix_socket_dir =\nauth_type = trust\nauth_file = {directory / 'users'}\npool_mode = transaction\ndefault_pool_size = {POOL}\n"
        f"max_client_conn = 200\nlogfile = {directory / 'log'}\n"
    )
    process = subprocess.Popen(
        [str(PGBOUNCER), str(directory / "ini")],
        stderr=subprocess.DEVNULL,
        user=user.pw_uid if user else None,
        group=user.pw_gid if user else None,
    )
    through = make_conninfo(dsn, host="127.0.0.1", port=port)
    try:
        while True:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(through):
                break
            assert process.poll() is None, (directory / "log").read_text()
        yield through
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(api_key=KEY)) as running:
        yield running


@contextlib.asynccontextmanager
async def served(dsn: str, pooled: str, directory: Path, sandbox: Sandbox, **database: str) -> AsyncIterator[Rig]:
    """The CPO is at the server, the daemon behind the pooler."""
    async with rig(dsn, directory) as rigged:
        rigged.dsn = pooled
        rigged.database_options = database
        rigged.add_emp("alpha", sandbox)
        await rigged.build("s1", "s2")
        yield rigged


def left_behind(pooled: str) -> set[tuple[str, str]]:
    """Settings that sessions behind the pooler have otherwise than a new one would."""
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(psycopg.connect(pooled)) for _ in range(POOL)]  # in a transaction each: all sessions that there are
        query = "SELECT name, setting FROM pg_settings WHERE name = ANY (%s) AND setting IS DISTINCT FROM reset_val"
        return {row for conn in conns for row in conn.execute(query, [SETTINGS])}


async def test_the_play_of_the_demo_passes(dsn: str, pooled: str, tmp_path: Path) -> None:
    fleet = generate(60, seed=1)
    async with set_stage(tmp_path, pooled, CPOS) as scene:
        await traffic.create_tables(scene.conn)
        await traffic.build(scene.conn, fleet.stations)
        await scene.migrate()
        play = Play(stage=scene, fleet=fleet, traffic=traffic.Traffic(pooled, seed=1), console=Console())
        assert await play.run() == 0
    assert left_behind(pooled) == set()


async def test_daemon_polls_says_so_and_leaves_no_setting_behind(dsn: str, pooled: str, tmp_path: Path, sandbox: Sandbox) -> None:
    async with served(dsn, pooled, tmp_path, sandbox) as rigged:
        daemon = await rigged.ready_daemon()
        await rigged.quiet()
        await until(lambda: "NOTIFY is not heard, so the database is polled" in daemon.said, "it has noticed")
        await until(lambda: rigged.value("SELECT last_value = 1 FROM cdc_pusher.asleep"), "triggers are told not to notify")
        await rigged.set_status("s1", "Occupied")
        assert await rigged.quiet() < 5
        assert sandbox.ledger[-1]["payload"]["status"] == "Occupied"
        assert '"listens": false' in await rigged.command("status", "--json")
        assert left_behind(pooled) == set()
        findings = {f.text for f in await check.run(config.read(rigged.config)) if f.level == "warning"}
        assert any("NOTIFY is not heard" in text for text in findings)
        assert any("a connection pooler stands in between" in text for text in findings)
        await daemon.stop()
        assert left_behind(pooled) == set()


async def test_listen_dsn_leads_past_the_pooler(dsn: str, pooled: str, tmp_path: Path, sandbox: Sandbox) -> None:
    async with served(dsn, pooled, tmp_path, sandbox, listen_dsn=dsn) as rigged:
        daemon = await rigged.ready_daemon()
        await rigged.quiet()
        await until(lambda: "NOTIFY is heard" in daemon.said, "it hears")
        await until(lambda: rigged.value("SELECT last_value = 2 FROM cdc_pusher.asleep"), "triggers notify")
        await asyncio.sleep(0)
        await rigged.set_status("s1", "Occupied")
        await until(lambda: sandbox.ledger[-1]["payload"].get("status") == "Occupied", "it is sent")


async def test_settings_hold_for_every_statement(pooled: str) -> None:
    async with await connect(pooled, "test") as conn:
        assert conn.is_pooled
        for _ in range(3):
            assert [row["statement_timeout"] async for row in await conn.execute("SHOW statement_timeout")] == ["1min"]
        async with conn.transaction():
            await conn.execute("SELECT 1")
            assert [row["bytea_output"] async for row in await conn.execute("SHOW bytea_output")] == ["hex"]
            assert [row["lock_timeout"] async for row in await conn.execute("SHOW lock_timeout")] == ["5s"]
