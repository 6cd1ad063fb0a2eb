"""The command line: bad input is one clear line and an exit code, never a traceback; reports are valid JSON."""

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdc_pusher import config, migrate, revision, triggers
from cdc_pusher.cli import written_whole
from cdc_pusher.database import connect

ROOT = Path(__file__).parent.parent
REFERENCE_SCHEMA = ROOT / "examples" / "reference_schema.sql"
EMP = '[emp.plug]\nurl = "http://127.0.0.1:1/"\npartner_identifier = "0123456789abcdef"\n'
KEY = "s3cret-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    exit_code: int
    stdout: str
    stderr: str


# Starting Python and importing takes a second: one process does that and forks for each command, a process of its own all the same.
ZYGOTE = """
import json, os, sys, traceback
import rich.progress, typer.rich_utils, uvloop
from cdc_pusher import cli

for line in sys.stdin:
    order = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.chdir(order["directory"])
        os.environ.clear()
        os.environ.update(order["environment"])
        for number, name in enumerate((os.devnull, "stdout", "stderr")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["cdc-pusher", *order["arguments"]]
        if order["unprivileged"] and os.geteuid() == 0:
            os.setgroups([])
            os.setuid(65534)
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        else:
            code = 0
        sys.stdout.flush()
        os._exit(code)  # taking everything down in order takes ten times as long as the command
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def zygote() -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", ZYGOTE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


class Program:
    """`cdc-pusher` in a directory of its own."""

    def __init__(self, directory: Path, dsn: str, zygote: subprocess.Popen[str]) -> None:
        self.directory = directory
        self.dsn = dsn
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("CDC_PUSHER_", "PG", "COLUMNS"))}
        self.environment |= {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "PGCONNECT_TIMEOUT": "5"}
        self.unprivileged = False  # then root is nobody
        self._zygote = zygote
        self.configure()

    def configure(self, text: str = EMP + f'api_key = "{KEY}"\n', dsn: str | None = None) -> None:
        database = f"[database]\ndsn = {json.dumps(self.dsn if dsn is None else dsn)}\n"
        file = self.directory / "cdc-pusher.toml"
        file.write_text(database + text, encoding="utf-8")
        file.chmod(0o600)

    def __call__(self, *arguments: str) -> Outcome:
        assert self._zygote.stdin is not None
        assert self._zygote.stdout is not None
        order: dict[str, Any] = {"directory": str(self.directory), "environment": self.environment, "arguments": arguments}
        order["unprivileged"] = self.unprivileged
        self._zygote.stdin.write(json.dumps(order) + "\n")
        self._zygote.stdin.flush()
        exit_code = int(self._zygote.stdout.readline())
        return self._checked(exit_code, *((self.directory / name).read_text() for name in ("stdout", "stderr")))

    def as_module(self, *arguments: str) -> Outcome:
        """`python -m cdc_pusher …`, from nothing."""
        command = [sys.executable, "-m", "cdc_pusher", *arguments]
        done = subprocess.run(
            command, cwd=self.directory, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        return self._checked(done.returncode, done.stdout, done.stderr)

    @staticmethod
    def _checked(exit_code: int, stdout: str, stderr: str) -> Outcome:
        assert KEY not in stdout + stderr
        assert "Traceback" not in stderr, stderr
        return Outcome(exit_code=exit_code, stdout=stdout, stderr=stderr)

    def refuses(self, *arguments: str, exit_code: int = 2) -> str:
        """The one line on standard error of a command that ends with this exit code."""
        done = self(*arguments)
        assert (done.exit_code, done.stdout) == (exit_code, ""), done
        assert done.stderr.startswith("cdc-pusher: ")
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr.removeprefix("cdc-pusher: ").rstrip("\n")

    def reports(self, *arguments: str) -> Any:
        done = self(*arguments, "--json")
        assert (done.exit_code, done.stderr) == (0, "")
        return json.loads(done.stdout)


@pytest.fixture
def alone(tmp_path: Path, zygote: subprocess.Popen[str]) -> Program:
    """No database at all."""
    return Program(tmp_path, "host=127.0.0.1 port=1", zygote)


@pytest.fixture
def bare(dsn: str, tmp_path: Path, zygote: subprocess.Popen[str]) -> Program:
    """A database with the CPO's tables only."""
    execute(dsn, REFERENCE_SCHEMA.read_text())
    return Program(tmp_path, dsn, zygote)


@pytest.fixture
def program(bare: Program) -> Program:
    """A database that is migrated, with triggers."""
    migrate.to(bare.dsn)

    async def attach() -> None:
        async with await connect(bare.dsn, "test") as conn:
            await triggers.attach(conn, config.SourceSettings().watch)

    asyncio.run(attach())
    return bare


@pytest.fixture
def filled(program: Program) -> Program:
    """An outbox with a row in each state but one."""
    execute(
        program.dsn,
        "INSERT INTO cdc_pusher.emp (name, full_load_started_at, walk, walk_phase) VALUES ('plug', now(), 'full load', 'source')",
        """INSERT INTO cdc_pusher.outbox
            (emp, kind, key, station_id, payload, acknowledged, desired_gen, delivered_gen, state, reason, changed_at, next_attempt_at)
        VALUES
            ('plug', 'station', 's1', 's1', '{"name": "[bold]Ä"}', '{"name": "Ä"}', 1, 1, 'delivered', NULL, NULL, NULL),
            ('plug', 'station', 's2', 's2', NULL, NULL, 1, 0, 'held', E'zip: is missing \\x1b[31m', now(), NULL),
            ('plug', 'status', 'DE*8PS*E1', 's1', '{"status": "Available"}', NULL, 1, 0, 'pending', NULL, now(), now()),
            ('plug', 'status', 'DE*8PS*E2', 's1', '{"status": "Available"}', NULL, 1, 0, 'rejected', 'HTTP 400', now(), NULL)""",
        """INSERT INTO cdc_pusher.attempt (sent_at, emp, kind, key, gen, duration_ms, outcome, http_status, host)
        VALUES (now(), 'plug', 'station', 's1', 1, 12, 'accepted', 200, 'here')""",
        "INSERT INTO cdc_pusher.change (station_id) VALUES ('s1')",
    )
    return program


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def column(dsn: str, query: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return [row[0] for row in conn.execute(query.encode()).fetchall()]


SPELLING = "is it spelled as in the database? cdc-pusher check names what the mapping leaves out"
STATION = """WITH s AS (
    INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
    VALUES ('s1', 'Rathaus', 50, 7, 'Street', '1', 'City', '12345', 'DE', '+49 30 1', '8ps')
) INSERT INTO connector (station_id, evse_id, type, speed_kw, status) VALUES ('s1', 'DE*8PS*E1', 'Type2', 22, 'Available')"""


# ── bad input ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("arguments", [("run",), ("migrate",), ("resync", "--all")], ids=" ".join)
def test_unreachable_database(alone: Program, arguments: Sequence[str]) -> None:
    alone.configure(dsn="host=127.0.0.1 port=1 password=hidden")
    said = alone.refuses(*arguments)
    assert said.startswith("cannot connect to the database: ")
    assert "hidden" not in said


@pytest.mark.parametrize("arguments", [("run",), ("migrate",)], ids=" ".join)
def test_wrong_dsn(alone: Program, arguments: Sequence[str]) -> None:
    alone.configure(dsn="postgresql://user:hidden@localhost/x?hots=y")
    assert alone.refuses(*arguments) == 'database.dsn: invalid URI query parameter: "hots"'


def test_module_run_from_nothing_ends_the_same_way(alone: Program) -> None:
    alone.configure(dsn="host=127.0.0.1 port=1")
    done = alone.as_module("run")
    assert (done.exit_code, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert done.stderr.startswith("cdc-pusher: cannot connect to the database: ")


def test_database_that_does_not_exist(bare: Program) -> None:
    bare.configure(dsn=bare.dsn.replace("dbname=test", "dbname=nowhere"))
    assert 'database "nowhere" does not exist' in bare.refuses("run")


@pytest.mark.parametrize("arguments", [("run",), ("status",), ("resync", "--all"), ("outbox", "list")], ids=" ".join)
def test_missing_schema(bare: Program, arguments: Sequence[str]) -> None:
    relation = r'( \(relation "cdc_pusher\.\w+" does not exist\))?'
    assert re.fullmatch(f"the database has no schema cdc_pusher: run cdc-pusher migrate{relation}", bare.refuses(*arguments))


def test_missing_table_of_the_reference_mapping(bare: Program) -> None:
    execute(bare.dsn, "DROP TABLE connector")
    done = bare("migrate")
    assert done.exit_code == 2
    assert done.stderr == "cdc-pusher: source.watch: there is no table public.connector\n"


def test_missing_table_in_a_query_of_the_mapping(program: Program) -> None:
    program.configure(f"{EMP}api_key = '{KEY}'\n[source]\nstations = 'SELECT * FROM nowhere'\n")
    assert program.refuses("run") == 'source.stations: relation "nowhere" does not exist'


def test_sql_error_in_the_mapping(program: Program) -> None:
    program.configure(f"{EMP}api_key = '{KEY}'\n[source]\nconnectors = 'SELECT FROM WHERE'\n")
    assert program.refuses("run").startswith("source.connectors: syntax error at or near ")


def test_sql_error_in_a_watch(bare: Program) -> None:
    bare.configure(f"{EMP}api_key = '{KEY}'\n[[source.watch]]\ntable = 'public.station'\nstation = 'id +'\n")
    done = bare("migrate")
    assert done.exit_code == 2
    assert done.stderr.startswith("cdc-pusher: source.watch public.station: syntax error at or near ")
    assert len(done.stderr.splitlines()) == 1


def test_unknown_key(alone: Program) -> None:
    alone.configure(f"{EMP}api_key = '{KEY}'\nspeed = 3\n")
    assert alone.refuses("run") == "cdc-pusher.toml: emp.plug.speed: unknown key"


def test_missing_api_key(alone: Program) -> None:
    alone.configure(EMP)
    said = alone.refuses("run")
    assert said.startswith("emp.plug: no API key; ")
    assert "CDC_PUSHER_EMP__PLUG__API_KEY" in said


def test_missing_file(alone: Program) -> None:
    assert alone.refuses("run", "--config", "nowhere.toml") == "nowhere.toml: no such file; name the configuration with --config FILE"


def test_file_of_another_user(alone: Program) -> None:
    owner, alone.unprivileged = alone.directory.owner(), True
    alone.directory.chmod(0o755)
    (alone.directory / "cdc-pusher.toml").chmod(0)
    said = f"cdc-pusher.toml: cannot be read: Permission denied; run it as {owner}: sudo -u {owner} cdc-pusher …"
    assert alone.refuses("status") == said


def test_directory_of_another_user(alone: Program) -> None:
    """Nobody can see whose the file is."""
    alone.unprivileged = True
    alone.directory.chmod(0)
    said = alone.refuses("status", "--config", f"{alone.directory}/cdc-pusher.toml", exit_code=1)
    alone.directory.chmod(0o700)
    assert said.endswith("cdc-pusher.toml'; run it as cdc-pusher: sudo -u cdc-pusher cdc-pusher …")


def test_no_configuration_at_all(alone: Program) -> None:
    (alone.directory / "cdc-pusher.toml").unlink()
    alone.environment["PGHOST"] = str(alone.directory)
    assert alone.refuses("status").endswith(
        "; there is no configuration, neither /etc/cdc-pusher/config.toml nor cdc-pusher.toml:"
        " name it with --config FILE, or write one with cdc-pusher init"
    )


def test_role_that_may_not(filled: Program) -> None:
    execute(filled.dsn, "DROP ROLE IF EXISTS stranger", "CREATE ROLE stranger LOGIN")
    filled.configure(dsn=filled.dsn.replace("user=postgres", "user=stranger"))
    remedy = "; run it as the role of the daemon, or have cdc-pusher migrate grant the rights"
    assert filled.refuses("outbox", "list", exit_code=1) == f"the database said: permission denied for schema cdc_pusher{remedy}"
    execute(filled.dsn, "DROP ROLE stranger")


def test_near_names_are_guessed_at(program: Program) -> None:
    assert program.refuses("status", "--emp", "plugg").endswith("; did you mean 'plug'?")
    assert program.refuses("outbox", "list", "--state", "hled").endswith("; did you mean 'held'?")
    assert "Did you mean 'status'?" in program("statsu").stderr
    program.configure(f'{EMP}api_key = "{KEY}"\ncpos = {{8ps = "DE*8PS"}}\n')
    assert program.refuses("cpo", "confirm", "8pz").endswith("'8pz'; did you mean '8ps'?")


def test_watch_is_for_people_on_a_terminal(alone: Program) -> None:
    assert alone.refuses("status", "--watch").startswith("--watch draws on a terminal, which this is not: call cdc-pusher status --json")
    assert alone.refuses("status", "--watch", "--json").startswith("--watch is for people: for machines, call cdc-pusher status --json")
    assert alone.refuses("status", "--interval", "2") == "--interval goes with --watch"


def test_database_that_cannot_be_written(program: Program) -> None:
    execute(program.dsn, "ALTER DATABASE test SET default_transaction_read_only = on")
    assert program.refuses("run").startswith("transactions are read-only by default: database.dsn has to lead to the primary")


def test_no_emp(program: Program) -> None:
    program.configure("")
    assert program.refuses("run") == "no EMP is configured: add a section [emp.NAME]"


def test_unknown_things_of_cpos(program: Program) -> None:
    assert program.refuses("cpo", "confirm") == "say which CPOs: their internal identifiers, or --all"
    assert program.refuses("cpo", "confirm", "x", "--all") == "say which CPOs: their internal identifiers, or --all"
    assert program.refuses("cpo", "confirm", "x") == "emp.plug.cpos has no cpo-id for 'x': add it there"
    assert program.refuses("cpo", "list", "--emp", "nobody") == "no EMP nobody in the configuration; there is plug"
    program.configure(f"{EMP}api_key = '{KEY}'\n{EMP.replace('plug', 'other')}api_key = '{KEY}'\n")
    assert program.refuses("cpo", "export") == "say for which EMP: --emp other or --emp plug"


def test_confirming_without_a_schema(bare: Program) -> None:
    bare.configure(f'{EMP}api_key = "{KEY}"\ncpos = {{a = "DE*ABC"}}\n')
    assert bare.refuses("cpo", "confirm", "a") == "the database has no schema cdc_pusher: run cdc-pusher migrate"


def test_init_writes_a_file_for_its_owner_alone_and_overwrites_none(bare: Program) -> None:
    file = bare.directory / "new.toml"
    done = bare("init", "--dsn", bare.dsn, "--output", "new.toml")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.startswith("new.toml: written for the reference schema. To be filled in:\n  - ")
    assert file.stat().st_mode & 0o777 == 0o600
    assert bare.refuses("init", "--dsn", bare.dsn, "--output", "new.toml").startswith("new.toml: there is such a file already")
    assert (
        bare.refuses("init", "--dsn", bare.dsn, "--output", "no/where.toml")
        == "no/where.toml: cannot be written: No such file or directory"
    )
    said = bare.refuses("init", "--dsn", "host=127.0.0.1 port=1 password=hidden", "--output", "other.toml")
    assert said.startswith("cannot connect to the database: ")
    assert "hidden" not in said
    assert not (bare.directory / "other.toml").exists()


def test_check_reports_on_standard_output_alone_and_exits_with_3(bare: Program) -> None:
    done = bare("check", "--json")
    assert done.exit_code == 3
    found = json.loads(done.stdout)
    assert found["ok"] is False
    assert {finding["level"] for finding in found["findings"]} == {"ok", "warning", "problem"}
    done = bare("check")
    assert "\n1 problem, " in done.stdout
    assert done.stderr == "", "no progress bar where nobody looks"
    assert bare("check", "--config", "nowhere.toml").exit_code == 2


def test_uninstall_asks_and_does_nothing_without_a_yes(program: Program) -> None:
    done = program("uninstall")
    assert done.exit_code == 1
    assert "Aborted" in done.stderr
    assert program.reports("status")["triggers"] == []
    done = program("uninstall", "--yes")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.endswith("dropped schema cdc_pusher\n")
    assert program("uninstall", "--yes").stdout == "the database has no schema cdc_pusher\n"


def test_administrator_is_named_by_an_option(bare: Program) -> None:
    bare.configure(dsn="host=127.0.0.1 port=1")
    assert bare("migrate", "--dsn", bare.dsn).exit_code == 0


def test_roles_that_do_not_go_together(alone: Program) -> None:
    alone.configure(f'owner_role = "a"\n{EMP}api_key = "{KEY}"\n')
    assert alone.refuses("run") == "cdc-pusher.toml: database: owner_role and runtime_role go together, and are two"


def test_unknown_things_of_emps(program: Program) -> None:
    assert program.refuses("emp", "pause", "nobody") == "no EMP nobody in the configuration; there is plug"
    assert program.refuses("emp", "pause", "plug") == "no daemon has served plug yet"
    assert program.refuses("emp", "forget", "plug", "--yes") == "plug is in the configuration: take it out, and restart the daemon"
    assert program.refuses("emp", "forget", "nobody", "--yes", exit_code=1).startswith("nothing is known of an EMP nobody, or a daemon")


def test_retry_of_nothing_or_of_two_things(program: Program) -> None:
    assert program.refuses("outbox", "retry") == "say which messages: a station or an EVSE, or --all"
    assert program.refuses("outbox", "retry", "s1", "--all") == "say which messages: a station or an EVSE, or --all"
    assert program("outbox", "retry", "--all").stdout == "no message was rejected or waits after a failure\n"


def test_resync_of_a_cpo_that_no_station_is_of(filled: Program) -> None:
    assert filled.refuses("resync", "--cpo", "7ps") == "no station is of a CPO '7ps'; cdc-pusher cpo list names them"


def test_unknown_emp_for_resync(alone: Program) -> None:
    assert alone.refuses("resync", "--all", "--emp", "nobody") == "no EMP nobody in the configuration; there is plug"


def test_emp_that_was_never_served_for_resync(program: Program) -> None:
    assert program.refuses("resync", "--all") == "no daemon has served plug yet; its full load begins with cdc-pusher run"


def test_resync_of_nothing_or_of_two_things(alone: Program) -> None:
    for arguments in ((), ("--all", "--station", "s1"), ("--all", "--cpo", "8ps"), ("--station", "s1", "--cpo", "8ps")):
        assert alone.refuses("resync", *arguments) == "say which stations: --station ID, --cpo CPO, or --all"


def test_unknown_state(alone: Program) -> None:
    said = alone.refuses("outbox", "list", "--state", "lost")
    assert said == "no such state: lost; there is pending, in_flight, delivered, held, rejected"


def test_unknown_station(program: Program) -> None:
    done = program("outbox", "show", "nowhere")
    assert (done.exit_code, done.stderr) == (1, f"cdc-pusher: the outbox has no station or EVSE 'nowhere'; {SPELLING}\n")


@pytest.mark.parametrize("faults", ["nonsense", '[{"kind": "nonsense"}]', '{"kind": "hang"}'])
def test_mistake_in_the_faults_of_the_sandbox(alone: Program, faults: str) -> None:
    alone.refuses("sandbox", "--port", "0", "--faults", faults)


def test_wrong_usage_is_exit_code_2(alone: Program) -> None:
    assert alone("run", "--nonsense").exit_code == 2


def test_schema_that_is_newer_than_the_program(program: Program) -> None:
    execute(program.dsn, "UPDATE cdc_pusher.alembic_version SET version_num = '9999', oldest_program = '9999'")
    assert program.refuses("run").startswith("the schema cdc_pusher is at revision 9999, this program needs ")
    assert "upgrade the program" in program.refuses("run")
    done = program("migrate")
    assert done.exit_code in (1, 2)
    assert len(done.stderr.splitlines()) == 1
    assert "newer than this program" in done.stderr


@pytest.mark.parametrize("arguments", [("run",), ("migrate",), ("status",), ("resync", "--all")], ids=" ".join)
def test_interrupted_command_says_nothing(alone: Program, arguments: Sequence[str]) -> None:
    """In the middle of connecting to a server that says nothing."""
    command = [sys.executable, "-m", "cdc_pusher", *arguments]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        alone.configure(dsn=f"host=127.0.0.1 port={silent.getsockname()[1]}")
        with subprocess.Popen(
            command, cwd=alone.directory, env=alone.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                assert (*process.communicate(timeout=30), process.returncode) == ("", "", 130)


# ── commands ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_migrate_says_what_it_did_and_can_be_repeated(bare: Program) -> None:
    schema = f"schema cdc_pusher is at revision {revision.head()}\n"
    assert bare("migrate") == Outcome(exit_code=0, stdout=f"{schema}attached to public.station\nattached to public.connector\n", stderr="")
    assert bare("migrate") == Outcome(exit_code=0, stdout=f"{schema}triggers are attached as configured\n", stderr="")


def test_status_reports(filled: Program) -> None:
    found = filled.reports("status")
    assert found.keys() == {"emps", "changes", "problems", "triggers", "daemons", "unheld"}
    assert found["daemons"] == []
    (plug,) = found["emps"]
    assert (plug["emp"], plug["stations"], plug["stations_delivered"], plug["held"], plug["rejected"]) == ("plug", 2, 1, 1, 1)
    assert plug["lag_s"] >= 0
    assert found["changes"]["changes"] == 1
    assert {(problem["state"], problem["messages"]) for problem in found["problems"]} == {("held", 1), ("rejected", 1)}


def test_status_of_an_empty_schema_reports(program: Program) -> None:
    nothing: dict[str, list[str]] = {"problems": [], "triggers": [], "daemons": [], "unheld": []}
    assert program.reports("status") == {"emps": [], "changes": {"changes": 0, "oldest_change_at": None}, **nothing}
    assert "No EMP is served yet" in program("status").stdout


def test_status_names_what_is_wrong_with_the_triggers_and_what_sweeps_have_healed(filled: Program) -> None:
    execute(
        filled.dsn, "ALTER TABLE connector DISABLE TRIGGER ALL", "UPDATE cdc_pusher.emp SET healed = 3, healed_at = '2026-01-02 03:04Z'"
    )
    (drift,) = filled.reports("status")["triggers"]
    assert drift.startswith("public.connector: trigger ")
    shown = " ".join(filled("status").stdout.split())
    assert "is disabled: changes wait for the sweep; run cdc-pusher migrate" in shown
    assert "3 healed in all" in shown


def test_outbox_list_reports_problems_first_and_what_is_asked_for(filled: Program) -> None:
    assert [row["key"] for row in filled.reports("outbox", "list")] == ["DE*8PS*E2", "s2", "DE*8PS*E1"]
    assert [row["key"] for row in filled.reports("outbox", "list", "--state", "held", "--state", "pending")] == ["s2", "DE*8PS*E1"]
    assert len(filled.reports("outbox", "list", "--limit", "1", "--emp", "plug")) == 1


def test_outbox_show_reports_rows_and_attempts(filled: Program) -> None:
    found = filled.reports("outbox", "show", "s1")
    assert [row["key"] for row in found["rows"]] == ["s1", "DE*8PS*E1", "DE*8PS*E2"]
    assert found["rows"][0]["acknowledged"] == {"name": "Ä"}
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["accepted"]
    assert found["database"] == {"s1": "the mapping does not return it: it is gone"}
    execute(filled.dsn, STATION)
    database = filled.reports("outbox", "show", "DE*8PS*E1")["database"]
    assert (database["s1"]["name"], database["s1"]["connectors"]) == ("Rathaus", ["DE*8PS*E1 Type2 22.00 kW Available"])
    shown = filled("outbox", "show", "s1").stdout
    assert "database · station · s1" in shown
    assert "Rathaus" in shown


@pytest.mark.parametrize("arguments", [("status",), ("outbox", "show", "s2")], ids=" ".join)
def test_text_for_people_has_no_markup_or_control_characters_of_the_data(filled: Program, arguments: Sequence[str]) -> None:
    done = filled(*arguments)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "zip: is missing" in done.stdout
    assert "\x1b" not in done.stdout


def test_resync_orders_a_walk_or_single_stations(filled: Program) -> None:
    done = filled("resync", "--station", "s1", "--station", "s2", "--force")
    assert (done.exit_code, done.stdout) == (0, "ordered: s1, s2, for plug\n")
    done = filled("resync", "--all")
    assert (done.exit_code, done.stdout) == (0, "ordered: every station, for plug\n")
    with psycopg.connect(filled.dsn) as conn:
        found = conn.execute("SELECT station_id, emp, resend FROM cdc_pusher.change WHERE emp IS NOT NULL ORDER BY 1").fetchall()
        walk = conn.execute("SELECT walk, walk_phase, walk_cursor FROM cdc_pusher.emp").fetchall()
    assert found == [("s1", "plug", "everything"), ("s2", "plug", "everything")]
    assert walk == [("full load", "source", None)]


def test_resync_of_a_cpo_and_what_it_would_be(filled: Program) -> None:
    execute(filled.dsn, STATION)
    done = filled("resync", "--cpo", "8ps")
    assert done.stdout == "ordered: 1 stations of 8ps, for plug\n"
    rows = column(filled.dsn, "SELECT station_id FROM cdc_pusher.change WHERE resend = 'undelivered'")
    assert rows == ["s1"]
    done = filled("resync", "--all", "--force", "--dry-run")
    assert done.stdout == "would look at 2 stations and 2 statuses, 3 of them undelivered, and send all of them, for plug\n"
    assert column(filled.dsn, "SELECT walk FROM cdc_pusher.emp") == ["full load"], "nothing was ordered"


def test_retry_names_what_was_rejected(filled: Program) -> None:
    done = filled("outbox", "retry", "--all")
    assert (done.exit_code, done.stdout) == (0, "1 message is tried again\n")
    assert column(filled.dsn, "SELECT station_id FROM cdc_pusher.change WHERE resend = 'undelivered' AND priority = 0") == ["s1"]


def test_emps_are_listed_paused_resumed_and_forgotten(filled: Program) -> None:
    execute(filled.dsn, "UPDATE cdc_pusher.emp SET mapping = 'x'")
    assert filled("emp", "pause", "plug").stdout == "paused: plug\n"
    (row,) = filled.reports("emp", "list")
    assert row["paused_at"] is not None
    assert "paused since" in filled("emp", "list").stdout
    assert filled("emp", "resume", "plug").stdout == "resumed: plug\n"
    why = "breaker_reason = 'HTTP 500', breaker_open_since = now(), breaker_probe_at = now()"
    execute(filled.dsn, f"UPDATE cdc_pusher.emp SET {why}")
    assert "fails since" in filled("emp", "list").stdout
    assert "HTTP 500; tried again at" in " ".join(filled("status").stdout.split())
    filled.configure(f"{EMP.replace('plug', 'other')}api_key = '{KEY}'\n")
    assert "still serves it" in filled.refuses("emp", "forget", "plug", "--yes", exit_code=1)
    execute(filled.dsn, "UPDATE cdc_pusher.emp SET mapping = NULL")
    assert filled("emp", "forget", "plug", "--yes").stdout == "forgotten: plug\n"
    left = ("outbox", "evse", "cpo", "emp")
    assert [n for table in left for n in column(filled.dsn, f"SELECT count(*) FROM cdc_pusher.{table} WHERE true")] == [0, 0, 0, 0]


def test_what_is_done_is_told_to_machines(filled: Program) -> None:
    execute(filled.dsn, STATION)
    filled.configure(f'{EMP}api_key = "{KEY}"\ncpos = {{8ps = "DE*8PS"}}\n')
    assert filled.reports("migrate") == {"revision": revision.head(), "done": []}
    size = {"stations": 2, "statuses": 2, "undelivered": 3}
    assert filled.reports("resync", "--all", "--dry-run") == {"state": "dry run", "emps": ["plug"], **size}
    assert filled.reports("resync", "--cpo", "8ps") == {"state": "ordered", "emps": ["plug"], "stations": ["s1"]}
    assert filled.reports("outbox", "retry", "--all") == {"messages": 1}
    assert filled.reports("cpo", "confirm", "--all") == {"plug": ["8ps"]}
    assert filled.reports("cpo", "confirm", "--all") == {"plug": []}
    assert filled.reports("emp", "pause", "plug") == {"paused": ["plug"]}
    assert filled.reports("emp", "resume", "plug") == {"resumed": ["plug"]}
    filled.configure(f'{EMP.replace("plug", "other")}api_key = "{KEY}"\n')
    assert filled.reports("emp", "forget", "plug", "--yes") == {"forgotten": ["plug"]}
    assert filled.reports("uninstall", "--yes")["done"][-1] == "dropped schema cdc_pusher"


def test_emp_is_late_by_what_could_be_sent(filled: Program) -> None:
    """And not by what waits for a station that is held."""
    filled.configure(f'{EMP}api_key = "{KEY}"\nlate_after_s = 60\n')
    old = "UPDATE cdc_pusher.outbox SET changed_at = now() - interval '1 hour'"
    execute(filled.dsn, f"{old}, next_attempt_at = NULL, reason = 'waits until the EMP has accepted its station' WHERE state = 'pending'")
    (plug,) = filled.reports("status")["emps"]
    assert (plug["is_late"], plug["late_after_s"], plug["lag_s"] > 3000) == (False, 60.0, True)
    execute(filled.dsn, f"{old}, next_attempt_at = now(), reason = NULL WHERE state = 'pending'")
    assert [row["is_late"] for row in filled.reports("status")["emps"]] == [True]
    filled.configure(f'{EMP.replace("plug", "other")}api_key = "{KEY}"\n')
    assert [(row["is_late"], row["late_after_s"]) for row in filled.reports("status")["emps"]] == [(False, None)]


def test_version_needs_no_configuration(alone: Program) -> None:
    (alone.directory / "cdc-pusher.toml").write_text("nonsense")
    assert alone.as_module("--version").stdout.startswith("cdc-pusher ")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_full_disk_is_one_line_and_the_exit_code_of_a_failure(unbuffered: str) -> None:
    command = [sys.executable, "-m", "cdc_pusher", "--version"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": unbuffered}, check=False
        )
    assert (done.returncode, done.stderr) == (1, "cdc-pusher: [Errno 28] No space left on device\n")


class Narrow(io.RawIOBase):
    """What takes a few bytes at a time, like a pipe whose writer is interrupted."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.taken += bytes(data[:5])
        return min(len(data), 5)


def test_all_of_a_report_is_written_though_nothing_is_buffered() -> None:
    """Python itself forgets what was not taken at once (`PYTHONUNBUFFERED`, as in many containers)."""
    pipes = [Narrow(), Narrow()]
    unbuffered = [io.TextIOWrapper(pipe, "utf-8", write_through=True) for pipe in pipes]  # type: ignore[type-var]  # as -u makes them
    whole = written_whole(unbuffered[1])
    for stream in (unbuffered[0], whole):
        stream.write("Zürich, Straße 1\n")
    assert [pipe.taken.decode() for pipe in pipes] == ["Züri", "Zürich, Straße 1\n"]
    assert written_whole(whole) is whole


INTERRUPTED = """
import signal, typer
from cdc_pusher import cli

signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
cli.app = lambda: typer.echo("x" * 300_000)
cli.main()
signal.setitimer(signal.ITIMER_REAL, 0)
"""


def test_report_is_whole_though_its_writer_is_interrupted_and_nothing_is_buffered() -> None:
    """A write that a signal ends when the pipe is full has taken a part."""
    taken = []
    with subprocess.Popen([sys.executable, "-u", "-c", INTERRUPTED], stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdout is not None
        while part := process.stdout.read(16_384):
            taken.append(part)
            time.sleep(0.03)  # the pipe is full meanwhile, and the writer waits
    assert (process.returncode, len(b"".join(taken))) == (0, 300_001)
