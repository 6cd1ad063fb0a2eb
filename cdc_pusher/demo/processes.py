"""The processes of the demo: `cdc-pusher` commands, each in a session of its own, that end with the demo however that ends.

Ctrl-C at the terminal reaches only the demo, which then ends them in order. Between it and each of them stands a guard: each line that it
reads is a signal for its child, and the end of its input, which comes even after `kill -9` of the demo, is the end of the child.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from cdc_pusher.errors import CdcPusherError

LOG_LINES = 20
_START_S = 30.0
_STOP_S = 12.0  # the daemon promises to stop within 10
_FOREIGN = ("CDC_PUSHER_", "PG")  # of the environment: they would send the daemon to another database
_FOREIGN_NAMES = ("CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET")

_GUARD = """
import os, signal, subprocess, sys, threading

for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)

def obey():
    for line in sys.stdin:
        child.send_signal(int(line))
    child.kill()

threading.Thread(target=obey, daemon=True).start()
os._exit(child.wait() & 0xFF)
"""


class Process:
    """One `cdc-pusher` command that runs."""

    def __init__(self, name: str, guard: asyncio.subprocess.Process) -> None:
        self.name = name
        self._guard = guard

    async def first_line(self) -> str:
        """The first line on its standard output. Raises `CdcPusherError` if there is none."""
        assert self._guard.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_S):
                line = await self._guard.stdout.readline()
        if not line:
            raise CdcPusherError(f"the {self.name} did not start")
        return line.decode()

    def require_running(self) -> None:
        """Raise `CdcPusherError`, if it has ended."""
        if self._guard.returncode is not None:
            raise CdcPusherError(f"the {self.name} has ended by itself, with exit code {self._guard.returncode}")

    async def wait(self) -> None:
        """Until it ends by itself. Raises `CdcPusherError` if that is a failure."""
        if await self._guard.wait():
            raise CdcPusherError(f"{self.name} failed with exit code {self._guard.returncode}")

    async def kill(self) -> None:
        """`kill -9`, and wait until it is dead."""
        self._tell(signal.SIGKILL)
        await self._guard.wait()

    async def stop(self) -> None:
        """SIGTERM; SIGKILL if that does not help."""
        self._tell(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_S):
                await self._guard.wait()
        except TimeoutError:
            await self.kill()

    def _tell(self, number: signal.Signals) -> None:
        if self._guard.returncode is None and self._guard.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._guard.stdin.write(f"{int(number)}\n".encode())


@asynccontextmanager
async def running(directory: Path, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    """`cdc-pusher ARGUMENTS` as a process of its own while the context is open; it logs to `NAME.log` in the directory."""
    environment = {**_without_surroundings(os.environ), **(env or {})}
    spawning = asyncio.create_task(_spawn(directory / f"{name}.log", arguments, environment), name=f"start the {name}")
    try:
        yield Process(name, await asyncio.shield(spawning))
    finally:
        # Also when Ctrl-C came while it was being made.
        await Process(name, await spawning).stop()


async def _spawn(log: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    with log.open("ab") as stderr:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _GUARD, sys.executable, "-m", "cdc_pusher", *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            env=environment,
        )


def last_words(directory: Path) -> str:
    """The last lines of every log there, each under its name."""
    told = []
    for log in sorted(directory.glob("*.log")):
        if lines := log.read_text(errors="replace").strip().splitlines()[-LOG_LINES:]:
            told.append("\n".join([f"The {log.stem} said at last:", *(f"  {line}" for line in lines)]))
    return "\n".join(told)


def _without_surroundings(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without what it says to a `cdc-pusher` or to libpq.

    >>> _without_surroundings({"HOME": "/root", "PGHOST": "production", "CDC_PUSHER_DATABASE__DSN": "…", "NOTIFY_SOCKET": "@x"})
    {'HOME': '/root'}
    """
    return {name: value for name, value in environ.items() if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES}
