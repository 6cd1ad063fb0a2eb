"""Creates and upgrades the schema `cdc_pusher` with the migrations that travel inside the package.

Attaching triggers is `triggers.attach`; nothing here touches a table of the CPO.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from cdc_pusher.database import connecting, one_line, parameters
from cdc_pusher.errors import CdcPusherError
from cdc_pusher.names import SCHEMA
from cdc_pusher.revision import migrations
from cdc_pusher.sql import queries

_roles = queries("roles")

LOCK_TIMEOUT = "2ms"  # of each try: the CPO's triggers queue behind us, and give up what they would record after 10 ms
LOCK_TRIES = 50
LOCK_PAUSE_S = 0.1
NOT_OURS = f"the database has a schema {SCHEMA} that is not ours: there are other tables in it"
_DROP_THAT = "drop what is named here, and run it again"
_REMEDIES = {
    psycopg.errors.DependentObjectsStillExist: _DROP_THAT,
    psycopg.errors.InsufficientPrivilege: "run it as an administrator (--dsn)",
    psycopg.errors.ReadOnlySqlTransaction: "database.dsn has to lead to the primary (target_session_attrs=read-write)",
    psycopg.errors.LockNotAvailable: "somebody works with our tables: stop the daemons and close open transactions, and run it again",
}


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations()).replace("%", "%%"))
    return config


def to(dsn: str, revision: str = "head", *, owner: str | None = None) -> None:
    """Bring the schema to `revision`, creating it if need be; 'base' removes everything but the schema itself.

    `owner`: the role that the schema and all in it are to belong to; unset, whoever connects owns what is new. Runs in one transaction, one
    at a time. Raises what `connecting` raises, and `CdcPusherError` (no right to create a schema, say).
    """
    config = _config()

    def once() -> None:
        with _transaction(dsn) as connection:
            _take_possession(connection, owner)
            config.attributes["connection"] = connection
            (command.downgrade if revision == "base" else command.upgrade)(config, revision)

    _patiently(once)


def remove(dsn: str, *, rehearse: bool = False) -> None:
    """Drop the schema and all that migrations made, and nothing that is not ours; with `rehearse` take it back at once.

    Raises what `connecting` raises, and `CdcPusherError` when something of the CPO's depends on ours.
    """
    config = _config()

    def once() -> None:
        with _transaction(dsn, "uninstall") as connection:
            if connection.exec_driver_sql(_roles.is_foreign.decode()).scalar():
                raise CdcPusherError(NOT_OURS)
            config.attributes["connection"] = connection
            command.downgrade(config, "base")
            if names := connection.exec_driver_sql(_roles.left_over.decode()).scalars().all():
                raise CdcPusherError(f"uninstall: the schema {SCHEMA} holds what is not ours: {', '.join(names)}; {_DROP_THAT}")
            if rehearse:
                connection.rollback()
                return
            connection.exec_driver_sql(f"DROP TABLE {SCHEMA}.alembic_version")
            connection.exec_driver_sql(f"DROP SCHEMA {SCHEMA}")

    _patiently(once)


def _patiently(migration: Callable[[], None]) -> None:
    """Try again, all of it, until every lock is to be had at once."""
    for left in reversed(range(LOCK_TRIES)):
        try:
            migration()
            break
        except CdcPusherError as error:
            cause = error.__cause__
            if not left or not (isinstance(cause, DBAPIError) and isinstance(cause.orig, psycopg.errors.LockNotAvailable)):
                raise
            time.sleep(LOCK_PAUSE_S)


@contextmanager
def _transaction(dsn: str, doing: str = "migrate") -> Iterator[Connection]:
    """One transaction, in which nobody else migrates; errors are translated, with what is to be done about them."""
    with connecting():
        conn = psycopg.connect(**parameters(dsn), application_name="cdc-pusher migrate")
    engine = create_engine("postgresql+psycopg://", creator=lambda: conn, poolclass=NullPool)
    try:
        with closing(conn), engine.begin() as connection:
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # the CPO's default is not made for migrations
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock(hashtext('{SCHEMA} migrate'))")
            yield connection
    except DBAPIError as error:
        said = error.orig or error
        detail = getattr(getattr(said, "diag", None), "message_detail", None)
        because = f" ({detail.splitlines()[0]})" if detail else ""
        remedy = next((f"; {words}" for kind, words in _REMEDIES.items() if isinstance(said, kind)), "")
        raise CdcPusherError(f"{doing}: {one_line(said)}{because}{remedy}") from error
    except CommandError as error:
        raise CdcPusherError(f"{doing}: {one_line(error)}; is the database's schema newer than this program?") from error


def _take_possession(connection: Connection, owner: str | None) -> None:
    """Have the schema, and work as the role that is to own everything."""
    encoding = connection.exec_driver_sql("SELECT getdatabaseencoding()").scalar()
    if encoding != "UTF8":
        raise CdcPusherError(f"the database's encoding is {encoding}: what is sent and stored is UTF8, which the database has to be in")
    # IF NOT EXISTS would ask for the right to create one even where it is there.
    if connection.exec_driver_sql(f"SELECT to_regnamespace('{SCHEMA}')").scalar() is None:
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
    elif connection.exec_driver_sql(_roles.is_foreign.decode()).scalar():
        raise CdcPusherError(NOT_OURS)
    if owner is None:
        return
    for (statement,) in connection.exec_driver_sql(_roles.strangers.decode(), {"owner": owner}).fetchall():
        connection.exec_driver_sql(statement.replace("%", "%%"))
    connection.exec_driver_sql("SELECT set_config('role', %(owner)s, true)", {"owner": owner})
