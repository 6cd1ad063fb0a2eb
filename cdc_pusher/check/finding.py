"""What a check has found: one line, with examples. Pure.

Whatever comes from the database or a server passes through `line` before it stands in a finding, so that neither a terminal nor JSON can
trip over it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "warning", "problem"]

EXAMPLES = 3  # of one finding, unless all are asked for
TEXT_LIMIT = 1_000  # characters
EXAMPLE_LIMIT = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; `text` is a line, which for a problem says what to do; `count`: how often it was found."""

    level: Level
    subject: str
    text: str
    count: int | None = None
    examples: tuple[str, ...] = ()


def ok(subject: str, text: str, *, count: int | None = None, examples: Iterable[str] = ()) -> Finding:
    """All is well."""
    return _finding("ok", subject, text, count, examples)


def warning(subject: str, text: str, *, count: int | None = None, examples: Iterable[str] = ()) -> Finding:
    """It works, but somebody should know."""
    return _finding("warning", subject, text, count, examples)


def problem(subject: str, text: str, *, count: int | None = None, examples: Iterable[str] = ()) -> Finding:
    """It does not work, or not for some stations."""
    return _finding("problem", subject, text, count, examples)


def _finding(level: Level, subject: str, text: str, count: int | None, examples: Iterable[str]) -> Finding:
    shown = tuple(line(example, EXAMPLE_LIMIT) for example in examples)
    return Finding(level=level, subject=line(subject), text=line(text, TEXT_LIMIT), count=count, examples=shown)


def line(value: object, limit: int = 100) -> str:
    """Printable characters only, no more than `limit`.

    >>> line("a\\x1b[31m\\nb"), line("x" * 200, 5)
    ('a [31m b', 'xxxx…')
    """
    text = str(value)
    text = "".join(c if c.isprintable() else " " for c in text[: limit + 1])
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def number(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> number(1, "station"), number(12000, "station"), number(2, "has", "have")
    ('1 station', '12,000 stations', '2 have')
    """
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def is_wrong(findings: Iterable[Finding]) -> bool:
    """Whether there is any problem: exit code 3."""
    return any(finding.level == "problem" for finding in findings)


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """For machines: `ok`, and all findings."""
    found = list(findings)
    return {"ok": not is_wrong(found), "findings": [asdict(finding) for finding in found]}
