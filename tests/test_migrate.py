"""The schema: made and unmade by migrations, equal to its description, commented, and closed to rows that cannot be."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from cpo_side import CHARGE, CONNECTOR, STATION, TABLES, attach
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from cdc_pusher import migrate, revision
from cdc_pusher.database import connect
from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.errors import CdcPusherError, ConfigurationError
from cdc_pusher.schema import metadata

Listing = list[tuple[Any, ...]]

# Ours but not described by the metadata: alembic's table, and the partitions that come and go.
NOT_DESCRIBED = "c.relname <> 'alembic_version' AND c.relname !~ '^attempt_(default|[0-9]{8})' AND c.relname <> 'alembic_version_pkc'"
CATALOGUE = {
    "relations": f"""
        SELECT c.relname, c.relkind, c.relpersistence, pg_get_partkeydef(c.oid), obj_description(c.oid, 'pg_class')
        FROM pg_class AS c
        WHERE c.relnamespace = 'cdc_pusher'::regnamespace AND c.relkind <> 'v' AND {NOT_DESCRIBED}""",
    "columns": f"""
        SELECT c.relname, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated,
            pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
        FROM pg_class AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'cdc_pusher'::regnamespace AND c.relkind IN ('r', 'p') AND {NOT_DESCRIBED}""",
    "constraints": f"""
        SELECT c.relname, k.conname, k.contype, pg_get_constraintdef(k.oid), k.convalidated
        FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid
        WHERE c.relnamespace = 'cdc_pusher'::regnamespace AND {NOT_DESCRIBED}""",
    "indexes": f"""
        SELECT c.relname, pg_get_indexdef(c.oid)
        FROM pg_class AS c
        WHERE c.relnamespace = 'cdc_pusher'::regnamespace AND c.relkind IN ('i', 'I') AND {NOT_DESCRIBED}""",
    "sequences": """
        SELECT sequencename, data_type::text, start_value, min_value, max_value, increment_by, cycle, cache_size
        FROM pg_sequences WHERE schemaname = 'cdc_pusher'""",
}


def catalogue(dsn: str) -> dict[str, Listing]:
    with psycopg.connect(dsn) as conn:
        return {name: sorted(conn.execute(query.encode()).fetchall(), key=repr) for name, query in CATALOGUE.items()}


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def column(dsn: str, query: str) -> list[Any]:
    with psycopg.connect(dsn) as conn:
        return [row[0] for row in conn.execute(query.encode()).fetchall()]


@pytest.fixture(scope="module")
def migrated(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A migrated database for tests that leave nothing behind in it."""
    run(embedded_postgres.dsn(), "CREATE DATABASE migrated")
    dsn = embedded_postgres.dsn("migrated")
    migrate.to(dsn)
    yield dsn
    run(embedded_postgres.dsn(), "DROP DATABASE migrated WITH (FORCE)")


# ── up, down, up ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_up_down_and_up_again_make_the_same_schema(dsn: str) -> None:
    migrate.to(dsn)
    first = catalogue(dsn)
    assert first["columns"]
    run(dsn, "SELECT cdc_pusher.maintain_attempts(30)")  # partitions are no obstacle
    migrate.to(dsn, "base")
    left = "SELECT relname FROM pg_class WHERE relnamespace = 'cdc_pusher'::regnamespace AND relname !~ 'alembic'"
    assert column(dsn, left) == []
    assert column(dsn, "SELECT proname FROM pg_proc WHERE pronamespace = 'cdc_pusher'::regnamespace") == []
    migrate.to(dsn)
    assert catalogue(dsn) == first


def test_newest_revision_is_that_of_alembic() -> None:
    config = Config()
    config.set_main_option("script_location", str(revision.migrations()))
    assert ScriptDirectory.from_config(config).get_heads() == [revision.head()]


def test_migrating_again_changes_nothing(dsn: str) -> None:
    migrate.to(dsn)
    run(dsn, "INSERT INTO cdc_pusher.emp (name) VALUES ('e')")
    migrate.to(dsn)
    assert column(dsn, "SELECT name FROM cdc_pusher.emp") == ["e"]
    assert column(dsn, "SELECT version_num FROM cdc_pusher.alembic_version") == [revision.head()]


def test_nothing_is_made_outside_our_schema(migrated: str) -> None:
    theirs = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert column(migrated, theirs) == []
    assert column(migrated, "SELECT extname FROM pg_extension") == ["plpgsql"]


def test_role_that_owns_the_schema_can_migrate_without_rights_on_the_database(dsn: str) -> None:
    run(
        dsn,
        "DROP ROLE IF EXISTS owner_of_schema",
        "CREATE ROLE owner_of_schema LOGIN",
        "CREATE SCHEMA cdc_pusher AUTHORIZATION owner_of_schema",
    )
    try:
        migrate.to(psycopg.conninfo.make_conninfo(dsn, user="owner_of_schema"))
        assert column(dsn, "SELECT version_num FROM cdc_pusher.alembic_version") == [revision.head()]
    finally:
        run(dsn, "DROP OWNED BY owner_of_schema CASCADE", "DROP ROLE owner_of_schema")


def test_role_without_rights_is_told_so_in_one_line(dsn: str) -> None:
    run(dsn, "DROP ROLE IF EXISTS nobody_here", "CREATE ROLE nobody_here LOGIN")
    try:
        with pytest.raises(CdcPusherError, match="migrate: permission denied for database test") as failure:
            migrate.to(psycopg.conninfo.make_conninfo(dsn, user="nobody_here"))
        assert "\n" not in str(failure.value)
    finally:
        run(dsn, "DROP ROLE nobody_here")


def test_two_migrations_at_once_wait_for_each_other(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('cdc_pusher migrate'))")
        monkeypatch.setattr(migrate, "LOCK_TRIES", 2)
        with pytest.raises(CdcPusherError, match="lock timeout"):
            migrate.to(dsn)
        monkeypatch.setattr(migrate, "LOCK_TRIES", 50)
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(migrate.to, dsn)
            with pytest.raises(TimeoutError):
                waiting.result(0.5)
            other.rollback()
            waiting.result()


def test_changes_are_recorded_while_a_migration_waits_for_the_log(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction of the CPO that has recorded a change stays open."""
    monkeypatch.setattr(migrate, "LOCK_TRIES", 5)
    run(dsn, TABLES)
    migrate.to(dsn, "0005")
    asyncio.run(attach(dsn, STATION, CONNECTOR))
    with psycopg.connect(dsn) as holder, psycopg.connect(dsn, autocommit=True) as cpo, ThreadPoolExecutor() as pool:
        holder.execute(CHARGE)
        migrating, changes = pool.submit(migrate.to, dsn), 0
        while not migrating.done():
            changes += cpo.execute("UPDATE connector SET status = status || 'x' WHERE id = 3").rowcount
        assert isinstance(migrating.exception(), CdcPusherError)
        holder.commit()
        migrate.to(dsn)
        assert changes > 20
        assert column(dsn, "SELECT count(*) FROM cdc_pusher.change") == [changes + 1]
        assert column(dsn, "SELECT is_called FROM cdc_pusher.missed") == [False]


# ── the description ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", CATALOGUE)
def test_migrations_and_description_make_the_same(described: Mapping[str, Listing], migrated: str, kind: str) -> None:
    assert catalogue(migrated)[kind] == described[kind]
    assert described[kind]


@pytest.fixture(scope="module")
def described(embedded_postgres: EmbeddedPostgres) -> Iterator[Mapping[str, Listing]]:
    """The catalogue of a database that the metadata made."""
    run(embedded_postgres.dsn(), "CREATE DATABASE described")
    dsn = embedded_postgres.dsn("described")
    run(dsn, "CREATE SCHEMA cdc_pusher")
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool)
    with engine.begin() as connection:
        metadata.create_all(connection)
    yield catalogue(dsn)
    run(embedded_postgres.dsn(), "DROP DATABASE described WITH (FORCE)")


def test_every_table_view_and_column_of_a_table_has_a_comment(migrated: str) -> None:
    relations = """
        SELECT c.relname FROM pg_class AS c
        WHERE c.relnamespace = 'cdc_pusher'::regnamespace AND c.relkind IN ('r', 'p', 'v') AND c.relname <> 'alembic_version'
          AND obj_description(c.oid, 'pg_class') IS NULL"""
    columns = """
        SELECT c.relname || '.' || a.attname FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
        WHERE c.relnamespace = 'cdc_pusher'::regnamespace AND c.relkind IN ('r', 'p') AND c.relname <> 'alembic_version'
          AND NOT c.relispartition AND a.attnum > 0 AND col_description(c.oid, a.attnum) IS NULL"""
    assert column(migrated, relations) == []
    assert column(migrated, columns) == []


def test_every_table_of_the_description_is_in_the_database(migrated: str) -> None:
    tables = "SELECT relname FROM pg_class WHERE relnamespace = 'cdc_pusher'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"
    assert set(column(migrated, tables)) == {table.name for table in metadata.tables.values()} | {"alembic_version"}


# ── rows that cannot be ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

PENDING: dict[str, Any] = {
    "emp": "e",
    "kind": "station",
    "key": "s",
    "station_id": "s",
    "payload": "{}",
    "desired_gen": 2,
    "state": "pending",
    "changed_at": "2026-01-01",
}
IN_FLIGHT = PENDING | {"state": "in_flight", "sending_gen": 2, "lease_until": "2026-01-01"}
DELIVERED = PENDING | {"state": "delivered", "delivered_gen": 2, "acknowledged": "{}", "changed_at": None}
HELD = PENDING | {"state": "held", "reason": "zip", "payload": None}
REJECTED = PENDING | {"state": "rejected", "reason": "no"}


def insert(dsn: str, table: str, row: Mapping[str, Any]) -> None:
    """Insert the row and roll back."""
    with psycopg.connect(dsn) as conn:
        conn.execute(
            f"INSERT INTO cdc_pusher.{table} SELECT * FROM jsonb_populate_record(NULL::cdc_pusher.{table}, %s)".encode(),
            [row_of(table, row)],
        )
        conn.rollback()


def row_of(table: str, row: Mapping[str, Any]) -> str:
    """The row as JSON, with the column defaults that jsonb_populate_record does not know."""
    defaults = {"outbox": {"desired_gen": 1, "delivered_gen": 0, "resend_gen": 0, "priority": 0, "attempts": 0, "strikes": 0}}
    parsed = {k: json.loads(v) if k in ("payload", "acknowledged") and v is not None else v for k, v in row.items()}
    return json.dumps({**defaults.get(table, {}), **parsed})


@pytest.mark.parametrize(
    "row",
    [
        PENDING,
        PENDING | {"next_attempt_at": "2026-01-01"},
        IN_FLIGHT,
        IN_FLIGHT | {"desired_gen": 3},
        DELIVERED,
        HELD,
        HELD | {"payload": "{}", "acknowledged": "{}", "delivered_gen": 1, "doubtful": "{}"},
        REJECTED,
    ],
)
def test_row_that_can_be_is_taken(migrated: str, row: Mapping[str, Any]) -> None:
    insert(migrated, "outbox", row)


@pytest.mark.parametrize(
    ("row", "constraint"),
    [
        (PENDING | {"kind": "tariff"}, "outbox_kind_is_known"),
        (PENDING | {"state": "lost"}, "outbox_state_is_known"),
        (PENDING | {"lease_until": "2026-01-01"}, "outbox_in_flight_has_a_lease"),
        (PENDING | {"sending_gen": 1}, "outbox_in_flight_has_a_lease"),
        (IN_FLIGHT | {"lease_until": None}, "outbox_in_flight_has_a_lease"),
        (IN_FLIGHT | {"sending_gen": None}, "outbox_in_flight_has_a_lease"),
        (IN_FLIGHT | {"sending_gen": None, "lease_until": None}, "outbox_in_flight_has_a_lease"),
        (IN_FLIGHT | {"next_attempt_at": "2026-01-01"}, "outbox_only_pending_is_due"),
        (HELD | {"next_attempt_at": "2026-01-01"}, "outbox_only_pending_is_due"),
        (DELIVERED | {"next_attempt_at": "2026-01-01"}, "outbox_only_pending_is_due"),
        (HELD | {"reason": None}, "outbox_a_problem_has_its_reason"),
        (REJECTED | {"reason": None}, "outbox_a_problem_has_its_reason"),
        (PENDING | {"payload": None}, "outbox_what_is_sent_has_a_payload"),
        (IN_FLIGHT | {"payload": None}, "outbox_what_is_sent_has_a_payload"),
        (PENDING | {"delivered_gen": 3}, "outbox_generations_are_in_order"),
        (IN_FLIGHT | {"sending_gen": 3}, "outbox_generations_are_in_order"),
        (DELIVERED | {"delivered_gen": 1}, "outbox_delivered_means_acknowledged"),
        (DELIVERED | {"acknowledged": None}, "outbox_delivered_means_acknowledged"),
        (DELIVERED | {"doubtful": "{}"}, "outbox_delivered_means_acknowledged"),
        (DELIVERED | {"desired_gen": 3, "delivered_gen": 3, "resend_gen": 4}, "outbox_delivered_means_acknowledged"),
        (DELIVERED | {"changed_at": "2026-01-01"}, "outbox_delivered_means_acknowledged"),
        (PENDING | {"changed_at": None}, "outbox_undelivered_has_an_age"),
        (HELD | {"changed_at": None}, "outbox_undelivered_has_an_age"),
    ],
)
def test_outbox_row_that_cannot_be_is_refused(migrated: str, row: Mapping[str, Any], constraint: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as failure:
        insert(migrated, "outbox", row)
    assert failure.value.diag.constraint_name == constraint


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("INSERT INTO cdc_pusher.evse VALUES ('e', 'E1', 's', true, 'perhaps')", "evse_at_emp_is_known"),
        ("INSERT INTO cdc_pusher.evse VALUES ('e', 'E1', 's', false, 'no')", "evse_a_row_says_something"),
        ("INSERT INTO cdc_pusher.emp (name, walk, walk_phase) VALUES ('e', 'stroll', 'source')", "emp_walk_is_known"),
        ("INSERT INTO cdc_pusher.emp (name, walk, walk_phase) VALUES ('e', 'sweep', 'third')", "emp_walk_phase_is_known"),
        ("INSERT INTO cdc_pusher.emp (name, walk) VALUES ('e', 'sweep')", "emp_a_walk_has_a_phase"),
        ("INSERT INTO cdc_pusher.emp (name, walk_phase) VALUES ('e', 'source')", "emp_a_walk_has_a_phase"),
        ("INSERT INTO cdc_pusher.emp (name, walk_resend) VALUES ('e', 'all')", "emp_walk_resend_is_known"),
        ("INSERT INTO cdc_pusher.capture (singleton) VALUES (false)", "capture_one_row"),
    ],
)
def test_other_row_that_cannot_be_is_refused(migrated: str, statement: str, constraint: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as failure, psycopg.connect(migrated) as conn:
        conn.execute(statement.encode())
    assert failure.value.diag.constraint_name == constraint


def test_capture_has_one_row_and_never_two(migrated: str) -> None:
    assert column(migrated, "SELECT missed_seen FROM cdc_pusher.capture") == [0]
    with pytest.raises(psycopg.errors.UniqueViolation), psycopg.connect(migrated) as conn:
        conn.execute("INSERT INTO cdc_pusher.capture DEFAULT VALUES")


# ── views ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_views_show_what_stands_in_the_outbox(migrated: str) -> None:
    rows = (
        DELIVERED | {"acknowledged": '{"name": "Rathaus", "deleted": false}'},
        PENDING | {"kind": "status", "key": "E1", "payload": '{"status": "Occupied"}', "acknowledged": '{"status": "Available"}'},
        HELD | {"key": "t", "station_id": "t"},
        REJECTED | {"kind": "status", "key": "E2", "station_id": "t"},
        PENDING | {"kind": "status", "key": "E3", "station_id": "t", "attempts": 2, "last_error": "cut"},
    )
    with psycopg.connect(migrated) as conn:
        conn.execute("INSERT INTO cdc_pusher.emp (name) VALUES ('e'), ('empty')")
        for row in rows:
            conn.execute(
                "INSERT INTO cdc_pusher.outbox SELECT * FROM jsonb_populate_record(NULL::cdc_pusher.outbox, %s)", [row_of("outbox", row)]
            )
        problems = conn.execute("SELECT key, state, reason FROM cdc_pusher.outbox_problems ORDER BY key").fetchall()
        progress = conn.execute(
            "SELECT emp, stations, stations_delivered, statuses, statuses_delivered, on_their_way, held, rejected"
            " FROM cdc_pusher.emp_progress"
        ).fetchall()
        lag = conn.execute("SELECT emp, undelivered, lag > interval '0' FROM cdc_pusher.delivery_lag").fetchall()
        states = conn.execute(
            "SELECT station_id, state, name_at_emp, deleted_at_emp, evse_id, status, status_at_emp"
            " FROM cdc_pusher.station_state ORDER BY 1, 5"
        ).fetchall()
        conn.rollback()
    assert problems == [("E2", "rejected", "no"), ("E3", "pending", "cut"), ("t", "held", "zip")]
    assert sorted(progress) == [("e", 2, 1, 3, 0, 2, 1, 1), ("empty", 0, 0, 0, 0, 0, 0, 0)]
    assert sorted(lag) == [("e", 2, True), ("empty", 0, None)]
    assert states == [
        ("s", "delivered", "Rathaus", False, "E1", "Occupied", "Available"),
        ("t", "held", None, False, "E2", None, None),
        ("t", "held", None, False, "E3", None, None),
    ]


# ── the audit trail ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

ATTEMPT = "INSERT INTO cdc_pusher.attempt SELECT {at}, 'e', 'station', 's', 1, 1, 'accepted', 200, 0, NULL, 'h'"
PARTITIONS = "SELECT relname FROM pg_class WHERE relnamespace = 'cdc_pusher'::regnamespace AND relname ~ '^attempt_[0-9]+$' ORDER BY 1"
DAYS = "SELECT to_char((now() AT TIME ZONE 'UTC')::date + n, '\"attempt_\"YYYYMMDD') FROM generate_series(-1, 3) AS n"


def test_partitions_are_made_ahead_and_rows_go_there(dsn: str) -> None:
    migrate.to(dsn)
    run(dsn, ATTEMPT.format(at="now() + interval '40 days'"), "SELECT cdc_pusher.maintain_attempts(30)", ATTEMPT.format(at="now()"))
    assert column(dsn, PARTITIONS) == column(dsn, DAYS)
    assert column(dsn, "SELECT count(*) FROM cdc_pusher.attempt_default") == [1]
    run(dsn, "SELECT cdc_pusher.maintain_attempts(30)")
    assert column(dsn, PARTITIONS) == column(dsn, DAYS)


def test_rows_are_taken_without_any_partition_and_keep_theirs_from_being_made_but_no_other(dsn: str) -> None:
    migrate.to(dsn)
    run(dsn, ATTEMPT.format(at="now()"), "SELECT cdc_pusher.maintain_attempts(30)", ATTEMPT.format(at="now()"))
    today = column(dsn, DAYS)[1]
    assert column(dsn, PARTITIONS) == [day for day in column(dsn, DAYS) if day != today]
    assert column(dsn, "SELECT count(*) FROM cdc_pusher.attempt_default") == [2]


def test_old_partitions_and_old_rows_without_one_are_dropped(dsn: str) -> None:
    migrate.to(dsn)
    for days in (29, 31, 400):
        day = f"((now() AT TIME ZONE 'UTC')::date - {days})"
        run(
            dsn,
            f"DO $$ BEGIN EXECUTE format('CREATE TABLE cdc_pusher.%I PARTITION OF cdc_pusher.attempt FOR VALUES FROM (%L) TO (%L)',"
            f" to_char({day}, '\"attempt_\"YYYYMMDD'), {day}, {day} + 1); END $$",
        )
    run(dsn, ATTEMPT.format(at="now() - interval '50 days'"), ATTEMPT.format(at="now() - interval '20 days'"))
    run(dsn, "SET timezone = 'Pacific/Kiritimati'; SELECT cdc_pusher.maintain_attempts(30)")
    kept = column(dsn, "SELECT to_char((now() AT TIME ZONE 'UTC')::date - 29, '\"attempt_\"YYYYMMDD')")
    assert column(dsn, PARTITIONS) == kept + column(dsn, DAYS)
    assert column(dsn, "SELECT count(*) FROM cdc_pusher.attempt") == [1]


def test_partitions_are_days_of_utc_whatever_the_session_thinks(dsn: str) -> None:
    migrate.to(dsn)
    run(dsn, "SET timezone = 'Pacific/Kiritimati'; SELECT cdc_pusher.maintain_attempts(30)")
    run(dsn, "SET timezone = 'America/Los_Angeles'; SELECT cdc_pusher.maintain_attempts(30)")
    assert column(dsn, PARTITIONS) == column(dsn, DAYS)


# ── is it there ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (None, None),
        ("DROP SCHEMA cdc_pusher CASCADE", "the database has no schema cdc_pusher: run cdc-pusher migrate"),
        ("DROP TABLE cdc_pusher.alembic_version", "the database has no schema cdc_pusher: run cdc-pusher migrate"),
        ("DELETE FROM cdc_pusher.alembic_version", "the database has no schema cdc_pusher: run cdc-pusher migrate"),
        (
            "UPDATE cdc_pusher.alembic_version SET version_num = '0000'",
            f"the schema cdc_pusher is at revision 0000, this program needs {revision.head()}: run cdc-pusher migrate",
        ),
    ],
)
async def test_missing_or_other_schema_is_named_with_what_to_do(dsn: str, damage: str | None, words: str | None) -> None:
    migrate.to(dsn)
    run(dsn, *([damage] if damage else []))
    async with await connect(dsn, "test") as conn:
        if words is None:
            await revision.require_current(conn)
        else:
            with pytest.raises(ConfigurationError) as failure:
                await revision.require_current(conn)
            assert str(failure.value) == words


async def test_schema_that_the_role_may_not_see_is_named(dsn: str) -> None:
    migrate.to(dsn)
    run(dsn, "DROP ROLE IF EXISTS sees_nothing", "CREATE ROLE sees_nothing LOGIN")
    try:
        async with await connect(psycopg.conninfo.make_conninfo(dsn, user="sees_nothing"), "test") as conn:
            with pytest.raises(ConfigurationError, match="the schema cdc_pusher: permission denied for schema cdc_pusher"):
                await revision.require_current(conn)
    finally:
        run(dsn, "DROP ROLE sees_nothing")


def test_audit_trail_may_be_in_a_publication(dsn: str) -> None:
    migrate.to(dsn)
    publish = "CREATE PUBLICATION everything FOR ALL TABLES"
    run(dsn, ATTEMPT.format(at="now() - interval '40 days'"), publish, "SELECT cdc_pusher.maintain_attempts(30)")
    assert column(dsn, "SELECT count(*) FROM cdc_pusher.attempt") == [0]


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_database_in_another_encoding_is_refused(dsn: str, encoding: str) -> None:
    run(dsn, f"CREATE DATABASE encoded ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        with pytest.raises(CdcPusherError, match=f"the database's encoding is {encoding}: "):
            migrate.to(make_conninfo(dsn, dbname="encoded"))
    finally:
        run(dsn, "DROP DATABASE encoded WITH (FORCE)")


def test_time_limit_of_the_cpo_does_not_stop_a_migration(dsn: str) -> None:
    run(dsn, "ALTER ROLE CURRENT_USER IN DATABASE test SET statement_timeout = '2ms'")
    migrate.to(dsn)
    with psycopg.connect(dsn, options="-c statement_timeout=0") as conn:
        assert conn.execute("SELECT version_num FROM cdc_pusher.alembic_version").fetchall() == [(revision.head(),)]
