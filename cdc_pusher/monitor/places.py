"""Where all stations are, page by page, and which of them are behind: what a map is drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from cdc_pusher.monitor.looking import Eyes, rows, sql

PAGE = 5_000
MOST = 10_000

State = Literal["rejected", "held", "failing", "pending", "delivered"]
STATES: tuple[State, ...] = ("rejected", "held", "failing", "pending", "delivered")
"""From the worst to the best; `failing`: pending after a failure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """`stations`: id, longitude, latitude (degrees); `placeless`: how many have none, because they were never ready to be sent.

    The next page comes `after` this id; None: that was the last one.
    """

    stations: Sequence[tuple[str, float, float]]
    placeless: int
    after: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """Stations of which anything is not delivered, with the worst state of it; `are_more`: those are not all."""

    stations: Sequence[tuple[str, State]]
    are_more: bool


async def look(eyes: Eyes, emp: str, after: str = "", limit: Annotated[int, Field(ge=1, le=PAGE)] = PAGE) -> Places:
    """The next stations of an EMP in the order of their ids; those without a place, or deleted, are left out."""
    async with eyes.connection() as conn:
        found = await rows(conn, sql.places, emp=emp, after=after, limit=limit)
    there = [row for row in found if not row["deleted"]]
    stations = [(row["key"], row["longitude"], row["latitude"]) for row in there if None not in (row["longitude"], row["latitude"])]
    return Places(stations=stations, placeless=len(there) - len(stations), after=found[-1]["key"] if len(found) == limit else None)


async def behind(eyes: Eyes, emp: str) -> Behind:
    """The stations of an EMP that are behind."""
    async with eyes.connection() as conn:
        found = await rows(conn, sql.open, emp=emp, limit=MOST)
    return Behind(stations=[(row["station_id"], STATES[row["rank"]]) for row in found], are_more=len(found) >= MOST)
