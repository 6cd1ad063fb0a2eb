"""The triggers record what concerns a station, and never disturb the CPO's own work, whatever happens to them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cdc_pusher import migrate, triggers
from cdc_pusher.config import Watch
from cdc_pusher.database import Connection, connect
from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.errors import CdcPusherError, MappingError

TABLES = """
CREATE TABLE station (id text PRIMARY KEY, name text, seen_at timestamptz);
CREATE TABLE connector (
    id int PRIMARY KEY,
    station_id text REFERENCES station ON UPDATE CASCADE ON DELETE CASCADE,
    status text,
    power point,
    seen_at timestamptz
);
INSERT INTO station VALUES ('a', 'A'), ('b', 'B');
INSERT INTO connector VALUES (1, 'a', 'Available'), (2, 'a', 'Available'), (3, 'b', 'Available')
"""
STATION = Watch(table="public.station", columns=("id", "name"), station="id")
CONNECTOR = Watch(table="public.connector", columns=("id", "station_id", "status", "power"), station="station_id")
CHARGE = "UPDATE connector SET status = 'Occupied' WHERE id = 1"


class Cpo:
    """The CPO's side: a connection of theirs, and a look at what was recorded."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.conn = psycopg.connect(dsn, autocommit=True)
        self._observer = psycopg.connect(dsn, autocommit=True)

    def close(self) -> None:
        self.conn.close()
        self._observer.close()

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.conn.execute(statement.encode())

    def value(self, query: str) -> Any:
        row = self._observer.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]

    def recorded(self) -> list[str | None]:
        """The stations recorded since the last look, in order."""
        query = "WITH taken AS (DELETE FROM cdc_pusher.change RETURNING id, station_id) SELECT station_id FROM taken ORDER BY id"
        return [row[0] for row in self._observer.execute(query.encode()).fetchall()]

    def noted(self, watch: Watch) -> list[Any]:
        """The rows recorded for a sub-select since the last look."""
        taken = "DELETE FROM cdc_pusher.change WHERE watch = %s RETURNING id, source_row"
        query = f"WITH taken AS ({taken}) SELECT source_row FROM taken ORDER BY id"
        return [row[0] for row in self._observer.execute(query.encode(), [watch.name]).fetchall()]

    def missed(self) -> int:
        return int(self.value("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM cdc_pusher.missed"))

    def notified(self, statement: str) -> int:
        with psycopg.connect(self.dsn, autocommit=True) as listener:
            listener.execute("LISTEN cdc_pusher")
            self.run(statement)
            # What was committed before this answer is delivered with it.
            listener.execute("SELECT 1")
            return sum(1 for _ in listener.notifies(timeout=0))


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@contextlib.asynccontextmanager
async def ours(dsn: str) -> AsyncIterator[Connection]:
    async with await connect(dsn, "test") as conn:
        yield conn


async def attach(dsn: str, *watches: Watch) -> list[str]:
    async with ours(dsn) as conn:
        return await triggers.attach(conn, watches)


async def verify(dsn: str, *watches: Watch) -> list[str]:
    async with ours(dsn) as conn:
        return await triggers.verify(conn, watches)


@pytest.fixture
def bare(dsn: str) -> Iterator[Cpo]:
    """The CPO's tables and our schema, no trigger yet."""
    run(dsn, TABLES)
    migrate.to(dsn)
    cpo = Cpo(dsn)
    yield cpo
    cpo.close()


@pytest.fixture(scope="module")
def shared(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database with triggers for tests that leave nothing behind in it."""
    run(embedded_postgres.dsn(), "CREATE DATABASE shared_triggers")
    dsn = embedded_postgres.dsn("shared_triggers")
    run(dsn, TABLES, "CREATE VIEW view AS SELECT * FROM station")
    migrate.to(dsn)
    asyncio.run(attach(dsn, STATION, CONNECTOR))
    yield dsn
    run(embedded_postgres.dsn(), "DROP DATABASE shared_triggers WITH (FORCE)")


@pytest.fixture
async def cpo(bare: Cpo) -> Cpo:
    await attach(bare.dsn, STATION, CONNECTOR)
    return bare


# ── what is recorded ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("statement", "stations"),
    [
        ("INSERT INTO station VALUES ('c', 'C')", ["c"]),
        ("INSERT INTO connector VALUES (4, 'b')", ["b"]),
        ("INSERT INTO connector VALUES (4, NULL)", []),
        (CHARGE, ["a"]),
        ("UPDATE connector SET status = NULL WHERE id = 1", ["a"]),
        ("UPDATE connector SET status = 'available' WHERE id = 1", ["a"]),
        ("UPDATE connector SET power = '(1,2)' WHERE id = 1", ["a"]),
        ("UPDATE connector SET status = 'Occupied'", ["a", "a", "b"]),
        ("DELETE FROM connector WHERE id = 3", ["b"]),
        ("UPDATE connector SET station_id = 'b' WHERE id = 1", ["a", "b"]),
        ("UPDATE connector SET station_id = NULL WHERE id = 1", ["a"]),
        ("UPDATE station SET id = 'z' WHERE id = 'b'", ["b", "b", "z", "z"]),
        ("DELETE FROM station WHERE id = 'b'", ["b", "b"]),
        ("TRUNCATE connector", [None]),
        ("TRUNCATE station CASCADE", [None, None]),
        ("COPY connector (id, station_id) FROM PROGRAM 'printf \"7\\ta\\n8\\tb\\n\"'", ["a", "b"]),
        ("INSERT INTO station VALUES ('a', 'other') ON CONFLICT (id) DO UPDATE SET name = excluded.name", ["a"]),
        ("INSERT INTO station VALUES ('a', 'A') ON CONFLICT (id) DO UPDATE SET name = excluded.name", []),
        ("INSERT INTO station VALUES ('a', 'other') ON CONFLICT DO NOTHING", []),
        (
            "MERGE INTO station AS s USING (VALUES ('a', 'new'), ('n', 'N')) AS v (id, name) ON s.id = v.id"
            " WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.name)",
            ["a", "n"],
        ),
        ("UPDATE connector SET seen_at = now()", []),
        ("UPDATE station SET seen_at = now(), name = name", []),
        ("DELETE FROM connector WHERE id = 99", []),
    ],
)
def test_statement_records_the_stations_that_it_concerns(shared: str, statement: str, stations: Sequence[str | None]) -> None:
    with psycopg.connect(shared) as conn:
        conn.execute(statement.encode())
        found = [row[0] for row in conn.execute("SELECT station_id FROM cdc_pusher.change").fetchall()]
        assert sorted(found, key=str) == list(stations)
        assert conn.execute("SELECT is_called FROM cdc_pusher.missed").fetchone() == (False,)
        conn.rollback()


async def test_rolled_back_work_records_nothing(cpo: Cpo) -> None:
    with contextlib.suppress(psycopg.Rollback), cpo.conn.transaction():
        cpo.run(CHARGE)
        raise psycopg.Rollback
    with cpo.conn.transaction():
        cpo.run("UPDATE connector SET status = 'Occupied' WHERE id = 3", "SAVEPOINT s", CHARGE, "ROLLBACK TO s")
    assert cpo.recorded() == ["b"]


async def test_change_is_recorded_with_the_clock_and_live_priority(cpo: Cpo) -> None:
    cpo.run(CHARGE)
    assert cpo.value(
        "SELECT priority = 0 AND emp IS NULL AND resend IS NULL AND changed_at > now() - interval '1 min' FROM cdc_pusher.change"
    )


async def test_watch_without_columns_records_every_change_of_a_row(bare: Cpo) -> None:
    await attach(bare.dsn, Watch(table="connector", station="connector.station_id"))
    bare.run("UPDATE connector SET seen_at = now() WHERE id = 1", "UPDATE connector SET seen_at = seen_at")
    assert bare.recorded() == ["a"]


async def test_quoted_camel_case_table_with_integer_ids_is_watched(bare: Cpo) -> None:
    bare.run('CREATE SCHEMA "My Data"', 'CREATE TABLE "My Data"."ChargePoint" ("Id" int PRIMARY KEY, "pointState" text)')
    await attach(bare.dsn, Watch(table='"My Data"."ChargePoint"', columns=("Id", "pointState"), station='"ChargePoint"."Id"'))
    bare.run('INSERT INTO "My Data"."ChargePoint" VALUES (7, NULL)', """UPDATE "My Data"."ChargePoint" SET "pointState" = 'x'""")
    bare.run('UPDATE "My Data"."ChargePoint" SET "Id" = 8', 'DELETE FROM "My Data"."ChargePoint"', 'TRUNCATE "My Data"."ChargePoint"')
    assert bare.recorded()[:2] == ["7", "7"]
    assert bare.missed() == 0


async def test_sub_select_is_recorded_with_the_columns_that_it_may_name(bare: Cpo) -> None:
    bare.run('CREATE TABLE tariff (id int, label text, "Näme" text, other text)', "INSERT INTO tariff VALUES (1), (2)")
    watch = Watch(
        table="public.tariff", station='SELECT x.station FROM public.applies AS x WHERE x.tariff = tariff.ID AND x."Näme" <> tariff."Näme"'
    )
    bare.run('CREATE TABLE applies (tariff int, station text, "Näme" text)')
    await attach(bare.dsn, watch)
    bare.run("UPDATE tariff SET label = 'new' WHERE id = 1")
    assert bare.noted(watch) == [{"id": 1, "Näme": None}], "the new row and the old one say the same"
    bare.run("UPDATE tariff SET id = 3, other = 'x' WHERE id = 1", "DELETE FROM tariff WHERE id = 2", "TRUNCATE tariff")
    found = bare.noted(watch)
    assert sorted(row["id"] for row in found) == [1, 2, 3]
    assert (bare.recorded(), bare.missed()) == ([None], 0)


async def test_column_that_a_sub_select_names_can_be_dropped_and_no_change_is_silent(bare: Cpo) -> None:
    bare.run("CREATE TABLE tariff (id int, label text)", "INSERT INTO tariff VALUES (1)")
    await attach(bare.dsn, Watch(table="public.tariff", station="SELECT 'a' WHERE tariff.id = 1"))
    bare.run("UPDATE tariff SET label = 'x'")
    assert bare.recorded() == [None]
    bare.run("ALTER TABLE tariff RENAME COLUMN id TO number", "UPDATE tariff SET label = 'y'")
    assert len(bare.recorded()) + bare.missed() >= 1


async def test_station_column_whose_name_begins_with_select_is_no_sub_select(bare: Cpo) -> None:
    bare.run("CREATE TABLE choice (selected_station text)")
    await attach(bare.dsn, Watch(table="public.choice", station="selected_station"))
    bare.run("INSERT INTO choice VALUES ('a')")
    assert bare.recorded() == ["a"]


async def test_percent_signs_braces_and_quotes_in_an_expression_are_the_operators(bare: Cpo) -> None:
    await attach(bare.dsn, Watch(table="public.connector", station="""replace(station_id, '%s{}$1', '$$') || '%' || '''"'"""))
    bare.run(CHARGE)
    assert bare.recorded() == ["a%'\""]


async def test_partitioned_table_is_watched_with_all_its_partitions(bare: Cpo) -> None:
    bare.run(
        "CREATE TABLE event (station_id text, n int) PARTITION BY LIST (n)", "CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1)"
    )
    watch = Watch(table="public.event", columns=("station_id", "n"), station="station_id")
    assert await attach(bare.dsn, watch) == ["attached to public.event"]
    bare.run("CREATE TABLE event_2 PARTITION OF event FOR VALUES IN (2)")
    bare.run(
        "INSERT INTO event VALUES ('a', 1)", "INSERT INTO event_2 VALUES ('b', 2)", "UPDATE event SET n = 2 WHERE n = 1", "TRUNCATE event"
    )
    assert bare.recorded() == ["a", "b", "a", "a", None]
    assert await attach(bare.dsn, watch) == []


# ── the CPO's work goes on ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
        "CREATE OPERATOR evil.*<> (LEFTARG = record, RIGHTARG = record, FUNCTION = evil.trap)",
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
        cpo.run(CHARGE)
    cpo.recorded()
    cpo.run(ddl, "UPDATE connector SET status = '3' WHERE id = 1")
    assert (set(cpo.recorded()), cpo.missed()) == ({"a"}, 0), "also in a session that has planned for the old type"
    run(cpo.dsn, "UPDATE connector SET status = '4' WHERE id = 1")  # another session
    assert len(cpo.recorded()) + cpo.missed() >= 1


async def test_expression_that_fails_at_run_time_is_counted(bare: Cpo) -> None:
    await attach(bare.dsn, Watch(table="public.connector", station="(1 / (id - 1))"))
    bare.run(CHARGE, "UPDATE connector SET status = 'x' WHERE id = 2")
    assert (bare.recorded(), bare.missed()) == (["1"], 1)


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


# ── the wake-up ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_notification_is_sent_only_while_the_daemon_sleeps(cpo: Cpo) -> None:
    assert cpo.notified(CHARGE) == 0
    run(cpo.dsn, "SELECT setval('cdc_pusher.asleep', 2)")
    assert cpo.notified("UPDATE connector SET status = 'x'") == 1
    assert cpo.notified("UPDATE connector SET seen_at = now()") == 0
    assert cpo.notified("TRUNCATE connector") == 1
    run(cpo.dsn, "SELECT setval('cdc_pusher.asleep', 1)")
    assert cpo.notified("UPDATE station SET name = 'x'") == 0


async def test_transaction_that_wrote_can_be_prepared() -> None:
    settings = {"fsync": "off", "max_prepared_transactions": "2"}
    with EmbeddedPostgres(settings=settings) as server:
        dsn = server.dsn()
        run(dsn, TABLES)
        migrate.to(dsn)
        await attach(dsn, STATION, CONNECTOR)
        run(dsn, "SELECT setval('cdc_pusher.asleep', 2)")
        cpo = Cpo(dsn)
        with contextlib.closing(cpo):
            cpo.run("BEGIN", CHARGE, "PREPARE TRANSACTION 'two'")
            assert cpo.recorded() == []
            cpo.run("COMMIT PREPARED 'two'")
            assert (cpo.recorded(), cpo.missed()) == (["a"], 0)


# ── attaching ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
            "public.connector: the trigger's function has lost SECURITY DEFINER or its search_path",
        ),
        (
            "ALTER FUNCTION cdc_pusher.{name}() RESET search_path",
            "public.connector: the trigger's function has lost SECURITY DEFINER or its search_path",
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
    (drift,) = await verify(cpo.dsn, wider)
    assert drift.startswith("public.connector: trigger ")
    assert drift.endswith(" is missing")
    assert await attach(cpo.dsn, STATION, wider) == ["attached to public.connector", "detached from public.connector"]
    cpo.run("UPDATE connector SET seen_at = now() WHERE id = 1")
    assert cpo.recorded() == ["a"]


async def test_watch_that_the_configuration_no_longer_has_is_detached(cpo: Cpo) -> None:
    other = Watch(table="public.connector", station="upper(station_id)")
    assert await attach(cpo.dsn, STATION, other) == ["attached to public.connector", "detached from public.connector"]
    cpo.run(CHARGE)
    assert cpo.recorded() == ["A"]
    assert sorted(await attach(cpo.dsn)) == ["detached from public.connector", "detached from public.station"]
    cpo.run("UPDATE connector SET status = 'x'", "TRUNCATE station CASCADE")
    assert (cpo.recorded(), cpo.missed()) == ([], 0)
    assert cpo.value("SELECT count(*) FROM pg_proc WHERE proname LIKE 'cdc\\_pusher\\_%'") == 0
    assert cpo.value("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal") == 0


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
