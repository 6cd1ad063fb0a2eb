"""A real operator's stations, 378 locations with live statuses, from the dump to the EMP."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from rig import rig

from cdc_pusher.sandbox import Sandbox, SandboxSettings

DUMP = Path(__file__).parents[2] / "shared" / "data" / "driveco-locations.json"

COUNTRIES = {"FRA": "FR", "DEU": "DE", "BEL": "BE", "ESP": "ES", "LUX": "LU", "ITA": "IT"}
STATUSES = {
    "AVAILABLE": "Available",
    "CHARGING": "Occupied",
    "BLOCKED": "Occupied",
    "RESERVED": "Reserved",
    "INOPERATIVE": "Offline",
    "OUTOFORDER": "Offline",
    "PLANNED": "Offline",
    "REMOVED": "Offline",
    "UNKNOWN": "Unknown",
}
TYPES = {
    "IEC_62196_T2": "Type2",
    "IEC_62196_T2_COMBO": "Combo",
    "CHADEMO": "Chademo",
    "DOMESTIC_E": "TypeE",
    "DOMESTIC_F": "Schuko",
    "IEC_62196_T1": "Type1",
    "IEC_62196_T3C": "Type3",
    "IEC_62196_T3A": "Scame",
}
RANK = ["Occupied", "Reserved", "Available", "Unknown", "Offline"]

pytestmark = pytest.mark.skipif(not DUMP.is_file(), reason="the operator's dump (shared/data) is not here")


def street_and_number(address: str) -> tuple[str, str]:
    """'12 bis Rue de Merville' → ('Rue de Merville', '12 bis'); no number where there is none."""
    found = re.match(r"\s*(\d+(?:\s*(?:bis|ter|[A-Za-z])(?=[\s,]))?)[\s,]+(.+)", address)
    return (found[2], found[1]) if found else (address, "")


def connectors(location: dict[str, Any]) -> Iterator[tuple[str, str, str, float, str]]:
    for evse in location["evses"]:
        for connector in evse["connectors"]:
            phases = 3 if connector["power_type"] == "AC_3_PHASE" else 1
            power_kw = round(connector["voltage"] * connector["amperage"] * phases / 1000, 2)
            yield (
                location["id"],
                evse.get("evse_id") or "",
                TYPES.get(connector["standard"], connector["standard"]),
                power_kw,
                STATUSES[evse["status"]],
            )


def load(dsn: str) -> list[dict[str, Any]]:
    """Put the locations of the dump into the reference schema, one station each, with a constant phone. Returns them."""
    locations: list[dict[str, Any]] = json.loads(DUMP.read_text(encoding="utf-8"))["data"]
    with psycopg.connect(dsn) as conn, conn.cursor() as cursor:
        for location in locations:
            street, number = street_and_number(location["address"])
            at = location["coordinates"]
            cursor.execute(
                "INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)"
                " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, '+33 1 00 00 00 00', '8ps')",
                [
                    *(location["id"], location["name"], at["latitude"], at["longitude"], street, number),
                    *(location["city"], location["postal_code"], COUNTRIES.get(location["country"], location["country"])),
                ],
            )
            cursor.executemany(
                "INSERT INTO connector (station_id, evse_id, type, speed_kw, status) VALUES (%s, %s, %s, %s, %s)",
                list(connectors(location)),
            )
    return locations


async def test_every_valid_station_of_a_real_operator_arrives_once_and_the_others_say_why(dsn: str, tmp_path: Path) -> None:
    async with rig(dsn, tmp_path) as cpo, Sandbox(SandboxSettings()) as emp:
        locations = load(dsn)
        cpo.add_emp("emp", emp)
        await cpo.ready_daemon()
        await cpo.quiet()
        problems = await cpo.sql("SELECT key, state, reason FROM cdc_pusher.outbox_problems WHERE kind = 'station'")
        listed = await cpo.command("outbox", "list", "--json", "--limit", "10000")
    held = {row["key"]: row["reason"] for row in problems}
    assert {row["state"] for row in problems} == {"held"}
    assert held.items() <= {row["key"]: row["reason"] for row in json.loads(listed) if row["kind"] == "station"}.items()

    without_number = {location["id"] for location in locations if not street_and_number(location["address"])[1]}
    assert without_number, "the dump has stations without a street number"
    assert all("street_number" in held[station_id] for station_id in without_number)

    valid = {location["id"]: location for location in locations if location["id"] not in held}
    sent = [str(entry["key"]) for entry in emp.ledger if entry["kind"] == "station"]
    assert len(valid) > 100
    assert sorted(sent) == sorted(valid), "each valid station was sent, and once"
    assert emp.stats()["refused"] == {}
    assert emp.stats()["overlaps"] == 0
    for station_id, location in valid.items():
        expected: dict[str, str] = {}
        for _, evse_id, _, _, status in connectors(location):
            expected[evse_id] = min(expected.get(evse_id, "Offline"), status, key=RANK.index)
        assert emp.stations[station_id]["statuses"] == expected
