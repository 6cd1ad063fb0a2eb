"""Commands of every day: `run`, `status`, `resync`, `outbox`."""

import asyncio
from typing import Annotated

import typer

from cdc_pusher import config, daemon, enqueue, logs, report, show, triggers
from cdc_pusher.cli.options import ConfigFile, EmpOption, EmpsOption, Json, emps_of, require_emp, run
from cdc_pusher.cli.options import show as show_report
from cdc_pusher.database import Connection, connect
from cdc_pusher.errors import CdcPusherError, ConfigurationError
from cdc_pusher.reconcile import Resend

app = typer.Typer()
outbox_app = typer.Typer(no_args_is_help=True, help="Look into the outbox.")


@app.command("run")
def _daemon(config_file: ConfigFile = None) -> None:
    """The daemon: deliver until SIGTERM."""
    settings = config.load(config_file)
    logs.configure()
    run(daemon.run(settings))


@app.command()
def status(config_file: ConfigFile = None, emp: EmpOption = None, as_json: Json = False) -> None:
    """Progress, lag and problems for each EMP."""
    settings = config.read(config_file)
    require_emp(settings, emp)

    async def read() -> report.Row:
        async with await connect(settings.database.dsn, "status") as conn:
            drift = await triggers.verify(conn, settings.source.watch)
            return {**await report.status(conn, emp), "triggers": drift}

    show_report(run(read()), as_json, show.status)


@app.command()
def resync(
    config_file: ConfigFile = None,
    emp: EmpsOption = None,
    station: Annotated[list[str] | None, typer.Option("--station", metavar="ID", help="This station; may be repeated.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every station.")] = False,
    statuses: Annotated[bool, typer.Option("--statuses", help="With --force: the statuses only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Send even what the EMP has acknowledged.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress, and end when everything is sent.")] = False,
) -> None:
    """Compare stations with what the EMPs have, and send what differs, was rejected or is uncertain; with --force everything."""
    settings = config.read(config_file)
    if everything == bool(station):
        raise ConfigurationError("say which stations: --station ID, or --all")
    emps = emps_of(settings, emp)
    resend: Resend = "undelivered" if not force else "statuses" if statuses else "everything"

    async def order() -> None:
        async with await connect(settings.database.dsn, "resync") as conn:
            await enqueue.resync(conn, emps, station or [], resend)
            if wait:
                await _wait(conn, emps)

    run(order())
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
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most this many rows.")] = 100,
    as_json: Json = False,
) -> None:
    """What is in the outbox, problems first; without --state what is not delivered."""
    known = ("pending", "in_flight", "delivered", "held", "rejected")
    if unknown := sorted(set(state or ()) - set(known)):
        raise ConfigurationError(f"no such state: {', '.join(unknown)}; there is {', '.join(known)}")
    settings = config.read(config_file)
    require_emp(settings, emp)

    async def read() -> list[report.Row]:
        async with await connect(settings.database.dsn, "outbox") as conn:
            return await report.entries(conn, emp=emp, states=state or [s for s in known if s != "delivered"], limit=limit)

    show_report(run(read()), as_json, show.entries)


@outbox_app.command("show")
def outboxshow_report(
    key: Annotated[str, typer.Argument(metavar="STATION|EVSE")],
    config_file: ConfigFile = None,
    emp: EmpOption = None,
    as_json: Json = False,
) -> None:
    """The story of one station or EVSE: what the EMP should have, what it has, and the last requests."""
    settings = config.read(config_file)
    require_emp(settings, emp)

    async def read() -> report.Row:
        async with await connect(settings.database.dsn, "outbox") as conn:
            return await report.entity(conn, key, emp)

    found = run(read())
    if not found["rows"]:
        raise CdcPusherError(f"the outbox has no station or EVSE '{key}'")
    show_report(found, as_json, show.entity)
