"""What runs with the rights of its owner does nothing for anybody else: the triggers' functions, and those that the daemon calls.

A compromised application role of the CPO usually owns the watched tables, and may make types, casts, operators and columns of any name.
"""

from collections.abc import Iterator

import psycopg
import pytest
from cpo_side import Cpo, attach, run, verify
from psycopg.conninfo import make_conninfo

from cdc_pusher import migrate
from cdc_pusher.config import Watch

ID = Watch(table="public.connector", columns=("status",), station="station_id")
EXPRESSION = Watch(table="public.connector", columns=("status",), station="station_id || ''")
SUB_SELECT = Watch(table="public.connector", columns=("status",), station="SELECT connector.station_id")
WHOLE_ROW = Watch(table="public.connector", columns=("status",), station="SELECT f.id FROM public.find(connector) AS f (id)")

TYPES = {"enum": "AS ENUM ('a', 'b')", "composite": "AS (t text)", "range": "AS RANGE (SUBTYPE = text)"}
# A cast that tells who it runs as; IMMUTABLE, so that planning a call with a constant may run it, too.
CASTS = """
CREATE FUNCTION public.told(said text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM public.tell(); RETURN said; END';
CREATE FUNCTION public.tell() RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.loot VALUES (current_user); END';
CREATE FUNCTION public.in_words(theirs) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT public.told(''a'')';
CREATE FUNCTION public.in_json(theirs) RETURNS json LANGUAGE sql AS 'SELECT to_json(public.told(''a''))';
CREATE CAST (theirs AS text) WITH FUNCTION public.in_words(theirs) AS IMPLICIT;
CREATE CAST (theirs AS json) WITH FUNCTION public.in_json(theirs);
"""
VALUES = {"enum": "station_id::theirs", "composite": "row(station_id)::theirs", "range": "theirs(station_id, NULL)"}


@pytest.fixture
def theirs(bare: Cpo) -> Iterator[Cpo]:
    """The tables belong to a role of the CPO that may do nothing else, and that `bare` then is."""
    run(
        bare.dsn,
        "CREATE ROLE theirs_app LOGIN",
        "GRANT CREATE ON SCHEMA public TO theirs_app",
        "ALTER TABLE station OWNER TO theirs_app",
        "ALTER TABLE connector OWNER TO theirs_app",
        "CREATE TABLE loot (who text)",
        "GRANT INSERT ON loot TO PUBLIC",
        "CREATE FUNCTION find(connector) RETURNS SETOF text LANGUAGE sql AS 'SELECT $1.station_id'",
    )
    bare.run("SET ROLE theirs_app")
    yield bare
    bare.run("RESET ROLE")
    run(bare.dsn, "DROP OWNED BY theirs_app CASCADE", "DROP ROLE theirs_app")


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("watch", [ID, EXPRESSION, SUB_SELECT, WHOLE_ROW], ids=["id", "expression", "sub-select", "whole row"])
@pytest.mark.parametrize("used", [False, True], ids=["new session", "same session"])
async def test_cast_of_the_tables_owner_is_not_called_with_our_rights(theirs: Cpo, watch: Watch, kind: str, used: bool) -> None:
    await attach(theirs.dsn, watch)
    if used:
        theirs.run("UPDATE connector SET status = 'Occupied'")
    theirs.run(
        f"CREATE TYPE theirs {TYPES[kind]}",
        CASTS,
        "ALTER TABLE connector DROP CONSTRAINT connector_station_id_fkey",
        f"ALTER TABLE connector ALTER station_id TYPE theirs USING {VALUES[kind]}",
    )
    theirs.run("UPDATE connector SET status = 'x'", "DELETE FROM connector WHERE id = 3")
    assert theirs.value("SELECT array_agg(DISTINCT who) FROM loot") is None
    assert theirs.value("SELECT count(*) FROM cdc_pusher.change") + theirs.missed() >= 3, "and nothing is silent"


@pytest.mark.parametrize("watch", [SUB_SELECT, WHOLE_ROW], ids=["sub-select", "whole row"])
async def test_name_of_a_column_is_no_sql(theirs: Cpo, watch: Watch) -> None:
    """It stands in the body of a function, which an administrator creates; a domain is always among the columns that are noted."""
    names = ("$cdc_pusher$;DROP TABLE loot;--", "$$;DROP TABLE loot;--", "';DROP TABLE loot;--", '";DROP TABLE loot;--', "\\';--", "%s{}$1")
    quoted = ['"{}"'.format(name.replace('"', '""')) for name in names]
    theirs.run("CREATE DOMAIN dom AS text", *(f"ALTER TABLE connector ADD COLUMN {name} dom" for name in quoted))
    await attach(theirs.dsn, watch)
    assert await verify(theirs.dsn, watch) == []
    theirs.run(f"UPDATE connector SET status = 'x', {quoted[0]} = 'y' WHERE id = 1")
    noted = theirs.noted(watch)[-1]
    assert noted[names[0]] == "y"
    assert noted.keys() >= {*names}
    assert theirs.value("SELECT count(*) FROM loot") == 0


async def test_function_of_a_trigger_cannot_be_put_on_another_table(theirs: Cpo) -> None:
    await attach(theirs.dsn, ID)
    run(theirs.dsn, "GRANT USAGE ON SCHEMA cdc_pusher TO theirs_app")  # to look into the views, say
    theirs.run("CREATE TABLE mine (id int, station_id text, status text)")
    trigger = f"CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION cdc_pusher.{ID.name}()"
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        theirs.run(trigger)
    run(theirs.dsn, f"GRANT EXECUTE ON FUNCTION cdc_pusher.{ID.name} TO PUBLIC")
    assert await verify(theirs.dsn, ID) == [
        "public.connector: the trigger's function may be put on any table by anybody who may use schema cdc_pusher"
    ]
    await attach(theirs.dsn, ID)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        theirs.run(trigger)


async def test_role_of_the_cpo_reaches_nothing_of_ours(theirs: Cpo) -> None:
    """Neither by the schema as it is made, nor when it may see it."""
    await attach(theirs.dsn, ID)
    for seen in (False, True):
        for statement in (
            "SELECT * FROM cdc_pusher.outbox",
            "SELECT * FROM cdc_pusher.change",
            "INSERT INTO cdc_pusher.change (station_id) VALUES ('x')",
            "UPDATE cdc_pusher.emp SET paused_at = now()",
            "SELECT nextval('cdc_pusher.missed')",
            "SELECT setval('cdc_pusher.asleep', 1)",
            "SELECT cdc_pusher.maintain_attempts(1)",
            "SELECT cdc_pusher.refresh_statistics()",
            f"SELECT cdc_pusher.{ID.name}()",
            "CREATE TABLE cdc_pusher.mine (id int)",
        ):
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported)):
                theirs.run(statement)
        if not seen:
            run(theirs.dsn, "GRANT USAGE ON SCHEMA cdc_pusher TO theirs_app")


def test_every_definer_is_known_pinned_and_nobodys_to_call(dsn: str) -> None:
    migrate.to(dsn)
    with psycopg.connect(dsn) as conn:
        found = conn.execute(
            "SELECT proname, proconfig, has_function_privilege('public', oid, 'EXECUTE') FROM pg_proc"
            " WHERE pronamespace = 'cdc_pusher'::regnamespace AND prosecdef ORDER BY 1"
        ).fetchall()
    pinned = "search_path=pg_catalog, pg_temp"
    assert found == [("maintain_attempts", ["TimeZone=UTC", pinned], False), ("refresh_statistics", [pinned], False)]


async def test_definer_that_the_daemon_calls_takes_no_sql(theirs: Cpo) -> None:
    """`maintain_attempts` makes and drops partitions by names of its own: it has one argument, a number."""
    run(
        theirs.dsn, "GRANT USAGE ON SCHEMA cdc_pusher TO theirs_app", "GRANT EXECUTE ON FUNCTION cdc_pusher.maintain_attempts TO theirs_app"
    )
    before = theirs.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace")
    theirs.run("CREATE TEMP TABLE pg_inherits (inhrelid oid)", "SET search_path = pg_temp, public")
    with psycopg.connect(make_conninfo(theirs.dsn, user="theirs_app"), autocommit=True) as conn:
        conn.execute("SELECT cdc_pusher.maintain_attempts(1)")
    for days in ("-1", "0", "2147483647"):
        try:
            theirs.run(f"SELECT cdc_pusher.maintain_attempts({days})")
        except psycopg.Error as error:
            assert not isinstance(error, psycopg.errors.InsufficientPrivilege)  # noqa: PT017
    assert theirs.value("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == before
