"""What commands show on a terminal: a live view, progress bars, colours, and no word less at 80 columns."""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from terminal import COLOUR, Terminal

from cdc_pusher.cli.bar import UNSEEN_S

KEY = "s3cret-key"
CONFIG = """
[database]
dsn = "{dsn}"
[emp.plugsurfing]
url = "http://127.0.0.1:1/"
partner_identifier = "0123456789abcdef"
api_key = "s3cret-key"
late_after_s = 60
[emp.plugsurfing.cpos]
8ps = "DE*8PS"
"""
REASON = "zip: is missing; without it no EMP takes a station, and there is a line of text which says so at some length"
FILL = """
INSERT INTO cdc_pusher.emp (name, full_load_started_at, mapping) VALUES ('plugsurfing', now(), 'x');
INSERT INTO cdc_pusher.outbox
    (emp, kind, key, station_id, payload, acknowledged, desired_gen, delivered_gen, state, reason, changed_at, next_attempt_at)
VALUES
    ('plugsurfing', 'station', 'DE8PS000042', 'DE8PS000042', '{}', '{}', 1, 1, 'delivered', NULL, NULL, NULL),
    ('plugsurfing', 'station', 'DE8PS000043', 'DE8PS000043', NULL, NULL, 1, 0, 'held', '%s', now(), NULL),
    ('plugsurfing', 'status', 'DE*8PS*E000042*1', 'DE8PS000042', '{}', NULL, 1, 0, 'pending', NULL, now() - interval '1 hour', now()),
    ('plugsurfing', 'status', 'DE*8PS*E000042*2', 'DE8PS000042', '{}', NULL, 1, 0, 'rejected', 'HTTP 400', now(), NULL)
"""
HOLD = (
    "UPDATE cdc_pusher.outbox SET state = 'held', acknowledged = NULL, delivered_gen = 0, changed_at = now(), reason = 'x' WHERE key = %s"
)
LOOKS = "SELECT pid FROM pg_stat_activity WHERE application_name = 'cdc-pusher status'"


class Cpo:
    """A database with our schema and a few rows in the outbox, and a directory with the configuration for it."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn, self.directory = dsn, directory
        file = directory / "cdc-pusher.toml"
        file.write_text(CONFIG.format(dsn=dsn))
        file.chmod(0o600)
        self.sql(FILL % REASON)

    def sql(self, statement: str, *parameters: object, dsn: str | None = None) -> list[Any]:
        with psycopg.connect(dsn or self.dsn, autocommit=True) as conn:
            cursor = conn.execute(statement.encode(), parameters or None)
            return [row[0] for row in cursor.fetchall()] if cursor.description else []

    def terminal(self, *arguments: str, **options: Any) -> Terminal:
        return Terminal(arguments, self.directory, **options)

    @contextmanager
    def busy(self) -> Iterator[psycopg.Connection]:
        """Somebody holds locks on all that our commands look at."""
        with psycopg.connect(self.dsn) as conn:
            conn.execute("SELECT pg_advisory_xact_lock(hashtext('cdc_pusher migrate'))")
            conn.execute("LOCK TABLE station, connector, cdc_pusher.outbox, cdc_pusher.emp, cdc_pusher.cpo")
            yield conn


@pytest.fixture
def cpo(watched_dsn: str, tmp_path: Path) -> Cpo:
    return Cpo(watched_dsn, tmp_path)


# ── status --watch ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_watch_shows_what_changes_from_one_connection_until_ctrl_c(cpo: Cpo) -> None:
    with cpo.terminal("status", "--watch", "--interval", "0.3") as view:
        view.until("plugsurfing.*1 of 2.*zip: is missing.*outbox list names them")
        (pid,) = cpo.sql(LOOKS)
        cpo.sql(HOLD, "DE8PS000042")
        view.until(r"plugsurfing.*0 of 2.*2 \(\+1\)")
        cpo.sql("UPDATE cdc_pusher.outbox SET delivered_at = now()")
        view.until(r"plugsurfing[^\n]*3\d+\.\d +│ +[1-9]")
        assert cpo.sql(LOOKS) == [pid]
        view.type(b"\x03")
        assert view.end() == 130
    assert view.said.startswith("\x1b[?1049h"), "on a screen of its own"
    assert view.said.endswith("\x1b[?25h\x1b[?1049l"), "cursor and screen as they were"


def test_watch_says_that_the_database_has_gone_and_goes_on_when_it_is_back(cpo: Cpo) -> None:
    elsewhere = make_conninfo(cpo.dsn, dbname="postgres")
    with cpo.terminal("status", "--watch", "--interval", "0.3") as view:
        view.until("outbox list names them")
        cpo.sql("ALTER DATABASE test ALLOW_CONNECTIONS false", dsn=elsewhere)
        try:
            cpo.sql(f"SELECT pg_terminate_backend(pid) FROM ({LOOKS}) AS p", dsn=elsewhere)
            view.until("! no answer: cannot connect to the database: .*tried again.*1 of 2")
        finally:
            cpo.sql("ALTER DATABASE test ALLOW_CONNECTIONS true", dsn=elsewhere)
        cpo.sql(HOLD, "DE8PS000042")
        view.until(r"ends\s+Delivered.*0 of 2")
        view.type(b"\x03")
        assert view.end() == 130


def test_watch_that_hangs_says_so(cpo: Cpo) -> None:
    with cpo.terminal("status", "--watch", "--interval", "0.3") as view:
        view.until("outbox list names them")
        with cpo.busy():
            view.until("! no answer yet")
        view.until(r"ends\s+Delivered")


def test_watch_ended_by_sigterm_leaves_the_terminal_as_it_was(cpo: Cpo) -> None:
    with cpo.terminal("status", "--watch") as view:
        view.until("outbox list names them")
        view.terminate()
        assert view.end() == 143
    assert view.said.endswith("\x1b[?25h\x1b[?1049l")


def test_watch_that_cannot_begin_is_one_line(cpo: Cpo) -> None:
    (cpo.directory / "cdc-pusher.toml").write_text(CONFIG.format(dsn="host=127.0.0.1 port=1"))
    with cpo.terminal("status", "--watch", columns=500) as view:
        assert view.end() == 2
    assert view.text.startswith("cdc-pusher: cannot connect to the database: ")
    assert view.text.endswith("; does the server run, and is database.dsn right?\n")


def test_watch_cannot_be_drawn_on_a_dumb_terminal(cpo: Cpo) -> None:
    with cpo.terminal("status", "--watch", columns=500, environment={"TERM": "dumb"}) as view:
        assert view.end() == 2
    assert view.said == "cdc-pusher: --watch draws on a terminal, which this is not: call cdc-pusher status --json again and again\r\n"


# ── progress ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

LASTING = {
    ("status",): "counting",
    ("emp", "list"): "counting",
    ("outbox", "list"): "outbox",
    ("outbox", "retry", "--all"): "outbox",
    ("cpo", "list"): "reading the stations",
    ("cpo", "export"): "reading the stations",
    ("cpo", "confirm", "--all"): "confirming",
    ("resync", "--all", "--dry-run"): "resync",
    ("check",): "looking at the database",
    ("migrate",): "schema cdc_pusher",
    ("uninstall", "--yes"): "taking it away",
    ("init", "--output", "new.toml"): "looking at the tables",
}


@pytest.mark.parametrize("arguments", LASTING, ids=" ".join)
def test_command_that_lasts_shows_a_bar_apart_from_what_it_prints(cpo: Cpo, arguments: Sequence[str]) -> None:
    dsn = ("--dsn", cpo.dsn) if arguments[0] == "init" else ()
    with (cpo.directory / "printed").open("w+b") as printed:
        with cpo.terminal(*arguments, *dsn, stdout=printed) as terminal:
            with cpo.busy():
                terminal.until(f"{LASTING[tuple(arguments)]} +━")
            assert terminal.end() == (3 if arguments[0] == "check" else 0), terminal.said
        assert terminal.said.endswith("\x1b[2K"), "it has gone"
        assert "\x1b[?25h" in terminal.said, "and the cursor is back"
        printed.seek(0)
        said = printed.read().decode()
    assert said
    assert "━ " not in said.replace("━┿", "")
    assert "\x1b" not in said


@pytest.mark.parametrize("arguments", [("status", "--json"), ("migrate", "--json")], ids=" ".join)
def test_machines_are_shown_no_bar(cpo: Cpo, arguments: Sequence[str]) -> None:
    lasts = f"SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'cdc-pusher %' AND now() - backend_start > '{2 * UNSEEN_S} s'"
    with (cpo.directory / "printed").open("w+b") as printed, cpo.terminal(*arguments, stdout=printed) as terminal:
        with cpo.busy():
            deadline = time.monotonic() + 40
            while not cpo.sql(lasts):
                assert time.monotonic() < deadline
        assert (terminal.end(), terminal.said) == (0, "")


def test_resync_shows_how_much_is_done(cpo: Cpo) -> None:
    with cpo.terminal("resync", "--station", "DE8PS000042", "--wait") as terminal:
        terminal.until(r"stations looked at, 2 to do +━+ +0/2")
        cpo.sql("DELETE FROM cdc_pusher.change")
        terminal.until("1/2")
        cpo.sql("UPDATE cdc_pusher.outbox SET next_attempt_at = NULL")
        assert terminal.end() == 0
    assert terminal.text.endswith("done: DE8PS000042, for plugsurfing\n")


# ── colours and columns ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_colour_only_underlines_words(cpo: Cpo) -> None:
    shown = {}
    for name, environment in {"colour": {}, "none": {"NO_COLOR": "1"}, "dumb": {"TERM": "dumb"}}.items():
        with cpo.terminal("status", environment=environment) as terminal:
            assert terminal.end() == 0
        shown[name] = terminal
    assert "\x1b[1;31mrejected" in shown["colour"].said
    assert re.search(r"\x1b\[1;31m3\d\d\d\.\d late", shown["colour"].said)
    assert not COLOUR.search(shown["none"].said)
    assert "\x1b" not in shown["dumb"].said
    for terminal in shown.values():
        assert {"works", "late", "held", "rejected"} <= set(terminal.text.split())


@pytest.mark.parametrize("command", [("status",), ("outbox", "list"), ("emp", "list"), ("cpo", "list"), ("check",)], ids=" ".join)
def test_at_80_columns_no_word_is_lost_or_broken(cpo: Cpo, command: Sequence[str]) -> None:
    with cpo.terminal(*command) as terminal:
        terminal.end()
    assert max(map(len, terminal.text.splitlines())) <= 80
    if command[0] in ("status", "outbox"):
        assert set(REASON.split()) <= set(terminal.text.split())
    if command == ("outbox", "list"):
        assert {"DE8PS000043:", "DE*8PS*E000042*1", "rejected"} <= set(terminal.text.split())
