"""What systemd sees of the daemon, over a real NOTIFY_SOCKET: readiness, the watchdog, a status, reload and stop."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rig import KEY, Rig, rig, until

from cdc_pusher.sandbox import Sandbox, SandboxSettings


class Manager:
    """Listens where systemd would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    def _hear(self) -> None:
        self.said += self._socket.recv(4096).decode().splitlines()

    def count(self, state: str) -> int:
        return sum(line.startswith(state) for line in self.said)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[Manager]:
    # A directory of its own: the path of a socket may have 107 bytes only.
    directory = Path("/tmp") if len(str(tmp_path)) > 80 else tmp_path
    made = Manager(directory / f"notify-{os.getpid()}")
    yield made
    made.close()
    made.path.unlink()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(SandboxSettings(api_key=KEY)) as running:
        yield running


@asynccontextmanager
async def served(dsn: str, directory: Path, sandbox: Sandbox) -> AsyncIterator[Rig]:
    async with rig(dsn, directory) as rigged:
        rigged.add_emp("alpha", sandbox)
        await rigged.build("s1")
        yield rigged


async def test_ready_watched_reloaded_and_stopped(dsn: str, tmp_path: Path, manager: Manager, sandbox: Sandbox) -> None:
    async with served(dsn, tmp_path, sandbox) as rigged:
        daemon = rigged.daemon(env={"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "2000000"})
        await until(lambda: manager.count("READY=1"), "it is ready")
        held = await rigged.sql("SELECT name FROM cdc_pusher.lease WHERE expires_at > clock_timestamp() AND holder IS NOT NULL")
        assert {row["name"] for row in held} == {"capture", "lane alpha"}
        await until(lambda: manager.count("STATUS=capture, lane alpha; "), "it says how it does")
        await until(lambda: manager.count("WATCHDOG=1") > 3, "the watchdog is fed")
        daemon.send_signal(signal.SIGHUP)
        await until(lambda: manager.count("READY=1") == 2, "it has read its configuration")
        assert manager.said.index("RELOADING=1") < len(manager.said) - 1 - manager.said[::-1].index("READY=1")
        assert manager.count("MONOTONIC_USEC=") == 1
        await daemon.stop()
        assert manager.count("STOPPING=1") == 1


async def test_not_ready_before_the_database_is_there(dsn: str, tmp_path: Path, manager: Manager, sandbox: Sandbox) -> None:
    async with served(dsn, tmp_path, sandbox) as rigged:
        name = await rigged.value("SELECT current_database()")
        await rigged.sql(f'ALTER DATABASE "{name}" CONNECTION LIMIT 0')  # a superuser may come in all the same
        rigged.config.write_text(rigged.config.read_text().replace("port=5432", "port=5431"))
        daemon = rigged.daemon(env={"NOTIFY_SOCKET": str(manager.path)})
        await until(lambda: manager.count("STATUS=cannot connect to the database") > 1, "it waits for the database")
        assert manager.count("EXTEND_TIMEOUT_USEC=") > 1
        assert manager.count("READY=1") == 0
        assert daemon.exit_code is None
        daemon.send_signal(signal.SIGTERM)
        await until(lambda: daemon.exit_code is not None, "it ends")


async def test_watchdog_is_not_fed_while_a_part_hangs(dsn: str, tmp_path: Path, manager: Manager, sandbox: Sandbox) -> None:
    """The loop that captures stands still, for whatever reason; all others go on."""
    async with served(dsn, tmp_path, sandbox) as rigged:
        hang = tmp_path / "hang"
        hang.mkdir()
        (hang / "sitecustomize.py").write_text(
            "import cdc_pusher.daemon, cdc_pusher.capture, asyncio\n"
            "cdc_pusher.daemon.HANGS_S = 11.0\n"
            "batch = cdc_pusher.capture.batch\n"
            "async def hang(*a, **k):\n"
            "    import pathlib\n"
            f"    if pathlib.Path({str(tmp_path / 'now')!r}).exists(): await asyncio.Event().wait()\n"
            "    return await batch(*a, **k)\n"
            "cdc_pusher.capture.batch = hang\n"
        )
        env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "1000000", "PYTHONPATH": f"{hang}:{Path(__file__).parent.parent}"}
        daemon = rigged.daemon(env=env)
        await daemon.ready()
        await until(lambda: manager.count("WATCHDOG=1") > 2, "the watchdog is fed")
        (tmp_path / "now").touch()
        await rigged.set_status("s1", "Occupied")
        await until(lambda: "a part does not move any more" in daemon.said, "the hanging part is named", 30.0)
        fed = manager.count("WATCHDOG=1")
        assert '"parts": ["capture"]' in daemon.said
        await until(lambda: daemon.said.count("a part does not move any more") > 4, "time goes by")
        assert manager.count("WATCHDOG=1") == fed
