"""The triggers record what concerns a station, on the wheel's Postgres and on the system's."""

import contextlib
from collections.abc import Sequence

import psycopg
import pytest
from cpo_side import CHARGE, CONNECTOR, STATION, TABLES, Cpo, attach, run

from cdc_pusher import migrate
from cdc_pusher.config import Watch
from cdc_pusher.database import connect
from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.errors import MappingError


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
        if statement.startswith("MERGE") and conn.info.server_version < 150000:
            pytest.skip("MERGE came with Postgres 15")
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
    assert bare.noted(watch) == [{"id": "1", "Näme": None}], "the new row and the old one say the same"
    bare.run("UPDATE tariff SET id = 3, other = 'x' WHERE id = 1", "DELETE FROM tariff WHERE id = 2", "TRUNCATE tariff")
    found = bare.noted(watch)
    assert sorted(row["id"] for row in found) == ["1", "2", "3"]
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


# ── the wake-up ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_notification_is_sent_only_while_the_daemon_sleeps(cpo: Cpo) -> None:
    assert cpo.notified(CHARGE) == 0
    run(cpo.dsn, "SELECT setval('cdc_pusher.asleep', 2)")
    assert cpo.notified("UPDATE connector SET status = 'x'") == 1
    assert cpo.notified("UPDATE connector SET seen_at = now()") == 0
    assert cpo.notified("TRUNCATE connector") == 1
    run(cpo.dsn, "SELECT setval('cdc_pusher.asleep', 1)")
    assert cpo.notified("UPDATE station SET name = 'x'") == 0


async def test_transaction_that_wrote_can_be_prepared(either_postgres: EmbeddedPostgres) -> None:
    settings = {"fsync": "off", "max_prepared_transactions": "2"}
    with EmbeddedPostgres(settings=settings, binaries=either_postgres.bin) as server:
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
            cpo.run("BEGIN", "TRUNCATE connector", "PREPARE TRANSACTION 'two'", "ROLLBACK PREPARED 'two'")
            assert (cpo.recorded(), cpo.missed()) == ([], 0)


async def test_row_of_a_wide_table_is_recorded_as_a_whole(bare: Cpo) -> None:
    bare.run(f"CREATE TABLE wide ({', '.join(f'c{n} int' for n in range(130))})")
    watch = Watch(table="public.wide", station="SELECT (wide).c7::text")
    await attach(bare.dsn, watch)
    bare.run("INSERT INTO wide (c0, c129) VALUES (1, 2)")
    (row,) = bare.noted(watch)
    assert (len(row), row["c0"], row["c64"], row["c129"], bare.missed()) == (130, "1", None, "2", 0)


@pytest.mark.parametrize("station", ["v", "SELECT 'a' WHERE g.v = 1", "lower(v::text)"])
async def test_virtual_column_that_names_the_station_is_refused(bare: Cpo, station: str) -> None:
    if bare.conn.info.server_version < 180000:
        pytest.skip("virtual generated columns came with Postgres 18")
    bare.run("CREATE TABLE g (id int, v int GENERATED ALWAYS AS (id + 1) VIRTUAL)")
    with pytest.raises(MappingError, match="triggers cannot see generated columns that are not stored: v"):
        await attach(bare.dsn, Watch(table="public.g", columns=("id",), station=station))


async def test_ids_are_spelled_alike_whatever_the_writing_session_has_set(bare: Cpo) -> None:
    bare.run("CREATE TABLE dated (at timestamptz, size float4, span interval, raw bytea, note text)")
    await attach(bare.dsn, *(Watch(table="public.dated", station=column) for column in ("at", "size", "span", "raw")))
    values = "'2026-02-03 04:05:06.1+00', 0.1::float4 + 0.2::float4, '1 day 2 hours', '\\x01ff'"
    bare.run(
        "SET DateStyle = 'German'", "SET IntervalStyle = 'iso_8601'", "SET extra_float_digits = 0", "SET bytea_output = 'escape'",
        "SET TimeZone = 'Asia/Tokyo'", f"INSERT INTO dated VALUES ({values})", "RESET ALL",
    )  # fmt: skip
    async with await connect(bare.dsn, "test") as conn:
        row = await (await conn.execute("SELECT at::text, size::text, span::text, raw::text FROM dated")).fetchone()
    assert row is not None
    assert sorted(str(station) for station in bare.recorded()) == sorted(row.values())


async def test_settings_that_do_not_matter_cost_nothing(cpo: Cpo) -> None:
    settings = (
        "SELECT max(cardinality(proconfig)) FROM pg_proc WHERE pronamespace = 'cdc_pusher'::regnamespace AND proname ~ '^cdc_pusher_'"
    )
    assert cpo.value(settings) == 2
