"""Values and identifiers are never SQL, whoever writes them: rows of the CPO, names in its catalogue, arguments, the configuration."""

import asyncio
from pathlib import Path

import psycopg
import pytest
from hand import hand
from psycopg import sql
from rig import REFERENCE_SCHEMA, rig

from cdc_pusher import config, migrate, triggers
from cdc_pusher.cli.setup import install
from cdc_pusher.config import DatabaseSettings, Settings, SourceSettings, Watch
from cdc_pusher.database import connect
from cdc_pusher.errors import ConfigurationError, MappingError
from cdc_pusher.mapping import prepare
from cdc_pusher.sandbox import Sandbox, SandboxSettings

HOSTILE = [
    "'; DROP TABLE canary; --",
    "') OR 1=1; DROP TABLE canary; --",
    '"; DROP TABLE canary; --',
    "\\'; DROP TABLE canary; --",
    "$$; DROP TABLE canary; --",
    "$cdc_pusher$; DROP TABLE canary; --",
    "%s %(ids)s %% %",
    "{} {0} {ids}",
    "{a,b}",
    "*/ DROP TABLE canary; /*",
    "x' || (SELECT 1/0) || '",
    "a\nb; DROP TABLE canary",
]
MAPPING = {"stations": "SELECT id AS station_id, * FROM public.station", "connectors": "SELECT * FROM public.connector", "watch": []}


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@pytest.fixture
def cpo(dsn: str) -> str:
    execute(dsn, REFERENCE_SCHEMA.read_text(), "CREATE TABLE canary (id int)")
    migrate.to(dsn)
    return dsn


def is_unhurt(dsn: str) -> bool:
    with psycopg.connect(dsn) as conn:
        return conn.execute("SELECT to_regclass('canary'), to_regclass('cdc_pusher.outbox')").fetchone() == ("canary", "cdc_pusher.outbox")


async def test_values_of_rows_arrive_as_they_are(cpo: str) -> None:
    """As ids of stations, names, identifiers of CPOs and words that a value map translates, by triggers, capture and delivery."""
    async with await connect(cpo, "test") as conn:
        await triggers.attach(conn, SourceSettings().watch)
    with psycopg.connect(cpo, autocommit=True) as theirs:
        for n, text in enumerate(HOSTILE):
            theirs.execute(
                "INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)"
                " VALUES (%s, %s, 1, 2, 's', '1', 'c', 'z', 'DE', 'p', %s)",
                (text, text.replace("\n", " "), text),
            )
            plug = "INSERT INTO connector (station_id, evse_id, type, speed_kw, status) VALUES (%s, %s, 'Type2', 22, %s)"
            theirs.execute(plug, (text, f"DE*8PS*E{n}", text))
    source = SourceSettings.model_validate({"statuses": dict.fromkeys(HOSTILE, "Available")})
    async with hand(cpo, source=source, cpos=dict.fromkeys(HOSTILE, "DE*8PS"), only="name <> '%s {0} '' -- '") as daemon:
        await daemon.capture()
        ids = [text for text in HOSTILE if "\n" not in text]
        assert {*await daemon.deliver()} == {*ids, *(f"DE*8PS*E{n}" for n, text in enumerate(HOSTILE) if "\n" not in text)}
        found = await (await daemon.conn.execute("SELECT key, acknowledged FROM cdc_pusher.outbox WHERE kind = 'station'")).fetchall()
        assert {row["key"]: row["acknowledged"]["name"] for row in found if row["acknowledged"]} == {text: text for text in ids}
        for text in HOSTILE:
            assert await daemon.source.of_cpo(text) == [text]
    assert is_unhurt(cpo)


@pytest.mark.parametrize("text", HOSTILE)
async def test_name_of_a_watched_table_or_column_is_no_sql(cpo: str, text: str) -> None:
    async with await connect(cpo, "test") as conn:
        for watch in (
            Watch(table=f"public.station{text}", station="id"),
            Watch(table=text, station="id"),
            Watch(table="public.station", columns=(text,), station="id"),
        ):
            with pytest.raises(MappingError):
                await triggers.attach(conn, [watch])
            assert await triggers.verify(conn, [watch]) != []
    assert is_unhurt(cpo)


async def test_tables_columns_and_types_with_such_names_work(cpo: str) -> None:
    """A column and a type of any name, in a table of any name, in a schema of any name."""
    with psycopg.connect(cpo, autocommit=True) as theirs:
        for text in HOSTILE:
            schema, table, column = (sql.Identifier(f"{letter}{text}") for letter in "stc")
            theirs.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
            theirs.execute(sql.SQL("CREATE DOMAIN {}.{} AS text").format(schema, column))
            theirs.execute(sql.SQL("CREATE TABLE {0}.{1} ({2} {0}.{2}, id text)").format(schema, table, column))
    async with await connect(cpo, "test") as conn:
        watches = []
        for text in HOSTILE:
            quoted = ['"{}"'.format(f"{letter}{text}".replace('"', '""')) for letter in "stc"]
            name = ".".join(quoted[:2])
            watches += [
                Watch(table=name, columns=(f"c{text}",), station=quoted[2]),
                Watch(table=name, columns=(f"c{text}",), station=f"SELECT {quoted[1]}.{quoted[2]}"),
                Watch(table=name, station=f"id || {quoted[2]}"),
            ]
        await triggers.attach(conn, watches)
        assert await triggers.verify(conn, watches) == []
        with psycopg.connect(cpo, autocommit=True) as theirs:
            for text in HOSTILE:
                table = sql.Identifier(f"s{text}", f"t{text}")
                theirs.execute(sql.SQL("INSERT INTO {} VALUES ({}, 'x')").format(table, sql.Literal(text)))
        row = await (await conn.execute("SELECT is_called FROM cdc_pusher.missed")).fetchone()
        assert row == {"is_called": False}
        for quoted_table, watch_name in await triggers.attached(conn):
            await triggers.detach(conn, quoted_table, watch_name)
        assert await triggers.attached(conn) == []
    assert is_unhurt(cpo)


@pytest.mark.parametrize("field", ["stations", "connectors"])
@pytest.mark.parametrize("tail", [" AS s; DROP TABLE canary; --", ") AS s; DROP TABLE canary; --", "; DROP TABLE canary"])
async def test_query_of_the_mapping_is_one_query(cpo: str, field: str, tail: str) -> None:
    async with await connect(cpo, "test") as conn:
        with pytest.raises(MappingError):
            await prepare(conn, SourceSettings.model_validate({**MAPPING, field: f"{MAPPING[field]}{tail}"}))
        queries = await prepare(conn, SourceSettings.model_validate(MAPPING), {"plug": f"true){tail}"})
        assert "plug" in queries.broken
    assert is_unhurt(cpo)


async def test_arguments_of_commands_are_no_sql(dsn: str, tmp_path: Path) -> None:
    async with rig(dsn, tmp_path) as cpo, Sandbox(SandboxSettings()) as emp:
        await cpo.sql("CREATE TABLE canary (id int)")
        cpo.add_emp("plug", emp)
        await cpo.build("s1")
        await cpo.ready_daemon()
        await cpo.quiet()
        for text in HOSTILE[:2]:
            for arguments, exit_code in commands(text):
                await cpo.command(*arguments, exit_code=exit_code)
        assert await asyncio.to_thread(is_unhurt, dsn)
        await cpo.quiet()


def commands(text: str) -> list[tuple[tuple[str, ...], int]]:
    """With what they exit."""
    return [
        (("resync", "--station", text), 0),
        (("resync", "--cpo", text), 2),
        (("outbox", "show", text), 1),
        (("outbox", "retry", text), 0),
        (("outbox", "list", "--state", text), 2),
        (("status", "--emp", text), 2),
        (("cpo", "confirm", text), 2),
        (("emp", "forget", "--yes", text), 1),
    ]


@pytest.mark.parametrize("name", [*HOSTILE, "Plug", "plug\n", "pl ug", "a" * 41, "\u0430bc"])
def test_name_of_an_emp_is_a_plain_word(tmp_path: Path, name: str) -> None:
    """It is part of names of leases, metrics, pages, variables and credentials."""
    file = tmp_path / "config.toml"
    quoted = "".join(c if c.isalnum() and c.isascii() else f"\\u{ord(c):04x}" for c in name)
    file.write_text(f'[emp."{quoted}"]\nurl = "http://127.0.0.1:1/"\npartner_identifier = "{"p" * 16}"\n')
    with pytest.raises(ConfigurationError, match="String should match pattern"):
        config.read(file)


async def test_role_of_any_name_is_quoted(cpo: str) -> None:
    owner, runtime = 'own"er; DROP TABLE canary; --', "run'time; DROP TABLE canary; --"
    settings = Settings(database=DatabaseSettings(dsn=cpo, owner_role=owner, runtime_role=runtime))
    try:
        await install(cpo, settings)
        assert is_unhurt(cpo)
    finally:
        with psycopg.connect(cpo, autocommit=True) as conn:
            for role in (runtime, owner):
                conn.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(sql.Identifier(role)))
                conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
