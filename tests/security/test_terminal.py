"""Whatever stands in a row, in the catalogue or in an EMP's answer: on a terminal, in a log or in JSON it is text, and moves no cursor."""

import asyncio
import json
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from rig import KEY, Rig, rig, until
from test_client import a_server, http, saying

from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.sandbox import Sandbox, SandboxSettings

# A colour, a title of the window, a hyperlink, control characters of 8 bits, a line that looks like a log's, a change of direction, markup.
ATTACKS = (
    "\x1b[31mred\x1b[0m\x1b[2J",
    "\x1b]0;title\x07",
    "\x1b]8;;https://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x9b31m\x9d0;title\x9c",
    'a\r\n{"event": "forged", "level": "info"}',
    "\u202eesrever\u2066",
    "\x00\x08\x7f\u2028\u2029"[1:],
    "[red]markup[/red] [link=https://evil.example]here[/link] [/]",
)
EVIL = " ".join(ATTACKS)
NEVER = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]|\x1b(?!\[[0-9;]*m)")
"""What no output has; colours are rich's own, but on a terminal only."""

COMMANDS: tuple[tuple[tuple[str, ...], int], ...] = (
    (("status",), 0),
    (("status", "--json"), 0),
    (("outbox", "list"), 0),
    (("outbox", "list", "--json"), 0),
    (("outbox", "show", EVIL), 0),
    (("outbox", "show", EVIL, "--json"), 0),
    (("cpo", "list"), 0),
    (("cpo", "list", "--json"), 0),
    (("cpo", "export"), 0),
    (("emp", "list"), 0),
    (("emp", "list", "--json"), 0),
    (("check", "--verbose"), 3),
    (("check", "--verbose", "--json"), 3),
    (("resync", "--station", EVIL), 0),
    (("resync", "--cpo", EVIL), 0),
    (("resync", "--cpo", f"{EVIL}x"), 2),
    (("outbox", "show", f"{EVIL}x"), 1),
    (("status", "--emp", EVIL), 2),
    (("cpo", "confirm", f"{EVIL}x"), 2),
    (("migrate",), 0),
)


@pytest.fixture
async def hostile(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    """A station that is evil in every column, and one that an EMP has rejected with an evil message; the daemon has seen both."""
    refusal = json.dumps({"result": {"code": 200, "message": EVIL}}).encode()
    async with (
        a_server(saying(http(refusal), close=False)) as (url, _),
        Sandbox(SandboxSettings(api_key=KEY)) as emp,
        rig(dsn, tmp_path) as cpo,
    ):
        cpo.daemon_options = {"log_level": "debug"}
        cpo.add_emp("plug", emp, url=url)
        await cpo.build("s1", EVIL)
        columns = ("name", "street", "city", "zip", "phone", "cpo")
        await cpo.sql(f"UPDATE station SET {', '.join(f'{column} = %(evil)s' for column in columns)} WHERE id = %(evil)s", evil=EVIL)
        await cpo.sql("UPDATE connector SET evse_id = %(evil)s, type = %(evil)s, status = %(evil)s WHERE station_id = %(evil)s", evil=EVIL)
        daemon = await cpo.ready_daemon()

        async def rejected() -> bool:
            return bool(await cpo.value("SELECT count(*) FROM cdc_pusher.outbox WHERE state IN ('held', 'rejected')") >= 2)

        await until(rejected, "one is held, one is rejected")
        await daemon.stop()
        yield cpo


def on_a_terminal(arguments: Sequence[str], config: Path) -> tuple[int, str]:
    """Exit code, and what a command shows on a terminal and on standard error, where there then is no progress."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "500"}
    command = [sys.executable, "-m", "cdc_pusher", *arguments, "--config", str(config)]
    with TemporaryFile() as errors:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=errors, env=environment) as process:
            os.close(theirs)
            shown = b"".join(_parts(ours))
            os.close(ours)
        errors.seek(0)
        shown += errors.read()
    return process.returncode, shown.decode().replace("\r\r\n", "\n").replace("\r\n", "\n")  # CSV has two of them


def _parts(terminal: int) -> Iterator[bytes]:
    """All that is written there, to its end: a read that waits may miss what is written just before the other end is closed."""
    while True:
        select.select([terminal], [], [])
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            return
        if not part:
            return
        yield part


async def test_no_command_shows_more_than_text(hostile: Rig) -> None:
    """None of them says less for it, either: markup stands there as it is."""
    shown = {}
    for arguments, exit_code in COMMANDS:
        code, shown[arguments] = await asyncio.to_thread(on_a_terminal, arguments, hostile.config)
        assert code == exit_code, (arguments, shown[arguments])
        assert not (found := NEVER.search(shown[arguments])), (arguments, found, shown[arguments])
        assert "\x1b[31mred" not in shown[arguments]
        if "--json" in arguments:
            json.loads(shown[arguments])
    for arguments in (("outbox", "list"), ("outbox", "show", EVIL), ("cpo", "list"), ("check", "--verbose")):
        assert "[red]markup[/red]" in re.sub(r"\x1b\[[0-9;]*m", "", shown[arguments]).replace("\n", ""), arguments


async def test_json_says_what_is_there(hostile: Rig) -> None:
    found = json.loads(await hostile.command("outbox", "show", EVIL, "--json"))
    assert EVIL in found["database"], "escapes are undone by whoever reads it"


async def test_log_of_the_daemon_is_lines_of_json(hostile: Rig) -> None:
    assert not NEVER.search(hostile.said.replace("\n", ""))
    assert "\x1b" not in hostile.said
    said = [json.loads(line) for line in hostile.said.splitlines()]
    assert "forged" not in {line["event"] for line in said}
    assert any(line.get("key") == EVIL for line in said)


async def test_answer_of_an_emp_is_text_in_the_tables(hostile: Rig) -> None:
    for table, column in (("outbox", "reason"), ("outbox", "last_error"), ("attempt", "error")):
        found = [row["it"] for row in await hostile.sql(f"SELECT {column} AS it FROM cdc_pusher.{table} WHERE {column} IS NOT NULL")]
        assert found or table == "outbox"
        assert all(text.isprintable() for text in found), (table, column, found)


LOG = """
import logging, sys
import structlog
from cdc_pusher import logs
logs.configure("debug")
evil = sys.argv[1]
log = structlog.get_logger("cdc_pusher.test")
log.warning("it rains", emp=evil, faults=[evil], by={"x": evil}, error=ValueError(evil), n=3)
logging.getLogger("library").error("failed: %s", evil)
try:
    raise ValueError(evil)
except ValueError:
    log.exception("it broke", **{"key": evil})
"""


def test_log_on_a_terminal_is_text() -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", LOG, EVIL]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(theirs)
        shown = b"".join(_parts(ours)).decode()
        os.close(ours)
    assert process.returncode == 0, shown
    assert not NEVER.search(shown.replace("\r\n", "\n"))
    assert "\x1b[31mred" not in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert plain.count("it rains") == plain.count("it broke") == 1
    assert not any(line.startswith('{"event": "forged"') for line in plain.splitlines())
    assert "Traceback (most recent call last):" in [line.strip() for line in plain.splitlines()], "in lines, as people read it"


def test_error_of_the_database_is_one_line_of_text(embedded_postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    """It repeats values: here one that the mapping cannot divide by."""
    config = tmp_path / "config.toml"
    evil = "".join(c if c.isalnum() else f"\\u{ord(c):04x}" for c in EVIL)
    config.write_text(f'[database]\ndsn = "{embedded_postgres.dsn()}"\n[source]\nstations = "SELECT \'{evil}\'::int AS station_id"\n')
    for arguments in (("check",), ("cpo", "list"), ("migrate",)):
        code, shown = on_a_terminal(arguments, config)
        assert code in (1, 2, 3), shown
        assert not NEVER.search(shown)
        assert "\x1b[31mred" not in shown
