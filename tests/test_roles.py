"""Roles with the least rights: everything works with them, they may do nothing else, and uninstalling leaves no trace of anything."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from rig import REFERENCE_SCHEMA, Rig, evse_id, rig

from cdc_pusher import migrate, roles, triggers, uninstall
from cdc_pusher.cli.setup import install
from cdc_pusher.config import DatabaseSettings, Settings
from cdc_pusher.database import connect
from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.errors import CdcPusherError
from cdc_pusher.sandbox import Sandbox, SandboxSettings

OWNER, RUNTIME = "pusher owner", "pusher%runtime"
WATCHED = (
    "CREATE SCHEMA geo",
    "CREATE TABLE geo.place (id text PRIMARY KEY, city text)",
    "CREATE VIEW geo.city AS SELECT id, city FROM geo.place",
)
SOURCE = {
    "stations": "SELECT s.id AS station_id, s.name, s.latitude, s.longitude, s.street, s.street_number, c.city, s.zip, s.country, s.phone,"
    " s.cpo, s.is_open_24 FROM public.station AS s JOIN geo.city AS c ON c.id = s.zip",
    "watch": [
        {"table": "public.station", "station": "id"},
        {"table": "public.connector", "station": "station_id"},
        {"table": "geo.place", "columns": ["city"], "station": "SELECT s.id FROM public.station AS s WHERE s.zip = place.id"},
    ],
}


def run(dsn: str, *statements: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursors = [conn.execute(statement.encode()) for statement in statements]
        return cursors[-1].fetchall() if cursors[-1].description else []


def settings(dsn: str, **source: Any) -> Settings:
    database = DatabaseSettings(dsn=dsn, owner_role=OWNER, runtime_role=RUNTIME)
    return Settings.model_validate({"database": database, "source": {**SOURCE, **source}})


@pytest.fixture
def cpo(dsn: str) -> Iterator[str]:
    """The CPO's tables, in two schemas; whatever role a test leaves is dropped."""
    run(dsn, REFERENCE_SCHEMA.read_text(), *WATCHED)
    yield dsn
    for role in (RUNTIME, OWNER):
        if run(dsn, f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):
            run(dsn, f'DROP OWNED BY "{role}" CASCADE', f'DROP ROLE "{role}"')


def as_role(dsn: str, role: str = RUNTIME) -> str:
    return make_conninfo(dsn, user=role)


async def test_roles_are_created_once_and_own_or_may_just_what_they_need(cpo: str) -> None:
    done = await install(cpo, settings(cpo))
    assert [line for line in done if "role" in line and "granted" not in line] == [
        f"created role {OWNER}",
        f"created role {RUNTIME} (give it a password, or let it in by peer authentication)",
    ]
    assert {line for line in done if "granted" in line} == {
        f"granted {right} to {RUNTIME}"
        for right in ("USAGE on geo", "SELECT on geo.city", "SELECT on public.connector", "SELECT on public.station")
    }, "the view is read, not the table behind it"
    assert await install(cpo, settings(cpo)) == []
    owners = run(
        cpo,
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'cdc_pusher'::regnamespace"
        " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'cdc_pusher'::regnamespace"
        " UNION SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'cdc_pusher'",
    )
    assert owners == [(OWNER,)]
    for statement in (
        "UPDATE public.station SET name = 'x'",
        "SELECT * FROM geo.place",
        "DROP TABLE cdc_pusher.change",
        "DELETE FROM cdc_pusher.capture",
        "TRUNCATE cdc_pusher.outbox",
        "CREATE TABLE cdc_pusher.mine (id int)",
        "ALTER TABLE public.station DISABLE TRIGGER ALL",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            run(as_role(cpo), statement)
    with pytest.raises(psycopg.OperationalError, match="not permitted to log in"):
        run(as_role(cpo, OWNER), "SELECT 1")


async def test_schema_that_was_made_without_roles_is_handed_over(cpo: str) -> None:
    await install(cpo, settings(cpo).model_copy(update={"database": DatabaseSettings(dsn=cpo)}))
    run(cpo, "SELECT cdc_pusher.maintain_attempts(30)")
    await install(cpo, settings(cpo))
    mine = "pg_get_userbyid({}) <> 'pusher owner'"
    assert run(cpo, f"SELECT relname FROM pg_class WHERE relnamespace = 'cdc_pusher'::regnamespace AND {mine.format('relowner')}") == []
    assert run(cpo, f"SELECT proname FROM pg_proc WHERE pronamespace = 'cdc_pusher'::regnamespace AND {mine.format('proowner')}") == []
    assert run(as_role(cpo), "SELECT cdc_pusher.maintain_attempts(1), cdc_pusher.refresh_statistics()")


async def test_rights_that_a_mapping_no_longer_needs_are_taken_back_and_others_are_left(cpo: str) -> None:
    await install(cpo, settings(cpo))
    run(cpo, f'GRANT SELECT ON geo.place TO "{RUNTIME}"')
    run(cpo, "CREATE VIEW station_view AS SELECT *, id AS station_id FROM station")
    done = await install(cpo, settings(cpo, stations="SELECT * FROM public.station_view", watch=[]))
    assert {line for line in done if "ed " in line and "detached" not in line} == {
        f"granted SELECT on public.station_view to {RUNTIME}",
        *(f"revoked {right} from {RUNTIME}" for right in ("USAGE on geo", "SELECT on geo.city", "SELECT on public.station")),
    }
    assert run(cpo, f"SELECT has_table_privilege('{RUNTIME}', 'geo.place', 'SELECT')") == [(True,)]


async def test_administrator_without_the_right_to_grant_is_told_what_the_owner_has_to_run(cpo: str) -> None:
    run(cpo, "CREATE ROLE admin LOGIN CREATEROLE", "GRANT CREATE ON DATABASE test TO admin")
    try:
        run(cpo, "GRANT SELECT, TRIGGER ON station, connector TO admin", "GRANT USAGE ON SCHEMA geo TO admin")
        run(cpo, "GRANT SELECT, TRIGGER ON geo.place TO admin", "GRANT SELECT ON geo.city TO admin")
        with pytest.raises(CdcPusherError, match=r'its owner has to run: GRANT (SELECT ON TABLE|USAGE ON SCHEMA) .* TO "pusher%runtime"'):
            await install(as_role(cpo, "admin"), settings(cpo))
        run(cpo, f'GRANT USAGE ON SCHEMA geo TO "{RUNTIME}"', f'GRANT SELECT ON geo.city, public.station, public.connector TO "{RUNTIME}"')
        assert len(await install(as_role(cpo, "admin"), settings(cpo))) == 3, "three triggers"
        assert run(cpo, "SELECT count(*) FROM cdc_pusher.granted") == [(0,)]
    finally:
        run(cpo, f'DROP OWNED BY "{RUNTIME}", "{OWNER}", admin CASCADE', f'DROP ROLE "{RUNTIME}", "{OWNER}"', "DROP ROLE admin")


async def test_daemon_and_commands_work_as_the_runtime_role(cpo: str, tmp_path: Path) -> None:
    run(cpo, "DROP SCHEMA geo CASCADE", "DROP TABLE station CASCADE", "DROP TABLE connector")
    async with rig(cpo, tmp_path) as made, Sandbox(SandboxSettings()) as emp:
        plain = Settings.model_validate({"database": {"dsn": cpo, "owner_role": OWNER, "runtime_role": RUNTIME}})
        await install(cpo, plain)
        runtime = Rig(as_role(cpo), tmp_path, made._conn)
        runtime.add_emp("emp", emp)
        await made.build("s1", "s2")
        daemon = await runtime.ready_daemon()
        await runtime.quiet()
        await made.sql("CREATE ROLE app")
        await made.sql("GRANT SELECT, UPDATE ON connector TO app")
        await made.sql("SET ROLE app")
        await made.set_status("s1", "Occupied")
        await made.sql("RESET ROLE")
        await runtime.quiet()
        assert emp.stations["s1"]["statuses"] == {evse_id("s1"): "Occupied"}
        await runtime.command("resync", "--all", "--force", "--wait")
        assert "s1" in await runtime.command("outbox", "show", "s1")
        assert (await runtime.command("status", "--json")).startswith('{"emps"')
        await daemon.stop()
        await made.sql("DROP OWNED BY app")
        await made.sql("DROP ROLE app")


async def test_roles_made_by_hand_as_documented_are_enough(cpo: str) -> None:
    first, second = re.findall(r"```sql\n(.*?)```", (REFERENCE_SCHEMA.parents[1] / "docs" / "roles.md").read_text(), re.DOTALL)
    run(cpo, "CREATE ROLE deploy LOGIN", first, second)
    try:
        by_hand = Settings.model_validate({"database": {"dsn": cpo, "owner_role": "cdc_pusher_owner", "runtime_role": "cdc_pusher"}})
        assert await install(as_role(cpo, "deploy"), by_hand) == ["attached to public.station", "attached to public.connector"]
        assert run(as_role(cpo, "cdc_pusher"), "SELECT count(*) FROM cdc_pusher.outbox, public.station") == [(0,)]
        assert await install(as_role(cpo, "deploy"), by_hand) == []
    finally:
        run(cpo, "DROP OWNED BY cdc_pusher, cdc_pusher_owner, deploy CASCADE", "DROP ROLE cdc_pusher, cdc_pusher_owner, deploy")


# ── uninstalling ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def dump(server: EmbeddedPostgres, dsn: str) -> str:
    """The whole schema, with owners, rights and comments."""
    done = subprocess.run([server.bin / "pg_dump", "--schema-only", dsn], capture_output=True, text=True, check=True)
    return "\n".join(line for line in done.stdout.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def role_names(dsn: str) -> list[Any]:
    return run(dsn, "SELECT rolname FROM pg_roles ORDER BY 1")


async def test_uninstalling_leaves_the_database_as_it_was(cpo: str, embedded_postgres: EmbeddedPostgres) -> None:
    run(cpo, "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    run(cpo, "CREATE TRIGGER theirs AFTER UPDATE ON station FOR EACH ROW EXECUTE FUNCTION theirs()")
    before, roles_before = dump(embedded_postgres, cpo), role_names(cpo)
    await install(cpo, settings(cpo))
    run(cpo, "SELECT cdc_pusher.maintain_attempts(30)", "INSERT INTO geo.place VALUES ('1', 'Berlin')")
    assert dump(embedded_postgres, cpo) != before
    assert await uninstall.run(cpo, settings(cpo).database) == [
        "detached from geo.place",
        "detached from public.connector",
        "detached from public.station",
        *(f"revoked {right} from {RUNTIME}" for right in ("SELECT on geo.city", "SELECT on public.connector", "SELECT on public.station")),
        f"revoked USAGE on geo from {RUNTIME}",
        "dropped schema cdc_pusher",
        f"dropped role {RUNTIME}",
        f"dropped role {OWNER}",
    ]
    assert dump(embedded_postgres, cpo) == before
    assert role_names(cpo) == roles_before
    assert await uninstall.run(cpo, settings(cpo).database) == ["the database has no schema cdc_pusher"]


async def test_roles_that_were_there_before_stay(cpo: str, embedded_postgres: EmbeddedPostgres) -> None:
    run(cpo, f'CREATE ROLE "{OWNER}"', f'CREATE ROLE "{RUNTIME}" LOGIN', f'GRANT SELECT ON station TO "{RUNTIME}"')
    before, roles_before = dump(embedded_postgres, cpo), role_names(cpo)
    await install(cpo, settings(cpo))
    await uninstall.run(cpo, settings(cpo).database)
    assert dump(embedded_postgres, cpo) == before
    assert role_names(cpo) == roles_before


async def test_role_that_another_database_uses_stays(cpo: str) -> None:
    await install(cpo, settings(cpo))
    run(cpo, f'CREATE TABLE kept (id int); ALTER TABLE kept OWNER TO "{RUNTIME}"')
    done = await uninstall.run(cpo, settings(cpo).database)
    assert f"role {RUNTIME} stays: something else belongs to it, or gives it rights" in done


async def test_what_somebody_has_built_on_our_schema_stops_the_uninstall_by_name(cpo: str) -> None:
    await install(cpo, settings(cpo))
    run(cpo, "CREATE VIEW public.late AS SELECT * FROM cdc_pusher.outbox_problems")
    with pytest.raises(CdcPusherError, match=r"view (public\.)?late depends on view cdc_pusher\.outbox_problems"):
        await uninstall.run(cpo, settings(cpo).database)
    async with await connect(cpo, "test") as conn:
        assert await triggers.verify(conn, settings(cpo).source.watch) == [], "nothing was touched"
    run(cpo, "DROP VIEW public.late")
    assert "dropped schema cdc_pusher" in await uninstall.run(cpo, settings(cpo).database)


async def test_what_somebody_has_put_into_our_schema_stops_the_uninstall_by_name(cpo: str) -> None:
    await install(cpo, settings(cpo))
    run(cpo, "CREATE FUNCTION cdc_pusher.theirs() RETURNS int LANGUAGE sql AS 'SELECT 1'", "CREATE TABLE cdc_pusher.note (id int)")
    with pytest.raises(CdcPusherError, match="the schema cdc_pusher holds what is not ours: note, theirs; drop"):
        await uninstall.run(cpo, settings(cpo).database)
    async with await connect(cpo, "test") as conn:
        assert await triggers.verify(conn, settings(cpo).source.watch) == [], "nothing was touched"


async def test_uninstall_does_not_miss_what_was_dropped_before(cpo: str) -> None:
    await install(cpo, settings(cpo))
    run(
        cpo,
        "DROP VIEW cdc_pusher.outbox_problems",
        "DROP FUNCTION cdc_pusher.refresh_statistics",
        "DROP TABLE cdc_pusher.attempt, cdc_pusher.cpo",
    )
    assert "dropped schema cdc_pusher" in await uninstall.run(cpo, settings(cpo).database)


async def test_running_daemon_stops_the_uninstall(cpo: str) -> None:
    await install(cpo, settings(cpo))
    async with await connect(cpo, "capture"):
        with pytest.raises(CdcPusherError, match=r"a daemon is still connected \(process \d+ from this machine\): stop it first"):
            await uninstall.run(cpo, settings(cpo).database)
    async with await connect(cpo, "test") as conn:
        assert await triggers.verify(conn, settings(cpo).source.watch) == [], "nothing was touched"


async def test_uninstall_that_was_interrupted_is_finished_by_another(cpo: str) -> None:
    await install(cpo, settings(cpo))
    async with await connect(cpo, "test") as conn:
        (table, name), *_ = await triggers.attached(conn)
        await triggers.detach(conn, table, name)
        await roles.revoke(conn)
    run(cpo, "DROP TABLE geo.place CASCADE")
    assert "dropped schema cdc_pusher" in await uninstall.run(cpo, settings(cpo).database)


async def test_older_schema_is_uninstalled_too(cpo: str) -> None:
    await asyncio.to_thread(migrate.to, cpo, "0001")
    assert await uninstall.run(cpo, DatabaseSettings(dsn=cpo)) == ["dropped schema cdc_pusher"]


async def test_rights_on_columns_that_the_role_had_before_stay(cpo: str, embedded_postgres: EmbeddedPostgres) -> None:
    run(cpo, f'CREATE ROLE "{RUNTIME}" LOGIN', f'GRANT SELECT (id, name) ON station TO "{RUNTIME}"')
    before = dump(embedded_postgres, cpo)
    await install(cpo, settings(cpo))
    await uninstall.run(cpo, settings(cpo).database)
    assert dump(embedded_postgres, cpo) == before


async def test_table_and_trigger_that_were_renamed_are_still_found(cpo: str, embedded_postgres: EmbeddedPostgres) -> None:
    name = settings(cpo).source.watch[0].name
    await install(cpo, settings(cpo))
    run(cpo, f"ALTER TRIGGER {name}_row ON station RENAME TO renamed", "ALTER TABLE station RENAME TO old_station")
    done = await uninstall.run(cpo, settings(cpo).database)
    assert f"revoked SELECT on public.old_station from {RUNTIME}" in done
    assert f"dropped role {RUNTIME}" in done
    assert "cdc_pusher" not in dump(embedded_postgres, cpo)


async def test_right_that_stays_by_another_grant_is_told(cpo: str) -> None:
    await install(cpo, settings(cpo))
    run(cpo, f'CREATE ROLE readers; GRANT SELECT ON station TO readers; GRANT readers TO "{RUNTIME}"')
    try:
        done = await uninstall.run(cpo, settings(cpo).database)
        assert f"{RUNTIME} keeps SELECT on public.station, by another grant" in done
    finally:
        run(cpo, "DROP OWNED BY readers; DROP ROLE readers")


async def test_role_that_was_renamed_is_dropped_when_nothing_else_is_its(cpo: str) -> None:
    roles_before = role_names(cpo)
    await install(cpo, settings(cpo))
    run(cpo, f'ALTER ROLE "{OWNER}" RENAME TO renamed')
    await uninstall.run(cpo, DatabaseSettings(dsn=cpo))
    assert role_names(cpo) == roles_before


async def test_roles_are_dropped_even_if_the_configuration_no_longer_names_them(cpo: str) -> None:
    roles_before = role_names(cpo)
    await install(cpo, settings(cpo))
    await uninstall.run(cpo, DatabaseSettings(dsn=cpo))
    assert role_names(cpo) == roles_before


async def test_role_that_took_the_place_of_another_leaves_it_no_rights(cpo: str) -> None:
    await install(cpo, settings(cpo))
    renamed = settings(cpo).model_copy(update={"database": DatabaseSettings(dsn=cpo, owner_role=OWNER, runtime_role="second")})
    try:
        done = await install(cpo, renamed)
        assert f"revoked SELECT on public.station from {RUNTIME}" in done
        used = "has_schema_privilege('{0}', 'cdc_pusher', 'USAGE') OR has_table_privilege('{0}', 'cdc_pusher.outbox', 'SELECT')"
        assert run(cpo, f"SELECT {used.format(RUNTIME)}") == [(False,)]
    finally:
        run(cpo, "DROP OWNED BY second", "DROP ROLE second")


async def test_schema_of_the_cpo_with_our_name_is_left_alone(cpo: str) -> None:
    run(cpo, "CREATE SCHEMA cdc_pusher", "CREATE TABLE cdc_pusher.theirs (id int)")
    with pytest.raises(CdcPusherError, match="a schema cdc_pusher that is not ours"):
        await install(cpo, settings(cpo).model_copy(update={"database": DatabaseSettings(dsn=cpo)}))
    assert run(cpo, "SELECT count(*) FROM cdc_pusher.theirs") == [(0,)]
