"""`cdc-pusher init`: looks at a database and proposes a configuration for it. Reads the catalogue and a sample of words; writes nothing.

    catalogue   which tables there are          (the only one that asks the database)
    names       what such tables are called elsewhere
    items       what to select for a column of the mapping
    guess       which of them are the stations, which the connectors, and what is in their columns
    write       the configuration, with comments

Two schemas are recognised and not guessed: the reference schema, which needs no mapping, and CitrineOS.
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from psycopg import sql

from cdc_pusher import vocabulary
from cdc_pusher.config import REFERENCE_CONNECTORS, REFERENCE_STATIONS
from cdc_pusher.database import Connection
from cdc_pusher.init import catalogue, names, write
from cdc_pusher.init.catalogue import Table
from cdc_pusher.init.guess import Query, guess
from cdc_pusher.init.items import FILL_IN
from cdc_pusher.model import CONNECTOR_COLUMNS, STATION_COLUMNS

NOTHING = (
    "no table looked like one of charging stations with connectors (the name of a station table says so and it has a primary key of one"
    " column, a connector table refers to it)"
)
_REFERENCE = (("public", "station"), ("public", "connector"))
_CITRINEOS = {
    "ChargingStations": ("id", "isOnline", "locationId", "tenantId", "coordinates"),
    "Connectors": ("stationId", "evseId", "status", "type", "maximumPowerWatts", "maximumAmperage", "maximumVoltage", "powerType"),
    "Evses": ("id", "stationId", "evseId", "removed"),
    "Locations": ("id", "name", "address", "city", "postalCode", "country", "coordinates", "openingHours"),
    "Tenants": ("id", "name"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A configuration: its `text`, what was `recognised` (None: guessed, or nothing found), and in words what is `missing`."""

    text: str
    recognised: str | None
    missing: tuple[str, ...]


async def propose(conn: Connection, dsn: str) -> Proposal:
    """Propose a configuration for the database of this connection; `dsn` is what it is to be reached by."""
    await conn.set_read_only(True)
    tables = await catalogue.tables(conn)
    if _is_reference(tables):
        return await _reference(conn, dsn, tables)
    if (schema := _citrineos(tables)) is not None:
        return await _of_citrineos(conn, dsn, schema, tables)
    return await _guessed(conn, dsn, tables)


def _is_reference(tables: Sequence[Table]) -> bool:
    by_key = {table.key: table for table in tables}
    station, connector = (by_key.get(key) for key in _REFERENCE)
    if station is None or connector is None:
        return False
    return station.has("id", *STATION_COLUMNS[1:]) and connector.has(*CONNECTOR_COLUMNS)


async def _reference(conn: Connection, dsn: str, tables: Sequence[Table]) -> Proposal:
    cpos = await catalogue.words(conn, REFERENCE_STATIONS, "cpo")
    unknown = await _unknown(conn, REFERENCE_CONNECTORS)
    missing = _hidden([table for table in tables if table.key in _REFERENCE]) + _unknown_words(unknown) + _of_emp(cpos)
    recognised = "The tables of the reference schema were recognised: they need no mapping."
    text = write.head(dsn, recognised, missing) + write.maps(unknown) + write.emp(cpos)
    return Proposal(text=text, recognised="the reference schema", missing=tuple(missing))


def _citrineos(tables: Sequence[Table]) -> str | None:
    """The schema that has CitrineOS's tables."""
    for schema in sorted({table.schema for table in tables}, key=lambda name: (name != "public", name)):
        here = {table.name: table for table in tables if table.schema == schema}
        if all(name in here and here[name].has(*columns) for name, columns in _CITRINEOS.items()):
            return schema
    return None


async def _of_citrineos(conn: Connection, dsn: str, schema: str, tables: Sequence[Table]) -> Proposal:
    """The worked example is what is written, for the schema, the database, the words and the CPOs of this one."""
    package = Path(str(files("cdc_pusher")))
    beside, above = package / "examples", package.parent / "examples"  # in the wheel, in a checkout
    example = ((beside if beside.is_dir() else above) / "citrineos" / "cdc-pusher.toml").read_text(encoding="utf-8")
    text = example if schema == "public" else _in_schema(example, sql.Identifier(schema).as_string())
    mapping = tomllib.loads(text)["source"]
    tenants, unknown = await catalogue.words(conn, mapping["stations"], "cpo"), await _unknown(conn, mapping["connectors"])
    told = _hidden([table for table in tables if table.schema == schema and table.name in _CITRINEOS]) + _unknown_words(unknown)
    text = re.sub(r"^dsn = .*$", lambda _: f"dsn = {write.quoted(dsn)}", text, count=1, flags=re.MULTILINE)
    text = re.sub(r'^# "1" = .*$', lambda _: write.cpo_lines(tenants), text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^(?=\[database\]$)", lambda _: write.listed(told), text, count=1, flags=re.MULTILINE)
    text = re.sub(r"\n(?=# ── who receives )", lambda _: write.maps(unknown) + "\n", text, count=1)
    missing = ["the phone number of your hotline (phone): CitrineOS has none", *told, *_of_emp(tenants)]
    return Proposal(text=text, recognised="CitrineOS", missing=tuple(missing))


def _in_schema(example: str, schema: str) -> str:
    """The example for another schema than `public`; its name, quoted, may be one that no literal string of TOML can hold."""

    def moved(found: re.Match[str]) -> str:
        before, query, name = found.groups()
        content = (name if query is None else query).replace("public.", f"{schema}.")
        return f"{before}{write.string(content) if query is None else write.multiline(content)}"

    return re.sub(r"^(\w+ = )(?:'''\n(.*?)'''|'([^'\n]*)')$", moved, example, flags=re.MULTILINE | re.DOTALL)


async def _guessed(conn: Connection, dsn: str, tables: Sequence[Table]) -> Proposal:
    draft = guess(tables)
    if draft is None:
        missing = [f"how to read the stations ([source]): {NOTHING}", *_hidden(tables), *_of_emp([])]
        return Proposal(
            text=write.head(dsn, "Nothing in the database looked like charging stations with connectors.", missing)
            + write.NO_GUESS
            + write.emp([]),
            recognised=None,
            missing=tuple(missing),
        )
    stations, connectors = (f"SELECT {_selected(query)} FROM {query.source}" for query in (draft.stations, draft.connectors))
    cpos = await catalogue.words(conn, stations, "cpo")
    unknown = await _unknown(conn, connectors)
    missing = [f"{name}: {_why(name)}" for name in (*draft.stations.missing, *draft.connectors.missing)]
    missing += _hidden([table for table in tables if names.is_known(table.name)]) + _unknown_words(unknown) + _of_emp(cpos)
    recognised = "Everything in [source] is guessed from names, types and foreign keys: look at it line by line."
    text = write.head(dsn, recognised, missing) + write.source(draft, unknown) + write.emp(cpos)
    return Proposal(text=text, recognised=None, missing=tuple(missing))


def _selected(query: Query) -> str:
    return ", ".join(f"{item.value} AS {item.name}" for item in query.items)


async def _unknown(conn: Connection, connectors: str) -> dict[str, list[str]]:
    """The words of the connectors that are neither OIOI's nor known to stand for one of OIOI's."""
    statuses = [word for word in await catalogue.words(conn, connectors, "status") if vocabulary.status(word) is None]
    types = [word for word in await catalogue.words(conn, connectors, "type") if vocabulary.connector_type(word) is None]
    return {"statuses": statuses, "connector_types": types}


def _hidden(tables: Sequence[Table]) -> list[str]:
    hidden = [table.quoted for table in tables if not table.readable]
    return [f"rights: our role may not read {', '.join(hidden[:10])}"] if hidden else []


def _why(name: str) -> str:
    return "assumed to be true for all" if name == "is_open_24" else "no column was found; OIOI requires it"


def _unknown_words(unknown: dict[str, list[str]]) -> list[str]:
    return [f"[source.{name}]: {len(words)} words that OIOI does not know" for name, words in unknown.items() if words]


def _of_emp(cpos: Sequence[str]) -> list[str]:
    return [
        "the EMP: its URL, your partner identifier, the file with the API key",
        f"the cpo-id of your {len(cpos)} CPOs" if len(cpos) > 1 else "your cpo-id",
    ]


__all__ = ["FILL_IN", "Proposal", "propose"]
