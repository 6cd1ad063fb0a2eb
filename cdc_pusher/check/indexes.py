"""What reading costs the CPO's server, by EXPLAIN alone: one station, one page, one changed row of a watched table.

With `enable_seqscan = off` the planner takes any index that can serve; a table of some size that is read whole even so lacks one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cdc_pusher.check.explain import Node, Scan, relations, sorted_reads, whole_reads
from cdc_pusher.check.finding import Finding, ok, warning
from cdc_pusher.config import SourceSettings, Watch
from cdc_pusher.database import Connection, one_line
from cdc_pusher.mapping import Queries, affected_query
from cdc_pusher.sql import queries

_sql = queries("check")

MANY_ROWS = 1_000  # below that, reading a table whole costs nothing worth a word

Sizes = Mapping[tuple[str, str], tuple[str, int]]
"""By schema and relation: its quoted name and its rows."""


async def check(conn: Connection, settings: SourceSettings, asked: Queries, page: int) -> list[Finding]:
    """Explain what the daemon reads all day; `page`: stations of one page. Without a station there is nothing to explain."""
    first = await _first(conn, asked.first_page, {"limit": 1})
    if first is None or first["station_id"] is None:
        return []
    station_id = first["station_id"]
    found = [
        *await _reading(conn, "source.stations", "reading one station", asked.stations, {"ids": [station_id]}),
        *await _reading(conn, "source.connectors", "reading the connectors of one station", asked.connectors, {"ids": [station_id]}),
        *await _paging(conn, asked.next_page, {"after": station_id, "limit": page}),
    ]
    for watch in settings.watch:
        if watch.is_deferred:
            found += await _watching(conn, watch)
    return found or [ok("indexes", "one station, its connectors and a page of stations are read without going through a table")]


async def _reading(conn: Connection, subject: str, doing: str, query: bytes, parameters: Mapping[str, Any]) -> list[Finding]:
    try:
        plan, sizes = await _explained(conn, query, parameters)
    except psycopg.DataError as error:
        return [warning(subject, f"{doing} could not be explained: {one_line(error)}")]
    return [warning(subject, f"{doing} {_goes_through(scan, sizes)}") for scan in _large(whole_reads(plan), sizes)]


async def _paging(conn: Connection, query: bytes, parameters: Mapping[str, Any]) -> list[Finding]:
    plan, sizes = await _explained(conn, query, parameters, avoid=("seqscan", "bitmapscan", "sort"))
    doing = "reading one page of stations"
    whole = _large(whole_reads(plan, in_order=True), sizes)
    found = [warning("source.stations", f"{doing} {_goes_through(scan, sizes)}") for scan in whole]
    for scan in _large(sorted_reads(plan), sizes)[:1]:
        if not found:
            name, rows = sizes[scan.schema, scan.relation]
            text = f"{doing} sorts all of {name} that is behind it ({rows:,} rows): let station_id be a column with an index"
            found.append(warning("source.stations", text))
    return found


async def _watching(conn: Connection, watch: Watch) -> list[Finding]:
    subject = f"watch {watch.table}"
    try:
        one_row = sql.SQL(_sql.one_row.decode()).format(table=sql.SQL(watch.table.replace("%", "%%")))  # as the operator writes it
        row = await _first(conn, one_row.as_bytes(conn), {})
        if row is None:
            return []
        query = affected_query(watch).as_bytes(conn)
        return await _reading(conn, subject, "looking up the stations of one row", query, {"rows": Jsonb([row["row"]]), "limit": 1})
    except psycopg.Error as error:
        return [warning(subject, f"its sub-select could not be explained: {one_line(error)}")]


async def _first(conn: Connection, query: bytes, parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    async with conn.transaction():
        return await (await conn.execute(query, parameters)).fetchone()


async def _explained(
    conn: Connection, query: bytes, parameters: Mapping[str, Any], *, avoid: Sequence[str] = ("seqscan",)
) -> tuple[Node, Sizes]:
    async with conn.transaction():
        for method in avoid:
            await conn.execute(f"SET LOCAL enable_{method} = off".encode())
        row = await (await conn.execute(b"EXPLAIN (VERBOSE, FORMAT JSON) " + query, parameters)).fetchone()
        assert row is not None
        plan: Node = row["QUERY PLAN"][0]["Plan"]
        read = sorted(relations(plan))
        rows = await conn.execute(_sql.relations, {"schemas": [s for s, _ in read], "relations": [r for _, r in read]})
        return plan, {(row["schema"], row["relation"]): (row["name"], row["rows"]) async for row in rows}


def _large(scans: Iterable[Scan], sizes: Sizes) -> Sequence[Scan]:
    return [scan for scan in dict.fromkeys(scans) if sizes.get((scan.schema, scan.relation), ("", 0))[1] > MANY_ROWS]


def _goes_through(scan: Scan, sizes: Sizes) -> str:
    name, rows = sizes[scan.schema, scan.relation]
    if scan.column is None:
        hint = "the condition on station_id does not reach it (behind DISTINCT, a window or a LIMIT, say), or meets an expression"
    else:
        hint = f"this probably helps: CREATE INDEX CONCURRENTLY ON {name} ({scan.column})"
    return f"goes through all of {name} ({rows:,} rows); {hint}"
