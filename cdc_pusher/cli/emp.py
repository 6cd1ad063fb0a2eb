"""Commands for whole EMPs: `emp list`, `emp pause`, `emp resume`, `emp forget`."""

from typing import Annotated

import typer

from cdc_pusher import config, enqueue, report, show
from cdc_pusher.cli import complete
from cdc_pusher.cli.bar import Bar
from cdc_pusher.cli.options import ConfigFile, Json, emps_of, examples, run, tell
from cdc_pusher.cli.options import show as show_report
from cdc_pusher.config import Settings
from cdc_pusher.database import connect
from cdc_pusher.errors import CdcPusherError, ConfigurationError

app = typer.Typer(no_args_is_help=True, help="The EMPs: how they do, and whether they are sent anything.")

Names = Annotated[list[str], typer.Argument(metavar="EMP", help="As named in the configuration.", autocompletion=complete.emps)]


@app.command("list", epilog=examples("cdc-pusher emp list", "cdc-pusher emp list --json"))
def _list(config_file: ConfigFile = None, as_json: Json = False) -> None:
    """Every EMP that was ever served: whether it works, fails, or is paused, and how many messages are where."""
    settings = config.read(config_file)

    async def read() -> list[report.Row]:
        async with await connect(settings.database.dsn, "emp") as conn:
            return await report.emps(conn)

    show_report(run(read(), Bar("counting", hidden=as_json)), as_json, show.emps)


@app.command(epilog=examples("cdc-pusher emp pause plugsurfing"))
def pause(emp: Names, config_file: ConfigFile = None, as_json: Json = False) -> None:
    """Send nothing more to these EMPs until they are resumed; requests in flight end, changes are still captured."""
    settings = config.read(config_file)
    run(_pause(settings, emps_of(settings, emp), paused=True))
    tell({"paused": emp}, as_json, f"paused: {', '.join(emp)}")


@app.command(epilog=examples("cdc-pusher emp resume plugsurfing"))
def resume(emp: Names, config_file: ConfigFile = None, as_json: Json = False) -> None:
    """Go on with EMPs that were paused: what is not the last word any more is not sent."""
    settings = config.read(config_file)
    run(_pause(settings, emps_of(settings, emp), paused=False))
    tell({"resumed": emp}, as_json, f"resumed: {', '.join(emp)}")


async def _pause(settings: Settings, emps: list[str], *, paused: bool) -> None:
    async with await connect(settings.database.dsn, "emp") as conn:
        known = await enqueue.pause(conn, emps, paused=paused)
    if unknown := sorted(set(emps) - set(known)):
        raise ConfigurationError(f"no daemon has served {', '.join(unknown)} yet")


@app.command(epilog=examples("cdc-pusher emp forget plugsurfing    # after it was taken out of the configuration"))
def forget(
    emp: Annotated[str, typer.Argument(metavar="EMP", help="One that is no longer in the configuration.")],
    config_file: ConfigFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Even if it has stations under new ids, which stay there for ever.")] = False,
    as_json: Json = False,
) -> None:
    """Delete all that is known of an EMP that was removed from the configuration. What it has been sent, it keeps."""
    settings = config.read(config_file)
    if emp in settings.emp:
        raise ConfigurationError(f"{emp} is in the configuration: take it out, and restart the daemon")
    if not yes:
        typer.confirm(f"Forget what {emp} was sent? Should it come back, it gets another full load.", abort=True, err=as_json)

    async def delete() -> bool:
        async with await connect(settings.database.dsn, "emp") as conn:
            return await enqueue.forget(conn, emp, force=force)

    if not run(delete(), Bar("forgetting", hidden=as_json)):
        raise CdcPusherError(
            f"nothing is known of an EMP {emp}, or a daemon that has not been restarted since still serves it,"
            " or it has stations under new ids (connectors_changed = replace), which nobody could delete later: --force"
        )
    tell({"forgotten": [emp]}, as_json, f"forgotten: {emp}")
