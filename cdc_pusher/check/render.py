"""How findings look on a terminal: a mark and a word, the subject, a line that wraps, and examples beneath. Needs no colour."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cdc_pusher.check.finding import Finding, Level, number

_STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "bold red"}
_MARKS: dict[Level, str] = {"ok": "✓", "warning": "!", "problem": "✗"}
_PLAIN_MARKS: dict[Level, str] = {"ok": "+", "warning": "!", "problem": "x"}


def show(findings: Sequence[Finding], console: Console) -> None:
    """All findings, and how many are bad."""
    marks = _MARKS if console.encoding.startswith("utf") else _PLAIN_MARKS
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold", max_width=32)
    drawn.add_column(overflow="fold")
    for finding in findings:
        text = Text(finding.text)
        for example in finding.examples:
            text.append(f"\n  {example}", style="dim")
        drawn.add_row(Text(f"{marks[finding.level]} {finding.level}", style=_STYLES[finding.level]), Text(finding.subject), text)
    console.print(drawn)
    problems, warnings = (sum(finding.level == level for finding in findings) for level in ("problem", "warning"))
    console.print(f"\n{number(problems, 'problem')}, {number(warnings, 'warning')}")
