"""The stations and connectors that the demo begins with, and those that are built while it runs: pure, the same for the same `seed`.

They look like what an operator has: addresses that exist, positions within 3 km of their city's centre, several CPOs, EVSE ids with the
country's prefix, connectors whose type and speed go together, and about one connector in ten that shares its EVSE id with another one.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cdc_pusher.demo.places import CITIES, City
from cdc_pusher.model import Connector, Station

CONNECTORS_PER_STATION = 4
JITTER_KM = 3.0
STATUSES = ("Available", "Occupied", "Reserved", "Unknown", "Offline")
STATUS_WEIGHTS = (60, 28, 3, 4, 5)
CPOS = {
    "nordlicht-energie": "DE*NLE",
    "isar-strom": "DE*ISR",
    "rhone-volt": "FR*RHV",
    "seine-recharge": "FR*SNC",
    "oranje-laden": "NL*ORL",
    "veluwe-stroom": "NL*VLW",
    "donau-strom": "AT*DNS",
    "alpen-laden": "AT*ALP",
}
"""The CPO's internal identifier → its EVSE prefix, which is the `cpo-id` told to the EMP."""

_KM_PER_DEGREE = 111.32
_SHARED = 0.055  # of the EVSEs: a tenth of the connectors, since two share one
_SINGLE = (("Type2", (11, 22, 43)), ("Combo", (50, 150, 300)), ("Chademo", (50,)), ("Schuko", (3.7,)), ("TypeE", (3.7,)))
_SINGLE_WEIGHTS = (60, 25, 7, 5, 3)
_DUAL = ((("Combo", 50), ("Chademo", 50)), (("Type2", 22), ("Schuko", 3.7)), (("Combo", 150), ("Type2", 43)))
_DIALLING_CODES = {"DE": "+49", "FR": "+33", "NL": "+31", "AT": "+43"}
_OFFICE_HOURS = [{"times": ["07:30", "19:00"], "days": ["Mo", "Fr"]}, {"times": ["09:00", "16:00"], "days": ["Sa", "Sa"]}]
_LATE_HOURS = [{"times": ["06:00", "24:00"], "days": ["Mo", "Su"]}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """`stations` to begin with, and a few more in `spare` that are built later."""

    stations: tuple[Station, ...]
    spare: tuple[Station, ...]

    @property
    def connectors(self) -> int:
        """How many there are to begin with."""
        return sum(len(station.connectors) for station in self.stations)

    @property
    def evses(self) -> int:
        """How many statuses an EMP holds of them: one for each EVSE id."""
        return sum(len({connector.evse_id for connector in station.connectors}) for station in self.stations)

    @property
    def cities(self) -> int:
        """In how many they are."""
        return len({station.city for station in self.stations})


def generate(stations: int, *, seed: int, spare: int = 2) -> Fleet:
    """So many stations with four times as many connectors, and `spare` more.

    >>> fleet = generate(10, seed=1)
    >>> len(fleet.stations), fleet.connectors, len(fleet.spare)
    (10, 40, 2)
    """
    chance = random.Random(seed)
    sizes = [*_sizes(stations, chance), *([CONNECTORS_PER_STATION] * spare)]
    built = [_station(number, size, chance) for number, size in enumerate(sizes, start=1)]
    return Fleet(stations=tuple(built[:stations]), spare=tuple(built[stations:]))


def _sizes(stations: int, chance: random.Random) -> list[int]:
    """Connectors of each station: most have 4, and for each that has fewer another one has as many more."""
    fewer = chance.choices((0, 1, 2, 3), (40, 15, 40, 5), k=stations // 2)
    sizes = [CONNECTORS_PER_STATION + sign * less for less in fewer for sign in (-1, 1)]
    sizes += [CONNECTORS_PER_STATION] * (stations - len(sizes))
    chance.shuffle(sizes)
    return sizes


def _station(number: int, size: int, chance: random.Random) -> Station:
    city = chance.choice(CITIES)
    cpo = chance.choice([cpo for cpo, prefix in CPOS.items() if prefix.startswith(city.country)])
    street, house = chance.choice(city.streets), chance.randint(1, 180)
    prefix = CPOS[cpo]
    latitude, longitude = _position(city, chance)
    return Station(
        station_id=f"{prefix.replace('*', '')}{number:06}",
        name=f"{city.name}, {street}",
        latitude=latitude,
        longitude=longitude,
        street=street,
        street_number=f"{house}{chance.choice(('', '', '', 'a', 'b'))}",
        city=city.name,
        zip=f"{city.zip} {chance.choice(('AB', 'CD', 'KL'))}" if city.country == "NL" else city.zip,
        country=city.country,
        phone=f"{_DIALLING_CODES[city.country]} 800 {chance.randint(1_000_000, 9_999_999)}",
        web=f"https://{cpo}.example",
        email=f"service@{cpo}.example" if chance.random() < 0.7 else None,
        cpo=cpo,
        connectors=tuple(_connectors(f"{prefix}*E{number:06}", size, chance)),
        **_amenities(chance, size),
    )


def _amenities(chance: random.Random, size: int) -> dict[str, Any]:
    """What not every operator knows of every station."""
    flags = ("is_reservable", "is_free_charge", "is_green_power_available", "is_plugin_charge", "is_roofed", "is_private")
    opens_late, is_in_a_garage = chance.random() < 0.2, chance.random() < 0.15
    return {
        "is_open_24": not opens_late,
        "open_hour_notes": chance.choice((_OFFICE_HOURS, _LATE_HOURS)) if opens_late else None,
        "description": "On the car park behind the building" if chance.random() < 0.3 else None,
        "notes": "Barrier: take a ticket.\nThe first hour is free." if is_in_a_garage else None,
        "floor_level": chance.choice((-2, -1, 1)) if is_in_a_garage else None,
        "total_parking": size + chance.randint(0, 20) if chance.random() < 0.5 else None,
        **{flag: chance.random() < 0.3 if chance.random() < 0.6 else None for flag in flags},
    }


def _position(city: City, chance: random.Random) -> tuple[Decimal, Decimal]:
    """A point within `JITTER_KM` of the centre, as the table keeps it."""
    away_km, bearing = JITTER_KM * 0.99 * math.sqrt(chance.random()), chance.uniform(0, 2 * math.pi)
    latitude = city.latitude + away_km * math.cos(bearing) / _KM_PER_DEGREE
    longitude = city.longitude + away_km * math.sin(bearing) / (_KM_PER_DEGREE * math.cos(math.radians(city.latitude)))
    return Decimal(f"{latitude:.6f}"), Decimal(f"{longitude:.6f}")


def _connectors(prefix: str, size: int, chance: random.Random) -> Iterator[Connector]:
    """`size` connectors on EVSEs that are numbered from 1; two of one EVSE are beside each other."""
    evse = left = size
    while left:
        evse_id = f"{prefix}*{size - evse + 1}"
        evse -= 1
        if left > 1 and chance.random() < _SHARED:
            plugs: tuple[tuple[str, float], ...] = chance.choice(_DUAL)
        else:
            kind, speeds = chance.choices(_SINGLE, _SINGLE_WEIGHTS)[0]
            plugs = ((kind, chance.choice(speeds)),)
        left -= len(plugs)
        for kind, speed_kw in plugs:
            status = chance.choices(STATUSES, STATUS_WEIGHTS)[0]
            yield Connector(evse_id=evse_id, type=kind, speed_kw=Decimal(str(speed_kw)), status=status)
