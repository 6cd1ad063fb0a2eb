"""What commands share: options, running something asynchronous, showing what was found."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from cdc_pusher.config import Settings
from cdc_pusher.errors import ConfigurationError
from cdc_pusher.plain import plain, plain_json

T = TypeVar("T")

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The configuration; default /etc/cdc-pusher/config.toml, then ./cdc-pusher.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
EmpOption = Annotated[str | None, typer.Option("--emp", metavar="NAME", help="Only this EMP.")]
EmpsOption = Annotated[list[str] | None, typer.Option("--emp", metavar="NAME", help="For this EMP; may be repeated. Default: all.")]
AdminDsn = Annotated[
    str | None,
    typer.Option("--dsn", metavar="DSN", help="Connect as an administrator by this connection string (no password in it: use ~/.pgpass)."),
]


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where there is one."""
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


def emps_of(settings: Settings, wanted: list[str] | None) -> list[str]:
    """The EMPs asked for, all of the configuration if none was named. Raises `ConfigurationError`."""
    emps = wanted or sorted(settings.emp)
    if unknown := sorted(set(emps) - settings.emp.keys()):
        raise ConfigurationError(f"no EMP {', '.join(unknown)} in the configuration; there is {', '.join(sorted(settings.emp)) or 'none'}")
    return emps


def require_emp(settings: Settings, emp: str | None) -> None:
    """Raise `ConfigurationError` if an EMP was asked for that the configuration does not have."""
    if emp is not None:
        emps_of(settings, [emp])
