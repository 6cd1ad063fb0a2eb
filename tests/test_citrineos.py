"""An operator with CitrineOS, from nothing to running: init, fill in, check, migrate, run, under a thousand heartbeats."""

import json
import re
from pathlib import Path

import psycopg
import pytest
from citrineos import TABLES, load
from rig import rig, until
from test_real_operator import DUMP

from cdc_pusher.sandbox import Sandbox, SandboxSettings

pytestmark = pytest.mark.skipif(not DUMP.is_file(), reason="the operator's dump (shared/data) is not here")

HEARTBEAT = """UPDATE "ChargingStations" SET "latestOcppMessageTimestamp" = now(), "updatedAt" = now() WHERE id = %(id)s"""
HELD = "SELECT key, reason FROM cdc_pusher.outbox WHERE kind = 'station' AND state = 'held'"
RECORDED = "SELECT last_value FROM cdc_pusher.change_id_seq"


def filled_in(text: str, emp: Sandbox, key_file: Path) -> str:
    """What the operator does in the editor."""
    for pattern, value in (
        (r"NULL::text( +)AS phone", r"'+33 1 00 00 00 00'\1AS phone"),
        (r"^url = .*$", f'url = "{emp.url}"'),
        (r"^partner_identifier = .*$", f'partner_identifier = "{emp.settings.partner_identifier}"'),
        (r"^api_key_file = .*$", f"api_key_file = {json.dumps(str(key_file))}"),
        (r'^# "1" = .*$', '"1" = "FR*DRV"'),
    ):
        text, found = re.subn(pattern, value, text, count=1, flags=re.MULTILINE)
        assert found, pattern
    return text


async def test_operator_of_citrineos_is_up_and_running_and_heartbeats_are_no_changes(dsn: str, tmp_path: Path) -> None:
    async with rig(dsn, tmp_path) as cpo, Sandbox(SandboxSettings()) as emp:
        await cpo.sql("DROP SCHEMA cdc_pusher CASCADE")
        await cpo.sql("DROP TABLE station, connector")
        with psycopg.connect(dsn) as conn:
            conn.execute(TABLES.encode())
        locations = load(dsn)
        cpo.add_emp("emp", emp)  # for the key file; the configuration is that of init
        cpo.config.unlink()
        said = await cpo.plain_command("init", "--dsn", dsn, "--output", str(cpo.config))
        assert "written for CitrineOS" in said
        cpo.config.write_text(filled_in(cpo.config.read_text(), emp, tmp_path / "emp.key"))
        report = json.loads(await cpo.command("check", "--json", exit_code=3))
        problems = {found["text"] for found in report["findings"] if found["level"] == "problem"}
        assert any("street_number: is missing" in text for text in problems), "as in the real operator's data"
        assert not any("status" in text and "word that OIOI" in text for text in problems)
        await cpo.command("migrate")
        await cpo.ready_daemon()
        await cpo.quiet()
        assert emp.stations == {}, "the EMP has not been told of the CPO"
        await cpo.command("cpo", "confirm", "--all")
        await until(lambda: len(emp.stations) > 100, "the stations arrive")
        await cpo.quiet()
        without_number = {one["id"][:36] for one in locations if not re.search(r"\d", one["address"])}
        assert without_number, "the dump has addresses without any number"
        assert without_number.isdisjoint(emp.stations)
        held = {row["key"]: row["reason"] for row in await cpo.sql(HELD)}
        assert emp.stations.keys() | held.keys() == {one["id"][:36] for one in locations}
        assert all(reason for reason in held.values())

        requests, recorded = len(emp.ledger), await cpo.value(RECORDED)
        stations = list(emp.stations)
        for number in range(1000):
            await cpo.sql(HEARTBEAT, id=stations[number % len(stations)])
        assert await cpo.value("SELECT count(*) FROM cdc_pusher.change") == 0
        assert await cpo.value(RECORDED) == recorded
        assert len(emp.ledger) == requests

        place = """(SELECT "locationId" FROM "ChargingStations" WHERE id = %(id)s)"""
        await cpo.sql(f"""UPDATE "Locations" SET city = 'Ailleurs' WHERE id = {place}""", id=stations[0])
        await until(lambda: emp.stations[stations[0]]["station"]["address"]["city"] == "Ailleurs", "the address of its location arrives")
        await cpo.sql("""UPDATE "ChargingStations" SET "isOnline" = false WHERE id = %(id)s""", id=stations[0])
        await until(lambda: set(emp.stations[stations[0]]["statuses"].values()) == {"Offline"}, "its connectors are offline")
