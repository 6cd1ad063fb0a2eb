"""Which revision of the schema this program works with, and whether the database has it. What brings it there is `migrate`.

Apart from that, so that nothing but migrating loads what migrates: it takes longer than most commands.
"""

from importlib.resources import files
from pathlib import Path

import psycopg

from cdc_pusher.database import Connection, one_line
from cdc_pusher.errors import ConfigurationError
from cdc_pusher.names import SCHEMA

NO_SCHEMA = f"the database has no schema {SCHEMA}: run cdc-pusher migrate"


def migrations() -> Path:
    """Where the migrations are: in the wheel beside the code, in a checkout above it."""
    package = Path(str(files("cdc_pusher")))
    beside, above = package / "migrations", package.parent / "migrations"
    return beside if beside.is_dir() else above


def head() -> str:
    """The newest revision that this version of the program knows: they are numbered, and their files begin with the number."""
    return max(path.name.partition("_")[0] for path in (migrations() / "versions").glob("[0-9]*_*.py"))


async def require_current(conn: Connection) -> None:
    """Raise `ConfigurationError` unless the schema is one that this program works with: its own, or a later one that says so."""
    try:
        row = await (
            await conn.execute("SELECT version_num, to_jsonb(v) ->> 'oldest_program' AS oldest FROM cdc_pusher.alembic_version AS v")
        ).fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        row = None
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(f"the schema {SCHEMA}: {one_line(error)}") from error
    if row is None:
        raise ConfigurationError(NO_SCHEMA)
    at, ours = row["version_num"], head()
    if at < ours:
        raise ConfigurationError(f"the schema {SCHEMA} is at revision {at}, this program needs {ours}: run cdc-pusher migrate")
    if at > ours and (row["oldest"] is None or row["oldest"] > ours):
        raise ConfigurationError(f"the schema {SCHEMA} is at revision {at}, this program needs {ours}: upgrade the program")
