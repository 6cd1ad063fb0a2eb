"""The embedded Postgres starts, keeps its data, and leaves nothing behind, however its owner ends."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from cdc_pusher import embedded
from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.errors import CdcPusherError, ConfigurationError

OWNER = """
import sys
from cdc_pusher.embedded import EmbeddedPostgres

with EmbeddedPostgres(settings={"fsync": "off"}) as server:
    print(server.pid, server.host, flush=True)
    sys.stdin.read()
"""


def alive(pid: int) -> bool:
    """Whether there is such a process, a zombie not counted: in a container nobody may be there to reap orphans."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    try:
        return not stat.parent.parent.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    """Return once the condition holds; fail after the time-out."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        time.sleep(0.02)


def query(dsn: str, sql: str) -> object:
    """The first value that the query returns."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute(sql.encode()).fetchone()
    return row[0] if row else None


def test_server_is_postgres_18_in_utf8_with_the_given_settings(embedded_postgres: EmbeddedPostgres) -> None:
    dsn = embedded_postgres.dsn()
    assert str(query(dsn, "SHOW server_version")).startswith("18.")
    assert query(dsn, "SHOW server_encoding") == "UTF8"
    assert query(dsn, "SHOW fsync") == "off"
    assert query(dsn, "SHOW max_connections") == "200"


def test_server_listens_on_no_network_address_unless_asked(embedded_postgres: EmbeddedPostgres) -> None:
    assert query(embedded_postgres.dsn(), "SHOW listen_addresses") == ""


def test_only_the_owner_may_enter_the_directory(embedded_postgres: EmbeddedPostgres) -> None:
    assert Path(embedded_postgres.host).stat().st_mode & 0o077 == 0


def test_restart_keeps_data_and_address_and_stop_leaves_nothing() -> None:
    with EmbeddedPostgres(settings={"fsync": "off"}, listen=True) as server:
        directory = Path(str(query(server.dsn(), "SHOW unix_socket_directories")))
        address, first_pid = (server.host, server.port), server.pid
        assert query(server.dsn(), "SHOW listen_addresses") == "127.0.0.1"
        with psycopg.connect(server.dsn()) as conn:
            conn.execute("CREATE TABLE kept AS SELECT 7 AS value")
        server.stop()
        assert not alive(first_pid)
        server.start()
        assert (server.host, server.port) == address
        assert query(server.dsn(), "SELECT value FROM kept") == 7
        server.stop("immediate")
        server.start()
        assert query(server.dsn(), "SELECT value FROM kept") == 7
        last_pid = server.pid
    assert not alive(last_pid)
    assert not directory.exists()


def test_a_standby_streams_until_it_is_promoted_and_goes_on_alone() -> None:
    with EmbeddedPostgres(settings={"fsync": "off"}) as primary:
        with psycopg.connect(primary.dsn()) as conn:
            conn.execute("CREATE TABLE copied AS SELECT 1 AS value")
        with EmbeddedPostgres(settings={"fsync": "off"}, standby_of=primary) as standby:
            assert query(standby.dsn(), "SELECT value FROM copied") == 1
            with psycopg.connect(primary.dsn()) as conn:
                conn.execute("UPDATE copied SET value = 2")
            wait_for(lambda: query(standby.dsn(), "SELECT value FROM copied") == 2)
            primary.stop("immediate")
            assert query(standby.dsn(), "SELECT pg_promote()") is True
            with psycopg.connect(standby.dsn()) as conn:
                conn.execute("UPDATE copied SET value = 3")
            standby.stop("immediate")
            standby.start()
            assert query(standby.dsn(), "SELECT value FROM copied") == 3


def test_a_standby_of_a_server_that_does_not_run_is_refused() -> None:
    with EmbeddedPostgres(settings={"fsync": "off"}) as primary:
        primary.stop()
        with pytest.raises(CdcPusherError, match="could not be set up"), EmbeddedPostgres(standby_of=primary):
            pass


def test_an_open_connection_does_not_hold_up_the_end() -> None:
    with EmbeddedPostgres(settings={"fsync": "off"}) as server:
        connection = psycopg.connect(server.dsn())
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_leaves_neither_server_nor_directory(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, directory = owner.stdout.readline().split()
        assert alive(int(pid))
        owner.send_signal(number)
    wait_for(lambda: not alive(int(pid)) and not Path(directory).exists())


def test_a_wrong_setting_is_named_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir=embedded._parent_directory()) as parent:
        Path(parent).chmod(0o711)
        monkeypatch.setattr(embedded, "_parent_directory", lambda: parent)
        with pytest.raises(CdcPusherError, match="no_such_setting"), EmbeddedPostgres(settings={"no_such_setting": "1"}):
            pass
        assert list(Path(parent).iterdir()) == []


def test_a_long_temporary_path_is_avoided(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("x" * 100)))
    (tmp_path / ("x" * 100)).mkdir()
    assert embedded._parent_directory() == "/tmp"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands the server to another user")
def test_root_copies_an_installation_that_nobody_cannot_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed = embedded._installation()
    hidden = tmp_path / "hidden"
    shutil.copytree(installed, hidden / "embedded_postgres" / "pginstall", symlinks=True)
    libraries = installed.parent.parent / "embedded_postgres.libs"
    if libraries.exists():
        shutil.copytree(libraries, hidden / libraries.name)
    hidden.chmod(0o700)
    monkeypatch.setattr(embedded, "_installation", lambda: hidden / "embedded_postgres" / "pginstall")
    with EmbeddedPostgres(settings={"fsync": "off"}) as server:
        assert hidden not in server.bin.parents
        assert query(server.dsn(), "SELECT 1") == 1


def test_a_missing_wheel_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'cdc-pusher\[demo\]'"):
        EmbeddedPostgres()


def test_each_test_has_a_database_of_its_own(dsn: str) -> None:
    assert query(dsn, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    with psycopg.connect(dsn) as conn:
        conn.execute("CREATE TABLE mine (id int)")


def test_each_test_has_a_database_of_its_own_again(dsn: str) -> None:
    test_each_test_has_a_database_of_its_own(dsn)
