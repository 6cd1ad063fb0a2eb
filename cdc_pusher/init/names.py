"""What tables and columns are called by those who keep charging stations. Data; extend it freely.

A name is compared by its words, in lower case and in the singular: `ChargingStations`, `charging_station` and `"charging station"` are
(charging, station). The first synonym that a table has is taken.
"""

import re
from collections.abc import Sequence

STATION_TABLES = (
    *("charging station", "chargingstation", "charge station", "charge point", "chargepoint", "charging point", "charge box", "chargebox"),
    *("station", "charger", "pool", "charging pool", "location", "charging location", "site", "charging site"),
)
CONNECTOR_TABLES = (
    *("connector", "charging connector", "plug", "outlet", "charging outlet", "socket", "charging port", "port"),
    *("evse", "charging unit", "charge point", "chargepoint", "charging point"),
)
EVSE_TABLES = ("evse", "charging unit", "charge point", "chargepoint", "charging point")
PLACE_TABLES = ("location", "site", "place", "address", "charging location", "charging site", "premise", "pool")

STATION_COLUMNS = {
    "name": ("name", "display name", "station name", "title", "label", "public name"),
    "description": ("description", "public description"),
    "latitude": ("latitude", "lat", "geo lat", "geo latitude", "gps lat", "y"),
    "longitude": ("longitude", "lon", "lng", "long", "geo lon", "geo lng", "geo longitude", "gps lon", "gps lng", "x"),
    "street": ("street", "street name", "road", "strasse"),
    "street_number": ("street number", "house number", "housenumber", "house no", "street no", "hausnummer"),
    "city": ("city", "town", "municipality", "locality", "city name", "ort"),
    "zip": ("zip", "zip code", "zipcode", "postal code", "postalcode", "post code", "postcode", "plz"),
    "country": ("country", "country code", "country iso", "iso country", "country id", "land"),
    "phone": ("phone", "phone number", "telephone", "tel", "hotline", "support phone", "contact phone", "service phone"),
    "fax": ("fax", "fax number"),
    "web": ("web", "website", "web site", "homepage", "url"),
    "email": ("email", "e mail", "mail", "contact email", "support email"),
    "cpo": ("cpo", "cpo id", "operator", "operator id", "party id", "tenant id", "company id", "owner id", "organization id"),
    "is_open_24": ("is open 24", "open 24", "open 24 7", "twentyfourseven", "always open", "is always open", "is 24 7", "is 24 h"),
    "notes": ("note", "remark", "comment", "direction"),
    "is_reservable": ("is reservable", "reservable"),
    "floor_level": ("floor level", "floor"),
    "is_free_charge": ("is free charge", "is free", "free of charge", "free"),
    "total_parking": ("total parking", "parking space", "parking lot", "parking count"),
    "is_green_power_available": ("is green power available", "green power", "green energy", "is green energy"),
    "is_plugin_charge": ("is plugin charge", "plugin charge", "plug and charge"),
    "is_roofed": ("is roofed", "roofed", "is covered", "covered"),
    "is_private": ("is private", "private"),
}
CONNECTOR_COLUMNS = {
    "evse_id": ("evse id", "evseid", "emi 3 id", "evse code", "evse identifier", "evse number", "evse uid", "e mobility id"),
    "type": ("type", "connector type", "plug type", "standard", "connector standard", "socket type"),
    "status": ("status", "connector status", "state", "availability", "current status", "ocpp status"),
}
POWER_KW = ("speed kw", "power kw", "max power kw", "kw", "rated power kw", "maximum power kw", "max kw", "capacity kw", "speed")
POWER_W = ("power w", "max power w", "power watt", "max power watt", "maximum power watt", "max electric power", "rated power w", "watt")
POINTS = ("coordinate", "coordinates", "position", "location", "geo location", "geolocation", "geom", "geometry", "point", "geo", "gps")
ADDRESSES = ("address", "address line 1", "address 1", "address line", "street address", "full address", "adresse")

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]+|\d+")
_PLURAL_OF_CAPITALS = re.compile(r"(?<=[A-Z]{2})s(?![a-z])")  # EVSEs


def words(name: str) -> str:
    """A name by its words.

    >>> words("ChargingStations"), words("EVSE_ID"), words("evseID"), words("addressLine1"), words("address")
    ('charging station', 'evse id', 'evse id', 'address line 1', 'address')
    >>> words("addresses"), words("charge_boxes"), words("EVSEs"), words("Stra\N{LATIN SMALL LETTER SHARP S}e"), words("statuses")
    ('address', 'charge box', 'evse', 'strasse', 'status')
    """
    return " ".join(_singular(word.casefold()) for word in _WORD.findall(_PLURAL_OF_CAPITALS.sub("", name)))


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    if word.endswith(("sses", "xes", "ches", "tuses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and len(word) > 3 and not word.endswith(("ss", "us", "is")) else word


def rank(name: str, known: Sequence[str]) -> int | None:
    """The place of a name among synonyms, 0 the best; None if it is none of them.

    >>> rank("Stations", STATION_TABLES) > rank("charge_points", STATION_TABLES), rank("station_log", STATION_TABLES)
    (True, None)
    """
    called = words(name)
    return known.index(called) if called in known else None


def is_known(table: str) -> bool:
    """Whether a table of this name might be one that the mapping reads."""
    return any(rank(table, known) is not None for known in (STATION_TABLES, CONNECTOR_TABLES, EVSE_TABLES, PLACE_TABLES))
