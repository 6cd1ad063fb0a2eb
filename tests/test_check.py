"""`cdc-pusher check` finds what is wrong with the server, the mapping and the triggers, and looks at whatever it still can."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from io import StringIO
from typing import Any

import pytest
from checking import CONNECTORS, STATIONS, TABLES, bad, build, checked, only, run, settings, texts
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from rich.console import Console

from cdc_pusher import check, migrate, triggers
from cdc_pusher.check import Finding
from cdc_pusher.config import Settings
from cdc_pusher.database import connect

ROLE = "check runtime"


@pytest.fixture
def cpo(dsn: str) -> Iterator[str]:
    """A CPO's tables with one station; the role that a test may have made is dropped."""
    build(dsn, "s1")
    yield dsn
    if run(dsn, f"SELECT 1 FROM pg_roles WHERE rolname = '{ROLE}'"):
        run(dsn, f'DROP OWNED BY "{ROLE}" CASCADE', f'DROP ROLE "{ROLE}"')


async def installed(configured: Settings) -> None:
    """What `cdc-pusher migrate` does."""
    await asyncio.to_thread(migrate.to, configured.database.dsn)
    async with await connect(configured.database.dsn, "test") as conn:
        await triggers.attach(conn, configured.source.watch)


# ── the server ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_good_installation_has_no_problem_and_says_what_was_looked_at(cpo: str) -> None:
    await installed(settings(cpo))
    found = await checked(settings(cpo))
    assert bad(found) == []
    assert only(found, "warning").text.startswith("postgres is a superuser"), "which the tests are"
    assert {finding.subject for finding in found} >= {
        *("database", "schema", "watch public.site", "watch public.plug", "source.stations", "source.connectors", "indexes"),
        *("CPOs of a", "stations", "API key of a"),
    }


async def test_before_migrate_everything_else_is_looked_at(cpo: str) -> None:
    found = await checked(settings(cpo))
    assert bad(found) == []
    assert "cdc-pusher migrate comes next" in texts(bad(found, "warning"))
    assert "a trigger can be attached" in texts(found)


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("host=127.0.0.1 port=1 password=hush", "cannot connect to the database: "),
        ("host=/nowhere", "cannot connect to the database: "),
        ("postgresql://u:hush@[::1/x", "database.dsn: not a valid connection string"),
    ],
)
async def test_without_a_database_the_emps_are_looked_at(dsn: str, words: str) -> None:
    found = await check.run(settings(dsn))
    assert [finding.subject for finding in found] == ["database", "API key of a", "host of a"]
    assert found[0].text.startswith(words)
    assert "hush" not in texts(found)


async def test_empty_database_is_two_problems_of_the_mapping_and_of_the_watches(dsn: str) -> None:
    found = bad(await checked(settings(dsn)))
    assert [finding.subject for finding in found] == ["watch public.site", "watch public.plug", "source.stations", "source.connectors"]
    assert found[2].text == 'relation "site" does not exist; mend the query, see docs/mapping.md'


async def test_empty_tables_are_a_warning(dsn: str) -> None:
    run(dsn, TABLES)
    found = await checked(settings(dsn))
    assert "source.stations returns no station" in texts(bad(found, "warning"))
    assert [finding.subject for finding in bad(found, "warning")] == ["role", "schema", "CPOs of a", "stations"]


async def test_without_an_emp_stations_are_checked_all_the_same(cpo: str) -> None:
    found = await checked(settings(cpo, emps=()))
    assert only(found).text.startswith("no EMP is configured")
    assert "1 of 1 station and the status of 1 of 1 EVSE can be sent once there is an EMP" in texts(found)


async def test_connection_that_is_lost_is_told_once_and_the_emps_are_looked_at(cpo: str) -> None:
    def cut(done: int, total: int | None) -> None:
        run(cpo, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cdc-pusher check'")

    found = await checked(settings(cpo), progress=cut)
    assert only(found).text.startswith("the database said: terminating connection")
    assert {"source.stations", "API key of a"} <= {finding.subject for finding in found}


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_database_that_is_not_in_utf8_is_a_problem(dsn: str, encoding: str) -> None:
    run(dsn, f"CREATE DATABASE encoded ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        encoded = make_conninfo(dsn, dbname="encoded")
        build(encoded, "s1")
        assert only(await checked(settings(encoded))).text.startswith(f"the encoding is {encoding}: ")
    finally:
        run(dsn, "DROP DATABASE encoded WITH (FORCE)")


@asynccontextmanager
async def pooler(dsn: str) -> AsyncIterator[str]:
    """Stands before the server and, as poolers do, tells clients another process id than the server's."""
    server = conninfo_to_dict(dsn)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, disguise: bool) -> None:
        while data := await reader.read(65536):
            if disguise and (at := data.find(b"K\x00\x00\x00\x0c")) >= 0:
                data, disguise = data[: at + 5] + b"\x00\x00\x00\x07" + data[at + 9 :], False
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(f"{server['host']}/.s.PGSQL.{server['port']}")
        await asyncio.gather(copy(reader, to_server, disguise=False), copy(from_server, writer, disguise=True))

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield make_conninfo(dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")


async def test_pooler_in_between_is_noticed(cpo: str) -> None:
    async with pooler(cpo) as behind:
        found = await checked(settings(behind))
    assert bad(found) == []
    assert "pooler: a connection pooler stands in between" in texts(bad(found, "warning"))


# ── roles ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_role_without_rights_is_told_which(cpo: str) -> None:
    await installed(settings(cpo))
    run(cpo, f'CREATE ROLE "{ROLE}" LOGIN')
    as_role = settings(make_conninfo(cpo, user=ROLE))
    found = await checked(as_role)
    assert bad(found, "warning") == []
    assert "our role may not use the schema cdc_pusher" in texts(bad(found))
    assert "source.stations: permission denied for table site; cdc-pusher migrate grants it" in texts(bad(found))
    run(cpo, f'GRANT USAGE ON SCHEMA cdc_pusher TO "{ROLE}"', f'GRANT SELECT ON ALL TABLES IN SCHEMA cdc_pusher, public TO "{ROLE}"')
    lacking = next(finding for finding in bad(await checked(as_role)) if finding.subject == "schema")
    assert {"DELETE on cdc_pusher.outbox", "UPDATE on cdc_pusher.asleep"} < set(lacking.examples)
    assert {"SELECT on cdc_pusher.missed", "INSERT on cdc_pusher.attempt"} < set(lacking.examples)


async def test_rows_that_row_level_security_hides_are_a_problem_and_an_open_policy_is_none(cpo: str) -> None:
    run(cpo, f'CREATE ROLE "{ROLE}" LOGIN', f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{ROLE}"')
    run(cpo, "ALTER TABLE site ENABLE ROW LEVEL SECURITY", "CREATE POLICY few ON site USING (station_id = 's1')")
    as_role = settings(make_conninfo(cpo, user=ROLE))
    found = only(await checked(as_role))
    assert (found.subject, found.examples[0]) == ("source.stations", "public.site")
    assert "a station that is hidden is deleted at the EMPs" in found.text
    assert bad(await checked(settings(cpo))) == [], "a superuser sees all"
    run(cpo, f'CREATE POLICY every ON site FOR SELECT TO "{ROLE}" USING (true)')
    assert bad(await checked(as_role)) == []
    run(cpo, "DROP POLICY few ON site", "DROP POLICY every ON site")
    found = only(await checked(as_role))
    assert "a station that is hidden is deleted at the EMPs" in found.text, "without any policy the table is not even in the plan"
    assert found.examples == ('query would be affected by row-level security policy for table "site"',)


async def test_words_that_the_protocol_does_not_have_are_named(cpo: str) -> None:
    found = only(await checked(settings(cpo, statuses={"Frei": "Availabel", "Belegt": "Occupied"})))
    assert (found.subject, found.examples) == ("source.statuses", ("'Frei' becomes 'Availabel'",))
    assert found.text.startswith("1 of 2 values become words that OIOI does not have; it has Available, ")


# ── our schema and the triggers ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_older_schema_is_a_problem(cpo: str) -> None:
    await asyncio.to_thread(migrate.to, cpo, "0001")
    assert "this program needs" in next(finding.text for finding in bad(await checked(settings(cpo))) if finding.subject == "schema")


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("ALTER TABLE site DISABLE TRIGGER ALL", "_truncate is disabled: run cdc-pusher migrate"),
        ("DROP FUNCTION cdc_pusher.{}() CASCADE", "_truncate is missing: run cdc-pusher migrate"),
        ("ALTER FUNCTION cdc_pusher.{}() SECURITY INVOKER", "has lost SECURITY DEFINER"),
        ("ALTER TABLE site RENAME station_id TO id", 'column "station_id" does not exist'),
    ],
)
async def test_drift_of_a_trigger_is_named_and_the_others_are_well(cpo: str, statement: str, words: str) -> None:
    configured = settings(cpo)
    await installed(configured)
    run(cpo, statement.format(configured.source.watch[0].name))
    found = await checked(configured)
    of_watches = {finding.subject: finding for finding in found if finding.subject.startswith("watch")}
    assert words in of_watches["watch public.site"].text
    assert of_watches["watch public.site"].level == "problem"
    assert of_watches["watch public.plug"].level == "ok"


# ── the mapping ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("mapping", "subject", "words"),
    [
        ({"stations": STATIONS.replace("city, zip,", "")}, "source.stations", "the query does not return city, zip"),
        ({"connectors": "SELECT station_id, evse_id, type, status FROM plug"}, "source.connectors", "the query does not return speed_kw"),
        (
            {"stations": STATIONS.replace("latitude,", "latitude::text,")},
            "source.stations",
            "latitude is text and has to be a number: cast",
        ),
        ({"stations": STATIONS.replace("is_open_24", "1 AS is_open_24")}, "source.stations", "is_open_24 is integer and has to be boolean"),
        (
            {"connectors": CONNECTORS.replace("*", "station_id, evse_id, type, 'x' AS speed_kw, status")},
            "source.connectors",
            "speed_kw is text",
        ),
        ({"stations": "SELECT * FROM broken"}, "source.stations", ""),
        ({"stations": "SELEC"}, "source.stations", "syntax error"),
    ],
)
async def test_query_that_does_not_fit_is_named_and_the_other_one_is_looked_at(
    cpo: str, mapping: dict[str, Any], subject: str, words: str
) -> None:
    found = [finding for finding in await checked(settings(cpo, **mapping)) if finding.subject.startswith("source.")]
    (wrong,) = bad(found)
    assert wrong.subject == subject
    assert words in wrong.text
    assert {finding.subject for finding in found if finding.level == "ok"} >= {"source.stations", "source.connectors"} - {subject}


async def test_view_that_fails_when_it_is_read_is_a_problem_and_the_rest_is_looked_at(cpo: str) -> None:
    run(cpo, "CREATE FUNCTION fails() RETURNS text LANGUAGE plpgsql AS $$BEGIN RAISE 'the view is broken'; END$$")
    run(cpo, f"CREATE VIEW broken AS {STATIONS.replace('name,', 'fails() AS name,')}")
    found = await checked(settings(cpo, stations="SELECT * FROM broken"))
    assert "the view is broken" in texts(bad(found))
    assert "API key of a" in texts(found)


async def test_columns_are_listed_with_their_types_and_what_is_optional_or_not_used(cpo: str) -> None:
    found = await checked(settings(cpo, stations=f"SELECT s.*, 1 AS extra FROM ({STATIONS}) AS s"))
    text = next(finding.text for finding in found if finding.subject == "source.stations")
    assert text.startswith("13 columns (station_id text, name text, latitude double precision,")
    assert "optional ones that it does not return: description, fax," in text
    assert text.endswith("; not used: extra")


LARGE = "INSERT INTO {} (station_id) SELECT 'x' || n FROM generate_series(1, 10000) AS n"


@pytest.mark.parametrize("analyzed", [True, False])
async def test_table_that_is_read_whole_for_one_station_is_named_with_the_index_that_helps(cpo: str, analyzed: bool) -> None:
    run(cpo, "DROP INDEX plug_station_id_idx", LARGE.format("plug"), *(["ANALYZE"] if analyzed else []))
    found = next(finding for finding in await checked(settings(cpo)) if "goes through" in finding.text)
    assert (found.level, found.subject) == ("warning", "source.connectors")
    assert found.text.startswith("reading the connectors of one station goes through all of public.plug (")
    assert found.text.endswith("this probably helps: CREATE INDEX CONCURRENTLY ON public.plug (station_id)")


async def test_large_tables_with_their_indexes_are_read_through_them(cpo: str) -> None:
    run(cpo, LARGE.format("plug"), LARGE.format("site"))
    for statement in ("SELECT 1", "ANALYZE"):
        run(cpo, statement)
        assert "indexes: one station, its connectors and a page of stations are read without" in texts(await checked(settings(cpo)))


async def test_condition_that_an_index_cannot_meet_is_named(cpo: str) -> None:
    run(cpo, LARGE.format("site"), "ANALYZE")
    found = await checked(settings(cpo, stations=STATIONS.replace("station_id,", "'S' || station_id AS station_id,")))
    warned = [finding.text for finding in bad(found, "warning") if finding.subject == "source.stations"]
    assert warned[0].startswith("reading one station goes through all of public.site (")
    assert "meets an expression" in warned[0]
    assert warned[1].startswith("reading one page of stations ")


async def test_column_of_a_join_that_lacks_an_index_is_named(cpo: str) -> None:
    run(
        cpo,
        'CREATE TABLE "Place" ("siteId" text, label text)',
        """INSERT INTO "Place" SELECT 'x' || n FROM generate_series(1, 10000) AS n""",
    )
    joined = STATIONS.replace("name,", '(SELECT min(p.label) FROM "Place" AS p WHERE p."siteId" = site.station_id) AS name,')
    found = await checked(settings(cpo, stations=joined))
    assert 'CREATE INDEX CONCURRENTLY ON public."Place" ("siteId")' in texts(bad(found, "warning"))


async def test_sub_select_of_a_watch_that_reads_a_table_whole_is_named(cpo: str) -> None:
    run(cpo, "CREATE TABLE place (id int, city text)", "INSERT INTO place VALUES (1, 'Berlin')", LARGE.format("site"))
    watch = [{"table": "public.place", "station": "SELECT s.station_id FROM public.site AS s WHERE s.city = place.city"}]
    found = next(finding for finding in await checked(settings(cpo, watch=watch)) if "goes through" in finding.text)
    assert (found.subject, found.level) == ("watch public.place", "warning")
    assert "CREATE INDEX CONCURRENTLY ON public.site (city)" in found.text


# ── CPOs ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_cpos_without_an_identifier_or_a_confirmation_and_misspelt_ones_are_told(cpo: str) -> None:
    run(cpo, "INSERT INTO site SELECT 's2' FROM site", "UPDATE site SET cpo = 'other' WHERE station_id = 's2'")
    emp = {"cpos": {"8ps": "DE*8PS", "8sp": "DE*8PS"}, "confirm_cpos": "manual"}
    found = [finding for finding in await checked(settings(cpo, emp=emp)) if finding.subject == "CPOs of a"]
    assert [(finding.level, finding.count, finding.examples) for finding in found] == [
        ("problem", 1, ("'other': 1 station",)),
        ("warning", 1, ("'8ps': 1 station",)),
        ("warning", 1, ("8sp",)),
    ]
    assert "[emp.a.cpos]" in found[0].text
    assert "cdc-pusher cpo confirm" in found[1].text


# ── the report ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


FOUND = [
    Finding(level="ok", subject="database", text="all is well"),
    Finding(level="warning", subject="pooler", text="it [bold]works[/bold], but"),
    Finding(level="problem", subject="stations", text="1 station: name: is blank " + "and so on " * 20, count=1, examples=("s[1]: x",)),
]


def test_report_is_words_marks_and_a_sum_without_markup() -> None:
    written = StringIO()
    check.show(FOUND, Console(file=written, width=80))
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    assert lines[0] == "✓ ok       database  all is well"
    assert lines[1] == "! warning  pooler    it [bold]works[/bold], but"
    assert lines[2].startswith("✗ problem  stations  1 station: name: is blank and so on")
    assert "                       s[1]: x" in lines
    assert lines[-1] == "1 problem, 1 warning"
    assert max(map(len, lines)) <= 80


def test_report_for_machines_is_json_and_says_whether_all_is_well() -> None:
    found = json.loads(json.dumps(check.as_json(FOUND)))
    assert found["ok"] is False
    assert found["findings"][0] == {"level": "ok", "subject": "database", "text": "all is well", "count": None, "examples": []}
    assert check.as_json(FOUND[:2])["ok"] is True
    assert (check.is_wrong(FOUND), check.is_wrong(FOUND[:2])) == (True, False)
