"""Stations of any schema arrive as they are, and every change of whatever they are made of reaches them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from hand import hand

from cdc_pusher import migrate, triggers
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import connect
from cdc_pusher.mapping import prepare

FIXED = "'Main St' AS street, '1' AS street_number, '10115' AS zip, '+49 30 1' AS phone, '8ps' AS cpo, true AS is_open_24"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A CPO's schema with station `key`, and statements with what the EMP should have of its city, or of its EVSE's status, afterwards."""

    tables: Sequence[str]
    source: dict[str, Any]
    key: str
    steps: Sequence[tuple[str, str | None]]


CASES = {
    "quoted camelCase names in another schema, an enum status, ON UPDATE CASCADE": Case(
        tables=[
            'CREATE SCHEMA "Csms"',
            """CREATE TYPE "Csms"."State" AS ENUM ('Charging', 'Available', 'Faulted')""",
            'CREATE TABLE "Csms"."ChargePoint" ("Id" int PRIMARY KEY, "displayName" text, "cityName" text, "lastSeen" timestamptz)',
            'CREATE TABLE "Csms"."Plug" ("evseId" text, "pointId" int REFERENCES "Csms"."ChargePoint" ON UPDATE CASCADE ON DELETE CASCADE,'
            ' "state" "Csms"."State")',
            """INSERT INTO "Csms"."ChargePoint" VALUES (7, 'Seven', 'Berlin')""",
            """INSERT INTO "Csms"."Plug" VALUES ('DE*8PS*E7', 7, 'Available')""",
        ],
        source={
            "stations": f'SELECT "Id" AS station_id, "displayName" AS name, 1.5 AS latitude, 2.5 AS longitude, "cityName" AS city,'
            f' \'DEU\' AS country, {FIXED} FROM "Csms"."ChargePoint"',
            "connectors": 'SELECT "pointId" AS station_id, "evseId" AS evse_id, \'IEC_62196_T2\' AS type, 22 AS speed_kw,'
            ' "state" AS status FROM "Csms"."Plug"',
            "watch": [
                {"table": '"Csms"."ChargePoint"', "columns": ["Id", "displayName", "cityName"], "station": '"Id"'},
                {"table": '"Csms"."Plug"', "station": '"pointId"'},
            ],
        },
        key="7",
        steps=[
            ("""UPDATE "Csms"."Plug" SET state = 'Charging'""", "Occupied"),
            ("""UPDATE "Csms"."ChargePoint" SET "lastSeen" = now()""", None),
            ("""UPDATE "Csms"."Plug" SET state = 'Faulted'""", "Offline"),
            ("""UPDATE "Csms"."ChargePoint" SET "cityName" = 'Bonn'""", "Bonn"),
        ],
    ),
    "a composite key as an expression, smallint statuses, partitions": Case(
        tables=[
            "CREATE TABLE unit (tenant int, no int, city text, PRIMARY KEY (tenant, no)) PARTITION BY LIST (tenant)",
            "CREATE TABLE unit_1 PARTITION OF unit FOR VALUES IN (1)",
            "CREATE TABLE plug (tenant int, no int, evse text, status smallint,"
            " FOREIGN KEY (tenant, no) REFERENCES unit ON DELETE CASCADE)",
            "INSERT INTO unit VALUES (1, 7, 'Berlin')",
            "INSERT INTO plug VALUES (1, 7, 'DE*8PS*E7', 0)",
        ],
        source={
            "stations": "SELECT tenant || '-' || no AS station_id, 'n' AS name, 1 AS latitude, 2 AS longitude, city, 'DE' AS country,"
            f" {FIXED} FROM unit",
            "connectors": "SELECT tenant || '-' || no AS station_id, evse AS evse_id, 'Type2' AS type, 22 AS speed_kw, status FROM plug",
            "statuses": {"0": "Available", "1": "Occupied"},
            "watch": [
                {"table": "public.unit", "station": "tenant || '-' || no"},
                {"table": "plug", "columns": ["tenant", "no", "evse", "status"], "station": "plug.tenant || '-' || plug.no"},
            ],
        },
        key="1-7",
        steps=[
            ("UPDATE plug SET status = 1", "Occupied"),
            ("UPDATE unit_1 SET city = 'Bonn'", "Bonn"),
            ("CREATE TABLE unit_2 (LIKE unit INCLUDING INDEXES)", None),
            ("ALTER TABLE unit ATTACH PARTITION unit_2 FOR VALUES IN (2)", None),
            ("UPDATE unit SET city = 'Köln'", "Köln"),
        ],
    ),
    "documents": Case(
        tables=[
            "CREATE TABLE doc (id uuid PRIMARY KEY, body jsonb)",
            """INSERT INTO doc VALUES ('00000000-0000-0000-0000-000000000007', '{"name": "n", "at": {"lat": 1.5, "lon": 2},
                "city": "Berlin", "evses": [{"id": "DE*8PS*E7", "status": "AVAILABLE", "power": 22}]}')""",
        ],
        source={
            "stations": "SELECT id AS station_id, body ->> 'name' AS name, body #> '{at,lat}' AS latitude, body #> '{at,lon}' AS longitude,"
            f" body ->> 'city' AS city, 'DE' AS country, {FIXED} FROM doc",
            "connectors": "SELECT d.id AS station_id, e ->> 'id' AS evse_id, 'Type2' AS type, e -> 'power' AS speed_kw,"
            " e ->> 'status' AS status FROM doc AS d CROSS JOIN jsonb_array_elements(d.body -> 'evses') AS e",
            "watch": [{"table": "doc", "columns": ["body"], "station": "id"}],
        },
        key="00000000-0000-0000-0000-000000000007",
        steps=[
            ("""UPDATE doc SET body = jsonb_set(body, '{evses,0,status}', '"OUTOFORDER"')""", "Offline"),
            ("UPDATE doc SET body = body", None),
            ("""UPDATE doc SET body = jsonb_set(body, '{city}', '"Bonn"')""", "Bonn"),
        ],
    ),
    "views over several tables": Case(
        tables=[
            "CREATE TABLE place (id int PRIMARY KEY, city text)",
            "CREATE TABLE box (id text PRIMARY KEY, place int REFERENCES place ON DELETE SET NULL)",
            "CREATE TABLE outlet (box text REFERENCES box ON DELETE CASCADE, evse text, status text)",
            "CREATE VIEW station_view AS SELECT b.id AS station_id, 'n' AS name, 1 AS latitude, 2 AS longitude,"
            f" coalesce(p.city, 'none') AS city, 'DE' AS country, {FIXED} FROM box AS b LEFT JOIN place AS p ON p.id = b.place",
            "CREATE VIEW connector_view AS"
            " SELECT box AS station_id, evse AS evse_id, 'CHAdeMO' AS type, 50 AS speed_kw, status FROM outlet",
            "INSERT INTO place VALUES (1, 'Berlin')",
            "INSERT INTO box VALUES ('b7', 1)",
            "INSERT INTO outlet VALUES ('b7', 'DE*8PS*E7', 'Available')",
        ],
        source={
            "stations": "SELECT * FROM station_view",
            "connectors": "SELECT * FROM connector_view",
            "watch": [
                {"table": "public.box", "station": "id"},
                {"table": "public.outlet", "station": "box"},
                {"table": "public.place", "station": "SELECT b.id FROM public.box AS b WHERE b.place = place.id"},
            ],
        },
        key="b7",
        steps=[
            ("UPDATE outlet SET status = 'SuspendedEV'", "Occupied"),
            ("UPDATE place SET city = 'Bonn'", "Bonn"),
            ("DELETE FROM place", "none"),
        ],
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_schema_is_read_and_every_change_arrives(dsn: str, case: Case) -> None:
    settings = SourceSettings.model_validate(case.source)
    with psycopg.connect(dsn, autocommit=True) as cpo:
        for statement in case.tables:
            cpo.execute(statement.encode())
        migrate.to(dsn)
        async with await connect(dsn, "test") as conn:
            await triggers.attach(conn, settings.watch)
            assert await triggers.verify(conn, settings.watch) == []
        async with hand(dsn, source=settings) as daemon:
            await daemon.capture()
            assert await daemon.deliver() == [case.key, "DE*8PS*E7"]
            for statement, expected in case.steps:
                cpo.execute(statement.encode())
                await daemon.capture()
                sent = await daemon.deliver()
                assert bool(sent) == (expected is not None), statement
                if expected is not None:
                    rows = await conn_rows(dsn)
                    assert expected in (rows[case.key]["address"]["city"], rows["DE*8PS*E7"]["status"]), statement
            cpo.execute(f"TRUNCATE {settings.watch[0].table} CASCADE".encode())
            await daemon.capture()
            assert await daemon.deliver() == [case.key]
            assert (await conn_rows(dsn))[case.key]["deleted"] is True
            assert cpo.execute("SELECT is_called FROM cdc_pusher.missed").fetchone() == (False,)


async def conn_rows(dsn: str) -> dict[str, Any]:
    """What was accepted, by key."""
    async with await connect(dsn, "test") as conn:
        rows = await conn.execute("SELECT key, acknowledged FROM cdc_pusher.outbox")
        return {row["key"]: row["acknowledged"] async for row in rows}


async def test_expression_index_serves_a_composite_key(dsn: str) -> None:
    case = CASES["a composite key as an expression, smallint statuses, partitions"]
    with psycopg.connect(dsn, autocommit=True) as cpo:
        for statement in case.tables:
            cpo.execute(statement.encode())
        cpo.execute("INSERT INTO unit_1 SELECT 1, n, 'x' FROM generate_series(100, 3000) AS n")
        cpo.execute("CREATE INDEX ON unit ((tenant || '-' || no))")
        cpo.execute("ANALYZE unit")
    async with await connect(dsn, "test") as conn:
        queries = await prepare(conn, SourceSettings.model_validate(case.source))
        for query, parameters in ((queries.stations, {"ids": ["1-7"]}), (queries.next_page, {"after": "1-7", "limit": 5})):
            plan = await (await conn.execute(b"EXPLAIN (FORMAT JSON) " + query, parameters)).fetchone()
            assert "Seq Scan" not in json.dumps(plan)
