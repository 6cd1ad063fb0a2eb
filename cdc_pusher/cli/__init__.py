"""The command line: thin. Every command loads the configuration, calls one function and prints what it returns.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a check found problems, 130 interrupted.
An error is one line on standard error that says what to do, and so is progress: what is printed is the report, with `--json` for machines.
"""

import io
import os
import sys
from typing import Annotated, NoReturn, TextIO

import psycopg
import typer

from cdc_pusher import __version__, revision
from cdc_pusher.cli import cpo, emp, operate, remedies, setup, trial
from cdc_pusher.database import one_line
from cdc_pusher.errors import CdcPusherError, ConfigurationError
from cdc_pusher.names import SCHEMA
from cdc_pusher.plain import plain

app = typer.Typer(name="cdc-pusher", no_args_is_help=True, pretty_exceptions_enable=False)
for part in (setup.app, operate.app, trial.app):
    app.add_typer(part)
app.add_typer(operate.outbox_app, name="outbox")
app.add_typer(cpo.app, name="cpo")
app.add_typer(emp.app, name="emp")


def main() -> None:
    """The console script."""
    sys.stdout, sys.stderr = written_whole(sys.stdout), written_whole(sys.stderr)
    try:
        app()
    except CdcPusherError as error:
        _fail(f"{error}{remedies.of_error(error)}", error.exit_code)
    except psycopg.Error as error:
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName) and SCHEMA in str(error):
            _fail(f"{revision.NO_SCHEMA} ({one_line(error)})", ConfigurationError.exit_code)
        _fail(f"the database said: {one_line(error)}{remedies.of_error(error)}", 1)
    except BrokenPipeError:
        sys.exit(1)
    except UnicodeError as error:
        _fail(f"not valid text: {one_line(error)}", 2)
    except OSError as error:
        _give_up_output()
        _fail(f"{one_line(error)}{remedies.of_error(error)}", 1)


def written_whole(stream: TextIO) -> TextIO:
    """The stream, buffered by the line if it was not at all: `PYTHONUNBUFFERED` forgets what a pipe does not take at once.

    Both write to the same file, and whichever goes first closes it.
    """
    raw = getattr(stream, "buffer", None)  # a closed standard output is None
    if not isinstance(raw, io.RawIOBase):
        return stream
    return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, stream.errors, line_buffering=True)


def _give_up_output() -> None:
    """What standard output does not take (the disk is full) is not tried again at the end, where Python would end otherwise than we say."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"cdc-pusher: {plain(message)}", file=sys.stderr)  # noqa: T201  # the one line that an error is
    sys.exit(exit_code)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"cdc-pusher {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Keeps every e-mobility provider exactly as informed as the charge point operator's own Postgres database."""
