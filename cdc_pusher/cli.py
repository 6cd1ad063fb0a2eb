"""The command line: thin. Every command loads the configuration, calls one function and prints what it returns.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 a check found problems, 130 interrupted.
An error is one line on standard error.
"""

import asyncio
import json
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import psycopg
import typer
from rich.console import Console

from cdc_pusher import __version__, config, daemon, enqueue, logs, migrate, report, show, triggers
from cdc_pusher.database import Connection, connect, one_line
from cdc_pusher.errors import CdcPusherError, ConfigurationError
from cdc_pusher.reconcile import Resend
from cdc_pusher.schema import SCHEMA

T = TypeVar("T")

app = typer.Typer(
    name="cdc-pusher",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help=__doc__ and "Keeps EMPs as informed as the CPO's database.",
)
outbox_app = typer.Typer(no_args_is_help=True, help="Look into the outbox.")
app.add_typer(outbox_app, name="outbox")

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The configuration; default /etc/cdc-pusher/config.toml, then ./cdc-pusher.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
EmpOption = Annotated[str | None, typer.Option("--emp", metavar="NAME", help="Only this EMP.")]


def main() -> None:
    """The console script."""
    try:
        app()
    except CdcPusherError as error:
        _fail(str(error), error.exit_code)
    except psycopg.Error as error:
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName) and SCHEMA in str(error):
            _fail(migrate.NO_SCHEMA, ConfigurationError.exit_code)
        _fail(f"the database said: {one_line(error)}", 1)
    except BrokenPipeError:
        sys.exit(1)


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"cdc-pusher: {message}", file=sys.stderr)  # noqa: T201  # the one line that an error is
    sys.exit(exit_code)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run on uvloop where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"cdc-pusher {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Keeps every e-mobility provider exactly as informed as the charge point operator's own Postgres database."""


@app.command("migrate")
def _migrate(config_file: ConfigFile = None) -> None:
    """Create or upgrade the schema cdc_pusher and attach the triggers. Safe to repeat; the CPO's writers wait for no more than 0.2 s."""
    settings = config.load(config_file)
    migrate.to(settings.database.dsn)
    typer.echo(f"schema cdc_pusher is at revision {migrate.head()}")

    async def attach() -> list[str]:
        async with await connect(settings.database.dsn, "migrate") as conn:
            return await triggers.attach(conn, settings.source.watch)

    for line in _run(attach()) or ["triggers are attached as configured"]:
        typer.echo(line)


@app.command("run")
def _daemon(config_file: ConfigFile = None) -> None:
    """The daemon: deliver until SIGTERM."""
    settings = config.load(config_file)
    logs.configure()
    _run(daemon.run(settings))


@app.command()
def status(config_file: ConfigFile = None, emp: EmpOption = None, as_json: Json = False) -> None:
    """Progress, lag and problems for each EMP."""
    settings = config.load(config_file)

    async def read() -> report.Row:
        async with await connect(settings.database.dsn, "status") as conn:
            return await report.status(conn, emp)

    _show(_run(read()), as_json, show.status)


@app.command()
def resync(
    config_file: ConfigFile = None,
    emp: Annotated[list[str] | None, typer.Option("--emp", metavar="NAME", help="For this EMP; may be repeated. Default: all.")] = None,
    station: Annotated[list[str] | None, typer.Option("--station", metavar="ID", help="This station; may be repeated.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every station.")] = False,
    statuses: Annotated[bool, typer.Option("--statuses", help="With --force: the statuses only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Send even what the EMP has acknowledged.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress, and end when everything is sent.")] = False,
) -> None:
    """Compare stations with what the EMPs have, and send what differs, was rejected or is uncertain; with --force everything."""
    settings = config.load(config_file)
    if everything == bool(station):
        raise ConfigurationError("say which stations: --station ID, or --all")
    emps = emp or sorted(settings.emp)
    if unknown := sorted(set(emps) - settings.emp.keys()):
        raise ConfigurationError(f"no EMP {', '.join(unknown)} in the configuration; there is {', '.join(sorted(settings.emp)) or 'none'}")
    resend: Resend = "undelivered" if not force else "statuses" if statuses else "everything"

    async def order() -> None:
        async with await connect(settings.database.dsn, "resync") as conn:
            await enqueue.resync(conn, emps, station or [], resend)
            if wait:
                await _wait(conn, emps)

    _run(order())
    typer.echo(f"{'done' if wait else 'ordered'}: {', '.join(station or ['every station'])} for {', '.join(emps)}")


async def _wait(conn: Connection, emps: list[str]) -> None:
    with show.progress() as progress:
        task = progress.add_task("resync", total=None)
        most = 0
        while True:
            left = await report.remaining(conn, emps)
            todo = left["changes"] + left["messages"]
            most = max(most, todo)
            if not left["walks"] and not todo:
                return
            progress.update(
                task, total=most or None, completed=most - todo, description=f"{left['walked']} stations looked at, {todo} to do"
            )
            await asyncio.sleep(0.2)


@outbox_app.command("list")
def outbox_list(
    config_file: ConfigFile = None,
    emp: EmpOption = None,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="pending, in_flight, delivered, held or rejected; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many rows.")] = 100,
    as_json: Json = False,
) -> None:
    """What is in the outbox, problems first; without --state what is not delivered."""
    known = ("pending", "in_flight", "delivered", "held", "rejected")
    if unknown := sorted(set(state or ()) - set(known)):
        raise ConfigurationError(f"no such state: {', '.join(unknown)}; there is {', '.join(known)}")
    settings = config.load(config_file)

    async def read() -> list[report.Row]:
        async with await connect(settings.database.dsn, "outbox") as conn:
            return await report.entries(conn, emp=emp, states=state or [s for s in known if s != "delivered"], limit=limit)

    _show(_run(read()), as_json, show.entries)


@outbox_app.command("show")
def outbox_show(
    key: Annotated[str, typer.Argument(metavar="STATION|EVSE")],
    config_file: ConfigFile = None,
    emp: EmpOption = None,
    as_json: Json = False,
) -> None:
    """The story of one station or EVSE: what the EMP should have, what it has, and the last requests."""
    settings = config.load(config_file)

    async def read() -> report.Row:
        async with await connect(settings.database.dsn, "outbox") as conn:
            return await report.entity(conn, key, emp)

    found = _run(read())
    if not found["rows"]:
        raise CdcPusherError(f"the outbox has no station or EVSE '{key}'")
    _show(found, as_json, show.entity)


@app.command()
def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 8099,
    api_key: Annotated[str, typer.Option(envvar="CDC_PUSHER_SANDBOX_API_KEY", help="The key that it accepts.")] = "sandbox-key",
    partner_identifier: Annotated[str, typer.Option(help="The partner that it knows.")] = "sandbox-partner-0001",
    connectors_may_change: Annotated[bool, typer.Option(help="Allow the connectors of a known station to change.")] = False,
    seed: Annotated[int, typer.Option(help="For the faults.")] = 0,
    faults: Annotated[str, typer.Option(metavar="JSON", help="Misbehave by these rules; see docs/sandbox.md.")] = "[]",
) -> None:
    """A strict OIOI EMP to test against; GET /stations, /stats, /ledger show what it was told, PUT /faults makes it misbehave."""
    from cdc_pusher.sandbox import SandboxSettings, serve

    try:
        rules = tuple(json.loads(faults))
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"--faults: not a JSON list: {one_line(error)}") from error
    settings = SandboxSettings(
        host=host,
        port=port,
        api_key=api_key,
        partner_identifier=partner_identifier,
        connectors_may_change=connectors_may_change,
        seed=seed,
        faults=rules,
    )
    _run(serve(settings, announce=lambda line: typer.echo(line)))


@app.command()
def demo(
    stations: Annotated[int, typer.Option(min=10, max=20_000, help="Stations to begin with.")] = 500,
    seed: Annotated[int, typer.Option(help="For the stations and the traffic.")] = 1,
) -> None:
    """The whole thing on an embedded Postgres and a sandbox EMP: nothing to set up, nothing left behind."""
    from cdc_pusher import demo as demonstration

    differences = _run(demonstration.run(stations=stations, seed=seed))
    if differences:
        raise typer.Exit(1)


def _show(found: Any, as_json: bool, render: Any) -> None:
    if as_json:
        typer.echo(json.dumps(found, default=str, ensure_ascii=False))
    else:
        render(found, Console())


if __name__ == "__main__":
    main()
