"""Commands of every day: `run`, `status`, `resync`, `outbox`."""

import asyncio
import gc
import signal
import sys
from typing import Annotated

import typer
from rich.console import Console

from cdc_pusher import config, enqueue, glance, live, logs, report, secrecy, show
from cdc_pusher.cli import complete
from cdc_pusher.cli.bar import Bar
from cdc_pusher.cli.options import ConfigFile, EmpOption, EmpsOption, Json, emps_of, examples, require_emp, run, tell
from cdc_pusher.cli.options import show as show_report
from cdc_pusher.cli.remedies import did_you_mean
from cdc_pusher.config import Settings
from cdc_pusher.database import Connection, connect
from cdc_pusher.errors import CdcPusherError, ConfigurationError
from cdc_pusher.reconcile import Resend
from cdc_pusher.source import Source

GARBAGE_FROM = 20_000  # objects: a batch makes many that stay until it is written, and looking for cycles among them is a sixth of its time

app = typer.Typer()
outbox_app = typer.Typer(no_args_is_help=True, help="Look into the outbox.")


@app.command("run", epilog=examples("cdc-pusher run --config /etc/cdc-pusher/config.toml"))
def _daemon(config_file: ConfigFile = None) -> None:
    """The daemon: deliver until SIGTERM."""
    secrecy.no_dumps()
    settings = config.load(config_file)
    logs.configure(settings.daemon.log_level)
    from cdc_pusher import daemon  # no other command has to wait for all that it loads

    gc.freeze()  # what is loaded now stays
    gc.set_threshold(GARBAGE_FROM, 20, 20)
    run(daemon.run(settings, config_file))


@app.command(
    epilog=examples(
        "cdc-pusher status --watch                # a live view; Ctrl-C ends it",
        "cdc-pusher status --json | jq .problems",
    )
)
def status(
    config_file: ConfigFile = None,
    emp: EmpOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="A live view, until Ctrl-C.")] = False,
    interval_s: Annotated[
        float | None, typer.Option("--interval", metavar="SECONDS", min=0.1, max=3600, help="With --watch: look so often. Default: 1.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Progress, lag and problems for each EMP."""
    settings = config.read(config_file)
    require_emp(settings, emp)
    if interval_s is not None and not watch:
        raise ConfigurationError("--interval goes with --watch")
    if watch:
        _watch(settings, emp, interval_s or 1.0, as_json)
        return

    async def read() -> report.Row:
        async with await connect(settings.database.dsn, "status") as conn:
            return await live.look(conn, settings, emp)

    show_report(run(read(), Bar("counting", hidden=as_json)), as_json, _print_status)


def _print_status(found: report.Row, console: Console) -> None:
    for part in glance.parts(found):
        console.print(part)


def _watch(settings: Settings, emp: str | None, interval_s: float, as_json: bool) -> None:
    console = Console()
    if as_json:
        raise ConfigurationError("--watch is for people: for machines, call cdc-pusher status --json again and again")
    if not sys.stdout.isatty() or not console.is_interactive:
        raise ConfigurationError("--watch draws on a terminal, which this is not: call cdc-pusher status --json again and again")
    try:
        run(live.watch(settings, emp, interval_s=interval_s, console=console))
    except asyncio.CancelledError:  # SIGTERM
        raise typer.Exit(128 + signal.SIGTERM) from None


@app.command(
    epilog=examples(
        "cdc-pusher resync --station DE8PS000042",
        "cdc-pusher resync --all --dry-run                  # how much would that be?",
        "cdc-pusher resync --all --emp plugsurfing --wait",
    )
)
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
    as_json: Json = False,
) -> None:
    """Compare stations with what the EMPs have, and send what differs, was rejected or is uncertain; with --force everything."""
    settings = config.read(config_file)
    if [everything, bool(station), cpo is not None].count(True) != 1:
        raise ConfigurationError("say which stations: --station ID, --cpo CPO, or --all")
    emps, bar = emps_of(settings, emp), Bar("resync", hidden=as_json)
    resend: Resend = "undelivered" if not force else "statuses" if statuses else "everything"

    async def order() -> tuple[report.Row, str]:
        async with await connect(settings.database.dsn, "resync") as conn:
            stations = None if everything else station or await _of_cpo(settings, cpo or "")
            if dry_run:
                size = await report.resync_size(conn, emps, stations)
                counts = f"{size['stations']} stations and {size['statuses']} statuses, {size['undelivered']} of them undelivered"
                return size, f"would look at {counts}, and send {'all of them' if force else 'what differs'}"
            await enqueue.resync(conn, emps, stations, resend)
            if wait:
                await _wait(conn, emps, bar)
            whose = ", ".join(station or ([f"{len(stations or ())} stations of {cpo}"] if cpo else ["every station"]))
            return {"stations": stations}, f"{'done' if wait else 'ordered'}: {whose}"

    found, words = run(order(), bar)
    told = "dry run" if dry_run else "done" if wait else "ordered"
    tell({"state": told, "emps": emps, **found}, as_json, f"{words}, for {', '.join(emps)}")


async def _of_cpo(settings: Settings, cpo: str) -> list[str]:
    async with await connect(settings.database.dsn, "resync") as conn:
        source = await Source.open(conn, settings.source, settings.only)
        if not (stations := await source.of_cpo(cpo)):
            raise ConfigurationError(f"no station is of a CPO '{cpo}'; cdc-pusher cpo list names them")
        return stations


async def _wait(conn: Connection, emps: list[str], bar: Bar) -> None:
    most = 0
    while True:
        left = await report.remaining(conn, emps)
        todo = left["changes"] + left["messages"]
        most = max(most, todo)
        if not left["walks"] and not todo:
            return
        bar.tell(f"{left['walked']} stations looked at, {todo} to do", most - todo, most or None)
        await asyncio.sleep(0.2)


@outbox_app.command("retry", epilog=examples("cdc-pusher outbox retry DE*8PS*E000042*1", "cdc-pusher outbox retry --all --emp plugsurfing"))
def outbox_retry(
    key: Annotated[list[str] | None, typer.Argument(metavar="STATION|EVSE", help="Only of these.")] = None,
    config_file: ConfigFile = None,
    emp: EmpsOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All that was rejected, or waits after a failure.")] = False,
    as_json: Json = False,
) -> None:
    """Have messages that were rejected, or that wait after a failure, tried again now."""
    settings = config.read(config_file)
    if everything == bool(key):
        raise ConfigurationError("say which messages: a station or an EVSE, or --all")
    emps = emps_of(settings, emp)

    async def order() -> int:
        async with await connect(settings.database.dsn, "outbox") as conn:
            return await enqueue.retry(conn, emps, key or None)

    count = run(order(), Bar("outbox", hidden=as_json))
    tried = f"{count} {'message is' if count == 1 else 'messages are'} tried again"
    tell({"messages": count}, as_json, tried if count else "no message was rejected or waits after a failure")


@outbox_app.command(
    "list",
    epilog=examples(
        "cdc-pusher outbox list --emp plugsurfing",
        "cdc-pusher outbox list --state held --state rejected --json",
    ),
)
def outbox_list(
    config_file: ConfigFile = None,
    emp: EmpOption = None,
    state: Annotated[
        list[str] | None,
        typer.Option(metavar="STATE", help=f"{', '.join(complete.STATES)}; may be repeated.", autocompletion=complete.states),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="At most this many rows.")] = 100,
    as_json: Json = False,
) -> None:
    """What is in the outbox, problems first; without --state what is not delivered."""
    known = complete.STATES
    if unknown := sorted(set(state or ()) - set(known)):
        raise ConfigurationError(f"no such state: {', '.join(unknown)}; there is {', '.join(known)}{did_you_mean(unknown[0], known)}")
    settings = config.read(config_file)
    require_emp(settings, emp)

    async def read() -> list[report.Row]:
        async with await connect(settings.database.dsn, "outbox") as conn:
            return await report.entries(conn, emp=emp, states=state or [s for s in known if s != "delivered"], limit=limit)

    show_report(run(read(), Bar("outbox", hidden=as_json)), as_json, show.entries)


@outbox_app.command(
    "show",
    epilog=examples(
        "cdc-pusher outbox show DE8PS000042              # a station",
        "cdc-pusher outbox show DE*8PS*E000042*1 --json  # an EVSE",
    ),
)
def outbox_show(
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

    found = run(read(), Bar("outbox", hidden=as_json))
    if not found["rows"]:
        why = "is it spelled as in the database? cdc-pusher check names what the mapping leaves out"
        raise CdcPusherError(f"the outbox has no station or EVSE '{key}'; {why}")
    show_report(found, as_json, show.entity)
