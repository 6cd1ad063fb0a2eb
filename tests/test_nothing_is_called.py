"""The triggers' function calls nothing that the CPO could have put there, and what it notes of a row is to capture what the row was.

Who owns a table may do less than who owns the triggers' function, and can give its columns other types at any time.
"""

import psycopg
import pytest
from cpo_side import CHARGE, Cpo, attach, ours

from cdc_pusher import recorder
from cdc_pusher.config import SourceSettings, Watch
from cdc_pusher.source import Source

STATIONS = """
SELECT id AS station_id, id AS name, 50 AS latitude, 7 AS longitude, 'S' AS street, '1' AS street_number, 'C' AS city, '1' AS zip,
    'DE' AS country, '1' AS phone, '8ps' AS cpo, true AS is_open_24
FROM public.station
"""
CONNECTORS = "SELECT station_id, id::text AS evse_id, 'Type2' AS type, 22 AS speed_kw, status FROM public.connector"
VALUES = {
    "json": """'{"a": ["b"]}'""",
    "jsonb": """'{"a": ["b"]}'""",
    "int[]": "'{1,NULL}'",
    "numrange": "'[1,2)'",
    "station": """ROW('a', '"', NULL)""",
    "bpchar(5)": "'ab'",
    "bool": "true",
    "numeric": "1.00",
    "document": """'{"a": ["b"]}'""",
}


async def stations(cpo: Cpo, watch: Watch) -> list[str] | None:
    """Those that the rows noted since the last look concern, as capture finds out."""
    async with ours(cpo.dsn) as conn:
        source = await Source.open(conn, SourceSettings(stations=STATIONS, connectors=CONNECTORS, watch=(watch,)))
        return await source.affected(watch.name, cpo.noted(watch), 10)


@pytest.mark.parametrize("station", ["public.theirs(station_id)", '("theirs" (station_id))', "station_id OPERATOR(public.+) '1'"])
async def test_function_of_the_cpo_is_never_called_with_the_rights_of_the_triggers_owner(bare: Cpo, station: str) -> None:
    """It might be somebody's who may do less than the owner; capture calls it, with the daemon's rights in a read-only transaction."""
    bare.run(
        "CREATE TABLE called (who text)",
        "CREATE FUNCTION theirs(id text) RETURNS text LANGUAGE plpgsql AS 'BEGIN INSERT INTO called VALUES (current_user); RETURN id; END'",
        "CREATE FUNCTION theirs(a text, b text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN theirs(a); END'",
        "CREATE OPERATOR public.+ (LEFTARG = text, RIGHTARG = text, FUNCTION = theirs)",
    )
    watch = Watch(table="public.connector", columns=("status",), station=station)
    attachment = recorder.wanted(watch, recorder.Table(name="public.connector", kind="r", columns=["id", "station_id", "status"]))
    assert "theirs" not in attachment.body
    assert "+" not in attachment.body
    assert 'NEW."station_id"' in attachment.body


@pytest.mark.parametrize("volatility", ["VOLATILE", "IMMUTABLE"])
@pytest.mark.parametrize("station", ["site", "site::text", "'x' || site::text", "SELECT plug.site"])
async def test_cast_of_the_cpo_is_never_run_with_the_rights_of_the_triggers_owner(bare: Cpo, station: str, volatility: str) -> None:
    """Functions that are IMMUTABLE are run as soon as a statement is planned."""
    bare.run(
        "CREATE ROLE evil",
        "CREATE SCHEMA app AUTHORIZATION evil",
        "SET ROLE evil",
        "CREATE TABLE app.plug (site text, n int)",
        "CREATE FUNCTION app.loot() RETURNS void LANGUAGE plpgsql AS"
        " $$ BEGIN IF current_user <> 'evil' THEN PERFORM set_config('app.looted', current_user, false); END IF; END $$",
    )
    try:
        bare.run("RESET ROLE")
        watch = Watch(table="app.plug", station=station)
        await attach(bare.dsn, watch)
        bare.run("SET ROLE evil", "CREATE TYPE app.bad AS ENUM ('a')")
        for target in ("text", "json", "jsonb"):
            bare.run(
                f"CREATE FUNCTION app.as_{target}(app.bad) RETURNS {target} LANGUAGE plpgsql {volatility} AS"
                " $$ BEGIN PERFORM app.loot(); RETURN '1'; END $$",
                f"CREATE CAST (app.bad AS {target}) WITH FUNCTION app.as_{target}(app.bad) AS IMPLICIT",
            )
        bare.run(
            "ALTER TABLE app.plug ALTER COLUMN site TYPE app.bad USING 'a'::app.bad",
            "INSERT INTO app.plug VALUES ('a', 1)",
            "UPDATE app.plug SET n = 2",
        )
        looted = bare.conn.execute("SELECT current_setting('app.looted', true)").fetchone()
        assert looted in ((None,), ("",))
        said = "source_row ->> 'site'" if watch.is_deferred else "station_id"
        assert bare.value(f"SELECT array_agg(DISTINCT {said}) FROM cdc_pusher.change") == ["a"]
    finally:
        bare.run("RESET ROLE", "DROP OWNED BY evil CASCADE", "DROP ROLE evil")


@pytest.mark.parametrize("type_", VALUES)
async def test_value_of_any_type_is_to_capture_what_it_was_in_the_row(bare: Cpo, type_: str) -> None:
    bare.run("CREATE DOMAIN document AS jsonb", f"CREATE TABLE plug (v {type_})")
    watch = Watch(table="public.plug", station="SELECT s.id || plug.v::text FROM public.station AS s WHERE s.id = 'a'")
    await attach(bare.dsn, watch)
    bare.run(f"INSERT INTO plug VALUES ({VALUES[type_]})")
    assert await stations(bare, watch) == [bare.value("SELECT 'a' || v::text FROM plug")]


async def test_range_of_times_means_the_same_whatever_the_writing_session_has_set(bare: Cpo) -> None:
    bare.run("CREATE TABLE booking (during tstzrange)")
    watch = Watch(table="public.booking", station="SELECT extract(day FROM lower(booking.during) AT TIME ZONE 'UTC')")
    await attach(bare.dsn, watch)
    bare.run("SET DateStyle = 'SQL, DMY'", "INSERT INTO booking VALUES (tstzrange('2026-03-02 04:00Z', NULL))", "RESET DateStyle")
    assert await stations(bare, watch) == ["2"]


async def test_percent_signs_braces_and_quotes_in_an_expression_are_the_operators(bare: Cpo) -> None:
    watch = Watch(table="public.connector", station="""station_id || '%s{}$1' || '%' || '''"'""")
    await attach(bare.dsn, watch)
    bare.run(CHARGE)
    assert await stations(bare, watch) == ["a%s{}$1%'\""]


@pytest.mark.parametrize("station", [r"station_id || '\' || status", r"station_id || '\n'", r'"back\slash"'])
async def test_backslash_in_a_watch_disturbs_nobody_whatever_the_writing_session_has_set(bare: Cpo, station: str) -> None:
    bare.run(r"""ALTER TABLE connector ADD COLUMN "back\slash" text DEFAULT 'b'""")
    watch = Watch(table="public.connector", station=station)
    await attach(bare.dsn, watch)
    with psycopg.connect(bare.dsn, autocommit=True) as conn:
        conn.execute("SET standard_conforming_strings = off")
        conn.execute("UPDATE connector SET status = 'x' WHERE id = 1")
    found = await stations(bare, watch) if watch.is_deferred else bare.recorded()
    assert found is not None
    assert bare.value(f"SELECT {station} FROM connector WHERE id = 1") in found
    assert bare.missed() == 0


async def test_dollar_signs_in_the_name_of_a_column_are_its_own(bare: Cpo) -> None:
    bare.run("ALTER TABLE connector ADD COLUMN \"$cdc_pusher$\" text DEFAULT 'b'")
    await attach(bare.dsn, Watch(table="public.connector", station='"$cdc_pusher$"'))
    bare.run(CHARGE)
    assert bare.recorded() == ["b"]


async def test_session_that_has_planned_for_other_types_notifies_all_the_same(bare: Cpo) -> None:
    await attach(bare.dsn, Watch(table="public.connector", station="station_id"))
    bare.run("SELECT setval('cdc_pusher.asleep', 2)", CHARGE, "ALTER TABLE connector ALTER COLUMN station_id TYPE varchar(50)")
    assert bare.notified("UPDATE connector SET status = 'new' WHERE id = 1") == 1
    assert bare.missed() == 0
