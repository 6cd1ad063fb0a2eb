"""The triggers never disturb the CPO's own work, whatever happens to them; what they could not record is counted."""

import time

import psycopg
import pytest
from cpo_side import CHARGE, Cpo, attach, run

from cdc_pusher.config import Watch


async def test_role_without_any_right_on_our_schema_writes_and_is_recorded(cpo: Cpo, request: pytest.FixtureRequest) -> None:
    cpo.run("DROP ROLE IF EXISTS app_writer", "CREATE ROLE app_writer")
    cpo.run("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON station, connector TO app_writer", "SET ROLE app_writer")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        cpo.run("SELECT * FROM cdc_pusher.change")
    cpo.run(
        CHARGE, "DELETE FROM station WHERE id = 'b'", "TRUNCATE connector", "RESET ROLE", "DROP OWNED BY app_writer", "DROP ROLE app_writer"
    )
    assert cpo.recorded() == ["a", "b", "b", None]
    assert cpo.missed() == 0


@pytest.mark.parametrize("path", ["''", "evil", "evil, pg_catalog", "pg_temp, evil, pg_catalog, public"])
async def test_search_path_of_the_writer_changes_nothing(cpo: Cpo, path: str) -> None:
    """The schema `evil` has a trap for every name in the trigger, and so has the session's temporary schema."""
    cpo.run(
        "CREATE SCHEMA evil",
        "CREATE TABLE evil.change (station_id text)",
        "CREATE TEMP TABLE change (station_id text)",
        "CREATE FUNCTION evil.trap(record, record) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trap''; END'",
        "CREATE OPERATOR evil.*= (LEFTARG = record, RIGHTARG = record, FUNCTION = evil.trap)",
        "CREATE FUNCTION evil.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trap''; END'",
        "CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.trap)",
        "CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trap''; END'",
        "CREATE FUNCTION evil.pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''trap''; END'",
        "SELECT setval('cdc_pusher.asleep', 2)",
        f"SET search_path = {path}",
    )
    cpo.run("UPDATE public.connector SET status = 'Reserved' WHERE id OPERATOR(pg_catalog.=) 1", "INSERT INTO public.station VALUES ('c')")
    assert cpo.recorded() == ["a", "c"]
    assert cpo.missed() == 0


async def test_isolation_levels_and_read_committed_record_alike(cpo: Cpo) -> None:
    for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        with cpo.conn.transaction():
            cpo.run(f"SET TRANSACTION ISOLATION LEVEL {level}", f"UPDATE connector SET status = '{level}' WHERE id = 1")
    assert cpo.recorded() == ["a", "a", "a"]


@pytest.mark.parametrize("loss", ["DROP SCHEMA cdc_pusher CASCADE", "DROP TABLE cdc_pusher.change", "DROP SEQUENCE cdc_pusher.missed"])
async def test_statements_work_when_our_things_are_gone(cpo: Cpo, loss: str) -> None:
    cpo.run(CHARGE)  # the session has the function in its cache
    run(cpo.dsn, loss, *(["DROP TABLE cdc_pusher.change"] if "missed" in loss else []))
    cpo.run("UPDATE connector SET status = 'Reserved'", "DELETE FROM station WHERE id = 'b'", "TRUNCATE station CASCADE")
    assert cpo.value("SELECT count(*) FROM station") == 0


async def test_change_that_cannot_be_recorded_is_counted(cpo: Cpo) -> None:
    run(cpo.dsn, "ALTER TABLE cdc_pusher.change ADD CHECK (station_id IS NULL OR station_id <> 'a')")
    cpo.run(CHARGE, "UPDATE connector SET status = 'x' WHERE id = 3")
    assert (cpo.recorded(), cpo.missed()) == (["b"], 1)


async def test_missed_change_stays_counted_when_the_cpo_rolls_back(cpo: Cpo) -> None:
    run(cpo.dsn, "DROP TABLE cdc_pusher.change")
    with cpo.conn.transaction(force_rollback=True):
        cpo.run(CHARGE)
    assert cpo.missed() == 1


async def test_locked_change_log_holds_no_writer_up(cpo: Cpo) -> None:
    with psycopg.connect(cpo.dsn) as locker:
        locker.execute("LOCK TABLE cdc_pusher.change IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        cpo.run(CHARGE)
        assert time.monotonic() - began < 1
        assert cpo.missed() == 1
    cpo.run("UPDATE connector SET status = 'x' WHERE id = 1")
    assert cpo.recorded() == ["a"]


async def test_locked_change_log_holds_no_bulk_update_up(cpo: Cpo) -> None:
    cpo.run("INSERT INTO connector SELECT n, 'a' FROM generate_series(10, 209) AS n")
    with psycopg.connect(cpo.dsn) as locker:
        locker.execute("LOCK TABLE cdc_pusher.change IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        cpo.run("UPDATE connector SET status = 'x'")
        assert time.monotonic() - began < 1


async def test_write_that_changes_nothing_of_interest_is_not_missed_while_our_tables_are_locked(cpo: Cpo) -> None:
    with psycopg.connect(cpo.dsn) as locker:
        locker.execute("LOCK TABLE cdc_pusher.change IN ACCESS EXCLUSIVE MODE")
        with cpo.conn.transaction():
            cpo.run(CHARGE, "UPDATE connector SET seen_at = now()")
    assert cpo.missed() == 1


async def test_lock_timeout_of_the_cpo_is_its_own_again_after_the_trigger(cpo: Cpo) -> None:
    with cpo.conn.transaction():
        cpo.run("SET LOCAL lock_timeout = '7s'", CHARGE)
        row = cpo.conn.execute("SHOW lock_timeout").fetchone()
    assert row == ("7s",)


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE connector DROP COLUMN status",
        "ALTER TABLE connector RENAME COLUMN status TO state",
        "ALTER TABLE connector RENAME COLUMN station_id TO site",
        "ALTER TABLE connector DROP COLUMN station_id",
    ],
)
@pytest.mark.parametrize("used", [False, True])
async def test_column_that_is_read_can_be_dropped_or_renamed_and_no_change_is_silent(cpo: Cpo, ddl: str, used: bool) -> None:
    if used:
        cpo.run(CHARGE)
    cpo.recorded()
    cpo.run(ddl, "UPDATE connector SET id = id + 100", "INSERT INTO connector (id) VALUES (7)", "DELETE FROM connector WHERE id = 7")
    if "station_id" in ddl:
        assert cpo.missed() >= 3, "nobody can tell the station any more"
    else:
        assert (len(cpo.recorded()) >= 1, cpo.missed()) == (True, 0), "only the comparison fails: the station is looked at"


@pytest.mark.parametrize(
    "ddl",
    [
        "ALTER TABLE connector ALTER COLUMN status TYPE varchar(30)",
        "ALTER TABLE connector ALTER COLUMN status TYPE int USING length(status)",
        "ALTER TABLE connector ADD COLUMN more text DEFAULT 'x'",
        "ALTER TABLE connector SET UNLOGGED",
    ],
)
@pytest.mark.parametrize("used", [False, True])
async def test_column_can_get_another_type_and_no_change_is_silent(cpo: Cpo, ddl: str, used: bool) -> None:
    if used:
        cpo.run(CHARGE, "INSERT INTO connector (id) VALUES (49)")
    cpo.recorded()
    cpo.run(ddl, "UPDATE connector SET status = '3', station_id = 'b' WHERE id = 1")
    assert (set(cpo.recorded()), cpo.missed()) == ({"a", "b"}, 0), "also in a session that has planned for the old type"
    run(cpo.dsn, "UPDATE connector SET status = '4' WHERE id = 1")  # another session
    assert len(cpo.recorded()) + cpo.missed() >= 1


async def test_expression_that_would_fail_is_not_evaluated_in_the_cpos_transaction(bare: Cpo) -> None:
    await attach(bare.dsn, Watch(table="public.connector", station="(1 / (id - 1))"))
    bare.run(CHARGE)
    assert (bare.recorded(), bare.missed()) == ([None], 0)


async def test_table_can_be_dropped_and_renamed(cpo: Cpo) -> None:
    cpo.run("ALTER TABLE connector RENAME TO plug", "UPDATE plug SET status = 'x' WHERE id = 1", "DROP TABLE plug")
    assert cpo.recorded() == ["a"]


async def test_statement_time_out_of_the_cpo_is_not_swallowed(cpo: Cpo) -> None:
    """Whatever is caught in the trigger, a cancelled statement stays cancelled."""
    run(cpo.dsn, "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN NEW; END'")
    run(cpo.dsn, "CREATE TRIGGER slow BEFORE INSERT ON cdc_pusher.change FOR EACH ROW EXECUTE FUNCTION slow()")
    cpo.run("SET statement_timeout = '50ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        cpo.run(CHARGE)
