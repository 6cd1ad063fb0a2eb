"""Commands that set up and take away: `init`, `check`, `migrate`, `uninstall`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cdc_pusher import check, config, migrate, revision, roles, secrecy, show, triggers
from cdc_pusher import uninstall as removal
from cdc_pusher.cli.options import AdminDsn, ConfigFile, Json, run, say
from cdc_pusher.cli.options import show as show_report
from cdc_pusher.config import Settings
from cdc_pusher.database import connect
from cdc_pusher.errors import ConfigurationError
from cdc_pusher.init import Proposal, propose
from cdc_pusher.names import SCHEMA

app = typer.Typer()


@app.command("init")
def _init(
    dsn: Annotated[str, typer.Option("--dsn", metavar="DSN", help="The CPO's database; unset: the libpq environment (PGHOST …).")] = "",
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="The configuration to write.")] = Path("cdc-pusher.toml"),
) -> None:
    """Look at the database and write a commented configuration for it, which says what was guessed and what has to be filled in."""
    if output.exists():
        raise ConfigurationError(f"{output}: there is such a file already; name another with --output FILE")

    async def look() -> Proposal:
        async with await connect(dsn, "init") as conn:
            return await propose(conn, dsn)

    found = run(look())
    try:
        output.touch(mode=0o600, exist_ok=False)  # a password may be in the connection string
        output.write_text(found.text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{output}: cannot be written: {error.strerror}") from error
    say(f"{output}: written for {found.recognised or 'tables that had to be guessed'}. To be filled in:")
    for line in found.missing:
        say(f"  - {line}")
    say("Then: cdc-pusher check")


@app.command("check")
def _check(
    config_file: ConfigFile = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="All examples, not a few.")] = False,
    as_json: Json = False,
) -> None:
    """Look at everything that can be known before a message is sent; sends nothing, writes nothing. Exit code 3: something is wrong."""
    secrecy.no_dumps()
    settings = config.read(config_file)
    console = Console(stderr=True)  # not among what is printed
    with show.progress(console, disable=not console.is_terminal) as progress:
        task = progress.add_task("stations", total=None)
        found = run(
            check.run(
                settings,
                config_file=config_file,
                verbose=verbose,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        )
    show_report(check.as_json(found) if as_json else found, as_json, check.show)
    if check.is_wrong(found):
        raise typer.Exit(3)


@app.command("migrate")
def _migrate(config_file: ConfigFile = None, dsn: AdminDsn = None) -> None:
    """Create or upgrade the schema cdc_pusher and the roles of the configuration, and attach the triggers. Safe to repeat."""
    settings = config.read(config_file)
    done = run(install(dsn or settings.database.dsn, settings))
    say(f"schema {SCHEMA} is at revision {revision.head()}")
    for line in done or ["triggers are attached as configured"]:
        say(line)


async def install(dsn: str, settings: Settings) -> list[str]:
    """Bring the database to what the configuration asks for. Returns in words what was done beside the schema's tables."""
    owner, runtime = settings.database.owner_role, settings.database.runtime_role
    done = []
    async with await connect(dsn, "migrate") as conn:
        if owner and runtime:
            done += await roles.create(conn, owner, runtime)
        await asyncio.to_thread(migrate.to, dsn, owner=owner)
        if runtime:
            done += await roles.grant(conn, runtime, settings.source)
        return [*done, *await triggers.attach(conn, settings.source.watch, owner)]


@app.command()
def uninstall(
    config_file: ConfigFile = None,
    dsn: AdminDsn = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take the triggers off and drop the schema cdc_pusher: the CPO's tables as they were before. The EMPs keep what they have."""
    settings = config.read(config_file)
    if not yes:
        typer.confirm(f"Drop the triggers and the schema {SCHEMA}, with all that is known of what the EMPs have?", abort=True)
    for line in run(removal.run(dsn or settings.database.dsn, settings.database)):
        say(line)
