"""CitrineOS's station tables on a plain Postgres, as far as examples/citrineos reads them, and a real operator's stations in them."""

import json
from typing import Any

import psycopg
from test_real_operator import DUMP

TABLES = """
CREATE FUNCTION st_x(p point) RETURNS double precision LANGUAGE sql IMMUTABLE STRICT AS 'SELECT p[0]';
CREATE FUNCTION st_y(p point) RETURNS double precision LANGUAGE sql IMMUTABLE STRICT AS 'SELECT p[1]';
CREATE TABLE "Tenants" (id serial PRIMARY KEY, name varchar(255) NOT NULL);
CREATE TABLE "Locations" (
    id serial PRIMARY KEY, name varchar(255), address varchar(255), city varchar(255), "postalCode" varchar(255), country varchar(255),
    coordinates point, "openingHours" jsonb, "tenantId" integer NOT NULL REFERENCES "Tenants", "updatedAt" timestamptz DEFAULT now());
CREATE TABLE "ChargingStations" (
    id varchar(36) PRIMARY KEY, "isOnline" boolean, "latestOcppMessageTimestamp" timestamptz, coordinates point, "floorLevel" varchar(255),
    "locationId" integer REFERENCES "Locations" ON UPDATE CASCADE ON DELETE SET NULL,
    "tenantId" integer NOT NULL REFERENCES "Tenants", "updatedAt" timestamptz DEFAULT now());
CREATE TABLE "Evses" (
    id serial PRIMARY KEY, "stationId" varchar(36) REFERENCES "ChargingStations" ON UPDATE CASCADE ON DELETE SET NULL,
    "evseId" varchar(255), removed boolean);
CREATE TABLE "Connectors" (
    id serial PRIMARY KEY, "stationId" varchar(255) NOT NULL REFERENCES "ChargingStations" ON UPDATE CASCADE ON DELETE CASCADE,
    "evseId" integer REFERENCES "Evses" ON UPDATE CASCADE ON DELETE SET NULL, "connectorId" integer,
    status varchar(255) DEFAULT 'Unknown', type varchar(255), "powerType" varchar(255), "maximumAmperage" integer,
    "maximumVoltage" integer, "maximumPowerWatts" integer, "timestamp" timestamptz, UNIQUE ("stationId", "connectorId"));
"""
STATUSES = {"AVAILABLE": "Available", "CHARGING": "Charging", "INOPERATIVE": "Unavailable", "OUTOFORDER": "Faulted", "RESERVED": "Reserved"}


def load(dsn: str) -> list[dict[str, Any]]:
    """Fill the tables from the dump, one station a location. Returns its locations."""
    locations: list[dict[str, Any]] = json.loads(DUMP.read_text(encoding="utf-8"))["data"]
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        cursor.execute("""INSERT INTO "Tenants" (name) VALUES ('Real operator')""")
        for number, location in enumerate(locations, start=1):
            at = location["coordinates"]
            cursor.execute(
                'INSERT INTO "Locations" (id, name, address, city, "postalCode", country, coordinates, "openingHours", "tenantId")'
                " VALUES (%s, %s, %s, %s, %s, %s, point(%s, %s), %s, 1)",
                [
                    *(number, location["name"], location["address"], location["city"], location["postal_code"], location["country"]),
                    *(float(at["longitude"]), float(at["latitude"]), json.dumps(location.get("opening_times"))),
                ],
            )
            station = [location["id"][:36], number]
            cursor.execute('INSERT INTO "ChargingStations" (id, "isOnline", "locationId", "tenantId") VALUES (%s, true, %s, 1)', station)
            _load_evses(cursor, station[0], location["evses"])
    return locations


def _load_evses(cursor: psycopg.Cursor[Any], station: str, evses: list[dict[str, Any]]) -> None:
    place = 0
    for evse in evses:
        row = cursor.execute('INSERT INTO "Evses" ("stationId", "evseId") VALUES (%s, %s) RETURNING id', [station, evse.get("evse_id")])
        evse_row = row.fetchone()
        assert evse_row is not None
        for connector in evse["connectors"]:
            place += 1
            cursor.execute(
                'INSERT INTO "Connectors" ("stationId", "evseId", "connectorId", status, type, "powerType", "maximumAmperage",'
                ' "maximumVoltage") VALUES (%s, %s, %s, %s, %s, %s, %s, %s)',
                [
                    *(station, evse_row[0], place, STATUSES.get(evse["status"], "Unknown"), connector["standard"].replace("_", "")),
                    *(connector["power_type"], connector["amperage"], connector["voltage"]),
                ],
            )
