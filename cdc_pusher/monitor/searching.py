"""Finds stations by their id, their name or place, or the id of an EVSE."""

from collections.abc import Sequence
from dataclasses import dataclass

from cdc_pusher.model import Kind
from cdc_pusher.monitor.looking import Eyes, rows, sql
from cdc_pusher.names import PUNCTUATION

MOST = 50
AHEAD = 200  # keys from where the text would stand: upper and lower case stand together, or do not


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A station or an EVSE, its station, and at which EMPs it is in which state."""

    kind: Kind
    key: str
    station_id: str
    name: str | None
    states: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What begins like the text, or has its words; at most `MOST`."""

    text: str
    hits: Sequence[Hit]
    are_more: bool


async def look(eyes: Eyes, text: str = "") -> Found:
    """Stations and EVSEs by how their id begins, stations by words of their name, street or city, each by how it begins."""
    text = text.strip()[:200]
    if not text:
        return Found(text="", hits=[], are_more=False)
    async with eyes.connection() as conn:
        emps = eyes.emps(None)
        spelled = dict.fromkeys((text, text.upper(), text.lower()))
        found = [row for one in spelled for row in await rows(conn, sql.by_key, emps=emps, text=one, limit=AHEAD)]
        if words := query_of(text):
            found += await rows(conn, sql.by_words, emps=emps, words=words, limit=MOST + 1)
    hits: dict[tuple[Kind, str], dict[str, str]] = {}
    about = {}
    for row in found:
        hits.setdefault((row["kind"], row["key"]), {})[row["emp"]] = row["state"]
        about[row["kind"], row["key"]] = row["station_id"], row["name"]
    listed = [
        Hit(kind=kind, key=key, station_id=about[kind, key][0], name=about[kind, key][1], states=sorted(states.items()))
        for (kind, key), states in hits.items()
    ]
    return Found(text=text, hits=listed[:MOST], are_more=len(listed) > MOST)


def query_of(text: str) -> str:
    """The words of a text as a query of Postgres: all of them, each by how it begins.

    >>> print(query_of("St.Gallen A7/E45"), query_of("d'Or *"), sep="; ")
    'St':* & 'Gallen':* & 'A7':* & 'E45':*; 'd''Or':*
    """
    words = text.translate(dict.fromkeys(map(ord, PUNCTUATION), " ")).split()
    return " & ".join("'{}':*".format(word.replace("\\", "\\\\").replace("'", "''")) for word in words)
