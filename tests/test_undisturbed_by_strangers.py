"""Whatever others have put beside our names or have locked of ours, the CPO's work goes on, and what was not recorded is counted."""

import asyncio
import contextlib
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest
from cpo_side import CHARGE, CONNECTOR, STATION, TABLES, Cpo, attach, run

from cdc_pusher import migrate
from cdc_pusher.config import Watch
from cdc_pusher.embedded import EmbeddedPostgres

SHARED = Watch(
    table="public.station", columns=("name",), station="SELECT c.station_id FROM public.connector AS c WHERE c.id = station.name::int"
)

TRAPS = (
    "current_setting(text) RETURNS text",
    "current_setting(text, boolean) RETURNS text",
    "set_config(text, text, boolean) RETURNS text",
    "nextval(regclass) RETURNS bigint",
    "pg_notify(text, text) RETURNS void",
    "pg_notification_queue_usage() RETURNS double precision",
    "jsonb_build_object(text, text) RETURNS jsonb",
    "jsonb_build_object(VARIADIC text[]) RETURNS jsonb",
    "clock_timestamp() RETURNS timestamptz",
    "differ(record, record) RETURNS boolean",
    "differ(text, text) RETURNS boolean",
    "differ(double precision, double precision) RETURNS boolean",
    "differ(bigint, bigint) RETURNS boolean",
)
OPERATORS = (
    "*= (LEFTARG = record, RIGHTARG = record, FUNCTION = evil.differ)",
    *(
        f"{operator} (LEFTARG = {type_}, RIGHTARG = {type_}, FUNCTION = evil.differ)"
        for operator, type_ in (("=", "text"), ("<", "float8"), ("=", "bigint"))
    ),
)
TYPES = ("text", "record", "jsonb", "boolean", "regclass", "bigint", "change", "trigger")


def hostile(cpo: Cpo) -> None:
    """A trap for every name in the trigger: functions and operators that fail, types that hold nothing."""
    cpo.run("CREATE SCHEMA evil")
    for trap in TRAPS:
        cpo.run(f"CREATE FUNCTION evil.{trap} LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trap''; END'")
    cpo.run(*(f"CREATE OPERATOR evil.{operator}" for operator in OPERATORS))
    cpo.run(*(f'CREATE TYPE {where}."{type_}" AS ENUM ()' for type_ in TYPES for where in ("evil", "pg_temp")))
    cpo.run("CREATE TABLE evil.asleep ()", "CREATE TABLE evil.missed ()", "CREATE TEMP TABLE asleep ()", "CREATE TEMP TABLE missed ()")


@pytest.mark.parametrize("path", ["''", "evil", "evil, pg_catalog", "pg_temp, evil, pg_catalog, public"])
async def test_no_name_leads_into_another_schema(cpo: Cpo, path: str) -> None:
    await attach(cpo.dsn, STATION, CONNECTOR, SHARED)
    hostile(cpo)
    run(cpo.dsn, "SELECT setval('cdc_pusher.asleep', 2)")
    cpo.run(f"SET search_path = {path}")
    assert cpo.notified("INSERT INTO public.station VALUES ('c', '1'), ('d', '2')") == 1
    cpo.run(
        "UPDATE public.station SET name = '3' WHERE id OPERATOR(pg_catalog.=) 'c'",
        "DELETE FROM public.station WHERE id OPERATOR(pg_catalog.=) 'd'",
        "UPDATE public.connector SET status = 'x' WHERE id = 1",
        "TRUNCATE public.connector",
    )
    assert sorted(row["name"] for row in cpo.noted(SHARED)) == ["1", "1", "2", "2", "3"]
    assert cpo.recorded() == ["c", "d", "c", "d", "a", None]
    assert cpo.missed() == 0


@pytest.mark.parametrize("path", ["evil", "evil, pg_catalog", "pg_temp, evil, pg_catalog, public"])
async def test_misses_are_counted_whatever_the_names(cpo: Cpo, path: str) -> None:
    hostile(cpo)
    cpo.run(f"SET search_path = {path}")
    with psycopg.connect(cpo.dsn) as locker:
        locker.execute("LOCK TABLE cdc_pusher.change IN ACCESS EXCLUSIVE MODE")
        with cpo.conn.transaction():
            cpo.run("UPDATE public.connector SET status = 'x'", "UPDATE public.station SET name = 'x'")
    assert (cpo.recorded(), cpo.missed()) == ([], 5)


# ── locks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("locked", ["change", "asleep", "missed", "change, missed", "change, missed, asleep"])
async def test_locks_on_anything_of_ours_cost_a_transaction_a_moment(bare: Cpo, locked: str, shared: bool) -> None:
    """As held by `migrate`, while it gives our tables and sequences to another owner, and by the rehearsal of `uninstall`."""
    watch = CONNECTOR.model_copy(update={"station": "SELECT connector.station_id"}) if shared else CONNECTOR
    await attach(bare.dsn, watch)
    bare.run("INSERT INTO connector SELECT n, 'a', '' FROM generate_series(10, 209) AS n", "DELETE FROM cdc_pusher.change")
    bare.run("DROP ROLE IF EXISTS other_owner", "CREATE ROLE other_owner")
    with psycopg.connect(bare.dsn) as locker:
        for name in locked.split(", "):
            kind = "TABLE" if name == "change" else "SEQUENCE"
            locker.execute(f"ALTER {kind} cdc_pusher.{name} OWNER TO other_owner".encode())
        began = time.monotonic()
        bare.run("UPDATE connector SET status = 'x'")
        assert time.monotonic() - began < 0.5
        locker.rollback()
    recorded, missed = bare.value("SELECT count(*) FROM cdc_pusher.change"), bare.missed()
    assert (recorded, missed) == {
        "change": (0, 203),
        "asleep": (0, 203),
        "missed": (203, 0),
    }.get(locked, (0, 0)), "without the counter it is for the periodic sweep"
    bare.run("UPDATE connector SET status = 'y' WHERE id = 1")
    assert bare.value("SELECT count(*) FROM cdc_pusher.change") == recorded + 1, "the next transaction tries again"
    bare.run("DROP ROLE other_owner")


async def test_savepoint_of_the_cpo_does_not_make_it_wait_for_ever(cpo: Cpo) -> None:
    """Rolling back to it takes back that we know of the lock."""
    with psycopg.connect(cpo.dsn) as locker:
        locker.execute("LOCK TABLE cdc_pusher.change IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        with cpo.conn.transaction():
            for _ in range(5):
                cpo.run("SAVEPOINT s", CHARGE, "ROLLBACK TO s")
            cpo.run("UPDATE connector SET status = 'y'")
        assert time.monotonic() - began < 0.5
    assert cpo.missed() == 8


# ── the notification queue ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_notifications_stop_before_the_queue_is_full() -> None:
    with EmbeddedPostgres(settings={"fsync": "off", "max_notify_queue_pages": "64"}) as server:
        dsn = server.dsn()
        run(dsn, TABLES)
        migrate.to(dsn)
        await attach(dsn, STATION, CONNECTOR)
        run(dsn, "SELECT setval('cdc_pusher.asleep', 2)")
        sent = []
        with contextlib.closing(Cpo(dsn)) as cpo, psycopg.connect(dsn, autocommit=True) as listener:
            listener.execute("LISTEN other")
            listener.execute("BEGIN")
            listener.execute("SELECT 1")
            while (usage := cpo.value("SELECT pg_notification_queue_usage()")) < 0.9:
                sent.append((usage < 0.5, cpo.notified("UPDATE connector SET status = status || 'x' WHERE id = 1")))
                cpo.run(*["SELECT pg_notify('other', repeat('x', 7000) || random())"] * 4)
        assert {gate for gate, _ in sent} == {True, False}
        assert [notified for _, notified in sent] == [int(gate) for gate, _ in sent]


# ── those who forbid ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_event_trigger_that_forbids_ddl_makes_migrate_say_so_in_one_line(bare: Cpo, tmp_path: Path) -> None:
    asyncio.run(attach(bare.dsn, CONNECTOR))
    bare.run(
        "CREATE FUNCTION forbid() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION E'no DDL today\\nask Ada'; END$$",
        "CREATE EVENT TRIGGER forbid ON ddl_command_start WHEN TAG IN ('CREATE TRIGGER', 'DROP TRIGGER') EXECUTE FUNCTION forbid()",
    )
    config = tmp_path / "config.toml"
    watch = "[[source.watch]]\ntable = 'public.{}'\nstation = '{}'\n"
    config.write_text(f"[database]\ndsn = {bare.dsn!r}\n" + watch.format("station", "id") + watch.format("connector", "station_id"))
    said = subprocess.run([sys.executable, "-m", "cdc_pusher", "migrate", "--config", config], capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert "no DDL today" in said.stderr
    assert len(said.stderr.splitlines()) == 1
    bare.run("DROP EVENT TRIGGER forbid", CHARGE)
    assert (bare.recorded(), bare.missed()) == (["a"], 0), "what stood before stands"
