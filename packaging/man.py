"""Prints the man page: `cdc-pusher.1.in`, with the commands and options that the command line itself tells of.

Run by the Python that has `cdc_pusher` installed; the date is that of SOURCE_DATE_EPOCH, so that the same source makes the same page.
"""

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from cdc_pusher import __version__
from cdc_pusher.cli import app

PROGRAM = "cdc-pusher"
FRAME = Path(__file__).with_name("cdc-pusher.1.in")


def page(frame: str, date: str) -> str:
    """The frame, filled in."""
    program = typer.main.get_command(app)
    parts = {
        "DATE": date,
        "VERSION": roff(__version__),
        "OPTIONS": "\n".join(parameters(program)),
        "COMMANDS": "\n".join(commands(program, PROGRAM)),
    }
    for name, text in parts.items():
        frame = frame.replace(f"@{name}@", text)
    return frame


def commands(group: Any, path: str) -> Iterator[str]:
    """A subsection for each command below `group`, with its examples, those of its groups after their group."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        usage = command.collect_usage_pieces(typer.Context(command, info_name=name))
        yield f'.SS "{roff(" ".join((path, name, *usage)))}"'
        yield roff(command.help or "")
        yield from parameters(command)
        if command.epilog:
            yield "\n".join([".PP", ".nf", *(roff(line.replace("\\[", "[")) for line in command.epilog.splitlines()), ".fi"])
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")


def parameters(command: Any) -> Iterator[str]:
    """A tagged paragraph for each argument and option of a command, but for `--help` of a subcommand, which all have."""
    context = typer.Context(command)
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or (command.name != PROGRAM and "--help" in parameter.opts):
            continue
        names, text = record
        yield f".TP\n.B {roff(names)}\n{roff(text)}"


def roff(text: str) -> str:
    r"""Plain text as one line of roff.

    >>> print(roff("'-1' is\n.5 \\ 2"))
    \&'\-1' is .5 \e 2
    """
    line = " ".join(text.split()).replace("\\", r"\e").replace("-", r"\-").replace('"', r"\(dq")
    return rf"\&{line}" if line.startswith((".", "'")) else line


if __name__ == "__main__":
    when = datetime.fromtimestamp(int(os.environ["SOURCE_DATE_EPOCH"]), UTC)
    sys.stdout.write(page(FRAME.read_text(encoding="utf-8"), f"{when:%Y-%m-%d}"))
