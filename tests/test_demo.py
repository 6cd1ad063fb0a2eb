"""The demo: its fleet looks real, its oracle sees what is wrong, it ends well, and nothing is left of it however it ends."""

import copy
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cdc_pusher import embedded, oioi
from cdc_pusher.config import load
from cdc_pusher.database import connect
from cdc_pusher.demo import compare, fleet, stage, traffic
from cdc_pusher.demo.places import CITIES
from cdc_pusher.model import Held
from cdc_pusher.sandbox.emp import Emp
from cdc_pusher.sandbox.rules import read_message

PARTNER = "sandbox-partner-0001"
EVSE_ID = re.compile(r"[A-Z]{2}\*[A-Z0-9]{3}\*E[0-9]{6}\*[0-9]+")
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")


@pytest.fixture(scope="module")
def big() -> fleet.Fleet:
    return fleet.generate(500, seed=1)


def km(station: object, city: object) -> float:
    """The distance on a sphere."""
    (la1, lo1), (la2, lo2) = ((math.radians(float(p.latitude)), math.radians(float(p.longitude))) for p in (station, city))  # type: ignore[attr-defined]
    return 2 * 6371 * math.asin(math.sqrt(math.sin((la2 - la1) / 2) ** 2 + math.cos(la1) * math.cos(la2) * math.sin((lo2 - lo1) / 2) ** 2))


# ── the fleet ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stations", [10, 11, 60, 501])
def test_there_are_four_connectors_for_each_station(stations: int) -> None:
    found = fleet.generate(stations, seed=3)
    assert len(found.stations) == stations
    assert found.connectors == 4 * stations
    assert min(len(s.connectors) for s in found.stations) >= 1


def test_the_same_seed_gives_the_same_fleet() -> None:
    assert fleet.generate(50, seed=5) == fleet.generate(50, seed=5)
    assert fleet.generate(50, seed=5) != fleet.generate(50, seed=6)


def test_stations_and_evses_are_unique(big: fleet.Fleet) -> None:
    everything = [*big.stations, *big.spare]
    assert len({s.station_id for s in everything}) == len(everything)
    homes = {(c.evse_id, s.station_id) for s in everything for c in s.connectors}
    assert len({evse_id for evse_id, _ in homes}) == len(homes)


def test_evse_ids_carry_the_prefix_of_country_and_cpo(big: fleet.Fleet) -> None:
    for station in big.stations:
        prefix = fleet.CPOS[station.cpo]
        assert prefix.startswith(station.country)
        assert all(EVSE_ID.fullmatch(c.evse_id) and c.evse_id.startswith(prefix) for c in station.connectors)


def test_a_tenth_of_the_connectors_share_an_evse(big: fleet.Fleet) -> None:
    assert 0.05 < 2 * (big.connectors - big.evses) / big.connectors < 0.2


def test_stations_stand_within_three_kilometres_of_their_city_in_its_streets(big: fleet.Fleet) -> None:
    cities = {city.name: city for city in CITIES}
    for station in big.stations:
        city = cities[station.city]
        assert km(station, city) <= fleet.JITTER_KM
        assert station.street in city.streets
        assert station.country == city.country


def test_the_fleet_has_variety(big: fleet.Fleet) -> None:
    assert big.cities > 30
    assert {s.cpo for s in big.stations} == fleet.CPOS.keys()
    assert {c.status for s in big.stations for c in s.connectors} == set(fleet.STATUSES)
    assert 0.1 < sum(not s.is_open_24 for s in big.stations) / len(big.stations) < 0.3
    assert all(s.is_open_24 == (s.open_hour_notes is None) for s in big.stations)


def test_a_strict_emp_accepts_every_station_and_status(big: fleet.Fleet) -> None:
    emp = Emp()
    for station in (*big.stations, *big.spare):
        payload = oioi.encode_station(station, cpo_id=fleet.CPOS[station.cpo])
        assert not isinstance(payload, Held), payload
        assert emp.take(read_message(oioi.body("station", payload, partner_identifier=PARTNER), partner_identifier=PARTNER)) is None
        for status in oioi.encode_statuses(station).values():
            assert not isinstance(status, Held), status
            assert emp.take(read_message(oioi.body("status", status, partner_identifier=PARTNER), partner_identifier=PARTNER)) is None


# ── the oracle ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_oracle_and_the_encoder_agree_without_knowing_each_other(dsn: str, big: fleet.Fleet) -> None:
    async with await connect(dsn, "test") as conn:
        await traffic.create_tables(conn)
        await traffic.build(conn, big.stations)
        should = await compare.expected(conn, fleet.CPOS)
    holds: compare.Holding = {}
    for station in big.stations:
        payload = oioi.encode_station(station, cpo_id=fleet.CPOS[station.cpo])
        statuses = {evse_id: status["status"] for evse_id, status in oioi.encode_statuses(station).items() if not isinstance(status, Held)}
        holds[station.station_id] = {"station": payload, "statuses": statuses}
    assert compare.differences(should, holds) == []


async def test_the_oracle_sees_a_wrong_status_and_a_wrong_field(dsn: str) -> None:
    few = fleet.generate(10, seed=1)
    async with await connect(dsn, "test") as conn:
        await traffic.create_tables(conn)
        await traffic.build(conn, few.stations)
        should = await compare.expected(conn, fleet.CPOS)
        holds = copy.deepcopy(should)
        station_id, held = next(iter(holds.items()))
        evse_id, status = next(iter(held["statuses"].items()))
        held["statuses"][evse_id] = "Reserved" if status != "Reserved" else "Unknown"
        held["station"]["address"]["zip"] = "0"
        del held["station"]["contact"]["web"]
        held["station"]["connectors"][0]["speed"] += 1
        found = compare.differences(should, holds)
        assert [difference.split(" should")[0] for difference in found] == [
            f"station {station_id}: address.zip",
            f"station {station_id}: connectors",
            f"station {station_id}: contact.web",
            f"status {evse_id}:",
        ]
        await traffic.delete(conn, station_id)
        await traffic.edit(conn, few.stations[-1].station_id)
        found = compare.differences(await compare.expected(conn, fleet.CPOS), should)
        assert f"station {station_id}: should be deleted, the EMP has it" in found
        assert {f"station {few.stations[-1].station_id}: {field}" for field in ("name", "contact.phone")} <= {
            difference.split(" should")[0] for difference in found
        }


def committed(evse_id: str, status: str, at: float) -> compare.Committed:
    return compare.Committed(evse_id=evse_id, status=status, began=at - 0.001, at=at)


def received(evse_id: str, status: str, at: float, outcome: str = "accepted") -> dict[str, object]:
    return {"kind": "status", "key": evse_id, "outcome": outcome, "received_at": at, "payload": {"status": status}}


def test_latency_is_until_that_status_or_a_later_one_arrives() -> None:
    changes = [
        committed("E1", "Occupied", 10),
        committed("E1", "Offline", 11),
        committed("E2", "Offline", 20),
        committed("E3", "Offline", 30),
    ]
    ledger = [
        received("E1", "Available", 10.5),  # an older one that was under way
        received("E1", "Offline", 11.5, outcome="fault:http"),
        received("E1", "Offline", 12),
        received("E2", "Offline", 19.9995),  # before we knew that it was committed
        received("E3", "Offline", 29),  # not this one
    ]
    assert compare.latencies_s(changes, ledger) == [0, 1, 2]


# ── the stage ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_configuration_is_valid_and_the_key_is_for_the_owner_alone(tmp_path: Path) -> None:
    config = stage.configure(tmp_path, dsn="host=/a'b", url="http://127.0.0.1:1/api/v4/request", key="secret", cpos=fleet.CPOS)
    settings = load(config)
    assert settings.database.dsn == "host=/a'b"
    assert settings.emp[stage.EMP].cpos == fleet.CPOS
    assert (tmp_path / "sandbox.key").stat().st_mode & 0o777 == 0o600
    assert "secret" not in config.read_text()


# ── the whole ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """A temporary directory and an environment by which everything that belongs to one demo can be found."""

    directory: Path
    environment: dict[str, str]

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "cdc_pusher", "demo", "--stations", "60", "--seed", "4"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment)

    def left(self) -> list[str]:
        """The processes and files that there are."""
        return [*(str(path) for path in self.directory.iterdir()), *(f"process {pid}" for pid in self._pids())]

    def _pids(self) -> Iterator[int]:
        """By a mark in the environment, or by the working directory: Postgres overwrites the one, and works in its data directory."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                ours = self.environment["DEMO_OF"].encode() in (process / "environ").read_bytes()
                if ours or (process / "cwd").readlink().is_relative_to(self.directory):
                    yield int(process.name)
            except OSError:
                continue  # gone, or somebody else's


@pytest.fixture
def surroundings() -> Iterator[Surroundings]:
    with tempfile.TemporaryDirectory(dir=embedded._parent_directory()) as directory:
        Path(directory).chmod(0o711)  # the server's user has to get through
        mark = {"TMPDIR": directory, "DEMO_OF": directory}
        # What a CPO's engineer may have set must not lead the demo to the CPO's own database.
        misleading = {"PGHOST": "production.invalid", "PGDATABASE": "cpo", "CDC_PUSHER_DATABASE__DSN": "host=production.invalid"}
        yield Surroundings(directory=Path(directory), environment={**os.environ, **mark, **misleading})


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        time.sleep(0.05)


@needs_proc
def test_the_demo_ends_well_and_leaves_nothing(surroundings: Surroundings) -> None:
    with surroundings.start() as demo:
        out, err = demo.communicate(timeout=100)
    assert (demo.returncode, err) == (0, ""), out + err
    rows = {name.strip(): value.strip() for name, value, _ in (line.split("│") for line in out.splitlines() if line.count("│") == 2)}
    assert {name: rows[name] for name in ("stations", "overlaps", "differences")} == {"stations": "60", "overlaps": "0", "differences": "0"}
    under_way = re.search(r"kill -9 of the daemon with (\d+) requests under way", out)
    assert under_way is not None
    # What was under way is told again, and what followed it while it could still be processed late, once more.
    assert 0 < int(under_way[1]) <= stage.CONCURRENCY
    assert int(rows["duplicates"]) <= 2 * int(under_way[1])
    assert surroundings.left() == []


@needs_proc
@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGINT, "cdc-pusher demo"),
        (signal.SIGTERM, "• Postgres 18"),
        (signal.SIGINT, "• the EMP knows"),
        (signal.SIGKILL, "• the EMP knows"),
    ],
)
def test_a_demo_that_is_ended_leaves_nothing(surroundings: Surroundings, number: signal.Signals, line: str) -> None:
    with surroundings.start() as demo:
        assert demo.stdout is not None
        assert any(told.startswith(line) for told in demo.stdout)
        assert surroundings.left()
        demo.send_signal(number)
        _, err = demo.communicate(timeout=30)
    if number != signal.SIGKILL:
        assert demo.returncode == 1
        assert err == f"cdc-pusher: ended by {number.name}; nothing is left behind\n"
        assert surroundings.left() == []
    wait_until(lambda: surroundings.left() == [])
