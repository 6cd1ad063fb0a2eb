"""Triggers are attached, verified and detached without getting into the way of the CPO's traffic."""

import time
from collections.abc import Iterator

import psycopg
import pytest
from cpo_side import CHARGE, CONNECTOR, STATION, Cpo, attach, verify
from psycopg import sql

from cdc_pusher import triggers
from cdc_pusher.config import Watch
from cdc_pusher.errors import CdcPusherError, MappingError


async def test_attaching_again_does_nothing_and_waits_for_no_lock(bare: Cpo) -> None:
    assert await attach(bare.dsn, STATION, CONNECTOR) == ["attached to public.station", "attached to public.connector"]
    with psycopg.connect(bare.dsn) as writer:
        writer.execute("LOCK TABLE station, connector IN EXCLUSIVE MODE")
        began = time.monotonic()
        assert await attach(bare.dsn, STATION, CONNECTOR) == []
        assert time.monotonic() - began < 2
    assert await verify(bare.dsn, STATION, CONNECTOR) == []


async def test_attaching_waits_for_a_writer_without_holding_others_up(bare: Cpo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "LOCK_TRIES", 2)
    monkeypatch.setattr(triggers, "LOCK_PAUSE_S", 0.01)
    with psycopg.connect(bare.dsn) as writer:
        writer.execute(CHARGE.encode())
        with pytest.raises(CdcPusherError, match=r"public\.connector: its lock was not to be had in 2 tries"):
            await attach(bare.dsn, CONNECTOR)
    assert await attach(bare.dsn, CONNECTOR) == ["attached to public.connector"]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("DROP TRIGGER {name}_row ON connector", "public.connector: trigger {name}_row is missing"),
        ("DROP TRIGGER {name}_truncate ON connector", "public.connector: trigger {name}_truncate is missing"),
        ("ALTER TABLE connector DISABLE TRIGGER {name}_row", "public.connector: trigger {name}_row is disabled"),
        ("ALTER TABLE connector DISABLE TRIGGER ALL", "public.connector: trigger {name}_row, {name}_truncate is disabled"),
        ("ALTER TABLE connector ENABLE REPLICA TRIGGER {name}_row", "public.connector: trigger {name}_row is disabled"),
        ("DROP FUNCTION cdc_pusher.{name}() CASCADE", "public.connector: trigger {name}_row, {name}_truncate is missing"),
        (
            "COMMENT ON FUNCTION cdc_pusher.{name}() IS 'older'",
            "public.connector: the trigger's function is not the one that the configuration asks for",
        ),
        (
            "ALTER FUNCTION cdc_pusher.{name}() SECURITY INVOKER",
            "public.connector: the trigger's function has lost SECURITY DEFINER or a setting",
        ),
        (
            "ALTER FUNCTION cdc_pusher.{name}() RESET search_path",
            "public.connector: the trigger's function has lost SECURITY DEFINER or a setting",
        ),
        ("DROP TABLE connector", "public.connector: there is no such table"),
    ],
)
async def test_drift_is_named_and_mended(cpo: Cpo, damage: str, words: str) -> None:
    name = CONNECTOR.name
    cpo.run(damage.format(name=name))
    assert await verify(cpo.dsn, STATION, CONNECTOR) == [words.format(name=name)]
    if not damage.startswith("DROP TABLE"):
        assert await attach(cpo.dsn, STATION, CONNECTOR) == ["attached to public.connector"]
        assert await verify(cpo.dsn, STATION, CONNECTOR) == []
        cpo.run(CHARGE)
        assert cpo.recorded() == ["a"]


async def test_trigger_that_fires_always_is_no_drift(cpo: Cpo) -> None:
    cpo.run(
        *(f"ALTER TABLE connector ENABLE ALWAYS TRIGGER {trigger}" for trigger in (f"{CONNECTOR.name}_row", f"{CONNECTOR.name}_truncate"))
    )
    assert await verify(cpo.dsn, STATION, CONNECTOR) == []


async def test_other_columns_are_another_watch_that_takes_the_place_of_the_former(cpo: Cpo) -> None:
    wider = CONNECTOR.model_copy(update={"columns": None})
    drift, *leftovers = await verify(cpo.dsn, STATION, wider)
    assert drift.startswith("public.connector: trigger ")
    assert drift.endswith(" is missing")
    assert leftovers == ["public.connector: a trigger of an earlier configuration is attached"]
    assert await attach(cpo.dsn, STATION, wider) == ["attached to public.connector", "detached from public.connector"]
    cpo.run("UPDATE connector SET seen_at = now() WHERE id = 1")
    assert cpo.recorded() == ["a"]


async def test_watch_that_the_configuration_no_longer_has_is_detached(cpo: Cpo) -> None:
    other = Watch(table="public.connector", station="status")
    assert await attach(cpo.dsn, STATION, other) == ["attached to public.connector", "detached from public.connector"]
    cpo.run(CHARGE)
    assert cpo.recorded() == ["Available", "Occupied"]
    assert sorted(await attach(cpo.dsn)) == ["detached from public.connector", "detached from public.station"]
    cpo.run("UPDATE connector SET status = 'x'", "TRUNCATE station CASCADE")
    assert (cpo.recorded(), cpo.missed()) == ([], 0)
    assert cpo.value("SELECT count(*) FROM pg_proc WHERE proname LIKE 'cdc\\_pusher\\_%'") == 0
    assert cpo.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0


async def test_table_with_braces_and_percent_signs_in_its_name_is_attached_and_detached(bare: Cpo) -> None:
    bare.run('CREATE TABLE "a{}{b}%s" (id text)')
    watch = Watch(table='public."a{}{b}%s"', station="lower(id)")
    await attach(bare.dsn, watch)
    bare.run("""INSERT INTO "a{}{b}%s" VALUES ('X')""")
    assert bare.noted(watch) == [{"id": "X"}]
    assert await attach(bare.dsn) == ['detached from public."a{}{b}%s"']


async def test_triggers_of_the_cpo_are_left_alone(cpo: Cpo) -> None:
    cpo.run("CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    cpo.run("CREATE TRIGGER theirs BEFORE UPDATE ON connector FOR EACH ROW EXECUTE FUNCTION theirs()")
    cpo.run("ALTER TABLE connector DISABLE TRIGGER theirs")
    await attach(cpo.dsn)
    assert cpo.value("SELECT tgenabled = 'D' FROM pg_trigger WHERE NOT tgisinternal AND tgname = 'theirs'")


async def test_two_watches_of_one_table_that_differ_in_columns_stand_beside_each_other(bare: Cpo) -> None:
    watches = (Watch(table="public.connector", columns=("status",), station="station_id"), CONNECTOR)
    await attach(bare.dsn, *watches)
    assert await verify(bare.dsn, *watches) == []


@pytest.mark.parametrize(
    ("watch", "words"),
    [
        (Watch(table="public.view", station="id"), "source.watch: public.view is not a table; watch the tables behind it"),
        (Watch(table="public.nothing", station="id"), "source.watch: there is no table public.nothing"),
        (Watch(table="nowhere.connector", station="id"), "source.watch: there is no table nowhere.connector"),
        (Watch(table="public.", station="id"), "source.watch"),
        (Watch(table="a.b.c.d", station="id"), "source.watch"),
        (Watch(table="public.connector; DROP TABLE station", station="id"), "source.watch"),
        (
            Watch(table="public.connector", columns=("state",), station="station_id"),
            'source.watch public.connector: column "state" does not exist',
        ),
        (Watch(table="public.connector", station="station"), 'source.watch public.connector: column "station" does not exist'),
        (Watch(table="public.connector", station="lower(station_id"), "source.watch public.connector: syntax error"),
        (Watch(table="public.connector", station="SELECT id FROM station"), 'source.watch public.connector: relation "station" does not'),
        (Watch(table="public.connector", station="station_id); DROP TABLE public.connector; --"), "source.watch public.connector: "),
    ],
)
async def test_watch_that_does_not_fit_is_one_line(shared: str, watch: Watch, words: str) -> None:
    before = await verify(shared, STATION, CONNECTOR)
    with pytest.raises(MappingError) as failure:
        await attach(shared, watch)
    assert str(failure.value).startswith(words)
    assert "\n" not in str(failure.value)
    with psycopg.connect(shared) as conn:
        assert conn.execute("SELECT count(*) FROM connector").fetchone() == (3,)
        assert conn.execute("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").fetchone() == (4,)
    assert await verify(shared, STATION, CONNECTOR) == before == []


# ── rights ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def least(bare: Cpo) -> Iterator[str]:
    """The connection string of a role with what the error message asks for: TRIGGER and SELECT on the tables, and our schema."""
    bare.run("DROP ROLE IF EXISTS least", "CREATE ROLE least LOGIN", "GRANT SELECT, TRIGGER ON station, connector TO least")
    bare.run("GRANT ALL ON SCHEMA cdc_pusher TO least", "GRANT ALL ON ALL TABLES IN SCHEMA cdc_pusher TO least")
    bare.run("GRANT ALL ON ALL SEQUENCES IN SCHEMA cdc_pusher TO least")
    yield psycopg.conninfo.make_conninfo(bare.dsn, user="least")
    with psycopg.connect(bare.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("DROP OWNED BY least CASCADE"))
        conn.execute("DROP ROLE least")


async def test_role_with_the_trigger_right_can_attach(bare: Cpo, least: str) -> None:
    assert await attach(least, CONNECTOR) == ["attached to public.connector"]
    bare.run(CHARGE)
    assert bare.recorded() == ["a"]


async def test_role_without_the_trigger_right_is_told_what_it_needs(bare: Cpo, least: str) -> None:
    bare.run("REVOKE TRIGGER ON connector FROM least")
    with pytest.raises(CdcPusherError, match="permission denied for table connector; the role needs TRIGGER on the table"):
        await attach(least, CONNECTOR)
