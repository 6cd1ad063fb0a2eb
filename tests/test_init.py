"""`cdc-pusher init` writes a configuration that loads and runs, whatever the schema, and says what it guessed and what is missing."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from citrineos import TABLES as CITRINEOS
from rig import REFERENCE_SCHEMA

from cdc_pusher import config, migrate, triggers
from cdc_pusher.config import Settings
from cdc_pusher.database import connect
from cdc_pusher.init import Proposal, propose
from cdc_pusher.model import Station
from cdc_pusher.source import Source

SCHEMA_FILE = Path(__file__).parents[2] / "shared" / "schemas" / "citrineos.sql"


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


async def proposed(dsn: str) -> Proposal:
    async with await connect(dsn, "test") as conn:
        return await propose(conn, dsn)


async def tried(dsn: str, tmp_path: Path) -> tuple[Proposal, Settings, dict[str, Any]]:
    """The proposal, the configuration that it is, and the stations that this reads; its triggers are attached."""
    found = await proposed(dsn)
    file = tmp_path / "cdc-pusher.toml"
    file.write_text(found.text, encoding="utf-8")
    settings = config.read(file)
    assert settings.database.dsn == dsn
    migrate.to(dsn)
    async with await connect(dsn, "test") as conn:
        await triggers.attach(conn, settings.source.watch)
        source = await Source.open(conn, settings.source)
        return found, settings, dict(await source.read(await source.page(None, 100)))


async def test_reference_schema_needs_no_mapping(dsn: str, tmp_path: Path) -> None:
    run(dsn, REFERENCE_SCHEMA.read_text())
    run(
        dsn,
        "INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)"
        " VALUES ('s', 'n', 1, 2, 's', '1', 'c', 'z', 'DE', 'p', 'my \"cpo\"')",
        "INSERT INTO connector (station_id, evse_id, type, speed_kw, status) VALUES ('s', 'E', 'GBT_DC', 1, 'Charging')",
    )
    found, settings, stations = await tried(dsn, tmp_path)
    assert found.recognised == "the reference schema"
    assert settings.source == Settings().source
    assert isinstance(stations["s"], Station)
    assert '# "my \\"cpo\\"" = "DE*ABC"   # FILL IN' in found.text
    assert "[source.connector_types]: 1 words that OIOI does not know" in found.missing


@pytest.mark.parametrize("schema", ["public", 'My "CSMS"'])
async def test_citrineos_is_recognised_in_any_schema(dsn: str, tmp_path: Path, schema: str) -> None:
    quoted = '"' + schema.replace('"', '""') + '"'
    run(dsn, f"CREATE SCHEMA IF NOT EXISTS {quoted}", f"SET search_path = {quoted}, public; {CITRINEOS}")
    run(
        dsn,
        f"SET search_path = {quoted};"
        """INSERT INTO "Tenants" (name) VALUES ('T');
        INSERT INTO "Locations" VALUES (1, 'Depot', '12 bis Rue de Merville', 'Lille', '59000', 'FRA', point(3, 50), NULL, 1);
        INSERT INTO "ChargingStations" VALUES ('cp1', true, now(), NULL, '-1', 1, 1), ('cp2', false, now(), point(4, 51), 'x', 1, 1);
        INSERT INTO "Evses" VALUES (1, 'cp1', 'FR*ABC*E1', NULL), (2, 'cp2', 'FR*ABC*E2', NULL), (3, 'cp2', 'FR*ABC*E3', true);
        INSERT INTO "Connectors" VALUES (1, 'cp1', 1, 1, 'SuspendedEV', 'IEC62196T2', 'AC_3_PHASE', 32, 230, NULL),
            (2, 'cp2', 2, 1, 'Available', 'CHAdeMO', 'DC', NULL, NULL, 50000), (3, 'cp2', 3, 2, 'Available', 'CHAdeMO', 'DC', 1, 1, 1)""",
    )
    if schema != "public":
        run(dsn, f"ALTER DATABASE test SET search_path = {quoted}, public")
    found, _, stations = await tried(dsn, tmp_path)
    assert found.recognised == "CitrineOS"
    assert '# "1" = "DE*ABC"   # FILL IN' in found.text
    one, two = stations["cp1"], stations["cp2"]
    assert (one.name, one.street, one.street_number, one.city, one.country) == ("Depot", "Rue de Merville", "12 bis", "Lille", "FR")
    assert (one.latitude, one.longitude, two.latitude, two.longitude) == (50, 3, 51, 4)
    assert (one.phone, one.is_open_24, one.floor_level, two.floor_level) == (None, True, -1, None)
    assert [(c.evse_id, c.type, float(c.speed_kw), c.status) for c in one.connectors] == [("FR*ABC*E1", "Type2", 22.08, "Occupied")]
    assert [(c.evse_id, c.type, float(c.speed_kw), c.status) for c in two.connectors] == [("FR*ABC*E2", "Chademo", 50.0, "Offline")]


@pytest.mark.skipif(not SCHEMA_FILE.is_file(), reason="CitrineOS's schema (shared/schemas) is not here")
async def test_citrineos_itself_is_recognised(dsn: str, tmp_path: Path) -> None:
    text = SCHEMA_FILE.read_text(encoding="utf-8")
    plain = re.sub(r"\\if .*?\\else\n(.*?)\\endif", r"\1", text, flags=re.DOTALL)
    run(dsn, plain)
    found, settings, _ = await tried(dsn, tmp_path)
    assert found.recognised == "CitrineOS"
    assert "latestOcppMessageTimestamp" not in {column for watch in settings.source.watch for column in watch.columns or ()}


GUESSED = {
    "plain snake_case": (
        [
            "CREATE TABLE charging_station (id text PRIMARY KEY, name text, lat numeric, lon numeric, street text, house_number text,"
            " city text, postal_code text, country text, hotline text, operator_id int, open_24_7 boolean, last_heartbeat timestamptz)",
            "CREATE TABLE connector (id int PRIMARY KEY, charging_station_id text REFERENCES charging_station,"
            " evse_id text, plug_type text, power_kw numeric, status text)",
            "CREATE TABLE status_notification (id int, station_id text, status text)",
            "INSERT INTO charging_station VALUES ('s', 'n', 1, 2, 'st', '1', 'c', 'z', 'DE', '+49', 7, true)",
            "INSERT INTO connector VALUES (1, 's', 'DE*ABC*E1', 'Type2', 22, 'Available'), (2, 's', 'DE*ABC*E2', 'Type2', 22, 'Boiling')",
        ],
        {"name": "n", "latitude": 1, "street_number": "1", "zip": "z", "phone": "+49", "cpo": 7, "is_open_24": True},
        ["[source.statuses]: 1 words that OIOI does not know"],
        2,
    ),
    "camelCase, an EVSE table between, the address elsewhere": (
        [
            'CREATE SCHEMA "Csms"',
            """CREATE TYPE "Csms"."State" AS ENUM ('Charging', 'Faulted')""",
            'CREATE TABLE "Csms"."Sites" ("Id" int PRIMARY KEY, "Address" text, "City" text, "PostalCode" text, "CountryCode" text,'
            ' "Position" point, "Phone" text)',
            'CREATE TABLE "Csms"."ChargePoints" ("Id" int PRIMARY KEY, "DisplayName" text, "SiteId" int REFERENCES "Csms"."Sites",'
            ' "PartyId" text)',
            'CREATE TABLE "Csms"."Evses" ("Id" int PRIMARY KEY, "EvseId" text, "ChargePointId" int REFERENCES "Csms"."ChargePoints")',
            'CREATE TABLE "Csms"."Connectors" ("Id" int PRIMARY KEY, "EvseId" int REFERENCES "Csms"."Evses", "ConnectorType" text,'
            ' "MaxPowerW" int, "State" "Csms"."State")',
            """INSERT INTO "Csms"."Sites" VALUES (1, 'Hauptstrasse 12a', 'Bonn', '53111', 'DEU', point(7, 50), '+49')""",
            """INSERT INTO "Csms"."ChargePoints" VALUES (5, 'n', 1, 'ABC')""",
            """INSERT INTO "Csms"."Evses" VALUES (8, 'DE*ABC*E8', 5)""",
            """INSERT INTO "Csms"."Connectors" VALUES (9, 8, 'IEC_62196_T2', 22000, 'Charging')""",
        ],
        {"name": "n", "latitude": 50, "longitude": 7, "street": "Hauptstrasse", "street_number": "12a", "country": "DE", "cpo": "ABC"},
        ["is_open_24: assumed to be true for all"],
        1,
    ),
    "uuid keys, a partitioned table, names that only look like keys, coordinates as a document": (
        [
            "CREATE TABLE location (id uuid PRIMARY KEY, title text, coordinates jsonb, address text, town text,"
            " postcode text, country text)",
            "CREATE TABLE evse (id int, location_id uuid, evse_id text, status text, standard text, max_power_watts int)"
            " PARTITION BY RANGE (id)",
            "CREATE TABLE evse_1 PARTITION OF evse FOR VALUES FROM (0) TO (100)",
            "INSERT INTO location VALUES ('00000000-0000-0000-0000-000000000001', 'n', '{\"latitude\": \"1.5\", \"longitude\": 2}',"
            " '5, Rue X', 'c', 'z', 'FRA')",
            "INSERT INTO evse VALUES (1, '00000000-0000-0000-0000-000000000001', 'FR*ABC*E1', 'AVAILABLE', 'CHADEMO', 50000)",
        ],
        {
            "name": "n",
            "latitude": 1.5,
            "longitude": 2,
            "street": "Rue X",
            "street_number": "5",
            "country": "FR",
            "phone": None,
            "cpo": None,
        },
        ["phone: no column was found; OIOI requires it", "cpo: no column was found; OIOI requires it"],
        1,
    ),
    "hostile names": (
        [
            "CREATE SCHEMA \"s %s ''' {}\"",
            'CREATE TABLE "s %s \'\'\' {}"."Station" ("I""d %(x)s" int PRIMARY KEY, "Name" text, "user" text, phone text)',
            'CREATE TABLE "s %s \'\'\' {}".s ("Evse-Id" text, "status" text, "type" text, "stationId" int REFERENCES'
            ' "s %s \'\'\' {}"."Station", kw int)',
            'ALTER TABLE "s %s \'\'\' {}".s RENAME TO "Plugs"',
            "INSERT INTO \"s %s ''' {}\".\"Station\" VALUES (1, 'n', 'u', '+49')",
            "INSERT INTO \"s %s ''' {}\".\"Plugs\" VALUES ('DE*ABC*E1', 'Ünk\"nown', 'Type2', 1, 22)",
        ],
        {"name": "n", "phone": "+49", "latitude": None},
        ["latitude: no column was found; OIOI requires it"],
        1,
    ),
}


@pytest.mark.parametrize(("statements", "expected", "missing", "connectors"), GUESSED.values(), ids=GUESSED)
async def test_guess_loads_runs_and_says_what_is_missing(
    dsn: str, tmp_path: Path, statements: Sequence[str], expected: dict[str, Any], missing: Sequence[str], connectors: int
) -> None:
    run(dsn, *statements)
    found, settings, stations = await tried(dsn, tmp_path)
    assert found.recognised is None
    (station,) = stations.values()
    assert {name: getattr(station, name) for name in expected} == expected
    assert set(missing) <= set(found.missing)
    assert len(station.connectors) == connectors
    assert all(
        c.evse_id.startswith(("DE*ABC*E", "FR*ABC*E")) and c.speed_kw > 0 and c.type in ("Type2", "Chademo") for c in station.connectors
    )
    assert found.text.count("FILL IN") >= len(missing)
    columns = {column for watch in settings.source.watch for column in watch.columns or ()}
    assert not columns & {"last_heartbeat"}


async def test_other_tables_that_might_be_meant_are_named(dsn: str) -> None:
    run(
        dsn,
        "CREATE TABLE station (id int PRIMARY KEY)",
        "CREATE TABLE charger (id int PRIMARY KEY)",
        "CREATE TABLE connector (station_id int REFERENCES station, charger_id int REFERENCES charger)",
    )
    assert "# These might be meant as well: public.charger" in (await proposed(dsn)).text


async def test_table_of_that_name_without_connectors_is_not_taken(dsn: str) -> None:
    run(dsn, "CREATE TABLE station (id int PRIMARY KEY, name text)", "CREATE TABLE connector (id int PRIMARY KEY)")
    assert "no table looked like one of charging stations" in (await proposed(dsn)).missing[0]


async def test_empty_database_gives_a_template_that_loads(dsn: str, tmp_path: Path) -> None:
    found = await proposed(dsn)
    assert found.recognised is None
    assert "# FILL IN: no table looked like one of charging stations" in found.text
    file = tmp_path / "cdc-pusher.toml"
    file.write_text(found.text, encoding="utf-8")
    assert list(config.read(file).emp) == ["plugsurfing"]


async def test_role_that_may_read_nothing_is_told_so(dsn: str) -> None:
    run(dsn, *GUESSED["plain snake_case"][0], "CREATE ROLE blind LOGIN")
    try:
        found = await proposed(psycopg.conninfo.make_conninfo(dsn, user="blind"))
        assert found.missing[1].startswith("rights: our role may not read public.charging_station, public.connector")
    finally:
        run(dsn, "DROP ROLE blind")
