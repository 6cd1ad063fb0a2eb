"""How reports look on a terminal. Values from the database are shown as text, never as markup or control characters.

Colour only underlines what words say already; rich leaves it out where there is no terminal, or NO_COLOR is set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from cdc_pusher.report import Row

STYLES = {"delivered": "green", "in_flight": "cyan", "held": "yellow", "rejected": "bold red"}
"""Of the states of a message."""
EMP_STYLES = {"works": "green", "paused": "yellow", "fails": "bold red"}
WORD = 16  # characters that no column is made narrower than, if it has a word of so many
PROSE = {"reason": 10, "error": 10, "name": 10, "meaning": 10, "does": 10, "confirmed": 10}  # the same of sentences, which can be broken


ROOM = 20  # characters more that reasons need to be read


class _OfHowMany(MofNCompleteColumn):
    """How much is done, where it is known of how much."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.total is not None else Text()


def progress(console: Console | None = None, *, disable: bool = False, transient: bool = False) -> Progress:
    """The progress bar of everything that lasts."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), _OfHowMany(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=disable, transient=transient, redirect_stdout=False, redirect_stderr=False)


@dataclass(frozen=True, slots=True)
class Report:
    """Rows as a table; numbers to the right, and no word broken unless there is no other way. A cell that is `Text` keeps its style."""

    rows: Sequence[Row]
    columns: Sequence[str]
    title: str

    def narrowest(self) -> int:
        """How many characters it takes to break no word."""
        return sum(map(self._narrowest, self.columns)) + 3 * (len(self.columns) - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fits = self.narrowest() <= options.max_width
        drawn = Table(title=self.title, title_justify="left", show_edge=False, pad_edge=False, header_style="bold")
        for column in self.columns:
            numeric = any(isinstance(row[column], int | float) and not isinstance(row[column], bool) for row in self.rows)
            least = self._narrowest(column) if fits else None
            drawn.add_column(_header(column), justify="right" if numeric else "left", overflow="fold", min_width=least)
        for row in self.rows:
            drawn.add_row(*(_cell(column, row[column]) for column in self.columns))
        yield drawn

    def _narrowest(self, column: str) -> int:
        words = [word for value in (_header(column), *(row[column] for row in self.rows)) for word in text(value).split()]
        return min(PROSE.get(column, WORD), max(map(len, words)))


def _header(column: str) -> str:
    return column.replace("_", " ")


def table(rows: Sequence[Row], columns: Sequence[str], title: str) -> Report:
    """Rows as a table, for any width."""
    return Report(rows, columns, title)


def _cell(column: str, value: Any) -> Text:
    if isinstance(value, Text):
        return value
    style = STYLES.get(value if column == "state" else column if value else "", "")
    return Text(text(value), style=style)


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


def cpos(rows: Sequence[Row], console: Console) -> None:
    """CPOs and whether the EMPs know them."""
    shown = [{**row, "confirmed": row["confirmed_at"] or _unconfirmed(row)} for row in rows]
    console.print(table(shown, ("emp", "cpo", "name", "cpo_id", "stations", "confirmed"), "CPOs"))


def _unconfirmed(row: Row) -> Text:
    return Text(f"no: {'cdc-pusher cpo confirm' if row['cpo_id'] else 'no cpo-id'}", style="yellow")


def entries(rows: Sequence[Row], console: Console) -> None:
    """Rows of the outbox; where a table has no room for the reasons, one below the other."""
    if not rows:
        console.print("Nothing: all is delivered.")
        return
    drawn = table(rows, ("emp", "kind", "key", "station_id", "state", "attempts", "changed_at", "reason"), "Outbox")
    if drawn.narrowest() + ROOM <= console.width:
        console.print(drawn)
        return
    for row in rows:
        since = f" since {text(row['changed_at'])}" if row["changed_at"] else ""
        after = f" after {row['attempts']} attempts" if row["attempts"] else ""
        of = f" of {text(row['station_id'])}" if row["kind"] == "status" else ""
        told = Text(f"{text(row['emp'])} {row['kind']} {text(row['key'])}{of}: ").append(_cell("state", row["state"])).append(since + after)
        console.print(told)
        if row["reason"]:
            console.print(Padding(Text(text(row["reason"])), (0, 0, 0, 2)))


def emps(rows: Sequence[Row], console: Console) -> None:
    """The EMPs and how they do."""
    shown = [{**row, "state": _told(row), "pending": row["on_their_way"]} for row in rows]
    console.print(table(shown, ("emp", "state", "stations", "statuses", "pending", "held", "rejected"), "EMPs"))


def _told(row: Row) -> Text:
    return Text(text(told(row)), style=EMP_STYLES.get(emp_state(row), "dim"))


def emp_state(row: Row) -> str:
    """How an EMP does, in a word or two."""
    if not row.get("served", True):
        return "in no configuration"
    if row["paused_at"]:
        return "paused"
    return "fails" if row["breaker_reason"] else "works"


def told(row: Row) -> str:
    """How an EMP does, since when, and why."""
    match state := emp_state(row):
        case "paused":
            return f"paused since {text(row['paused_at'])}"
        case "fails":
            return f"fails since {text(row['breaker_open_since'])}: {row['breaker_reason']}"
    return state


def entity(found: Row, console: Console) -> None:
    """One station or EVSE."""
    for station_id, columns_told in found["database"].items():
        console.print(Text(f"database · station · {text(station_id)}", style="bold"))
        for name, value in columns_told.items() if isinstance(columns_told, dict) else [("", columns_told)]:
            for line in value if isinstance(value, list) else [value]:
                console.print(Text(f"  {name:<17} {text(line)}"))
    for row in found["rows"]:
        console.print(Text(text(f"{row['emp']} · {row['kind']} · {row['key']}"), style="bold"))
        for name, value in row.items():
            if value is not None and name not in ("emp", "kind", "key"):
                console.print(Text(f"  {name:<17} ").append(_cell(name, value)))
    attempts = [{**row, "ms": row["duration_ms"], "http": row["http_status"], "code": row["result_code"]} for row in found["attempts"]]
    console.print(table(attempts, ("sent_at", "emp", "gen", "ms", "outcome", "http", "code", "error"), "Last requests"))
