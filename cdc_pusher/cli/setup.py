"""Commands that set up and take away: `init`, `check`, `migrate`, `uninstall`.

What takes long to load is loaded where it is needed: every other command would have to wait for it, and whoever presses Tab.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cdc_pusher import config, revision, roles, secrecy, triggers
from cdc_pusher.cli.bar import Bar
from cdc_pusher.cli.options import AdminDsn, ConfigFile, Json, examples, run, say, tell
from cdc_pusher.cli.options import show as show_report
from cdc_pusher.config import Settings
from cdc_pusher.database import connect
from cdc_pusher.errors import ConfigurationError
from cdc_pusher.init import Proposal, propose
from cdc_pusher.names import SCHEMA

app = typer.Typer()


@app.command(
    "init",
    epilog=examples(
        "cdc-pusher init --dsn postgresql:///cpo",
        "cdc-pusher init --dsn 'host=db dbname=cpo' --output new.toml",
    ),
)
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

    found = run(look(), Bar("looking at the tables"))
    try:
        output.touch(mode=0o600, exist_ok=False)  # a password may be in the connection string
        output.write_text(found.text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{output}: cannot be written: {error.strerror}") from error
    say(f"{output}: written for {found.recognised or 'tables that had to be guessed'}. To be filled in:")
    for line in found.missing:
        say(f"  - {line}")
    say("Then: cdc-pusher check")


@app.command("check", epilog=examples("cdc-pusher check", "cdc-pusher check --verbose", "cdc-pusher check --json | jq .ok"))
def _check(
    config_file: ConfigFile = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="All examples, not a few.")] = False,
    as_json: Json = False,
) -> None:
    """Look at everything that can be known before a message is sent; sends nothing, writes nothing. Exit code 3: something is wrong."""
    from cdc_pusher import check

    secrecy.no_dumps()
    settings = config.read(config_file)
    bar = Bar("looking at the database", hidden=as_json)

    def progress(done: int, total: int | None) -> None:
        bar.tell("stations", done, total)

    found = run(check.run(settings, config_file=config_file, verbose=verbose, progress=progress), bar)
    show_report(check.as_json(found) if as_json else found, as_json, check.show)
    if check.is_wrong(found):
        raise typer.Exit(3)


@app.command("migrate", epilog=examples("cdc-pusher migrate", "cdc-pusher migrate --dsn 'dbname=cpo user=postgres'"))
def _migrate(config_file: ConfigFile = None, dsn: AdminDsn = None, as_json: Json = False) -> None:
    """Create or upgrade the schema cdc_pusher and the roles of the configuration, and attach the triggers. Safe to repeat."""
    settings, bar = config.read(config_file), Bar("connecting", hidden=as_json)
    done = run(install(dsn or settings.database.dsn, settings, bar.tell), bar)
    words = done or ["triggers are attached as configured"]
    tell({"revision": revision.head(), "done": done}, as_json, f"schema {SCHEMA} is at revision {revision.head()}", *words)


def _unseen(doing: str, done: int, total: int) -> None:
    """Nobody watches the progress."""


async def install(dsn: str, settings: Settings, step: Callable[[str, int, int], None] = _unseen) -> list[str]:
    """Bring the database to what the configuration asks for. Returns in words what was done beside the schema's tables.

    `step` is told what is being done, how many steps are done, and of how many.
    """
    owner, runtime = settings.database.owner_role, settings.database.runtime_role
    done = []
    async with await connect(dsn, "migrate") as conn:
        if owner and runtime:
            step("roles", 0, 4)
            done += await roles.create(conn, owner, runtime)
        step(f"schema {SCHEMA}", 1, 4)
        from cdc_pusher import migrate

        await asyncio.to_thread(migrate.to, dsn, owner=owner)
        if runtime:
            step("rights", 2, 4)
            done += await roles.grant(conn, runtime, settings.source)
        step("triggers", 3, 4)
        return [*done, *await triggers.attach(conn, settings.source.watch, owner)]


@app.command(epilog=examples("cdc-pusher uninstall", "cdc-pusher uninstall --yes --dsn 'dbname=cpo user=postgres'"))
def uninstall(
    config_file: ConfigFile = None,
    dsn: AdminDsn = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Take the triggers off and drop the schema cdc_pusher: the CPO's tables as they were before. The EMPs keep what they have."""
    settings = config.read(config_file)
    if not yes:
        question = f"Drop the triggers and the schema {SCHEMA}, with all that is known of what the EMPs have?"
        typer.confirm(question, abort=True, err=as_json)
    from cdc_pusher import uninstall as removal

    done = run(removal.run(dsn or settings.database.dsn, settings.database), Bar("taking it away", hidden=as_json))
    tell({"done": done}, as_json, *done)
