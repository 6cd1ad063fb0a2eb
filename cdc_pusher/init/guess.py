"""From the tables of a database to a mapping: which are the stations, which the connectors, and what stands in which column. Pure.

Names, types and foreign keys are all there is to go by, so everything here is a guess: each line of the result says what it was guessed
from, and what was not found is a line to fill in, with which the query runs all the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cdc_pusher.init import items, names
from cdc_pusher.init.catalogue import Column, ForeignKey, Table
from cdc_pusher.init.items import FILL_IN, Item, is_point
from cdc_pusher.mapping import REQUIRED


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
    return [c for c in table.columns if names.rank(c.name, names.STATION_COLUMNS["latitude"]) is not None or is_point(c)]


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
        if column.name not in bound and names.words(column.name) in called and _comparable(column, _column(target, target.primary_key[0])):
            return ForeignKey(column=column.name, schema=target.schema, table=target.name, target=target.primary_key[0])
    return None


def _comparable(one: Column, other: Column) -> bool:
    """Whether Postgres compares them as they are: integers of any size, texts of any kind, else the same type."""
    return one.type == other.type or (one.category == other.category and one.category in "SN")


def _column(table: Table, name: str) -> Column:
    return next(column for column in table.columns if column.name == name)


class _Builder:
    """Puts the mapping together, noting which columns of which table are used."""

    def __init__(self, tables: Sequence[Table], station: Table, path: Sequence[tuple[Table, ForeignKey]]) -> None:
        self.station = _Read(table=station, alias="s")
        self.connector = _Read(table=path[0][0], alias="c")
        self.path = path
        self.key = path[-1][1].target  # what the connectors refer to, which need not be the primary key
        self.evse = self._evse(tables)
        self.places = self._places(tables)

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

    def _places(self, tables: Sequence[Table]) -> list[tuple[_Read, ForeignKey]]:
        """The tables that the station refers to for its address or its position, the likeliest first."""
        ranked = [
            (rank, table.key, table, link)
            for table in tables
            if table is not self.station.table and (rank := names.rank(table.name, names.PLACE_TABLES)) is not None
            if (link := _link(self.station.table, table)) is not None
        ]
        ranked.sort(key=lambda one: one[:2])
        return [(_Read(table=table, alias=f"l{n or ''}"), link) for n, (_, _, table, link) in enumerate(ranked)]

    def draft(self, others: tuple[str, ...]) -> Draft:
        stations, connectors = self._stations(), self._connectors()
        return Draft(stations=stations, connectors=connectors, watches=tuple(self._watches()), others=others)

    def _reads(self) -> list[_Read]:
        return [self.station, *(place for place, _ in self.places)]

    # ── stations ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _stations(self) -> Query:
        what = "the primary key of" if (self.key,) == self.station.table.primary_key else "what connectors refer to in"
        selected = [Item(value=self.station.column(self.key), name="station_id", comment=f"{what} {self.station.table.quoted}")]
        for name, synonyms in names.STATION_COLUMNS.items():
            item = self._plain(name, synonyms) or self._special(name)
            if item is not None:
                selected.append(item)
            elif name in REQUIRED["stations"]:
                selected.append(items.to_fill_in(name))
        self.places = [(place, link) for place, link in self.places if place.used]
        source = self.station.as_from
        for place, link in self.places:
            source += f"\nLEFT JOIN {place.as_from} ON {place.column(link.target)} = {self.station.column(link.column)}"
        return Query(items=tuple(selected), source=source)

    def _plain(self, name: str, synonyms: Sequence[str]) -> Item | None:
        for read in self._reads():
            for wanted in _categories(name):
                if (column := _find(read.table, synonyms, wanted)) is not None:
                    return items.of_column(name, read.column(column.name), column, f"guessed: {read.table.quoted}")
        return None

    def _special(self, name: str) -> Item | None:
        for read in self._reads():
            for column in read.table.columns:
                if name in ("latitude", "longitude") and is_point(column):
                    return items.of_point(name, read.column(column.name), column.type)
                if name in ("street", "street_number") and column.category == "S" and names.rank(column.name, names.ADDRESSES) is not None:
                    return items.of_address(name, read.column(column.name))
        return None

    # ── connectors ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _connectors(self) -> Query:
        read, source = self.connector, self.connector.as_from
        link = self.path[-1][1]
        if self.evse is not None:
            evse, to_evse = self.evse
            source += f"\nLEFT JOIN {evse.as_from} ON {evse.column(to_evse.target)} = {read.column(to_evse.column)}"
        owner = self.evse[0] if self.evse is not None and len(self.path) == 2 else read
        selected = [Item(value=owner.column(link.column), name="station_id", comment=f"refers to {self.station.table.quoted}")]
        for name, synonyms in names.CONNECTOR_COLUMNS.items():
            selected.append(self._of_connector(name, synonyms, "S" if name == "evse_id" else "SNEB") or items.to_fill_in(name))
        selected.append(self._speed() or items.to_fill_in("speed_kw"))
        return Query(items=tuple(selected), source=source)

    def _of_connector(self, name: str, synonyms: Sequence[str], wanted: str) -> Item | None:
        for read in [self.connector, *([self.evse[0]] if self.evse else [])]:
            if (column := _find(read.table, synonyms, wanted)) is not None:
                return Item(value=read.column(column.name), name=name, comment=f"guessed: {read.table.quoted}")
        return None

    def _speed(self) -> Item | None:
        if (item := self._of_connector("speed_kw", names.POWER_KW, "N")) is not None:
            return item
        item = self._of_connector("speed_kw", names.POWER_W, "N")
        return item and Item(value=f"{item.value} / 1000.0", name="speed_kw", comment="guessed: watts")

    # ── watches ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def _watches(self) -> Iterable[Watched]:
        station, key = self.station.table, self.key
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
        for place, to_place in self.places:
            a = _alias("s", place.table)
            yield _watched(
                place,
                f"SELECT {a}.{station.quote(key)} FROM {station.quoted} AS {a}"
                f" WHERE {a}.{station.quote(to_place.column)} = {place.table.row_name}.{place.table.quote(to_place.target)}",
            )


def _categories(name: str) -> tuple[str, ...]:
    """The categories of types that a column of `stations` may have, the best first; U stands for uuid alone."""
    if name in ("latitude", "longitude"):
        return ("N", "S")
    if name.startswith("is_"):
        return ("B",)
    return {"floor_level": ("N",), "total_parking": ("N",), "country": ("SE",), "cpo": ("SNEU",)}.get(name, ("SNEB",))


def _find(table: Table, synonyms: Sequence[str], wanted: str) -> Column | None:
    """The column that is called by the best synonym and is of one of these categories of types."""
    known = [(place, c) for c in table.columns if (place := names.rank(c.name, synonyms)) is not None]
    known = [(place, c) for place, c in known if c.category in wanted and (c.category != "U" or c.type == "uuid")]
    return min(known, key=lambda one: one[0])[1] if known else None


def _alias(alias: str, table: Table) -> str:
    """An alias beside the name of the watched table, which is that of its row."""
    return alias if table.name != alias else f"{alias}1"


def _watched(read: _Read, station: str, also: str | None = None) -> Watched:
    columns: Mapping[str, Any] = {**read.used, **({also: None} if also else {})}
    return Watched(table=read.table.quoted, columns=tuple(columns), station=station)
