"""Says what a JSON value may look like: small checks that are put together, pure.

A `Check` takes a value and where it stands (`address.zip`); it returns nothing or raises a `Mismatch` that names the place. Types are
JSON's own: a boolean is not a number, a string is not a number, null is not a missing field.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

Check = Callable[[Any, str], None]

_NO_FIELDS: Mapping[str, Check] = {}
_TYPES = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
_FINITE = 1e300
"""Above any quantity of the field: JSON can say 1e999, which Python reads as infinity."""


class Mismatch(Exception):
    """A value is not what it has to be: `<where>: <what>`."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")


def _expect(value: Any, where: str, wanted: str, *types: type) -> None:
    if type(value) not in types:
        raise Mismatch(where, f"must be {wanted}, not {_TYPES.get(type(value), 'null')}")


def anything(_value: Any, _where: str) -> None:
    """Lets every value pass; something else looks at it."""


def text(value: Any, where: str) -> None:
    """A string, possibly empty."""
    _expect(value, where, "a string", str)


def some_text(value: Any, where: str) -> None:
    """A string that says something."""
    text(value, where)
    if not value.strip():
        raise Mismatch(where, "must not be empty")


def flag(value: Any, where: str) -> None:
    """A boolean; not 0, not "false"."""
    _expect(value, where, "a boolean", bool)


def number(low: float | None = None, high: float | None = None) -> Check:
    """A finite number, at least `low` and at most `high` where they are given."""

    def check(value: Any, where: str) -> None:
        _expect(value, where, "a number", int, float)
        if not -_FINITE < value < _FINITE:
            raise Mismatch(where, "must be finite")
        if low is not None and value < low:
            raise Mismatch(where, f"must be at least {low}, not {value}")
        if high is not None and value > high:
            raise Mismatch(where, f"must be at most {high}, not {value}")

    return check


def integer(low: int | None = None, high: int | None = None) -> Check:
    """A whole number, written as one: 2.0 is not an integer."""
    in_range = number(low, high)

    def check(value: Any, where: str) -> None:
        _expect(value, where, "an integer", int, float)
        if type(value) is float:
            raise Mismatch(where, f"must be an integer, not {value}")
        in_range(value, where)

    return check


def one_of(values: Collection[str]) -> Check:
    """One of these strings, in exactly this spelling."""

    def check(value: Any, where: str) -> None:
        text(value, where)
        if value not in values:
            raise Mismatch(where, f"{value!r} is not one of {', '.join(sorted(values))}")

    return check


def matching(pattern: re.Pattern[str], wanted: str) -> Check:
    """A string that matches the whole pattern; `wanted` says in words what that is."""

    def check(value: Any, where: str) -> None:
        text(value, where)
        if not pattern.fullmatch(value):
            raise Mismatch(where, f"{value!r} is not {wanted}")

    return check


def array(*items: Check) -> Check:
    """An array of exactly these items, in this order."""

    def check(value: Any, where: str) -> None:
        _expect(value, where, "an array", list)
        if len(value) != len(items):
            raise Mismatch(where, f"must have {len(items)} items, not {len(value)}")
        for index, item in enumerate(items):
            item(value[index], f"{where}[{index}]")

    return check


def each(item: Check, *, empty: bool) -> Check:
    """An array of any length, every item checked alike; no items at all only with `empty`."""

    def check(value: Any, where: str) -> None:
        _expect(value, where, "an array", list)
        if not value and not empty:
            raise Mismatch(where, "must not be empty")
        for index, one in enumerate(value):
            item(one, f"{where}[{index}]")

    return check


def or_null(check: Check) -> Check:
    """What `check` allows, or null."""

    def check_or_null(value: Any, where: str) -> None:
        if value is not None:
            check(value, where)

    return check_or_null


def fields(required: Mapping[str, Check], optional: Mapping[str, Check] = _NO_FIELDS, *, name: str = "body") -> Check:
    """An object with all required fields and perhaps the optional ones, and with no others; `name` is what to call it at the root."""
    known = {**required, **optional}

    def check(value: Any, where: str) -> None:
        _expect(value, where or name, "an object", dict)
        prefix = f"{where}." if where else ""
        for field in required:
            if field not in value:
                raise Mismatch(prefix + field, "is missing")
        for field, one in value.items():
            if field not in known:
                raise Mismatch(prefix + field, "is not a known field")
            known[field](one, prefix + field)

    return check
