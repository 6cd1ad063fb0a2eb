"""How reports look on a terminal. Values from the database are shown as text, never as markup or control characters."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cdc_pusher.report import Row


def progress(console: Console | None = None, *, disable: bool = False) -> Progress:
    """The progress bar of everything that lasts."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=disable)


def table(rows: Sequence[Row], columns: Sequence[str], title: str) -> Table:
    """Rows as a table; numbers to the right."""
    drawn = Table(title=title, title_justify="left", show_edge=False, header_style="bold")
    for column in columns:
        numeric = any(isinstance(row[column], int | float) and not isinstance(row[column], bool) for row in rows)
        drawn.add_column(column.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(text(row[column])) for column in columns))
    return drawn


def text(value: Any) -> str:
    """One value in a cell.

    >>> text(None), text("a\\x1b[31mb"), text(3.14159)
    ('', 'a [31mb', '3.1')
    """
    match value:
        case None:
            return ""
        case datetime():
            return value.strftime("%Y-%m-%d %H:%M:%S")
        case float():
            return f"{value:.1f}"
    return "".join(c if c.isprintable() else " " for c in str(value))


def status(found: Row, console: Console) -> None:
    """Progress, lag and problems."""
    if not found["emps"]:
        console.print("No EMP is served yet: cdc-pusher run begins the full load.")
    rows = [
        {
            **row,
            "stations": f"{row['stations_delivered']} of {row['stations']}",
            "statuses": f"{row['statuses_delivered']} of {row['statuses']}",
            "pending": row["on_their_way"],
            "walk": _walk(row),
            "last_sweep": _last_sweep(row),
        }
        for row in found["emps"]
    ]
    console.print(table(rows, ("emp", "stations", "statuses", "pending", "held", "rejected", "lag_s", "walk", "last_sweep"), "Delivered"))
    waiting = found["changes"]
    console.print(
        f"\n{waiting['changes']} changes wait to be captured"
        + (f", since {text(waiting['oldest_change_at'])}" if waiting["changes"] else "")
    )
    for row in found["emps"]:
        if row["breaker_reason"] and not row["paused_at"]:
            console.print(Text(f"! {text(row['emp'])} {text(_state(row))}; tried again at {text(row['breaker_probe_at'])}", style="bold"))
    console.print()
    if found["daemons"]:
        daemons = [
            {
                **row,
                "does": ", ".join(row["leases"]) or "nothing: a spare one",
                "hears": "NOTIFY" if row["listens"] else "nothing: it polls",
            }
            for row in found["daemons"]
        ]
        console.print(table(daemons, ("daemon", "version", "started_at", "hears", "does"), "Daemons"))
    if found["unheld"]:
        console.print(Text(f"! no daemon does this: {text(', '.join(found['unheld']))}; cdc-pusher run does", style="bold"))
    for drift in found["triggers"]:
        console.print(Text(f"! {text(drift)}: changes wait for the sweep; run cdc-pusher migrate", style="bold"))
    if found["problems"]:
        console.print()
        console.print(table(found["problems"], ("emp", "state", "messages", "reason"), "Problems by reason"))
        console.print("\ncdc-pusher outbox list names them one by one.")


def _walk(row: Row) -> str:
    if row["paused_at"]:
        return "paused"
    return f"{row['walk']}: {row['walk_stations']} stations so far" if row["walk"] else ""


def _last_sweep(row: Row) -> str:
    """When it was through, and what sweeps have found so far that no trigger had told of."""
    healed = f", {row['healed']} healed in all, last at {text(row['healed_at'])}" if row["healed"] else ""
    return text(row["sweep_completed_at"]) + healed


def cpos(rows: Sequence[Row], console: Console) -> None:
    """CPOs and whether the EMPs know them."""
    shown = [
        {**row, "confirmed": row["confirmed_at"] or f"no: {'cdc-pusher cpo confirm' if row['cpo_id'] else 'no cpo-id'}"} for row in rows
    ]
    console.print(table(shown, ("emp", "cpo", "name", "cpo_id", "stations", "confirmed"), "CPOs"))


def entries(rows: Sequence[Row], console: Console) -> None:
    """Rows of the outbox."""
    if not rows:
        console.print("Nothing: all is delivered.")
        return
    console.print(table(rows, ("emp", "kind", "key", "station_id", "state", "attempts", "changed_at", "reason"), "Outbox"))


def emps(rows: Sequence[Row], console: Console) -> None:
    """The EMPs and how they do."""
    shown = [{**row, "state": _state(row), "pending": row["on_their_way"]} for row in rows]
    console.print(table(shown, ("emp", "state", "stations", "statuses", "pending", "held", "rejected"), "EMPs"))


def _state(row: Row) -> str:
    if not row.get("served", True):
        return "in no configuration"
    if row["paused_at"]:
        return f"paused since {text(row['paused_at'])}"
    return f"fails since {text(row['breaker_open_since'])}: {row['breaker_reason']}" if row["breaker_reason"] else "works"


def entity(found: Row, console: Console) -> None:
    """One station or EVSE."""
    for station_id, told in found["database"].items():
        console.print(Text(f"database · station · {text(station_id)}", style="bold"))
        for name, value in told.items() if isinstance(told, dict) else [("", told)]:
            for line in value if isinstance(value, list) else [value]:
                console.print(Text(f"  {name:<17} {text(line)}"))
    for row in found["rows"]:
        console.print(Text(text(f"{row['emp']} · {row['kind']} · {row['key']}"), style="bold"))
        for name, value in row.items():
            if value is not None and name not in ("emp", "kind", "key"):
                console.print(Text(f"  {name:<17} {text(value)}"))
    columns = ("sent_at", "emp", "kind", "gen", "duration_ms", "outcome", "http_status", "result_code", "error")
    console.print(table(found["attempts"], columns, "Last requests"))
