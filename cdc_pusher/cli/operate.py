"""Commands of every day: `run`, `status`, `resync`, `outbox`."""

import asyncio
from typing import Annotated

import typer

from cdc_pusher import config, daemon, enqueue, logs, report, secrecy, show, triggers
from cdc_pusher.cli.options import ConfigFile, EmpOption, EmpsOption, Json, emps_of, require_emp, run, say
from cdc_pusher.cli.options import show as show_report
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection, connect
from cdc_pusher.errors import CdcPusherError, ConfigurationError
from cdc_pusher.reconcile import Resend
from cdc_pusher.source import Source

app = typer.Typer()
outbox_app = typer.Typer(no_args_is_help=True, help="Look into the outbox.")


@app.command("run")
def _daemon(config_file: ConfigFile = None) -> None:
    """The daemon: deliver until SIGTERM."""
    secrecy.no_dumps()
    settings = config.load(config_file)
    logs.configure(settings.daemon.log_level)
    run(daemon.run(settings, config_file))


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
    cpo: Annotated[str | None, typer.Option("--cpo", metavar="CPO", help="The stations of this CPO (its internal identifier).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every station.")] = False,
    statuses: Annotated[bool, typer.Option("--statuses", help="With --force: the statuses only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Send even what the EMP has acknowledged.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much that would be.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress, and end when everything is sent.")] = False,
) -> None:
    """Compare stations with what the EMPs have, and send what differs, was rejected or is uncertain; with --force everything."""
    settings = config.read(config_file)
    if [everything, bool(station), cpo is not None].count(True) != 1:
        raise ConfigurationError("say which stations: --station ID, --cpo CPO, or --all")
    emps = emps_of(settings, emp)
    resend: Resend = "undelivered" if not force else "statuses" if statuses else "everything"

    async def order() -> str:
        async with await connect(settings.database.dsn, "resync") as conn:
            stations = None if everything else station or await _of_cpo(settings, cpo or "")
            if dry_run:
                size = await report.resync_size(conn, emps, stations)
                counts = f"{size['stations']} stations and {size['statuses']} statuses, {size['undelivered']} of them undelivered"
                return f"would look at {counts}, and send {'all of them' if force else 'what differs'}"
            await enqueue.resync(conn, emps, stations, resend)
            if wait:
                await _wait(conn, emps)
            of_cpo = [f"{len(stations or ())} stations of {cpo}"]
            return f"{'done' if wait else 'ordered'}: {', '.join(station or (of_cpo if cpo else ['every station']))}"

    say(f"{run(order())}, for {', '.join(emps)}")


async def _of_cpo(settings: Settings, cpo: str) -> list[str]:
    async with await connect(settings.database.dsn, "resync") as conn:
        source = await Source.open(conn, settings.source, settings.only)
        if not (stations := await source.of_cpo(cpo)):
            raise ConfigurationError(f"no station is of a CPO '{cpo}'; cdc-pusher cpo list names them")
        return stations


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


@outbox_app.command("retry")
def outbox_retry(
    key: Annotated[list[str] | None, typer.Argument(metavar="STATION|EVSE", help="Only of these.")] = None,
    config_file: ConfigFile = None,
    emp: EmpsOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All that was rejected, or waits after a failure.")] = False,
) -> None:
    """Have messages that were rejected, or that wait after a failure, tried again now."""
    settings = config.read(config_file)
    if everything == bool(key):
        raise ConfigurationError("say which messages: a station or an EVSE, or --all")
    emps = emps_of(settings, emp)

    async def order() -> int:
        async with await connect(settings.database.dsn, "outbox") as conn:
            return await enqueue.retry(conn, emps, key or None)

    count = run(order())
    tried = f"{count} {'message is' if count == 1 else 'messages are'} tried again"
    say(tried if count else "no message was rejected or waits after a failure")


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
    """The story of one station or EVSE: what the database says, what the EMP should have and has, and the last requests."""
    settings = config.read(config_file)
    require_emp(settings, emp)

    async def read() -> report.Row:
        async with await connect(settings.database.dsn, "outbox") as conn:
            found = await report.entity(conn, key, emp)
        station_ids = sorted({row["station_id"] for row in found["rows"]})
        async with await connect(settings.database.dsn, "outbox") as conn:
            source = await Source.open(conn, settings.source, settings.only)
            return {**found, "database": report.as_told(await source.read(station_ids), station_ids)}

    found = run(read())
    if not found["rows"]:
        raise CdcPusherError(f"the outbox has no station or EVSE '{key}'")
    show_report(found, as_json, show.entity)
