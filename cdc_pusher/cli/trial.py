"""Commands to try things out: `sandbox`, `demo`."""

import json
from typing import Annotated

import typer

from cdc_pusher.cli.options import examples, run
from cdc_pusher.database import one_line
from cdc_pusher.errors import ConfigurationError

app = typer.Typer()


@app.command(epilog=examples("cdc-pusher sandbox", """cdc-pusher sandbox --faults '\\[{"kind": "delay", "seconds": 2}]'"""))
def sandbox(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8099,
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
    run(serve(settings, announce=lambda line: typer.echo(line)))


@app.command(epilog=examples("cdc-pusher demo", "cdc-pusher demo --stations 5000 --seed 2"))
def demo(
    stations: Annotated[int, typer.Option(min=10, max=20_000, help="Stations to begin with.")] = 500,
    seed: Annotated[int, typer.Option(help="For the stations and the traffic.")] = 1,
) -> None:
    """The whole thing on an embedded Postgres and a sandbox EMP: nothing to set up, nothing left behind."""
    from cdc_pusher import demo as demonstration

    differences = run(demonstration.run(stations=stations, seed=seed))
    if differences:
        raise typer.Exit(1)
