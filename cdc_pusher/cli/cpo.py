"""Commands for setting up CPOs with an EMP, before their first station is sent: `cpo list`, `cpo export`, `cpo confirm`."""

import csv
import sys
from typing import Annotated

import typer

from cdc_pusher import config, cpos, show
from cdc_pusher.cli.bar import Bar
from cdc_pusher.cli.options import ConfigFile, EmpOption, EmpsOption, Json, emps_of, examples, run, tell
from cdc_pusher.cli.options import show as show_report
from cdc_pusher.cli.remedies import did_you_mean
from cdc_pusher.errors import ConfigurationError

app = typer.Typer(no_args_is_help=True, help="The CPOs whose stations are sent, and whether the EMPs were told of them.")


@app.command("list", epilog=examples("cdc-pusher cpo list", "cdc-pusher cpo list --emp plugsurfing --json"))
def _list(config_file: ConfigFile = None, emp: EmpsOption = None, as_json: Json = False) -> None:
    """The CPOs of all stations and of the configuration, with the number of stations, and since when the EMP is known to know them."""
    settings = config.read(config_file)
    found = run(cpos.listing(settings, emps_of(settings, emp)), Bar("reading the stations", hidden=as_json))
    show_report([one.row for one in found], as_json, show.cpos)


@app.command(epilog=examples("cdc-pusher cpo export --emp plugsurfing > cpos.csv"))
def export(config_file: ConfigFile = None, emp: EmpOption = None) -> None:
    """What to send to the EMP, as CSV: internal identifier, name, cpo-id, number of stations."""
    settings = config.read(config_file)
    emps = emps_of(settings, [emp] if emp else None)
    if len(emps) != 1:
        named = f"say for which EMP: --emp {' or --emp '.join(emps)}" if emps else "no EMP is configured: add a section [emp.NAME]"
        raise ConfigurationError(named)
    found = run(cpos.listing(settings, emps), Bar("reading the stations"))
    writer = csv.writer(sys.stdout)
    writer.writerow(("internal identifier", "name", "cpo-id", "stations"))
    writer.writerows(map(show.text, (one.cpo, one.name, one.cpo_id, one.stations)) for one in found if one.stations)


@app.command(epilog=examples("cdc-pusher cpo confirm 8ps --emp plugsurfing", "cdc-pusher cpo confirm --all"))
def confirm(
    cpo: Annotated[list[str] | None, typer.Argument(metavar="CPO", help="Internal identifiers.")] = None,
    config_file: ConfigFile = None,
    emp: EmpsOption = None,
    everything: Annotated[bool, typer.Option("--all", help="All CPOs that have a cpo-id in the configuration.")] = False,
    as_json: Json = False,
) -> None:
    """The EMP knows these CPOs now: their stations, held so far, are sent."""
    settings = config.read(config_file)
    if everything == bool(cpo):
        raise ConfigurationError("say which CPOs: their internal identifiers, or --all")
    confirmed = {}
    for name in emps_of(settings, emp):
        known = settings.emp[name].cpos
        if unknown := sorted(set(cpo or ()) - known.keys()):
            near = did_you_mean(unknown[0], known) or ": add it there"
            raise ConfigurationError(f"emp.{name}.cpos has no cpo-id for {', '.join(map(repr, unknown))}{near}")
        confirmed[name] = run(cpos.confirm(settings, name, sorted(cpo or known)), Bar("confirming", hidden=as_json))
    words = [f"{name}: {', '.join(cpos_of) or 'nothing that was not'} confirmed" for name, cpos_of in confirmed.items()]
    tell(confirmed, as_json, *words)
