"""The help of every command ends with examples, and they are true."""

import shlex
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import pytest
import typer

from cdc_pusher import cli

PROGRAM = "cdc-pusher"


def leaves(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its words."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = [path for path, _ in leaves(typer.main.get_command(cli.app))]


def words(line: str) -> list[str]:
    """A line as a shell reads it, up to a pipe, and without what stands behind a #."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|>")
    lexer.whitespace_split = True
    return list(takewhile(lambda word: word not in ("|", ">"), lexer))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_examples_in_the_help_are_accepted(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """By the command that they stand in: parsed from end to end, and not run."""
    program = typer.main.get_command(cli.app)
    program.main([*path, "--help"], prog_name=PROGRAM, standalone_mode=False)
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    examples = [words(line.removeprefix("$ ")) for line in shown if line.startswith("$ ")]
    assert examples, shown
    assert all(len(line) <= 78 for line in shown if line.startswith("$ ")), "none is broken at 80 columns"
    called = []
    dict(leaves(program))[path].callback = lambda **given: called.append(given)
    for example in examples:
        assert example[0] == PROGRAM
        program.main(example[1:], prog_name=PROGRAM, standalone_mode=False)
    assert len(called) == len(examples)
