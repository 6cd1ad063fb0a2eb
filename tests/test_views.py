"""The views for people: each state and reason as a sentence, a comment on every column, and what reads them goes on to work for ever."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from test_migrate import DELIVERED, HELD, IN_FLIGHT, PENDING, REJECTED, column, row_of, run

from cdc_pusher import migrate
from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.schema import metadata

BEFORE, THIS = "0006", "0007"
VIEWS = """
    SELECT c.relname, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod)
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = 'cdc_pusher'::regnamespace AND c.relkind = 'v' ORDER BY 1, 2"""
DEFINITIONS = """
    SELECT c.relname, pg_get_viewdef(c.oid), obj_description(c.oid, 'pg_class')
    FROM pg_class AS c WHERE c.relnamespace = 'cdc_pusher'::regnamespace AND c.relkind = 'v' ORDER BY 1"""
UNCOMMENTED = """
    SELECT c.relname || '.' || a.attname
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace = 'cdc_pusher'::regnamespace AND c.relkind = 'v' AND col_description(c.oid, a.attnum) IS NULL"""
AT = "2026-01-01 14:05:03+00"
STATUS = {"kind": "status", "key": "DE*8PS*E1", "station_id": "s1", "emp": "alpha", "changed_at": AT, "payload": '{"status": "Occupied"}'}
STATION = {"key": "s1", "station_id": "s1", "emp": "alpha", "changed_at": AT, "payload": '{"deleted": false}'}
OF_THE_STATUS = "alpha does not get the status of EVSE DE*8PS*E1 (station s1) since 2026-01-01 14:05:03: "
OF_THE_STATION = "alpha does not get station s1 since 2026-01-01 14:05:03: "
WAITS = {"reason": "waits until the EMP has accepted its station"}
RETRY = {"attempts": 3, "last_error": "HTTP 503"}

Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def at_hand(embedded_postgres: EmbeddedPostgres) -> Iterator[str]:
    """A migrated database for tests that leave nothing behind in it."""
    run(embedded_postgres.dsn(), "CREATE DATABASE views")
    dsn = embedded_postgres.dsn("views")
    migrate.to(dsn)
    yield dsn
    run(embedded_postgres.dsn(), "DROP DATABASE views WITH (FORCE)")


def ask(dsn: str, query: str, *rows: dict[str, Any], prepare: str = "") -> Rows:
    """The answer to a query beside these rows of the outbox, which are not kept; `in_s` of a row is when it is due, from now on."""
    with psycopg.connect(dsn) as conn:
        conn.execute("SET LOCAL timezone = 'UTC'")
        conn.execute(
            "INSERT INTO cdc_pusher.emp (name, mapping, full_load_completed_at) VALUES ('alpha', 'm', now()), ('beta', 'm', now())"
        )
        conn.execute(
            "INSERT INTO cdc_pusher.lease (name, holder, expires_at, taken_at)"
            " VALUES ('lane alpha', 'd1', now() + interval '5 s', now()), ('lane beta', 'd2', now() - interval '1 s', now())"
        )
        for given in rows:
            row = dict(given)
            in_s = row.pop("in_s", None)
            if in_s is not None:
                (row["next_attempt_at"],) = conn.execute("SELECT (now() + make_interval(secs => %s))::text", [in_s]).fetchone() or ()
            conn.execute(
                "INSERT INTO cdc_pusher.outbox SELECT * FROM jsonb_populate_record(NULL::cdc_pusher.outbox, %s)", [row_of("outbox", row)]
            )
        if prepare:
            conn.execute(prepare.encode())
        answer = conn.execute(query.encode()).fetchall()
        conn.rollback()
        return answer


# ── sentences ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (HELD | STATUS | {"reason": "status: 'Foo' is no OIOI status"}, OF_THE_STATUS + "held, because status: 'Foo' is no OIOI status"),
        (HELD | STATION | {"reason": "zip: is missing"}, OF_THE_STATION + "held, because zip: is missing"),
        (
            HELD | STATION | {"reason": "zip: is missing", "acknowledged": '{"deleted": false}', "payload": '{"deleted": true}'},
            "alpha does not get the changes of station s1 since 2026-01-01 14:05:03: held, because zip: is missing",
        ),
        (REJECTED | STATUS | {"reason": "HTTP 200, code 322: no"}, OF_THE_STATUS + "rejected, because of HTTP 200, code 322: no"),
        (
            REJECTED | STATION | {"reason": "given up after 21 attempts: HTTP 500"},
            OF_THE_STATION + "rejected, because of given up after 21 attempts: HTTP 500",
        ),
        (PENDING | STATUS | RETRY | {"in_s": 40}, OF_THE_STATUS + "being tried again in 40 s after 3 attempts: HTTP 503"),
        (PENDING | STATUS | RETRY | {"in_s": 0.2}, OF_THE_STATUS + "being tried again in 1 s after 3 attempts: HTTP 503"),
        (PENDING | STATUS | RETRY | {"in_s": -9}, OF_THE_STATUS + "being tried again now after 3 attempts: HTTP 503"),
        (PENDING | STATUS | RETRY | {"in_s": 125}, OF_THE_STATUS + "being tried again in 2 min after 3 attempts: HTTP 503"),
        (PENDING | STATUS | RETRY | {"in_s": 7200}, OF_THE_STATUS + "being tried again in 2 h after 3 attempts: HTTP 503"),
        (PENDING | STATUS | {"attempts": 1, "in_s": 5}, OF_THE_STATUS + "being tried again in 5 s after 1 attempt"),
        (PENDING | STATUS | {"last_error": "cut", "in_s": 5}, OF_THE_STATUS + "being tried again in 5 s: cut"),
        (IN_FLIGHT | STATUS | RETRY, OF_THE_STATUS + "being sent now after 3 attempts: HTTP 503"),
        (PENDING | STATUS | RETRY, OF_THE_STATUS + "changed again, waits to be read again after 3 attempts: HTTP 503"),
        (PENDING | STATUS | WAITS, OF_THE_STATUS + "waits for its station"),
        (
            PENDING | STATUS | {"reason": "waits for its station: HTTP 200, code 181: EVSE not found", "attempts": 1},
            OF_THE_STATUS + "waits for its station: HTTP 200, code 181: EVSE not found",
        ),
        (
            PENDING | STATION | {"reason": "waits until the EMP has let go of E7 in another station", "in_s": 0},
            OF_THE_STATION + "waits until the EMP has let go of E7 in another station",
        ),
        (
            PENDING | STATION | {"reason": "the EMP does not know an EVSE of it any more", "in_s": 0, "acknowledged": '{"deleted": false}'},
            "alpha does not get the changes of station s1 since 2026-01-01 14:05:03: "
            "sent again, because the EMP does not know an EVSE of it any more",
        ),
        (
            PENDING | STATION | RETRY | {"in_s": 40, "payload": '{"deleted": true}', "acknowledged": '{"deleted": false}'},
            "alpha does not get the deletion of station s1 since 2026-01-01 14:05:03: being tried again in 40 s after 3 attempts: HTTP 503",
        ),
        (
            PENDING | STATION | RETRY | {"in_s": 40, "acknowledged": '{"deleted": true}'},
            OF_THE_STATION + "being tried again in 40 s after 3 attempts: HTTP 503",
        ),
        (
            PENDING | STATUS | {"reason": "sent once more soon: an earlier request may still be processed", "in_s": 30},
            "alpha has the status of EVSE DE*8PS*E1 (station s1), and gets it once more in 30 s: an earlier request may still be processed",
        ),
        (
            PENDING | STATUS | {"reason": "no longer listed: forgotten when an earlier request can no longer be processed", "in_s": 30},
            "alpha is told nothing more of the status of EVSE DE*8PS*E1 (station s1): "
            "no longer listed: forgotten when an earlier request can no longer be processed",
        ),
    ],
)
def test_every_problem_is_a_sentence(at_hand: str, row: dict[str, Any], sentence: str) -> None:
    assert ask(at_hand, "SELECT problem FROM cdc_pusher.outbox_problems", row) == [(sentence,)]


@pytest.mark.parametrize(
    ("station", "words"),
    [
        (HELD | STATION | {"reason": "zip: is missing"}, "held, because zip: is missing"),
        (REJECTED | STATION | {"reason": "HTTP 400"}, "rejected, because of HTTP 400"),
        (PENDING | STATION | {"in_s": 1}, "on its way"),
    ],
)
def test_a_status_that_waits_says_what_its_station_waits_for(at_hand: str, station: dict[str, Any], words: str) -> None:
    query = "SELECT problem FROM cdc_pusher.outbox_problems WHERE kind = 'status'"
    elsewhere = HELD | STATION | {"emp": "beta", "reason": "of another EMP"}
    assert ask(at_hand, query, PENDING | STATUS | WAITS, station, elsewhere) == [
        (f"{OF_THE_STATUS}waits for its station, which is {words}",)
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("paused_at = now()", "waits until alpha is resumed"),
        ("breaker_reason = 'down', breaker_open_since = now(), breaker_probe_at = now()", "waits until alpha works again"),
    ],
)
def test_what_waits_for_the_emp_says_so(at_hand: str, change: str, words: str) -> None:
    prepare = f"UPDATE cdc_pusher.emp SET {change} WHERE name = 'alpha'"
    answer = ask(at_hand, "SELECT problem FROM cdc_pusher.outbox_problems", PENDING | STATUS | RETRY | {"in_s": 40}, prepare=prepare)
    assert answer == [(f"{OF_THE_STATUS}{words} after 3 attempts: HTTP 503",)]


def test_what_was_changed_today_is_told_without_the_date(at_hand: str) -> None:
    prepare = "UPDATE cdc_pusher.outbox SET changed_at = current_date + time '00:00:07'"
    answer = ask(at_hand, "SELECT problem FROM cdc_pusher.outbox_problems", HELD | STATION | {"reason": "zip"}, prepare=prepare)
    assert answer == [("alpha does not get station s1 since 00:00:07: held, because zip",)]


# ── what people miss in the other views ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("", "works"),
        ("full_load_completed_at = NULL", "full load under way"),
        ("breaker_reason = 'HTTP 503', breaker_open_since = now(), breaker_probe_at = now()", "fails: HTTP 503"),
        ("paused_at = now()", "paused"),
        ("mapping = NULL", "in no configuration"),
    ],
)
def test_condition_of_an_emp_is_told_in_words(at_hand: str, change: str, words: str) -> None:
    prepare = f"UPDATE cdc_pusher.emp SET {change} WHERE name = 'alpha'" if change else ""
    answer = ask(at_hand, "SELECT emp, condition, served_by FROM cdc_pusher.emp_progress ORDER BY 1", prepare=prepare)
    assert answer == [("alpha", words, "d1"), ("beta", "served by no daemon", None)]


def test_messages_that_wait_for_another_one_do_not_make_an_emp_late(at_hand: str) -> None:
    let_go = {"reason": "waits until the EMP has let go of E7 in another station", "in_s": 0, "key": "s2"}
    rows = [PENDING | STATUS | WAITS, PENDING | STATION | let_go]
    query = "SELECT undelivered, waiting, lag > '1 day', late_by FROM cdc_pusher.delivery_lag WHERE emp = 'alpha'"
    assert ask(at_hand, query, *rows) == [(2, 2, True, None)]
    due = PENDING | STATUS | {"key": "E2", "in_s": 0}
    prepare = "UPDATE cdc_pusher.outbox SET changed_at = now() - interval '3 s' WHERE key = 'E2'"
    query = "SELECT undelivered, waiting, extract(epoch FROM late_by)::int FROM cdc_pusher.delivery_lag WHERE emp = 'alpha'"
    assert ask(at_hand, query, *rows, due, prepare=prepare) == [(3, 2, 3)]


@pytest.mark.parametrize(
    ("row", "maybe"),
    [
        (DELIVERED | STATUS | {"acknowledged": '{"status": "Occupied"}', "changed_at": None}, None),
        (IN_FLIGHT | STATUS, "Occupied"),
        (PENDING | STATUS, "Reserved"),
    ],
)
def test_status_that_the_emp_may_have_is_shown(at_hand: str, row: dict[str, Any], maybe: str | None) -> None:
    doubt = "UPDATE cdc_pusher.outbox SET doubtful = '{\"status\": \"Reserved\"}' WHERE kind = 'status' AND state <> 'delivered'"
    query = "SELECT status_maybe_at_emp FROM cdc_pusher.station_state"
    station = DELIVERED | STATION | {"acknowledged": json.dumps({"name": "x", "deleted": False}), "changed_at": None}
    assert ask(at_hand, query, station, row, prepare=doubt) == [(maybe,)]


# ── stable ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def listing(dsn: str, query: str) -> Rows:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query.encode()).fetchall()


def test_every_column_of_a_view_has_a_comment(at_hand: str) -> None:
    assert column(at_hand, UNCOMMENTED) == []


def test_every_table_and_view_stands_on_its_page() -> None:
    page = (Path(__file__).parent.parent / "docs" / "outbox.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]+) \|", page.partition("## States")[0], re.MULTILINE))))
    views = {"outbox_problems", "emp_progress", "delivery_lag", "station_state"}
    assert named == {table.name for table in metadata.tables.values()} | views


def test_views_of_the_version_before_keep_their_columns_and_what_was_built_on_them(dsn: str) -> None:
    migrate.to(dsn, BEFORE)
    before = listing(dsn, VIEWS)
    names = sorted({row[0] for row in before})
    assert len(names) == 4
    run(dsn, *(f"CREATE VIEW public.{name} AS SELECT * FROM cdc_pusher.{name}" for name in names))
    migrate.to(dsn)
    after = listing(dsn, VIEWS)
    assert set(before) < set(after)
    for name in names:
        added = [row[1] for row in after if row[0] == name and row not in before]
        assert added, name
        assert min(added) > max(row[1] for row in before if row[0] == name), "only at the end"
        assert listing(dsn, f"SELECT * FROM public.{name}") == []


def test_views_are_taken_back_and_made_again_as_they_were(dsn: str, downgrade_to: Callable[[str], None]) -> None:
    migrate.to(dsn, BEFORE)
    before = listing(dsn, DEFINITIONS)
    migrate.to(dsn, THIS)
    this = listing(dsn, DEFINITIONS)
    assert [row[1] for row in this] != [row[1] for row in before]
    downgrade_to(BEFORE)
    assert listing(dsn, DEFINITIONS) == before
    migrate.to(dsn, THIS)
    assert listing(dsn, DEFINITIONS) == this
    assert column(dsn, UNCOMMENTED) == []


@pytest.fixture
def downgrade_to(dsn: str) -> Callable[[str], None]:
    """Goes back to a revision, which `migrate.to` does only as far as 'base'."""

    def down(revision: str) -> None:
        config = migrate._config()
        with migrate._transaction(dsn) as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, revision)

    return down


def test_views_are_the_same_on_every_version_of_postgres(either_dsn: str) -> None:
    migrate.to(either_dsn)
    sentences = ask(either_dsn, "SELECT problem FROM cdc_pusher.outbox_problems", PENDING | STATUS | RETRY | {"in_s": 40})
    assert sentences == [(f"{OF_THE_STATUS}being tried again in 40 s after 3 attempts: HTTP 503",)]
    assert column(either_dsn, UNCOMMENTED) == []
