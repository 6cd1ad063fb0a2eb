"""The mapping reads any schema, and what is wrong is told for what it concerns: one station, or the mapping."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal

import psycopg
import pytest

from cdc_pusher import capture, oioi
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import connect
from cdc_pusher.errors import MappingError
from cdc_pusher.mapping import TEXT_LIMIT
from cdc_pusher.model import Held, Station
from cdc_pusher.source import Source

FIXED = (
    "'n' AS name, 1.5 AS latitude, 2.5 AS longitude, 's' AS street, '1' AS street_number, 'c' AS city, 'z' AS zip, 'DE' AS country,"
    " 'p' AS phone, 'cpo' AS cpo, true AS is_open_24"
)
CONNECTORS = "SELECT station_id, evse_id, 'Type2' AS type, 22 AS speed_kw, status FROM plug"


def schema(id_type: str) -> str:
    """Two small tables of a CPO, with this type of station id."""
    return (
        f"CREATE TABLE site (id {id_type}, divisor int NOT NULL DEFAULT 1);"
        f"CREATE TABLE plug (station_id {id_type}, evse_id text, status text DEFAULT 'Available');"
    )


def stations(extra: str = "", of: str = "site") -> str:
    return f"SELECT id AS station_id, {FIXED}{extra} FROM {of}"


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


@contextlib.asynccontextmanager
async def opened(dsn: str, settings: SourceSettings) -> AsyncIterator[Source]:
    async with await connect(dsn, "test") as conn:
        yield await Source.open(conn, settings)


def settings(**changes: object) -> SourceSettings:
    return SourceSettings.model_validate({"stations": stations(), "connectors": CONNECTORS, **changes})


def station(found: Station | Held | None) -> Station:
    assert isinstance(found, Station), found
    return found


async def walk(source: Source, limit: int) -> list[str]:
    """All ids, page by page; a walk that does not end fails."""
    found: list[str] = []
    for _ in range(1000):
        page = await source.page(found[-1] if found else None, limit)
        if not page:
            return found
        assert len(page) <= limit
        found += page
    raise AssertionError("the walk does not end")


UUIDS = [f"{n:08x}-0000-0000-0000-000000000000" for n in (3, 20, 100)]


@pytest.mark.parametrize(
    ("id_type", "ids"),
    [
        ("text", ["a b", "ä'\"%s", "{10,20}"]),
        ("varchar(40)", ["DE*1", "DE*2", "DE*3"]),
        ("char(8)", ["A1", "A2", "B1"]),
        ("integer", ["3", "20", "100"]),
        ("bigint", ["3", "20", "9000000000000000000"]),
        ("smallint", ["-1", "0", "7"]),
        ("numeric(12, 2)", ["1.00", "1.50", "20.00"]),
        ("uuid", UUIDS),
    ],
)
async def test_station_ids_may_be_of_any_type(dsn: str, id_type: str, ids: Sequence[str]) -> None:
    values = ", ".join("('{}')".format(one.replace("'", "''")) for one in ids)
    run(dsn, schema(id_type), f"INSERT INTO site (id) VALUES {values}", "INSERT INTO plug SELECT id, 'E' || id FROM site")
    async with opened(dsn, settings()) as source:
        found = await source.read(ids)
        assert found.keys() == set(ids)
        for one in ids:
            assert [str(c.evse_id).strip() for c in station(found[one]).connectors] == [f"E{one}"]
        assert (await source.read(ids[1:2])).keys() == {ids[1]}
        assert sorted(await walk(source, 1)) == sorted(ids)
        assert await source.missing(ids) == []


async def test_enum_ids_are_walked_in_the_order_of_the_enum(dsn: str) -> None:
    run(dsn, "CREATE TYPE place AS ENUM ('south', 'north')", schema("place"), "INSERT INTO site (id) VALUES ('north'), ('south')")
    async with opened(dsn, settings()) as source:
        assert await walk(source, 1) == ["south", "north"]


async def test_quoted_names_and_a_table_in_another_schema_are_read(dsn: str) -> None:
    run(
        dsn,
        'CREATE SCHEMA "My Data"',
        'CREATE TABLE "My Data"."ChargePoint" ("pointId" int, "Name" text)',
        """INSERT INTO "My Data"."ChargePoint" VALUES (7, 'Seven')""",
        "CREATE TABLE plug (station_id int, evse_id text, status text)",
    )
    named = FIXED.replace("'n'", '"Name"')
    query = f'SELECT {named}, "pointId" AS station_id FROM "My Data"."ChargePoint";\n'
    async with opened(dsn, settings(stations=query)) as source:
        assert station((await source.read(["7"]))["7"]).name == "Seven"


async def test_value_maps_translate_what_they_name_and_leave_the_rest(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1)", "INSERT INTO plug VALUES (1, 'a', 'Charging'), (1, 'b', 'Odd'), (1, 'c', NULL)")
    mapped = settings(statuses={"Charging": "Occupied"}, connector_types={"Type2": "Combo"})
    async with opened(dsn, mapped) as source:
        connectors = station((await source.read(["1"]))["1"]).connectors
    assert {c.evse_id: c.status for c in connectors} == {"a": "Occupied", "b": "Odd", "c": None}
    assert {c.type for c in connectors} == {"Combo"}


async def test_value_maps_translate_numbers_by_their_text(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1)", "INSERT INTO plug VALUES (1, 'a')")
    query = CONNECTORS.replace("status FROM", "3 AS status FROM")
    async with opened(dsn, settings(connectors=query, statuses={"3": "Reserved"})) as source:
        assert station((await source.read(["1"]))["1"]).connectors[0].status == "Reserved"


async def test_values_come_as_the_database_has_them(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1)")
    query = stations(""", '[{"times": []}]'::jsonb AS open_hour_notes, NULL::int AS floor_level, 'extra' AS unknown_column""")
    async with opened(dsn, settings(stations=query)) as source:
        found = station((await source.read(["1"]))["1"])
    assert (found.latitude, found.is_open_24, found.open_hour_notes, found.floor_level) == (Decimal("1.5"), True, [{"times": []}], None)
    assert (found.fax, found.connectors) == (None, ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"stations": "SELECT id AS station_id, 1 AS name FROM site"},
            "source.stations: the query does not return city, country, cpo, is_",
        ),
        ({"connectors": "SELECT station_id, evse_id, status FROM plug"}, "source.connectors: the query does not return speed_kw, type"),
        ({"stations": "SELECT * FROM nowhere"}, 'source.stations: relation "nowhere" does not exist'),
        ({"connectors": "SELEC 1"}, "source.connectors: syntax error"),
        ({"connectors": "SELECT station_idd FROM plug"}, 'source.connectors: column "station_idd" does not exist'),
        ({"stations": "SELECT 'x'::int AS station_id"}, "source.stations: invalid input syntax"),
        ({"stations": "DELETE FROM site RETURNING *"}, "source.stations: "),
    ],
)
async def test_mapping_that_does_not_fit_is_one_line_that_names_it(dsn: str, change: dict[str, str], words: str) -> None:
    run(dsn, schema("int"))
    with pytest.raises(MappingError) as failure:
        async with opened(dsn, settings(**change)):
            pass
    assert str(failure.value).startswith(words)
    assert "\n" not in str(failure.value)


async def test_mapping_that_writes_is_refused(dsn: str) -> None:
    run(dsn, schema("int"), "CREATE FUNCTION bump() RETURNS int LANGUAGE sql AS 'INSERT INTO site VALUES (9) RETURNING id'")
    run(dsn, "INSERT INTO site VALUES (1)")
    async with opened(dsn, settings(stations=stations(", bump() AS floor_level"))) as source:
        with pytest.raises(MappingError, match="read-only"):
            await source.read(["1"])


async def test_table_that_goes_away_later_is_a_mapping_error(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1)")
    async with opened(dsn, settings()) as source:
        run(dsn, "DROP TABLE plug")
        with pytest.raises(MappingError, match='source: relation "plug" does not exist'):
            await source.read(["1"])


async def test_station_whose_data_fail_is_held_alone(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site SELECT n, n - 13 FROM generate_series(1, 40) AS n")
    async with opened(dsn, settings(stations=stations(", 1 / divisor AS floor_level"))) as source:
        found = await source.read([str(n) for n in range(1, 41)])
        assert found.keys() == {str(n) for n in range(1, 41)}
        assert {key for key, one in found.items() if isinstance(one, Held)} == {"13"}
        assert found["13"] == Held(reason="the mapping fails for this station: division by zero")


async def test_station_whose_connectors_fail_is_held_alone(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1), (2)", "INSERT INTO plug VALUES (1, 'a', '5'), (2, 'b', 'x')")
    async with opened(dsn, settings(connectors=CONNECTORS.replace("22 AS", "status::int AS"))) as source:
        found = await source.read(["1", "2"])
    assert station(found["1"]).connectors[0].speed_kw == 5
    assert isinstance(found["2"], Held)
    assert "invalid input syntax" in found["2"].reason


async def test_subquery_with_several_rows_for_one_station_holds_that_one(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1), (2)", "INSERT INTO plug VALUES (1, 'a'), (2, 'b'), (2, 'c')")
    query = stations(", (SELECT evse_id FROM plug WHERE station_id = site.id) AS notes")
    async with opened(dsn, settings(stations=query)) as source:
        found = await source.read(["1", "2"])
    assert station(found["1"]).notes == "a"
    assert isinstance(found["2"], Held)


async def test_station_with_several_rows_is_held(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1), (2), (2), (3), (3), (3)")
    async with opened(dsn, settings()) as source:
        found = await source.read(["1", "2", "3"])
    assert isinstance(found["1"], Station)
    for key in "23":
        assert found[key] == Held(reason=f"station_id: the mapping returns more than one row for '{key}'")


async def test_walk_goes_through_every_id_once_in_the_order_of_its_type(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site SELECT n FROM generate_series(1, 25) AS n ORDER BY random()")
    run(dsn, "INSERT INTO site VALUES (NULL), (7), (7), (7), (7)")
    async with opened(dsn, settings()) as source:
        for limit in (1, 2, 7, 100):
            assert await walk(source, limit) == [str(n) for n in range(1, 26)]


async def test_page_with_failing_data_is_no_bare_database_error(dsn: str) -> None:
    """DISTINCT makes the server compute every column of every row, also for a page of ids."""
    run(dsn, schema("int"), "INSERT INTO site VALUES (1, 1), (2, 0)")
    query = stations(", 1 / divisor AS floor_level").replace("SELECT", "SELECT DISTINCT", 1)
    async with opened(dsn, settings(stations=query)) as source:
        with contextlib.suppress(MappingError):
            await source.page(None, 10)


async def test_ids_that_are_no_integers_do_no_harm(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1), (2)")
    async with opened(dsn, settings()) as source:
        found = await source.read(["1", "x", "99999999999999999999", "", "2", "3"])
        assert {key for key, one in found.items() if isinstance(one, Station)} == {"1", "2"}
        assert "3" not in found
        assert {"x"} <= set(await source.missing(["1", "x"]))
        assert await source.missing(["1", "3"]) == ["3"]


async def test_percent_signs_and_braces_in_the_operators_sql_are_theirs(dsn: str) -> None:
    run(dsn, schema("text"), "INSERT INTO site VALUES ('a%b', 5), ('c', 5)", "INSERT INTO plug VALUES ('a%b', 'E%s{}')")
    query = stations(", divisor % 3 AS floor_level, '%s %(ids)s {} {x}' AS notes") + " WHERE id LIKE 'a%' -- 100 %"
    async with opened(dsn, settings(stations=query)) as source:
        found = await source.read(["a%b", "c"])
        assert found.keys() == {"a%b"}
        one = station(found["a%b"])
        assert (one.floor_level, one.notes, one.connectors[0].evse_id) == (2, "%s %(ids)s {} {x}", "E%s{}")
        assert await walk(source, 1) == ["a%b"]
        assert await source.missing(["a%b", "c"]) == ["c"]


async def test_rows_without_an_id_are_left_out(dsn: str) -> None:
    run(dsn, schema("text"), "INSERT INTO site VALUES (NULL), ('a')", "INSERT INTO plug VALUES (NULL, 'x'), ('a', 'y')")
    async with opened(dsn, settings()) as source:
        assert await walk(source, 10) == ["a"]
        assert [c.evse_id for c in station((await source.read(["a"]))["a"]).connectors] == ["y"]


async def test_index_of_the_cpo_serves_the_reading(dsn: str) -> None:
    run(
        dsn,
        schema("bigint"),
        "INSERT INTO site SELECT n FROM generate_series(1, 20000) AS n",
        "CREATE UNIQUE INDEX ON site (id)",
        "ANALYZE",
    )
    async with await connect(dsn, "test") as conn:
        source = await Source.open(conn, settings())
        for query, parameters in ((source._queries.stations, {"ids": ["5", "6"]}), (source._queries.next_page, {"after": "7", "limit": 5})):
            plan = await (await conn.execute(b"EXPLAIN " + query, parameters)).fetchall()
            assert "Index" in str(plan)
            assert "Seq Scan" not in str(plan)


async def test_one_reading_is_of_one_moment(dsn: str) -> None:
    """The stations are being read while another transaction changes the connectors, which are read after them."""
    run(dsn, schema("int"), "INSERT INTO site VALUES (1)", "INSERT INTO plug VALUES (1, 'before')")
    query = f"SELECT s.* FROM ({stations()}) AS s, (SELECT pg_advisory_xact_lock_shared(4711) OFFSET 0) AS gate"
    async with opened(dsn, settings(stations=query)) as source, await connect(dsn, "gate") as gate:
        await gate.execute("SELECT pg_advisory_lock(4711)")
        reading = asyncio.create_task(source.read(["1"]))
        waiting = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        for _ in range(2000):
            if await (await gate.execute(waiting.encode())).fetchall():
                break
            await asyncio.sleep(0.005)
        await gate.execute("UPDATE plug SET evse_id = 'after'")
        await gate.execute("SELECT pg_advisory_unlock(4711)")
        found = station((await reading)["1"])
        assert [c.evse_id for c in found.connectors] == ["before"]
        assert [c.evse_id for c in station((await source.read(["1"]))["1"]).connectors] == ["after"]


# ── words, texts, CPOs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_words_of_ocpp_ocpi_and_iso_need_no_map_and_a_map_goes_before_them(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1)", "INSERT INTO plug VALUES (1, 'a', 'SuspendedEV'), (1, 'b', 'OUTOFORDER')")
    query = CONNECTORS.replace("'Type2'", "'IEC62196T2COMBO'")
    country = stations().replace("'DE' AS country", "'FRA' AS country")
    async with opened(dsn, settings(connectors=query, stations=country, statuses={"OUTOFORDER": "Unknown"})) as source:
        found = station((await source.read(["1"]))["1"])
    assert {c.evse_id: c.status for c in found.connectors} == {"a": "Occupied", "b": "Unknown"}
    assert ({c.type for c in found.connectors}, found.country) == ({"Combo"}, "FR")


async def test_enormous_text_is_cut_by_the_server(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1)")
    query = stations(", repeat('x', 10000000)::varchar AS notes, repeat('é', 100)::name AS description")
    async with opened(dsn, settings(stations=query)) as source:
        found = station((await source.read(["1"]))["1"])
    assert len(found.notes) == TEXT_LIMIT > oioi._MAX_NOTES
    assert isinstance(found.description, str)


async def test_cpos_are_counted_with_their_names(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site (id) VALUES (1), (2), (3), (NULL)")
    query = stations(", 'Company 100%' AS cpo_name").replace("'cpo' AS cpo", "CASE WHEN id = 3 THEN NULL ELSE 7 END AS cpo")
    async with opened(dsn, settings(stations=query)) as source:
        assert await source.cpos() == [
            {"cpo": "7", "name": "Company 100%", "stations": 2},
            {"cpo": None, "name": "Company 100%", "stations": 1},
        ]
    async with opened(dsn, settings()) as source:
        assert await source.cpos() == [{"cpo": "cpo", "name": None, "stations": 3}]


async def test_connectors_of_what_is_not_shown_cannot_make_it_fail(dsn: str) -> None:
    """Nor are they a reason to keep at the EMP what the CPO has withdrawn."""
    run(dsn, schema("text"), "INSERT INTO site VALUES ('shown'), ('hidden')")
    run(dsn, "INSERT INTO plug VALUES ('shown', 'E', '1'), ('hidden', 'F', 'broken')")
    given = settings(
        stations=f"{stations()} WHERE id <> 'hidden'",
        connectors=CONNECTORS.replace("22 AS speed_kw, status", "status::numeric AS speed_kw, 'Available' AS status"),
    )
    async with opened(dsn, given) as source:
        assert await source.read(["hidden"]) == {}
        assert (await source.read(["hidden", "shown"])).keys() == {"shown"}


@pytest.mark.parametrize(
    ("id_type", "written", "asked"), [("int", "7", "007"), ("uuid", UUIDS[0], UUIDS[0].upper()), ("citext", "DE1", "de1")]
)
async def test_id_in_another_spelling_finds_its_station(dsn: str, id_type: str, written: str, asked: str) -> None:
    run(dsn, "CREATE EXTENSION IF NOT EXISTS citext", schema(id_type), f"INSERT INTO site VALUES ('{written}')")
    run(dsn, f"INSERT INTO plug VALUES ('{asked}', 'E')")
    async with opened(dsn, settings()) as source:
        for ids in ([asked], [asked, written], [written]):
            found = await source.read(ids)
            assert found.keys() == {written}
            assert [c.evse_id for c in station(found[written]).connectors] == ["E"]


async def test_query_that_takes_too_long_is_a_fault_of_the_mapping(dsn: str) -> None:
    run(dsn, schema("text"), "INSERT INTO site VALUES ('a')")
    async with opened(dsn, settings(connectors=CONNECTORS + ", (SELECT pg_sleep(5)) AS p")) as source:
        await source._conn.execute("SET statement_timeout = '100ms'")
        with pytest.raises(MappingError, match="canceling statement due to statement timeout"):
            await source.read(["a"])


async def test_station_that_exceeds_a_limit_of_postgres_is_held_alone(dsn: str) -> None:
    run(dsn, schema("text"), "INSERT INTO site VALUES ('a', 1), ('b', 0)")
    run(
        dsn,
        "CREATE FUNCTION depth(n int) RETURNS text LANGUAGE plpgsql AS 'BEGIN IF n = 1 THEN RETURN ''x''; END IF; RETURN depth(n); END'",
    )
    async with opened(dsn, settings(stations=stations(", depth(divisor) AS notes"))) as source:
        found = await source.read(["a", "b"])
        assert station(found["a"]).notes == "x"
        assert isinstance(found["b"], Held)
        assert "stack depth limit exceeded" in found["b"].reason


@pytest.mark.parametrize(("condition", "words"), [("land = 'DE'", 'column "land" does not exist'), ("name", "must be type boolean")])
async def test_condition_of_an_emp_that_cannot_be_is_named(dsn: str, condition: str, words: str) -> None:
    run(dsn, schema("int"))
    async with await connect(dsn, "test") as conn:
        with pytest.raises(MappingError, match=f"^emp.a.only: .*{words}"):
            await Source.open(conn, settings(), {"a": condition})


async def test_station_says_which_emps_it_is_not_for(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site (id) VALUES (1), (2), (3)")
    only = {"a": "station_id <> 2 OR '%' = '' -- a comment", "b": "nullif(station_id, 3) IN (1, 2, 3)"}
    async with await connect(dsn, "test") as conn:
        source = await Source.open(conn, settings(), only)
        found = await source.read(["1", "2", "3"])
        assert {one: station(found[one]).not_for for one in found} == {"1": set(), "2": {"a"}, "3": {"b"}}
        counts = {emp: sum(row["stations"] for row in await source.cpos(emp)) for emp in (None, "a", "b", "c")}
        assert counts == {None: 3, "a": 2, "b": 2, "c": 3}


async def test_condition_that_fails_for_a_station_is_unclear_for_its_emp_alone(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1, 1), (2, 0), (3, 7)")
    read = settings(stations=stations(", divisor AS floor_level"))
    only = {"a": "6 / floor_level > 1", "b": "station_id > 1"}
    async with await connect(dsn, "test") as conn:
        source = await Source.open(conn, read, only)
        found = await source.read(["1", "2", "3"])
        assert {one: sorted(station(found[one]).not_for) for one in found} == {"1": ["b"], "2": [], "3": ["a"]}
        assert {one: dict(station(found[one]).unclear_for) for one in found} == {"1": {}, "2": {"a": "division by zero"}, "3": {}}
        assert [one for one, held in capture._for_emp(found, "a").items() if isinstance(held, Held)] == ["2"]
        assert set(capture._for_emp(found, "b")) == {"2", "3"}
        assert set(capture._for_emp(found, "c")) == {"1", "2", "3"}


async def test_condition_that_cannot_be_evaluated_any_more_stops_its_emp_alone(dsn: str) -> None:
    run(dsn, schema("int"), "CREATE TABLE chosen (id int)", "INSERT INTO site VALUES (1), (2)")
    only = {"a": "station_id IN (SELECT id FROM chosen)", "b": "station_id > 1"}
    async with await connect(dsn, "test") as conn:
        source = await Source.open(conn, settings(), only)
        run(dsn, "DROP TABLE chosen")
        found = await source.read(["1", "2"])
        assert {one: sorted(station(found[one]).not_for) for one in found} == {"1": ["b"], "2": []}
        assert all("does not exist" in station(one).unclear_for["a"] for one in found.values())
    async with await connect(dsn, "test") as conn:
        source = await Source.open(conn, settings(), only, strict=False)
        assert all("does not exist" in station(one).unclear_for["a"] for one in (await source.read(["1", "2"])).values())


async def test_fault_of_the_mapping_is_the_same_with_a_condition(dsn: str) -> None:
    run(dsn, schema("int"), "INSERT INTO site VALUES (1, 1), (2, 0)")
    read = settings(stations=stations(", 6 / divisor AS floor_level"))
    async with await connect(dsn, "test") as conn:
        source = await Source.open(conn, read, {"a": "station_id > 0"})
        found = await source.read(["1", "2"])
        assert station(found["1"]).floor_level == 6
        assert isinstance(found["2"], Held)
        run(dsn, "DROP TABLE plug")
        with pytest.raises(MappingError, match='relation "plug" does not exist'):
            await source.read(["1"])
