"""The columns of a query of the mapping: what to select, taken from a column of the CPO's or to be filled in. Pure."""

from dataclasses import dataclass

from cdc_pusher.init import names
from cdc_pusher.init.catalogue import Column

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


def is_point(column: Column) -> bool:
    """Whether a column is called like a position and can be one."""
    is_known = names.rank(column.name, names.POINTS) is not None
    return is_known and (column.type in ("point", "jsonb", "json") or "geo" in column.type or column.type.endswith("point"))


def of_column(name: str, value: str, column: Column, comment: str) -> Item:
    """A column as it is; degrees that are text become numbers."""
    is_text = name in ("latitude", "longitude") and column.category == "S"
    return Item(value=f"nullif({value}, '')::numeric" if is_text else value, name=name, comment=comment)


def of_address(name: str, value: str) -> Item:
    """The `street` or `street_number` of a whole address."""
    return Item(value=(_STREET if name == "street" else _NUMBER).format(a=value), name=name, comment="guessed: a part of the address")


def of_point(name: str, value: str, type_name: str) -> Item:
    """The `latitude` or `longitude` of a point: PostGIS and Postgres have points as (longitude, latitude)."""
    if type_name in ("jsonb", "json"):
        taken = f"({value} ->> '{name}')::double precision"
    elif type_name == "point":
        taken = f"({value})[{1 if name == 'latitude' else 0}]"
    else:
        taken = f"ST_{'Y' if name == 'latitude' else 'X'}({value}::geometry)"
    return Item(value=taken, name=name, comment="guessed: a point")


def to_fill_in(name: str) -> Item:
    """What was not found, as something with which the query runs."""
    said = "assumed" if name == "is_open_24" else "no column was found"
    return Item(value=_MISSING.get(name, "NULL::text"), name=name, comment=f"{FILL_IN}: {said}")
