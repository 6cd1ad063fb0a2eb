"""What `cdc-pusher init` makes of keys, places, words, rights and names that are not as one would wish."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from citrineos import TABLES as CITRINEOS
from rig import REFERENCE_SCHEMA
from test_init import proposed, run, tried

from cdc_pusher import config
from cdc_pusher.database import connect
from cdc_pusher.init import Proposal
from cdc_pusher.source import Source

CONNECTOR = "evse_id text, type text, kw numeric, status text"
A_CONNECTOR = "'DE*ABC*E1', 'Type2', 22, 'Available'"


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def is_missing(found: Proposal, *names: str) -> bool:
    return any(line.startswith(tuple(f"{name}:" for name in names)) for line in found.missing)


@contextmanager
def role(dsn: str, name: str, *grants: str) -> Iterator[str]:
    """The connection string of a role with these rights."""
    run(dsn, f"CREATE ROLE {name} LOGIN", *grants)
    try:
        yield psycopg.conninfo.make_conninfo(dsn, user=name)
    finally:
        run(dsn, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


async def test_station_is_called_by_what_its_connectors_refer_to(dsn: str, tmp_path: Path) -> None:
    run(
        dsn,
        "CREATE TABLE station (pk int PRIMARY KEY, code text UNIQUE, name text)",
        f"CREATE TABLE connector (station_code text REFERENCES station (code), {CONNECTOR})",
        "INSERT INTO station VALUES (1, 'A', 'n')",
        f"INSERT INTO connector VALUES ('A', {A_CONNECTOR})",
    )
    _, _, stations = await tried(dsn, tmp_path)
    assert [connector.evse_id for connector in stations["A"].connectors] == ["DE*ABC*E1"]


@pytest.mark.parametrize(("key", "reference"), [("bigint", "int"), ("varchar(36)", "text")])
async def test_reference_without_a_foreign_key_may_be_of_a_kindred_type(dsn: str, tmp_path: Path, key: str, reference: str) -> None:
    run(
        dsn,
        f"CREATE TABLE station (id {key} PRIMARY KEY)",
        f"CREATE TABLE connector (station_id {reference}, {CONNECTOR})",
        "INSERT INTO station VALUES ('1')",
        f"INSERT INTO connector VALUES ('1', {A_CONNECTOR})",
    )
    _, _, stations = await tried(dsn, tmp_path)
    assert len(stations["1"].connectors) == 1


async def test_address_and_position_may_stand_in_two_tables_and_one_that_gives_nothing_is_not_read(dsn: str, tmp_path: Path) -> None:
    run(
        dsn,
        "CREATE DOMAIN place AS point",
        "CREATE TABLE addresses (id int PRIMARY KEY, street text, city text)",
        "CREATE TABLE locations (id int PRIMARY KEY, position place)",
        "CREATE TABLE sites (id int PRIMARY KEY, opened date)",
        "CREATE TABLE stations (id int PRIMARY KEY, address_id int REFERENCES addresses, location_id int REFERENCES locations,"
        " site_id int REFERENCES sites)",
        f"CREATE TABLE connectors (station_id int REFERENCES stations, {CONNECTOR})",
        "INSERT INTO addresses VALUES (1, 's', 'Bonn')",
        "INSERT INTO locations VALUES (1, point(7, 50))",
        "INSERT INTO stations VALUES (1, 1, 1, NULL)",
    )
    _, settings, stations = await tried(dsn, tmp_path)
    assert (stations["1"].city, stations["1"].latitude, stations["1"].longitude) == ("Bonn", 50, 7)
    assert {watch.table for watch in settings.source.watch} == {
        *("public.stations", "public.connectors", "public.addresses", "public.locations"),
    }


async def test_types_decide_what_a_column_can_be(dsn: str, tmp_path: Path) -> None:
    run(
        dsn,
        "CREATE TABLE station (id int PRIMARY KEY, operator_id uuid, country_id int, lat text, lon text)",
        f"CREATE TABLE connector (station_id int, {CONNECTOR})",
        "INSERT INTO station VALUES (1, '00000000-0000-0000-0000-000000000001', 7, '50.5', '')",
    )
    found, _, stations = await tried(dsn, tmp_path)
    assert float(stations["1"].latitude) == 50.5
    assert stations["1"].longitude is None
    assert is_missing(found, "country")
    assert not is_missing(found, "cpo", "latitude")
    assert '# "00000000-0000-0000-0000-000000000001" = "DE*ABC"' in found.text


async def test_labels_of_an_enum_are_words_also_while_no_row_has_them(dsn: str, tmp_path: Path) -> None:
    run(
        dsn,
        "CREATE TYPE state AS ENUM ('Charging', 'Boiling')",
        "CREATE TABLE station (id int PRIMARY KEY)",
        "CREATE TABLE connector (station_id int, evse_id text, type text, kw int, status state)",
    )
    found, _, _ = await tried(dsn, tmp_path)
    assert '# "Boiling" = "…"' in found.text
    assert "Charging" not in found.text


async def test_words_that_nobody_knows_are_listed_for_recognised_schemas_too(dsn: str, tmp_path: Path) -> None:
    run(
        dsn,
        REFERENCE_SCHEMA.read_text(),
        "INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)"
        " VALUES ('s', 'n', 1, 2, 's', '1', 'c', 'z', 'DE', 'p', 'c')",
        "INSERT INTO connector (station_id, evse_id, type, speed_kw, status) VALUES ('s', 'E', 'GBT_DC', 1, 'Charging')",
    )
    found, settings, _ = await tried(dsn, tmp_path)
    assert '# "GBT_DC" = "…"' in found.text
    assert settings.source.stations == config.REFERENCE_STATIONS
    run(dsn, "DROP TABLE connector, station", CITRINEOS)
    run(
        dsn,
        """INSERT INTO "Tenants" (name) VALUES ('T');
        INSERT INTO "ChargingStations" VALUES ('cp1', true, now(), NULL, '1', NULL, 1);
        INSERT INTO "Connectors" VALUES (1, 'cp1', NULL, 1, 'Boiling', 'cOther', 'DC', NULL, NULL, 1)""",
    )
    run(dsn, "DROP SCHEMA cdc_pusher CASCADE")
    found, settings, _ = await tried(dsn, tmp_path)
    assert found.recognised == "CitrineOS"
    assert settings.source.statuses == {}
    assert {'# "Boiling" = "…"', '# "cOther" = "…"'} <= set(found.text.splitlines())
    assert "#   - [source.statuses]: 1 words that OIOI does not know" in found.text


@pytest.mark.parametrize("schema", ["it's", "a'''b", "public.x", "a\nb", r"a\1b", 'x" %s'])
async def test_citrineos_may_stand_in_a_schema_of_any_name(dsn: str, tmp_path: Path, schema: str) -> None:
    run(dsn, f"CREATE SCHEMA {quoted(schema)}", f"SET search_path = {quoted(schema)}, public; {CITRINEOS}")
    run(dsn, f"ALTER DATABASE test SET search_path = {quoted(schema)}, public")
    found, settings, _ = await tried(dsn, tmp_path)
    assert found.recognised == "CitrineOS"
    assert f'{quoted(schema)}."Evses"' in {watch.table for watch in settings.source.watch}


async def test_tables_that_may_not_be_read_are_named(dsn: str, tmp_path: Path) -> None:
    run(
        dsn,
        "CREATE TABLE station (id int PRIMARY KEY)",
        f"CREATE TABLE connector (station_id int, {CONNECTOR})",
        "CREATE TABLE charging_station (id int PRIMARY KEY)",
        'CREATE TABLE "invoice\nevil = 1" (id int)',
    )
    with role(dsn, "half_blind", "GRANT SELECT ON station, connector TO half_blind") as half_blind:
        found = await proposed(half_blind)
    assert "rights: our role may not read public.charging_station" in found.missing
    with role(dsn, "blind") as blind:
        file = tmp_path / "cdc-pusher.toml"
        file.write_text((await proposed(blind)).text, encoding="utf-8")
    assert list(config.read(file).emp) == ["plugsurfing"], "a name does not end the comment that it stands in"
    run(dsn, "DROP TABLE station, connector, charging_station", CITRINEOS)
    with role(dsn, "blind") as blind:
        found = await proposed(blind)
    assert found.recognised == "CitrineOS"
    assert any(line.startswith('rights: our role may not read public."ChargingStations"') for line in found.missing)


@pytest.mark.parametrize(
    "name", ['x" y', "%s %(a)s %", "'''", "ta\tb", "new\nline", "back\\slash", "Ünï", "{a}", "a.b", "--c", "f(x", "$1"]
)
async def test_watches_on_tables_with_hostile_names_find_their_stations(dsn: str, tmp_path: Path, name: str) -> None:
    s = quoted(name)
    run(
        dsn,
        f"CREATE SCHEMA {s}",
        f'CREATE TABLE {s}."Location" ({s} int PRIMARY KEY, city text)',
        f'CREATE TABLE {s}.station ({s} int PRIMARY KEY, name text, place int REFERENCES {s}."Location")',
        f"CREATE TABLE {s}.evse ({s} int PRIMARY KEY, station int REFERENCES {s}.station, evse_id text)",
        f"CREATE TABLE {s}.connector ({s} int REFERENCES {s}.evse, type text, kw int, status text)",
        f"INSERT INTO {s}.\"Location\" VALUES (1, 'Bonn')",
        f"INSERT INTO {s}.station VALUES (1, 'n', 1)",
        f"INSERT INTO {s}.evse VALUES (1, 1, 'DE*ABC*E1')",
        f"INSERT INTO {s}.connector VALUES (1, 'Type2', 1, 'Available')",
    )
    _, settings, stations = await tried(dsn, tmp_path)
    assert (stations["1"].city, len(stations["1"].connectors)) == ("Bonn", 1)
    run(dsn, f"UPDATE {s}.\"Location\" SET city = 'Ulm'", f"UPDATE {s}.connector SET kw = 2")
    async with await connect(dsn, "test") as conn:
        rows = await (await conn.execute("SELECT watch, source_row FROM cdc_pusher.change ORDER BY id")).fetchall()
        source = await Source.open(conn, settings.source)
        assert [await source.affected(row["watch"], [row["source_row"]], 10) for row in rows] == [["1"], ["1"]]
