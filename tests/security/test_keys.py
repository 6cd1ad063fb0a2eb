"""An API key is in no table, log, traceback, page, report, command line or core dump, though the EMP itself repeats it everywhere."""

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from asyncio import StreamWriter
from pathlib import Path

import httpx
import pytest
from rig import Daemon, Rig, rig, until
from test_client import a_server, http

from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.sandbox import Sandbox, SandboxSettings

KEY = "s3cret/key+that=nobody.may-see"
ESCAPED = KEY.replace("/", "\\/")
REPORTS = (("status",), ("status", "--json"), ("outbox", "list", "--json"), ("outbox", "show", "s1", "--json"), ("emp", "list", "--json"))
ABORTS = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (-1, -1))
os.chdir(sys.argv[1])
{}
os.abort()
"""
NO_DUMPS = "from cdc_pusher.secrecy import no_dumps; no_dumps()"

needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at processes by /proc")


async def repeat(request: bytes, writer: StreamWriter) -> None:
    """Answer with what was received, as an error, in a way that JSON may say it, too, and in a header."""
    said = f'{{"result": {{"code": 300, "message": "no: {KEY} or {ESCAPED}"}}, "error": "{KEY}"}}'
    writer.write(http(said.encode(), f"X-Key: {KEY}", f"Retry-After: {KEY}", status=f"500 {KEY}"))


async def served(dsn: str, made: Rig, url: str, emp: Sandbox) -> Daemon:
    made.monitoring = "127.0.0.1:0"
    made.daemon_options = {"log_level": "debug"}
    made.add_emp("plug", emp, url=url)
    await made.build("s1")
    daemon = await made.ready_daemon()
    await until(lambda: _attempts(made), "it has been refused")
    return daemon


async def _attempts(made: Rig) -> bool:
    return bool(await made.value("SELECT count(*) FROM cdc_pusher.attempt") >= 2)


@needs_proc
async def test_key_is_nowhere_though_the_emp_repeats_it(dsn: str, embedded_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async with a_server(repeat) as (url, server), Sandbox(SandboxSettings(api_key=KEY)) as emp, rig(dsn, tmp_path) as made:
        daemon = await served(dsn, made, url, emp)
        assert f"key={KEY}".encode() in server.requests[0], "it is sent"
        address = await _address(made)
        async with httpx.AsyncClient() as client:
            pages = "".join([(await client.get(f"http://{address}/{page}")).text for page in ("metrics", "livez", "readyz", "readyz/plug")])
        reports = "".join([await made.command(*report) for report in REPORTS])
        checked = await made.command("check", "--verbose", "--json")
        lines = command_lines()
        daemon.send_signal(signal.SIGTERM)
        await until(lambda: daemon.exit_code is not None, "it has ended")
        dump = await asyncio.to_thread(dumped, embedded_postgres, dsn)
        places = {"pages": pages, "reports": reports, "check": checked, "command lines": lines, "log": made.said, "tables": dump}
        assert {name for name, text in places.items() if KEY in text or ESCAPED in text} == set()
        assert "[key]" in dump, "what was said is there, without it"


async def _address(made: Rig) -> str:
    await until(lambda: '"metrics are served"' in made.said, "metrics are served")
    line = next(line for line in made.said.splitlines() if '"metrics are served"' in line)
    return line.partition('"address": "')[2].partition('"')[0]


def dumped(server: EmbeddedPostgres, dsn: str) -> str:
    """All that stands in the database."""
    return subprocess.run([server.bin / "pg_dump", dsn], capture_output=True, text=True, check=True).stdout


def command_lines() -> str:
    """Of all processes."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(file.read_text(errors="replace"))
    return "\n".join(lines)


async def test_key_is_in_no_traceback_of_a_daemon_that_hangs(dsn: str, tmp_path: Path) -> None:
    """The watchdog aborts it, and Python says where each thread was."""
    async with a_server(repeat) as (url, _), Sandbox(SandboxSettings(api_key=KEY)) as emp, rig(dsn, tmp_path) as made:
        made.env = {"PYTHONFAULTHANDLER": "1"}
        daemon = await served(dsn, made, url, emp)
        daemon.send_signal(signal.SIGABRT)
        await until(lambda: daemon.exit_code is not None, "it has ended")
        assert daemon.exit_code == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in daemon.said
        assert KEY not in daemon.said


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
async def test_daemon_does_not_start_with_a_key_that_everybody_may_read(dsn: str, tmp_path: Path, mode: int) -> None:
    async with rig(dsn, tmp_path) as made, Sandbox(SandboxSettings(api_key=KEY)) as emp:
        made.add_emp("plug", emp)
        (tmp_path / "plug.key").chmod(mode)
        daemon = made.daemon()
        await until(lambda: daemon.exit_code is not None, "it has ended")
        assert daemon.exit_code == 2
        assert (
            daemon.said
            == f"cdc-pusher: emp.plug: the API key file {tmp_path}/plug.key is open to everybody: chmod o= {tmp_path}/plug.key\n"
        )


async def test_reload_refuses_a_key_that_everybody_may_read_and_the_former_goes_on(dsn: str, tmp_path: Path) -> None:
    async with rig(dsn, tmp_path) as made, Sandbox(SandboxSettings(api_key=KEY)) as emp:
        made.add_emp("plug", emp)
        daemon = await made.ready_daemon()
        (tmp_path / "plug.key").chmod(0o644)
        daemon.send_signal(signal.SIGHUP)
        await until(lambda: "the new configuration is refused, the former one stays" in made.said, "it is refused")
        await made.build("s1")
        await made.quiet()
        assert emp.stats()["accepted"]["station"] == 1


# ── core dumps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _aborts(directory: Path, before: str) -> list[Path]:
    """The core dumps that a process leaves which aborts after this."""
    directory.mkdir()
    done = subprocess.run([sys.executable, "-c", ABORTS.format(before), directory], check=False, capture_output=True)
    assert done.returncode == -signal.SIGABRT, done.stderr
    return list(directory.iterdir())


def test_process_that_aborts_leaves_no_core_dump(tmp_path: Path) -> None:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY or not _aborts(tmp_path / "before", "pass"):
        pytest.skip("nobody leaves a core dump in its directory here")
    assert _aborts(tmp_path / "after", NO_DUMPS) == []


@needs_proc
async def test_daemon_leaves_no_core_dump_and_shows_itself_to_nobody(dsn: str, tmp_path: Path) -> None:
    async with rig(dsn, tmp_path) as made, Sandbox(SandboxSettings(api_key=KEY)) as emp:
        made.add_emp("plug", emp)
        daemon = await made.ready_daemon()
        proc = Path(f"/proc/{daemon._process.pid}")
        limit = next(line for line in (proc / "limits").read_text().splitlines() if line.startswith("Max core file size"))
        assert limit.split()[4:6] == ["0", "0"]
        if os.geteuid() == 0:
            pytest.skip("root may look at everything")
        with pytest.raises(PermissionError):
            (proc / "environ").read_bytes()
        with pytest.raises(PermissionError):
            (proc / "mem").open("rb")


@needs_proc
def test_process_cannot_be_looked_into_by_others_of_its_user() -> None:
    """PR_GET_DUMPABLE, 3: whether it may be dumped, traced, and its files in /proc belong to its user."""
    ask = "import ctypes; print(ctypes.CDLL(None).prctl(3))"
    said = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout for program in (ask, f"{NO_DUMPS}; {ask}")
    ]
    assert said == [b"1\n", b"0\n"]
