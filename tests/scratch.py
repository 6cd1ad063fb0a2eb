"""A place to play the pages of docs/ in: a database `cpo` of the reference schema, a directory, ports, commands, daemons.

Commands of the program are run by a process that has already imported it, and forks for each. Addresses that the pages name are replaced by
free ones; so are the names that stand for something (NAME, STATION), and the directory /etc/cdc-pusher.
"""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
from rig import REFERENCE_SCHEMA, UNFINISHED
from test_cli import ZYGOTE

from cdc_pusher.embedded import EmbeddedPostgres

ROOT = Path(__file__).parent.parent
PATIENCE_S = 30.0
STAND_FOR = {"NAME": "sandbox", "STATION": "S1", "CPO": "8ps", "ID": "S1"}
STATIONS = """
INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
VALUES ('S1', 'Rathaus', 52.5, 13.4, 'Hauptstrasse', '1', 'Berlin', '10243', 'DE', '+49 30 1', '8ps');
INSERT INTO connector (station_id, evse_id, type, speed_kw, status) VALUES ('S1', 'DE*8PS*E123456', 'Type2', 22, 'Available');
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def until(condition: Callable[[], object], what: str) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE_S, what
        time.sleep(0.02)  # the interval of a poll, not a wait


class Zygote:
    """Runs commands of the program, each in a fork."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", ZYGOTE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    def run(self, directory: Path, environment: Mapping[str, str], arguments: list[str]) -> tuple[int, str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"directory": str(directory), "environment": environment, "arguments": arguments, "unprivileged": False}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        return code, "".join((directory / name).read_text() for name in ("stdout", "stderr"))

    def close(self) -> None:
        self._process.communicate()


class Scratch:
    """One page's place."""

    def __init__(self, server: EmbeddedPostgres, zygote: Zygote, directory: Path, config: str) -> None:
        self.directory, self.config = directory, config
        self._server, self._zygote = server, zygote
        self._running: list[subprocess.Popen[bytes]] = []
        self._ports = {"8099": str(free_port()), "9465": str(free_port())}
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("CDC_PUSHER_", "PG"))}
        self.environment = outer | {
            "PGHOST": server.host,
            "PGPORT": str(server.port),
            "PGUSER": "postgres",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
            "CDC_PUSHER_MONITORING__LISTEN": f"127.0.0.1:{self._ports['9465']}",
        }
        self.said = ""
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute("CREATE DATABASE cpo")
        self.sql(REFERENCE_SCHEMA.read_text())

    def close(self) -> None:
        self.stop_all()
        with psycopg.connect(self._server.dsn(), autocommit=True) as conn:
            conn.execute("DROP DATABASE cpo WITH (FORCE)")

    def sql(self, text: str) -> None:
        with psycopg.connect(self._server.dsn("cpo"), autocommit=True) as conn:
            conn.execute(text.encode())

    def value(self, query: str) -> Any:
        with psycopg.connect(self._server.dsn("cpo")) as conn:
            row = conn.execute(query.encode()).fetchone()
            return row and row[0]

    # ── what the pages say, for here ───────────────────────────────────────────────────────────────────────────────────────────────────

    def here(self, text: str) -> str:
        """The same with what is different here."""
        for port, free in self._ports.items():
            text = text.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        for word, value in STAND_FOR.items():
            text = re.sub(rf"(?<![\w./-]){word}(?![\w|=])", value, text)
        return text.replace("/etc/cdc-pusher/", f"{self.directory}/")

    def configure(self, text: str | None = None, name: str = "cdc-pusher.toml") -> Path:
        """Write a configuration, and the key that it names."""
        key = self.directory / "sandbox.key"
        key.write_text("sandbox-key\n")
        key.chmod(0o600)
        path = self.directory / name
        path.write_text(self.here(text or self.config))
        path.chmod(0o600)
        return path

    def run(self, line: str) -> None:
        """Run the program's commands of one line, to their end, or until they are at work where they have none."""
        for command in simple_commands(self.here(line)):
            match command:
                case ["cdc-pusher", "run" | "sandbox" as name, *arguments]:
                    self.start(name, *arguments)
                case ["cdc-pusher", *arguments]:
                    if arguments[0] == "uninstall":
                        self.stop_all()
                    code, self.said = self._zygote.run(self.directory, self.environment, arguments)
                    assert code == 0, f"{line}\n{self.said}"
                    assert "Traceback" not in self.said
                    if arguments[0] == "init":
                        self.fill_in(arguments)
                case ["curl", *arguments]:
                    self.said = fetch(arguments)
                case ["echo" | "chmod", *_]:
                    subprocess.run(self.here(line), shell=True, check=True, cwd=self.directory)

    def fill_in(self, arguments: list[str]) -> None:
        """What `init` says is missing, a person fills in: here by a configuration that is complete."""
        written = self.directory / (arguments[arguments.index("--output") + 1] if "--output" in arguments else "cdc-pusher.toml")
        assert "[emp." in written.read_text()
        tomllib.loads(written.read_text())
        self.configure(name=written.name)
        self.configure()

    def start(self, *arguments: str) -> None:
        """Start what does not end by itself, and wait until it is at work."""
        port = ["--port", self._ports["8099"]] if arguments[0] == "sandbox" else []
        log = self.directory / f"log-{len(self._running)}"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "cdc_pusher", *arguments, *port],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        self._running.append(process)
        sign = '"event": "ready"' if arguments[0] == "run" else "http://"
        until(lambda: sign in log.read_text() or process.poll() is not None, f"{arguments}: {log.read_text()}")
        assert process.poll() is None, log.read_text()
        self.quiet()

    def quiet(self) -> None:
        """Wait until a daemon has nothing left to do; at once, where none runs."""
        if len(self._running) > 1:
            until(lambda: self.value(UNFINISHED) == 0, "everything is delivered")

    def stop_all(self) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            process.wait(PATIENCE_S)
        self._running.clear()


def simple_commands(line: str) -> list[list[str]]:
    """The simple commands of a line of shell, without comments, redirections and assignments; of a pipe all its parts.

    >>> simple_commands("a -x 'b c' && echo d > e | f   # no")
    [['a', '-x', 'b c'], ['echo', 'd'], ['f']]
    >>> simple_commands("sudo -u postgres a; X=1 b")
    [['a'], ['b']]
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;>")
    lexer.whitespace_split = True
    commands: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word in ("&&", "|", ";", "||"):
            commands.append([])
        elif word == ">":
            next(words)
        elif commands[-1] or not re.fullmatch(r"\w+=.*", word):
            commands[-1].append(word)
    return [command[3:] if command[:2] == ["sudo", "-u"] else command for command in commands]


def fetch(arguments: list[str]) -> str:
    """What `curl` would get, of the few options that the pages use."""
    url, method, body = "", "GET", None
    words = iter(arguments)
    for word in words:
        match word:
            case "-s":
                pass
            case "-X":
                method = next(words)
            case "-d":
                body = next(words).encode()
            case _:
                assert word.startswith("http://127.0.0.1:"), word
                url = word
    with urllib.request.urlopen(urllib.request.Request(url, data=body, method=method), timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())
