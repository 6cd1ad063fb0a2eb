"""How everything does, for people: what `cdc-pusher status` shows once, and `--watch` again and again.

Draws what `report` has found, and looks at nothing itself.
"""

from collections.abc import Iterator, Mapping

from rich.console import RenderableType
from rich.text import Text

from cdc_pusher.report import Row
from cdc_pusher.show import EMP_STYLES, emp_state, table, text, told

COLUMNS = ("emp", "stations", "statuses", "pending", "held", "rejected", "lag_s")
COUNTS = ("on_their_way", "held", "rejected")


def parts(found: Row, *, before: Row | None = None, per_s: Mapping[str, float] | None = None) -> Iterator[RenderableType]:
    """Progress, lag and problems, what matters most first.

    `before`: what was found at the look before, to show what has changed; `per_s`: what each EMP accepts a second.
    """
    if not found["emps"]:
        yield Text("No EMP is served yet: cdc-pusher run begins the full load.")
    former = {row["emp"]: row for row in before["emps"]} if before else {}
    rows = [_emp(row, former.get(row["emp"])) | {"sent_/s": (per_s or {}).get(row["emp"])} for row in found["emps"]]
    yield table(rows, COLUMNS if per_s is None else (*COLUMNS, "sent_/s"), "Delivered")
    yield Text()
    for row in found["emps"]:
        yield from map(Text, _notes(row))
    yield Text(_waiting(found["changes"]))
    yield from (Text(f"! {text(wrong)}", style="bold yellow") for wrong in _wrongs(found))
    if found["daemons"]:
        yield Text()
        yield table([_daemon(row) for row in found["daemons"]], ("daemon", "version", "started_at", "hears", "does"), "Daemons")
    if found["problems"]:
        yield Text()
        yield table(found["problems"], ("emp", "state", "messages", "reason"), "Problems by reason")
        yield Text("\ncdc-pusher outbox list names them one by one.")


def _emp(row: Row, before: Row | None) -> Row:
    state = emp_state(row)
    counts = {name: _changed(row[name], before[name]) if before else row[name] for name in COUNTS}
    return {
        "emp": Text(f"{text(row['emp'])} ").append(state, style=EMP_STYLES[state]),
        "stations": f"{row['stations_delivered']} of {row['stations']}",
        "statuses": f"{row['statuses_delivered']} of {row['statuses']}",
        "pending": counts["on_their_way"],
        "held": counts["held"],
        "rejected": counts["rejected"],
        "lag_s": Text(f"{text(row['lag_s'])} late", style="bold red") if row.get("is_late") else row["lag_s"],
    }


def _changed(count: int, before: int) -> int | str:
    """A count, and by how much it has changed.

    >>> _changed(3, 3), _changed(3, 5), _changed(3, 0)
    (3, '3 (-2)', '3 (+3)')
    """
    return count if count == before else f"{count} ({count - before:+})"


def _notes(row: Row) -> Iterator[str]:
    """What there is to say of an EMP beside counts."""
    emp = text(row["emp"])
    if row["walk"] and not row["paused_at"]:
        yield f"{emp}: {row['walk']}: {row['walk_stations']} stations so far"
    if row["sweep_completed_at"] or row["healed"]:
        healed = f", {row['healed']} healed in all, last at {text(row['healed_at'])}" if row["healed"] else ""
        yield f"{emp}: last sweep {text(row['sweep_completed_at'])}{healed}"


def _waiting(changes: Row) -> str:
    since = f", since {text(changes['oldest_change_at'])}" if changes["changes"] else ""
    return f"{changes['changes']} changes wait to be captured{since}"


def _wrongs(found: Row) -> Iterator[str]:
    """What somebody has to look at, with what is to be done."""
    for row in found["emps"]:
        match emp_state(row):
            case "paused":
                yield f"{row['emp']} is {told(row)}: cdc-pusher emp resume {row['emp']} goes on"
            case "fails":
                yield f"{row['emp']} {told(row)}; tried again at {text(row['breaker_probe_at'])}"
    if found["unheld"]:
        yield f"no daemon does this: {', '.join(found['unheld'])}; cdc-pusher run does"
    for drift in found["triggers"]:
        yield f"{drift}: changes wait for the sweep; run cdc-pusher migrate"


def _daemon(row: Row) -> Row:
    does = ", ".join(row["leases"]) or "nothing: a spare one"
    return {**row, "does": does, "hears": "NOTIFY" if row["listens"] else "nothing: it polls"}
