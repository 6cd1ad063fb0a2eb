"""What is wrong between rows, counted by the server: EVSE ids in several stations, rows without an id, connectors without their station."""

from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import sql

from cdc_pusher.check.finding import EXAMPLES, Finding, number, problem, warning
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import Connection, one_line
from cdc_pusher.mapping import subquery
from cdc_pusher.sql import queries

_sql = queries("check")

Ask = Callable[[bytes], Awaitable[list[dict[str, Any]]]]


async def check(conn: Connection, settings: SourceSettings, *, verbose: bool) -> list[Finding]:
    """Ask the server; a question that one row's data make fail is told as such, and stops no other."""

    async def ask(query: bytes) -> list[dict[str, Any]]:
        composed = sql.SQL(query.decode()).format(stations=subquery(settings.stations), connectors=subquery(settings.connectors))
        async with conn.transaction():
            return await (await conn.execute(composed, {"limit": None if verbose else EXAMPLES})).fetchall()

    found: list[Finding] = []
    for what, question in (("shared EVSE ids", _shared), ("rows without an id", _without_id), ("connectors without a station", _orphans)):
        try:
            found += await question(ask)
        except (psycopg.DataError, psycopg.ProgrammingError, psycopg.errors.QueryCanceled) as error:
            found.append(warning("source", f"{what} could not be looked for: {one_line(error)}"))
    return found


async def _shared(ask: Ask) -> list[Finding]:
    rows = await ask(_sql.shared_evses)
    if not rows:
        return []
    total = rows[0]["total"]
    text = f"{number(total, 'EVSE id stands', 'EVSE ids stand')} in more than one station: these are held until one of them gives it up"
    return [problem("EVSE ids", text, count=total, examples=[f"{r['evse_id']}: stations {r['one']}, {r['another']}" for r in rows])]


async def _without_id(ask: Ask) -> list[Finding]:
    found = []
    for name, query in (("stations", _sql.stations_without_id), ("connectors", _sql.connectors_without_id)):
        (row,) = await ask(query)
        if row["rows"]:
            left_out = number(row["rows"], "row without a station_id is", "rows without a station_id are")
            found.append(problem(f"source.{name}", f"{left_out} left out: give them one, or exclude them in the query", count=row["rows"]))
    return found


async def _orphans(ask: Ask) -> list[Finding]:
    rows = await ask(_sql.orphans)
    if not rows:
        return []
    total = rows[0]["total"]
    text = f"{number(total, 'connector belongs', 'connectors belong')} to stations that source.stations does not return: left out"
    return [
        warning(
            "source.connectors", text, count=total, examples=[f"station {r['station_id']}: {number(r['connectors'], 'row')}" for r in rows]
        )
    ]
