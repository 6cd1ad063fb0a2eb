"""What commands share: options, running something asynchronous, showing what was found."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from cdc_pusher.cli import complete
from cdc_pusher.cli.bar import Bar
from cdc_pusher.cli.remedies import did_you_mean
from cdc_pusher.config import Settings
from cdc_pusher.errors import ConfigurationError
from cdc_pusher.plain import plain, plain_json

T = TypeVar("T")

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The configuration; default /etc/cdc-pusher/config.toml, then ./cdc-pusher.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
EmpOption = Annotated[str | None, typer.Option("--emp", metavar="NAME", help="Only this EMP.", autocompletion=complete.emps)]
EmpsOption = Annotated[
    list[str] | None,
    typer.Option("--emp", metavar="NAME", help="For this EMP; may be repeated. Default: all.", autocompletion=complete.emps),
]
AdminDsn = Annotated[
    str | None,
    typer.Option("--dsn", metavar="DSN", help="Connect as an administrator by this connection string (no password in it: use ~/.pgpass)."),
]


def examples(*lines: str) -> str:
    """How the help of a command ends: commands as they are typed, and what they are for behind a `#`."""
    return "\n".join(["Examples:", *(f"$ {line}" for line in lines)])


def run(work: Coroutine[Any, Any, T], bar: Bar | None = None) -> T:
    """Run on uvloop where there is one, with a progress bar once it lasts."""
    if bar is not None:
        work = bar.during(work)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def say(line: str) -> None:
    """Print a line, whatever names of others are in it."""
    typer.echo(plain(line))


def show(found: Any, as_json: bool, render: Callable[[Any, Console], None]) -> None:
    """Print a report, for machines or for people."""
    if as_json:
        typer.echo(plain_json(json.dumps(found, default=str, ensure_ascii=False)))
    else:
        render(found, Console())


def tell(found: Any, as_json: bool, *lines: str) -> None:
    """Print what was done: for machines, or for people in words."""

    def render(_: Any, __: Console) -> None:
        for line in lines:
            say(line)

    show(found, as_json, render)


def emps_of(settings: Settings, wanted: list[str] | None) -> list[str]:
    """The EMPs asked for, all of the configuration if none was named. Raises `ConfigurationError`."""
    emps = wanted or sorted(settings.emp)
    if unknown := sorted(set(emps) - settings.emp.keys()):
        there_is = f"there is {', '.join(sorted(settings.emp)) or 'none'}"
        raise ConfigurationError(f"no EMP {', '.join(unknown)} in the configuration; {there_is}{did_you_mean(unknown[0], settings.emp)}")
    return emps


def require_emp(settings: Settings, emp: str | None) -> None:
    """Raise `ConfigurationError` if an EMP was asked for that the configuration does not have."""
    if emp is not None:
        emps_of(settings, [emp])
