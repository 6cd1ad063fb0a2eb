"""However the CPO writes, each station is recorded once it is committed, and the statement's result is what it would be without us."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
from cpo_side import CHARGE, CONNECTOR, STATION, Cpo, attach

from cdc_pusher.config import Watch

SHARED = Watch(table="public.place", columns=("id", "name"), station="SELECT s.id FROM public.station AS s WHERE s.name = place.id::text")


@pytest.fixture
async def place(bare: Cpo) -> Cpo:
    """A table whose rows stations share: its watch has a sub-select."""
    bare.run("CREATE TABLE place (id int PRIMARY KEY, name text, note text)", "INSERT INTO place VALUES (1, 'A'), (2, 'B')")
    await attach(bare.dsn, SHARED)
    return bare


async def test_copy_from_a_client_records_every_row(cpo: Cpo) -> None:
    with cpo.conn.cursor() as cursor:
        with cursor.copy("COPY connector (id, station_id) FROM STDIN") as copy:
            for row in ((7, "a"), (8, "b"), (9, None)):
                copy.write_row(row)
        assert (cursor.statusmessage, cursor.rowcount) == ("COPY 3", 3)
    assert (cpo.recorded(), cpo.missed()) == (["a", "b"], 0)


async def test_copy_that_breaks_off_records_nothing(cpo: Cpo) -> None:
    def copied(*rows: tuple[int, str]) -> None:
        with cpo.conn.cursor() as cursor, cursor.copy("COPY connector (id, station_id) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    with pytest.raises(psycopg.errors.UniqueViolation):
        copied((7, "a"), (7, "b"))
    assert (cpo.recorded(), cpo.missed()) == ([], 0)


@pytest.mark.parametrize(
    ("statement", "places"),
    [
        ("COPY place (id) FROM PROGRAM 'echo 7'", [7]),
        ("INSERT INTO place VALUES (1, 'new') ON CONFLICT (id) DO UPDATE SET name = excluded.name", [1]),
        ("INSERT INTO place VALUES (1, 'new') ON CONFLICT DO NOTHING", []),
        ("UPDATE place SET note = 'x'", []),
        ("UPDATE place SET id = id + 10", [1, 2, 11, 12]),
        ("DELETE FROM place", [1, 2]),
        (
            "MERGE INTO place AS p USING (VALUES (1), (3)) AS v (id) ON p.id = v.id"
            " WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (v.id)",
            [1, 3],
        ),
    ],
)
async def test_rows_that_stations_share_are_recorded_whatever_writes_them(place: Cpo, statement: str, places: list[int]) -> None:
    if statement.startswith("MERGE") and place.conn.info.server_version < 150000:
        pytest.skip("MERGE came with Postgres 15")
    place.run(statement)
    assert sorted({int(row["id"]) for row in place.noted(SHARED)}) == places
    assert (place.recorded(), place.missed()) == ([], 0)


@pytest.mark.parametrize(
    ("key", "statement", "stations"),
    [
        ("ON UPDATE CASCADE", "UPDATE station SET id = 'z' WHERE id = 'b'", ["b", "b", "z", "z"]),
        ("ON DELETE CASCADE", "DELETE FROM station WHERE id = 'b'", ["b", "b"]),
        ("ON DELETE SET NULL", "DELETE FROM station WHERE id = 'b'", ["b", "b"]),
        ("ON UPDATE SET DEFAULT", "UPDATE station SET id = 'z' WHERE id = 'b'", ["b", "b", "z"]),
        ("ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED", "DELETE FROM station WHERE id = 'b'", ["b", "b"]),
    ],
)
async def test_cascade_records_both_ends(cpo: Cpo, key: str, statement: str, stations: list[str]) -> None:
    cpo.run("ALTER TABLE connector DROP CONSTRAINT connector_station_id_fkey")
    cpo.run(f"ALTER TABLE connector ADD FOREIGN KEY (station_id) REFERENCES station {key}")
    cpo.run(statement)
    assert (sorted(map(str, cpo.recorded())), cpo.missed()) == (stations, 0)
    assert cpo.value("SELECT count(*) FROM connector AS c JOIN station AS s ON s.id = c.station_id WHERE s.id = 'b'") == 0


async def test_constraint_that_is_checked_at_commit_sees_what_it_would_without_us(cpo: Cpo) -> None:
    cpo.run("ALTER TABLE connector DROP CONSTRAINT connector_station_id_fkey")
    cpo.run("ALTER TABLE connector ADD FOREIGN KEY (station_id) REFERENCES station DEFERRABLE INITIALLY DEFERRED")
    with cpo.conn.transaction():
        cpo.run("INSERT INTO connector VALUES (7, 'later')", "INSERT INTO station VALUES ('later')")
    assert (cpo.recorded(), cpo.missed()) == (["later", "later"], 0)


async def test_replica_records_nothing_unless_the_triggers_fire_always(cpo: Cpo) -> None:
    """As where the rows come by logical replication."""
    cpo.run("SET session_replication_role = replica", CHARGE, "TRUNCATE connector")
    assert (cpo.recorded(), cpo.missed()) == ([], 0)
    cpo.run(
        *(f"ALTER TABLE connector ENABLE ALWAYS TRIGGER {CONNECTOR.name}_{kind}" for kind in ("row", "truncate")),
        "INSERT INTO connector VALUES (7, 'b')",
        "TRUNCATE connector",
    )
    assert (cpo.recorded(), cpo.missed()) == (["b", None], 0)
    assert await attach(cpo.dsn, STATION, CONNECTOR) == [], "and stay as the CPO has set them"


async def test_row_security_of_the_cpo_is_neither_in_the_way_nor_lifted(cpo: Cpo) -> None:
    cpo.run("DROP ROLE IF EXISTS tenant", "CREATE ROLE tenant", "GRANT SELECT, INSERT, UPDATE, DELETE ON connector TO tenant")
    cpo.run("ALTER TABLE connector ENABLE ROW LEVEL SECURITY", "ALTER TABLE connector FORCE ROW LEVEL SECURITY")
    cpo.run("CREATE POLICY own ON connector TO tenant USING (station_id = 'a')")
    cpo.run("SET ROLE tenant", "UPDATE connector SET status = 'x'")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        cpo.run("INSERT INTO connector VALUES (9, 'b')")
    cpo.run("RESET ROLE", "DROP OWNED BY tenant", "DROP ROLE tenant")
    assert (cpo.recorded(), cpo.missed()) == (["a", "a"], 0)


async def test_reader_in_a_read_only_transaction_reads(cpo: Cpo) -> None:
    with cpo.conn.transaction():
        cpo.run("SET TRANSACTION READ ONLY", "SELECT FROM connector")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), cpo.conn.transaction():
            cpo.run(CHARGE)
    assert (cpo.recorded(), cpo.missed()) == ([], 0)


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        ("int", "7", "7"),
        ("bigint", "9223372036854775807", "9223372036854775807"),
        ("uuid", "'{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("kind", "'north'", "north"),
        ("label", "'north'", "north"),
        ("varchar(9)", "'x y'", "x y"),
        ("numeric(9, 2)", "7", "7.00"),
        ("text", "repeat('ä', 1000000)", "ä" * 1_000_000),
        ("text", "'%s{}$1\\\"'''", "%s{}$1\\\"'"),
        ("text", "''", ""),
    ],
)
async def test_station_id_of_any_type_is_recorded_as_its_text(bare: Cpo, type_: str, value: str, text: str, deferred: bool) -> None:
    bare.run("CREATE TYPE kind AS ENUM ('north', 'south')", "CREATE DOMAIN label AS text CHECK (value <> 'south')")
    bare.run(f"CREATE TABLE plug (site {type_}, n int)")
    watch = Watch(table="public.plug", station="SELECT site::text" if deferred else "site")
    await attach(bare.dsn, watch)
    bare.run(f"INSERT INTO plug VALUES ({value})", "UPDATE plug SET n = 1", "DELETE FROM plug")
    recorded = "source_row ->> 'site'" if deferred else "station_id"
    assert bare.value(f"SELECT array_agg({recorded}) FROM cdc_pusher.change") == [text] * 3
    assert bare.missed() == 0


@pytest.mark.parametrize("station", ["site", "SELECT plug.site"])
async def test_generated_column_is_watched_where_it_is_stored(bare: Cpo, station: str) -> None:
    bare.run("CREATE TABLE plug (n int, note text, site text GENERATED ALWAYS AS ('s' || n::text) STORED)")
    watch = Watch(table="public.plug", columns=("site",), station=station)
    await attach(bare.dsn, watch)
    bare.run("INSERT INTO plug VALUES (1)", "UPDATE plug SET note = 'x'", "UPDATE plug SET n = 2")
    recorded = "source_row ->> 'site'" if watch.is_deferred else "station_id"
    assert bare.value(f"SELECT array_agg({recorded} ORDER BY {recorded}) FROM cdc_pusher.change") == ["s1", "s1", "s2"]
    assert bare.missed() == 0


# ── results ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def as_attached(_: Cpo) -> Iterator[None]:
    yield


def with_the_log_locked(cpo: Cpo) -> Iterator[None]:
    with psycopg.connect(cpo.dsn) as locker:
        locker.execute("LOCK TABLE cdc_pusher.change IN ACCESS EXCLUSIVE MODE")
        yield
        locker.rollback()


def with_the_schema_dropped(cpo: Cpo) -> Iterator[None]:
    """The functions are left: a schema that is dropped takes the triggers along, and nothing could go wrong."""
    cpo.run("DROP TABLE cdc_pusher.change CASCADE", "DROP SEQUENCE cdc_pusher.missed", "DROP SEQUENCE cdc_pusher.asleep")
    yield


def with_the_change_refused(cpo: Cpo) -> Iterator[None]:
    cpo.run("ALTER TABLE cdc_pusher.change ADD CHECK (station_id = 'none' AND watch IS NOT NULL)")
    yield


@pytest.mark.parametrize("state", [as_attached, with_the_log_locked, with_the_schema_dropped, with_the_change_refused])
def test_result_of_a_statement_is_the_same_whatever_state_we_are_in(bare: Cpo, state: Callable[[Cpo], Iterator[None]]) -> None:
    statements = [
        "UPDATE connector SET status = 'Occupied' WHERE station_id = 'a' RETURNING id, status",
        "INSERT INTO connector VALUES (9, 'b') ON CONFLICT (id) DO UPDATE SET status = 'x' RETURNING id, (xmax = 0)",
        "DELETE FROM connector WHERE id = 9 RETURNING *",
        "WITH gone AS (DELETE FROM connector WHERE id = 3 RETURNING *) INSERT INTO connector SELECT id + 1, 'a' FROM gone RETURNING *",
        "UPDATE station SET id = 'z' WHERE id = 'b'",
        "COPY connector (id, station_id) FROM PROGRAM 'printf \"7\\ta\\n8\\tz\\n\"'",
        "DELETE FROM station WHERE id = 'z'",
        "SELECT * FROM connector ORDER BY id",
        "TRUNCATE station CASCADE",
    ]
    if bare.conn.info.server_version >= 150000:
        statements.insert(0, "MERGE INTO station AS s USING (VALUES ('a'), ('n')) AS v (id) ON s.id = v.id WHEN MATCHED THEN DO NOTHING"
                             " WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'N')")  # fmt: skip

    def results() -> list[object]:
        found: list[object] = []
        with psycopg.connect(bare.dsn) as conn:
            for statement in statements:
                cursor = conn.execute(statement.encode())
                found.append((cursor.statusmessage, cursor.rowcount, cursor.fetchall() if cursor.description else None))
            conn.rollback()
        return found

    without = results()
    asyncio.run(attach(bare.dsn, STATION, CONNECTOR))
    with contextmanager(state)(bare):
        assert results() == without
