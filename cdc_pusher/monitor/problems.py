"""What is held or rejected, with its reason in words, one by one and by reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cdc_pusher.monitor.looking import Eyes, rows, sql

MOST = 10_000  # messages of one EMP that are counted
PAGE = 200  # messages that are shown
GROUPS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One message that is not delivered until somebody does something."""

    emp: str
    kind: Literal["station", "status"]
    key: str
    station_id: str
    state: Literal["held", "rejected"]
    reason: str
    attempts: int
    since: datetime
    last_http_status: int | None
    last_result_code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Problems of one EMP with one reason, but for the values in it; `example` is one of them."""

    emp: str
    state: Literal["held", "rejected"]
    reason: str
    messages: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Problems:
    """`found` were found, or more (`are_more`: of an EMP that has more than `MOST`); the first `PAGE` of them are shown."""

    found: int
    are_more: bool
    groups: Sequence[Group]
    problems: Sequence[Problem]


async def look(
    eyes: Eyes,
    emp: str | None = None,
    state: Literal["held", "rejected"] | None = None,
    kind: Literal["station", "status"] | None = None,
    text: str | None = None,
) -> Problems:
    """What is held or rejected: for an EMP, in a state, of a kind, with a text in its reason or its key."""
    wanted: dict[str, object] = {"emps": eyes.emps(emp), "state": state, "kind": kind, "text": text or ""}
    async with eyes.connection() as conn:
        groups = await rows(conn, sql.problem_groups, **wanted, most=MOST, groups=GROUPS)
        problems = await rows(conn, sql.problems, **wanted, limit=PAGE)
    found, are_more = (groups[0]["found"], groups[0]["are_more"]) if groups else (0, False)
    return Problems(
        found=found,
        are_more=are_more,
        groups=[Group(**{name: row[name] for name in ("emp", "state", "reason", "messages", "example")}) for row in groups],
        problems=[Problem(**row) for row in problems],
    )
