"""What faults happen to: a server of its own, the CPO's tables, EMPs, and daemons that reach all of them through wires that can be cut."""

import asyncio
import contextlib
import os
import random
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from psycopg.conninfo import make_conninfo
from relay import Relay, relay
from rig import KEY, Daemon, Rig, Row, rig
from workload import Workload

from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.sandbox import Sandbox, SandboxSettings
from cdc_pusher.sandbox.server import PATH
from faults.points import run_first

SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_connections": "100"}
LIVELY: Row = {"tcp_user_timeout": 2000, "keepalives_idle": 1, "keepalives_interval": 1, "keepalives_count": 2, "connect_timeout": 3}
ROOT = Path(__file__).parent.parent.parent
FAKETIME = Path("/usr/lib") / f"{os.uname().machine}-linux-gnu" / "faketime" / "libfaketime.so.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a kind of fault asks of the stage: so many `daemons`, `settings` of the server, a small `disk` of so many MB, a `clock` that can
    be set; `emps` by name, with what they say to connectors that change, and how many requests each of them remembers (`ledger`);
    `patch`: Python that the daemons run first.
    """

    daemons: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    disk_mb: int = 0
    clock: bool = False
    patch: str = ""
    emps: Mapping[str, str] = field(default_factory=lambda: {"alpha": "send"})
    ledger: int = 200_000

    @property
    def missing(self) -> str | None:
        """What this machine does not have."""
        if self.clock and not FAKETIME.exists():
            return "faketime is not installed"
        if self.disk_mb and (os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs"], capture_output=True).returncode):
            return "only root can mount a small disk"
        return None


class Stage:
    """One run. `database`, `wires`: how the daemons reach the database and each EMP."""

    def __init__(self, server: EmbeddedPostgres, rigged: Rig, directory: Path, seed: str) -> None:
        self.server = server
        self.rig = rigged
        self.directory = directory
        self.chance = random.Random(seed)
        self.emps: dict[str, Sandbox] = {}
        self.kinds: Mapping[str, str] = {}
        self.database: Relay
        self.wires: dict[str, Relay] = {}
        self.daemons: list[Daemon] = []
        self.injected: Counter[str] = Counter()
        self.workload: Workload
        self.clock: Path | None = None
        self.checkout: Path | None = None

    @property
    def dsn(self) -> str:
        """As the CPO reaches its database."""
        return self.server.dsn()

    def start(self, env: Mapping[str, str] | None = None) -> Daemon:
        """One more daemon."""
        daemon = self.rig.daemon(env=env, checkout=self.checkout)
        self.daemons.append(daemon)
        return daemon

    def revive(self) -> None:
        """What has died is started again, as systemd would."""
        for daemon in [d for d in self.daemons if d.exit_code is not None]:
            self.daemons.remove(daemon)
            self.start()

    async def end(self, daemon: Daemon) -> None:
        """Whatever state it is in."""
        if daemon in self.daemons:
            self.daemons.remove(daemon)
        if daemon.exit_code is None:
            await daemon.kill()

    async def pause(self, least_s: float, most_s: float) -> None:
        """Let the CPO write and the daemons work meanwhile."""
        await asyncio.sleep(self.chance.uniform(least_s, most_s))

    @contextlib.asynccontextmanager
    async def without_server(self) -> AsyncIterator[None]:
        """The server crashes, and is back after the block."""
        await asyncio.to_thread(self.server.stop, "immediate")
        try:
            yield
        finally:
            await asyncio.to_thread(self.server.start)
            await self.rig.connect_again()


@asynccontextmanager
async def stage(needs: Needs, directory: Path, seed: str, checkout: Path | None = None) -> AsyncIterator[Stage]:
    """Everything is there, and the CPO has its first stations; no daemon runs yet, and all that run at the end are killed.

    `checkout`: of the program that the daemons run.
    """
    async with AsyncExitStack() as stack:
        parent = stack.enter_context(_small_disk(needs.disk_mb)) if needs.disk_mb else None
        clock = directory / "clock" if needs.clock else None
        server = EmbeddedPostgres(settings={**SETTINGS, **needs.settings})
        with _in_directory(parent), _clock(clock):
            await asyncio.to_thread(server.__enter__)
        stack.push_async_callback(asyncio.to_thread, server.__exit__)
        made = Stage(server, await stack.enter_async_context(rig(server.dsn(), directory)), directory, seed)
        made.clock, made.checkout, made.kinds = clock, checkout, needs.emps
        made.database = await stack.enter_async_context(relay(f"{server.host}/.s.PGSQL.{server.port}"))
        made.rig.dsn = make_conninfo(host="127.0.0.1", port=made.database.port, user="postgres", dbname="postgres", **LIVELY)
        made.rig.page_stations = 4
        made.rig.env = run_first(directory / "patch", needs.patch, ROOT) if needs.patch else {}
        for name, kind in needs.emps.items():
            settings = SandboxSettings(api_key=KEY, connectors_may_change=kind == "send", ledger_size=needs.ledger)
            emp = await stack.enter_async_context(Sandbox(settings))
            wire = await stack.enter_async_context(relay(int(emp.root.rpartition(":")[2])))
            made.emps[name], made.wires[name] = emp, wire
            made.rig.add_emp(name, emp, url=f"http://127.0.0.1:{wire.port}{PATH}", connectors_changed=kind)
        if checkout is not None:  # its triggers
            await made.rig.plain_command("migrate", "--config", str(made.rig.config), checkout=checkout)
        yield made


@contextmanager
def _small_disk(megabytes: int) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="cdc-disk-"))
    directory.chmod(0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
        directory.rmdir()


@contextmanager
def _in_directory(parent: Path | None) -> Iterator[None]:
    """Temporary directories are made there."""
    before, tempfile.tempdir = tempfile.tempdir, str(parent) if parent else tempfile.tempdir
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _clock(file: Path | None) -> Iterator[None]:
    """A server that is started within the block goes by the clock in this file."""
    if file is None:
        yield
        return
    file.write_text("+0")
    shutil.chown(file, "nobody") if os.geteuid() == 0 else None
    settings = {
        "LD_PRELOAD": str(FAKETIME),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in settings:
            del os.environ[name]
