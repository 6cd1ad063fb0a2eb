"""What is held or rejected, with its reason in words, one by one and by reason."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cdc_pusher.monitor.looking import Eyes, rows, sql

MOST = 10_000  # messages that are looked at
PAGE = 200  # messages that are shown
GROUPS = 50

_VALUES = re.compile(r"'[^']*'|\"[^\"]*\"|[A-Z]{2}\*[A-Z0-9*]+")


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
    """`found` were found, or more (`are_more`: beyond `MOST`); the first `PAGE` of them are shown."""

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
    async with eyes.connection() as conn:
        found = await rows(conn, sql.problems, emps=eyes.emps(emp), state=state, kind=kind, limit=MOST + 1)
    wanted = (text or "").casefold()
    problems = [Problem(**row) for row in found[:MOST] if wanted in f"{row['reason']} {row['key']} {row['station_id']}".casefold()]
    return Problems(found=len(problems), are_more=len(found) > MOST, groups=_groups(problems), problems=problems[:PAGE])


def _groups(problems: Sequence[Problem]) -> list[Group]:
    counts: Counter[tuple[str, Literal["held", "rejected"], str]] = Counter()
    examples: dict[object, str] = {}
    for one in problems:
        group = one.emp, one.state, without_values(one.reason)
        counts[group] += 1
        examples.setdefault(group, one.reason)
    return [
        Group(emp=emp, state=state, reason=reason, messages=count, example=examples[emp, state, reason])
        for (emp, state, reason), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:GROUPS]
    ]


def without_values(reason: str) -> str:
    """What is alike in reasons that name a value each.

    >>> without_values("country: 'X' is no assigned ISO 3166-1 code"), without_values("DE*8PS*E1 is at station 7")
    ('country: … is no assigned ISO 3166-1 code', '… is at station 7')
    """
    return _VALUES.sub("…", reason)
