"""The configuration is complete and valid, or one line says what is wrong; keys and passwords are in no text."""

import os
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cdc_pusher import config, migrate
from cdc_pusher.config import DEFAULT_PATHS, Settings, load
from cdc_pusher.database import connect
from cdc_pusher.errors import CdcPusherError, ConfigurationError, DatabaseUnavailable

KEY = "s3cret-key-of-this-emp"
EMP = 'url = "https://emp.example/api"\npartner_identifier = "0123456789abcdef"\n'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither files nor variables of the machine have a say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config, "DEFAULT_PATHS", (tmp_path / "etc.toml", Path("cdc-pusher.toml")))
    for name in list(os.environ):
        if name.upper().startswith("CDC_PUSHER_") or name == "CREDENTIALS_DIRECTORY":
            monkeypatch.delenv(name)


def file(text: str, name: str = "config.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def failure(path: Path | None) -> str:
    """What loading says; the key is never part of it, and it is one line."""
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    said = str(caught.value)
    cause: BaseException | None = caught.value
    while cause is not None:
        assert KEY not in f"{cause} {cause!r}"
        cause = cause.__cause__
    assert "\n" not in said
    return said


def key_of(settings: Settings, name: str = "plug") -> str:
    found = settings.emp[name].api_key
    assert found is not None
    return found.get_secret_value()


# ── where it comes from ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_default_places_are_etc_and_then_the_working_directory() -> None:
    assert tuple(map(str, DEFAULT_PATHS)) == ("/etc/cdc-pusher/config.toml", "cdc-pusher.toml")


def test_file_named_goes_before_those_in_the_default_places() -> None:
    file('database.dsn = "here"', "cdc-pusher.toml")
    assert load().database.dsn == "here"
    file('database.dsn = "etc"', "etc.toml")
    assert load().database.dsn == "etc"
    assert load(file('database.dsn = "named"')).database.dsn == "named"


def test_without_a_file_the_defaults_are_valid() -> None:
    settings = load()
    assert (settings.database.dsn, settings.emp) == ("", {})
    assert [watch.table for watch in settings.source.watch] == ["public.station", "public.connector"]


def test_environment_goes_before_the_file_key_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    path = file('[database]\ndsn = "file"\n[daemon]\ncapture_batch = 7\npage_stations = 8\n')
    monkeypatch.setenv("CDC_PUSHER_DATABASE__DSN", "environment")
    monkeypatch.setenv("CDC_PUSHER_DAEMON__CAPTURE_BATCH", "9")
    settings = load(path)
    assert (settings.database.dsn, settings.daemon.capture_batch, settings.daemon.page_stations) == ("environment", 9, 8)


def test_environment_alone_is_enough_for_an_emp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_PUSHER_EMP__PLUG__URL", "https://emp.example/api")
    monkeypatch.setenv("CDC_PUSHER_EMP__PLUG__PARTNER_IDENTIFIER", "0123456789abcdef")
    monkeypatch.setenv("CDC_PUSHER_EMP__PLUG__API_KEY", KEY)
    assert key_of(load()) == KEY


def test_identifiers_of_cpos_are_text_as_written() -> None:
    path = file(f'[emp.plug]\n{EMP}api_key = "k"\n[emp.plug.cpos]\n"8ps" = "DE*8PS"\n"Ä b" = "FR*XYZ"\n')
    assert load(path).emp["plug"].cpos == {"8ps": "DE*8PS", "Ä b": "FR*XYZ"}


def test_configuration_cannot_be_changed_afterwards() -> None:
    settings = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.database = settings.database


# ── what is wrong with it ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("databas.dsn = 'x'", "databas: unknown key"),
        ("[database]\ndns = 'x'", "database.dns: unknown key"),
        (f"[emp.plug]\n{EMP}api_key = 'k'\nbursts = 3", "emp.plug.bursts: unknown key"),
        ("[[source.watch]]\ntable = 'x'\nstation = 'y'\ncolumn = ['z']", "source.watch.0.column: unknown key"),
        ("[[source.watch]]\ntable = 'x'", "source.watch.0.station: missing"),
        ("[[source.watch]]\ntable = ''\nstation = 'y'", "source.watch.0.table: "),
        ("[source]\nstations = '  '", "source.stations: "),
        (
            "[emp.plug]\nurl = 'https://x/'\npartner_identifier = '0123456789abcde'",
            "emp.plug.partner_identifier: String should have at least 16",
        ),
        ("[emp.plug]\nurl = 'https://x/'", "emp.plug.partner_identifier: missing"),
        ("[emp.plug]\nurl = 'nonsense'\npartner_identifier = '0123456789abcdef'", "emp.plug.url: Input should be a valid URL"),
        ("[emp.plug]\nurl = 'ftp://x/'\npartner_identifier = '0123456789abcdef'", "emp.plug.url: URL scheme should be 'http' or 'https'"),
        (f"[emp.Plug]\n{EMP}", "emp.Plug: String should match pattern"),
        (f"[emp.plug]\n{EMP}protocol = 'ocpi'", "emp.plug.protocol: Input should be 'oioi-v4'"),
        (f"[emp.plug]\n{EMP}concurrency = 0", "emp.plug.concurrency: Input should be greater than or equal to 1"),
        (f"[emp.plug]\n{EMP}request_timeout_s = 0", "emp.plug.request_timeout_s: Input should be greater than 0"),
        (
            f"[emp.plug]\n{EMP}max_requests_per_second = -1",
            "emp.plug.max_requests_per_second: Input should be greater than or equal to 0.001",
        ),
        (f"[emp.plug]\n{EMP}connectors_changed = 'drop'", "emp.plug.connectors_changed: Input should be"),
        ("[daemon]\npoll_interval_s = 5", "daemon.poll_interval_s: Input should be less than or equal to 1"),
        ("emp = 3", "emp: Input should be a valid dict"),
    ],
)
def test_mistake_is_named_with_file_and_key(text: str, words: str) -> None:
    assert failure(file(text)).startswith(f"config.toml: {words}")


def test_all_mistakes_are_named_at_once() -> None:
    said = failure(file("[database]\ndns = 'x'\n[daemon]\nspeed = 1"))
    assert "database.dns: unknown key" in said
    assert "daemon.speed: unknown key" in said


def test_bad_toml_is_named_with_its_line() -> None:
    assert failure(file("[database\n")).startswith("config.toml: not valid TOML: ")
    assert "line 2" in failure(file("a = 1\na = = 2\n"))


def test_file_in_another_encoding_is_named() -> None:
    path = Path("config.toml")
    path.write_bytes("[database]\ndsn = 'dbname=städte'\n".encode("latin-1"))
    assert failure(path).startswith("config.toml: ")


def test_file_that_is_not_there_is_named() -> None:
    assert failure(Path("nowhere.toml")) == "nowhere.toml: no such file; name the configuration with --config FILE"
    assert failure(Path()) == ".: no such file; name the configuration with --config FILE"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_may_not_be_read_is_named() -> None:
    path = file("")
    path.chmod(0)
    assert failure(path) == "config.toml: cannot be read: Permission denied"


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a file that nobody can read from its beginning")
def test_file_that_cannot_be_read_is_named() -> None:
    assert failure(Path("/proc/self/mem")).startswith("/proc/self/mem: cannot be read: ")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CDC_PUSHER_DAEMON__CAPTURE_BATCH", "many"),
        ("CDC_PUSHER_DATABASE__DNS", "x"),
        ("CDC_PUSHER_DATABASE", "x"),
        ("CDC_PUSHER_EMP", "{"),
    ],
)
def test_mistake_in_the_environment_is_one_line(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    failure(None)


# ── keys ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_key_comes_from_the_environment_else_the_file_else_the_credential(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "plug.api-key").write_text("from-credential\n")
    (credentials / "plug.api-key").chmod(0o440)  # as systemd makes them
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert key_of(load(file(f"[emp.plug]\n{EMP}"))) == "from-credential"
    key_file = file(" from-file \r\n", "key")
    path = file(f"[emp.plug]\n{EMP}api_key_file = '{key_file}'")
    assert key_of(load(path)) == "from-file"
    monkeypatch.setenv("CDC_PUSHER_EMP__PLUG__API_KEY", "from-environment")
    assert key_of(load(path)) == "from-environment"


@pytest.mark.parametrize("name", ["plug", "plug-surfing", "plug_surfing", "p1"])
def test_variable_that_the_error_names_is_the_one_that_works(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = file(f"[emp.{name}]\n{EMP}")
    said = failure(path)
    assert said.startswith(f"emp.{name}: no API key; set api_key_file, the systemd credential {name}.api-key or CDC_PUSHER_EMP__")
    monkeypatch.setenv(said.rpartition(" ")[2], KEY)
    assert key_of(load(path), name) == KEY


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "the API key file key cannot be read: No such file or directory"),
        (b"x" * 4097, "the API key file key has more than 4096 bytes"),
        (b"", "the API key in key is empty or has characters that an HTTP header cannot carry"),
        (b" \n", "the API key in key is empty or has"),
        (KEY.encode() + b"\n" + KEY.encode(), "the API key in key is empty or has"),
        (KEY.encode() + b"\x00", "the API key in key is empty or has"),
        (KEY.encode() + "ä".encode(), "the API key file key is not ASCII text"),
        (KEY.encode("utf-16"), "the API key file key is not ASCII text"),
    ],
)
def test_bad_key_file_is_named_and_its_content_is_not(content: bytes | None, words: str) -> None:
    if content is not None:
        Path("key").write_bytes(content)
        Path("key").chmod(0o600)
    assert failure(file(f"[emp.plug]\n{EMP}api_key_file = 'key'")).startswith(f"emp.plug: {words}")


def test_key_file_that_cannot_be_read_is_named() -> None:
    Path("key").mkdir()
    assert failure(file(f"[emp.plug]\n{EMP}api_key_file = 'key'")) == "emp.plug: the API key file key is no regular file"


def test_key_in_the_environment_is_checked_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(f"[emp.plug]\n{EMP}")
    for value in ("  ", f"{KEY}\nX: y", f"{KEY}ä"):
        monkeypatch.setenv("CDC_PUSHER_EMP__PLUG__API_KEY", value)
        assert failure(path).startswith("emp.plug: the API key in api_key is empty or has")


@pytest.mark.parametrize(
    "text",
    [
        f"[emp.plug]\n{EMP}api_key = '{KEY}'\nbad = '{KEY}'",
        f"[emp.plug]\n{EMP}api_key = ['{KEY}']",
        f"[emp.plug]\napi_key = '{KEY}'",
        f"[emp.plug]\n{EMP}api_key = '{KEY}",
        f"[emp.plug]\n{EMP}url = '{KEY}'",
    ],
)
def test_key_is_in_no_error(text: str) -> None:
    failure(file(text))


def test_key_is_in_no_error_about_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_PUSHER_EMP", f'{{"plug": {{"api_key": "{KEY}", }}}}')
    failure(None)


def test_key_is_in_no_text_of_the_settings() -> None:
    settings = load(file(f"[emp.plug]\n{EMP}api_key = '{KEY}'"))
    for text in (repr(settings), str(settings), f"{settings.emp}", settings.model_dump_json(), str(settings.model_dump())):
        assert KEY not in text
    assert key_of(settings) == KEY


# ── the password of the database ───────────────────────────────────────────────────────────────────────────────────────────────────────

PASSWORD = "s3cret%zzword"


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgresql://user:{PASSWORD}@localhost/db",
        "postgresql://user:s3cret word@localhost/db",
        "host=localhost password=s3cret s3cret2 dbname=x",
        "host=localhost password='s3cret",
        "password=s3cret port=nonsense host=localhost",
        "password=s3cret host=/nonexistent",
        "postgresql://user:s3cret@localhost:1/db?unknown=1",
        "s3cret",
        "postgresql://user:p@s3cret@nowhere.invalid/db",
        "host=localhost password=p s3cret=x",
        "postgresql://user:s3cret@127.0.0.1:1/db",
    ],
)
async def test_password_is_in_no_error_of_the_connection(dsn: str) -> None:
    with pytest.raises((ConfigurationError, DatabaseUnavailable)) as caught:
        await connect(dsn, "test")
    with pytest.raises(CdcPusherError) as caught_too:
        migrate.to(dsn)
    for error in (caught.value, caught_too.value):
        assert "s3cret" not in str(error)
        assert "\n" not in str(error)


async def test_server_that_is_not_there_is_another_error_than_a_wrong_string() -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot connect to the database: "):
        await connect("host=127.0.0.1 port=1", "test")
    with pytest.raises(ConfigurationError, match=r"database\.dsn: "):
        await connect("nonsense", "test")


def test_migrating_tells_the_same_errors_apart() -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot connect to the database: "):
        migrate.to("host=127.0.0.1 port=1")
    with pytest.raises(ConfigurationError, match=r"database\.dsn: "):
        migrate.to("nonsense")


async def test_connection_insists_on_its_limits(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy the CPO's time-out ends whatever comes first."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("ALTER DATABASE test SET statement_timeout = '1ms'")
    execute = psycopg.AsyncConnection.execute
    cancelled: list[Any] = []

    async def slow(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        if len(cancelled) < 3:
            cancelled.append(query)
            await execute(self, "SELECT pg_sleep(1)")
        return await execute(self, query, *arguments, **options)

    monkeypatch.setattr(psycopg.AsyncConnection, "execute", slow)
    async with await connect(dsn, "test") as conn_of_ours:
        assert await (await conn_of_ours.execute("SHOW statement_timeout")).fetchone() == {"statement_timeout": "1min"}
    assert len(cancelled) == 3


async def test_limits_of_a_connection_are_ours_whatever_the_cpo_has_set(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("ALTER DATABASE test SET statement_timeout = '1ms'")
        conn.execute("ALTER DATABASE test SET default_transaction_isolation = 'serializable'")
    async with await connect(dsn, "test") as conn_of_ours:
        await conn_of_ours.execute("SELECT pg_sleep(0.02)")
        async with conn_of_ours.transaction():
            row = await (await conn_of_ours.execute("SHOW transaction_isolation")).fetchone()
        name = await (await conn_of_ours.execute("SHOW application_name")).fetchone()
    assert row == {"transaction_isolation": "read committed"}
    assert name == {"application_name": "cdc-pusher test"}
