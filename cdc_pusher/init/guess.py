"""From the tables of a database to a mapping: which are the stations, which the connectors, and what stands in which column. Pure.

Names, types and foreign keys are all there is to go by, so everything here is a guess: each line of the result says what it was guessed
from, and what was not found is a line to fill in, with which the query runs all the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cdc_pusher.init import names
from cdc_pusher.init.catalogue import Column, ForeignKey, Table
from cdc_pusher.source import REQUIRED

FILL_IN = "FILL IN"

# Number first ('12 bis Rue de Merville') or last ('Hauptstrasse 12a').
_NUMBER = (
    r"coalesce(substring({a} from '^\s*(\d+(?:\s*(?:bis|ter|[A-Za-z])(?=[\s,]))?)[\s,]'),"
    r" substring({a} from '[\s,](\d+\s?[A-Za-z]?)\s*$'))"
)
_STREET = r"regexp_replace({a}, '^\s*\d+(\s*(bis|ter|[A-Za-z])(?=[\s,]))?[\s,]+|[\s,]+\d+\s?[A-Za-z]?\s*$', '')"
_MISSING = {"is_open_24": "true", "latitude": "NULL::numeric", "longitude": "NULL::numeric", "speed_kw": "NULL::numeric"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One column of a query: its SQL, its name in the mapping, and what people should know of it."""

    value: str
    name: str
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query of the mapping."""

    items: tuple[Item, ...]
    source: str

    @property
    def missing(self) -> list[str]:
        return [item.name for item in self.items if item.comment.startswith(FILL_IN)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A table to watch; `station` as in the configuration."""

    table: str
    columns: tuple[str, ...]
    station: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What goes into `[source]`; `others`: tables that might be meant as well."""

    stations: Query
    connectors: Query
    watches: tuple[Watched, ...]
    others: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class _Read:
    """A table in a query under its alias, and the columns that are used of it."""

    table: Table
    alias: str
    used: dict[str, None] = field(default_factory=dict)

    def column(self, name: str) -> str:
        self.used.setdefault(name)
        return f"{self.alias}.{self.table.quote(name)}"

    @property
    def as_from(self) -> str:
        return f"{self.table.quoted} AS {self.alias}"


def guess(tables: Sequence[Table]) -> Draft | None:
    """The likeliest mapping; None if no table looks like one of stations with connectors."""
    found = [table for table in tables if table.readable and not table.is_view]
    pairs = [
        (station_rank + connector_rank - 3 * bool(_places(station)), station, path)
        for station in found
        if (station_rank := names.rank(station.name, names.STATION_TABLES)) is not None and len(station.primary_key) == 1
        for connector in found
        if connector is not station and (connector_rank := names.rank(connector.name, names.CONNECTOR_TABLES)) is not None
        if (path := _path(connector, station, found)) is not None
    ]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: (pair[0], len(pair[2]), pair[1].key))
    _, station, path = pairs[0]
    others = {other.quoted for _, other, _ in pairs if other is not station}
    return _Builder(found, station, path).draft(tuple(sorted(others)))


def _places(table: Table) -> list[Column]:
    return [c for c in table.columns if names.rank(c.name, names.STATION_COLUMNS["latitude"]) is not None or _is_point(c)]


def _is_point(column: Column) -> bool:
    is_known = names.rank(column.name, names.POINTS) is not None
    return is_known and (column.type in ("point", "jsonb", "json") or "geo" in column.type or column.type.endswith("point"))


def _path(connector: Table, station: Table, tables: Iterable[Table]) -> tuple[tuple[Table, ForeignKey], ...] | None:
    """How a connector leads to its station: by a foreign key of its own, by a column that is called like one, or by way of its EVSE."""
    if (direct := _link(connector, station)) is not None:
        return ((connector, direct),)
    for evse in tables:
        if evse is not connector and evse is not station and names.rank(evse.name, names.EVSE_TABLES) is not None:
            first, second = _link(connector, evse), _link(evse, station)
            if first is not None and second is not None:
                return ((connector, first), (evse, second))
    return None


def _link(table: Table, target: Table) -> ForeignKey | None:
    for key in table.foreign_keys:
        if (key.schema, key.table) == target.key:
            return key
    if len(target.primary_key) != 1:
        return None
    bound = {key.column for key in table.foreign_keys}
    called = {f"{names.words(target.name)} id", f"{names.words(target.name).split()[-1]} id"}
    for column in table.columns:
        if column.name not in bound and names.words(column.name) in called and column.type == _type(target, target.primary_key[0]):
            return ForeignKey(column=column.name, schema=target.schema, table=target.name, target=target.primary_key[0])
    return None


def _type(table: Table, name: str) -> str:
    return next(column.type for column in table.columns if column.name == name)


class _Builder:
    """Puts the mapping together, noting which columns of which table are used."""

    def __init__(self, tables: Sequence[Table], station: Table, path: Sequence[tuple[Table, ForeignKey]]) -> None:
        self.station = _Read(table=station, alias="s")
        self.connector = _Read(table=path[0][0], alias="c")
        self.path = path
        self.evse = self._evse(tables)
        self.place = self._place(tables)

    def _evse(self, tables: Sequence[Table]) -> tuple[_Read, ForeignKey] | None:
        """The table between connector and station, or beside them, which carries EVSE ids."""
        if len(self.path) == 2:
            return _Read(table=self.path[1][0], alias="e"), self.path[0][1]
        if _find(self.connector.table, names.CONNECTOR_COLUMNS["evse_id"], "S") is not None:
            return None
        for table in tables:
            if table not in (self.station.table, self.connector.table) and names.rank(table.name, names.EVSE_TABLES) is not None:
                link = _link(self.connector.table, table)
                if link is not None and _link(table, self.station.table) is not None:
                    return _Read(table=table, alias="e"), link
        return None

    def _place(self, tables: Sequence[Table]) -> tuple[_Read, ForeignKey] | None:
        """The table that the station refers to for its address."""
        for table in tables:
            if table is self.station.table or names.rank(table.name, names.PLACE_TABLES) is None:
                continue
            if (link := _link(self.station.table, table)) is not None:
                return _Read(table=table, alias="l"), link
        return None

    def draft(self, others: tuple[str, ...]) -> Draft:
        stations, connectors = self._stations(), self._connectors()
        return Draft(stations=stations, connectors=connectors, watches=tuple(self._watches()), others=others)

    def _reads(self) -> list[_Read]:
        return [self.station, *([self.place[0]] if self.place else [])]

    # ── stations ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _stations(self) -> Query:
        key = self.station.table.primary_key[0]
        items = [Item(value=self.station.column(key), name="station_id", comment=f"the primary key of {self.station.table.quoted}")]
        for name, synonyms in names.STATION_COLUMNS.items():
            item = self._plain(name, synonyms) or self._special(name)
            if item is not None:
                items.append(item)
            elif name in REQUIRED["stations"]:
                items.append(_to_fill_in(name))
        source = self.station.as_from
        if self.place is not None:
            place, key_to = self.place
            source += f"\nLEFT JOIN {place.as_from} ON {place.column(key_to.target)} = {self.station.column(key_to.column)}"
        return Query(items=tuple(items), source=source)

    def _plain(self, name: str, synonyms: Sequence[str]) -> Item | None:
        wanted = "B" if name.startswith("is_") else "N" if name in ("latitude", "longitude", "floor_level", "total_parking") else ""
        for read in self._reads():
            if (column := _find(read.table, synonyms, wanted)) is not None:
                return Item(value=read.column(column.name), name=name, comment=f"guessed: {read.table.quoted}")
        return None

    def _special(self, name: str) -> Item | None:
        for read in self._reads():
            for column in read.table.columns:
                if name in ("latitude", "longitude") and _is_point(column):
                    return Item(value=_of_point(read.column(column.name), column.type, name), name=name, comment="guessed: a point")
                if name in ("street", "street_number") and column.category == "S" and names.rank(column.name, names.ADDRESSES) is not None:
                    pattern = _STREET if name == "street" else _NUMBER
                    return Item(value=pattern.format(a=read.column(column.name)), name=name, comment="guessed: a part of the address")
        return None

    # ── connectors ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _connectors(self) -> Query:
        read, source = self.connector, self.connector.as_from
        link = self.path[-1][1]
        if self.evse is not None:
            evse, to_evse = self.evse
            source += f"\nLEFT JOIN {evse.as_from} ON {evse.column(to_evse.target)} = {read.column(to_evse.column)}"
        owner = self.evse[0] if self.evse is not None and len(self.path) == 2 else read
        items = [Item(value=owner.column(link.column), name="station_id", comment=f"refers to {self.station.table.quoted}")]
        for name, synonyms in names.CONNECTOR_COLUMNS.items():
            items.append(self._of_connector(name, synonyms, "S" if name == "evse_id" else "") or _to_fill_in(name))
        items.append(self._speed() or _to_fill_in("speed_kw"))
        return Query(items=tuple(items), source=source)

    def _of_connector(self, name: str, synonyms: Sequence[str], category: str) -> Item | None:
        for read in [self.connector, *([self.evse[0]] if self.evse else [])]:
            if (column := _find(read.table, synonyms, category)) is not None:
                return Item(value=read.column(column.name), name=name, comment=f"guessed: {read.table.quoted}")
        return None

    def _speed(self) -> Item | None:
        if (item := self._of_connector("speed_kw", names.POWER_KW, "N")) is not None:
            return item
        item = self._of_connector("speed_kw", names.POWER_W, "N")
        return item and Item(value=f"{item.value} / 1000.0", name="speed_kw", comment="guessed: watts")

    # ── watches ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _watches(self) -> Iterable[Watched]:
        station, key = self.station.table, self.station.table.primary_key[0]
        yield _watched(self.station, station.quote(key))
        last_read, last = (self.evse[0] if self.evse and len(self.path) == 2 else self.connector), self.path[-1][1]
        if len(self.path) == 2 and self.evse is not None:
            link, a = self.path[0][1], _alias("e", self.connector.table)
            yield _watched(
                self.connector,
                f"SELECT {a}.{last_read.table.quote(last.column)} FROM {last_read.table.quoted} AS {a}"
                f" WHERE {a}.{last_read.table.quote(link.target)}"
                f" = {self.connector.table.row_name}.{self.connector.table.quote(link.column)}",
            )
        else:
            yield _watched(self.connector, self.connector.table.quote(last.column))
        if self.evse is not None and (link_to_station := _link(self.evse[0].table, station)) is not None:
            yield _watched(self.evse[0], self.evse[0].table.quote(link_to_station.column), also=link_to_station.column)
        if self.place is not None:
            place, key_to = self.place
            a = _alias("s", place.table)
            yield _watched(
                place,
                f"SELECT {a}.{station.quote(key)} FROM {station.quoted} AS {a}"
                f" WHERE {a}.{station.quote(key_to.column)} = {place.table.row_name}.{place.table.quote(key_to.target)}",
            )


def _find(table: Table, synonyms: Sequence[str], category: str) -> Column | None:
    """The column that is called by the best synonym, and is of this category of types, if one is named."""
    known = [(place, c) for c in table.columns if (place := names.rank(c.name, synonyms)) is not None]
    known = [(place, c) for place, c in known if (c.category == category if category else not _is_point(c) and c.category in "SNEB")]
    return min(known, key=lambda one: one[0])[1] if known else None


def _of_point(value: str, type_name: str, name: str) -> str:
    """PostGIS and Postgres have points as (longitude, latitude)."""
    if type_name in ("jsonb", "json"):
        return f"({value} ->> '{name}')::double precision"
    if type_name == "point":
        return f"({value})[{1 if name == 'latitude' else 0}]"
    return f"ST_{'Y' if name == 'latitude' else 'X'}({value}::geometry)"


def _to_fill_in(name: str) -> Item:
    said = "assumed" if name == "is_open_24" else "no column was found"
    return Item(value=_MISSING.get(name, "NULL::text"), name=name, comment=f"{FILL_IN}: {said}")


def _alias(alias: str, table: Table) -> str:
    """An alias beside the name of the watched table, which is that of its row."""
    return alias if table.name != alias else f"{alias}1"


def _watched(read: _Read, station: str, also: str | None = None) -> Watched:
    columns: Mapping[str, Any] = {**read.used, **({also: None} if also else {})}
    return Watched(table=read.table.quoted, columns=tuple(columns), station=station)
