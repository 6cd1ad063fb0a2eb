"""Connections to the CPO's database, each with limits of our own, so that neither side can hold up the other.

The CPO's defaults (a short statement_timeout, another isolation level, a search_path) must not change what our statements mean; and a
connection of ours that hangs in a transaction is ended by the server. Errors of connecting are translated here and nowhere else.
"""

import psycopg
from psycopg import AsyncConnection, IsolationLevel
from psycopg.rows import DictRow, dict_row

from cdc_pusher.errors import ConfigurationError, DatabaseUnavailable

Connection = AsyncConnection[DictRow]

CONNECT_TIMEOUT_S = 5
LIMITS = {"statement_timeout": "60s", "lock_timeout": "5s", "timezone": "UTC"}


async def connect(dsn: str, purpose: str, *, idle_in_transaction_s: int = 20) -> Connection:
    """Open a connection in autocommit mode, READ COMMITTED in every transaction, named `cdc-pusher PURPOSE` in pg_stat_activity.

    Raises `DatabaseUnavailable` (try again later) or `ConfigurationError` (the DSN or the role is wrong).
    """
    try:
        conn = await AsyncConnection.connect(
            dsn,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name=f"cdc-pusher {purpose}",
        )
    except psycopg.ProgrammingError as error:
        # libpq repeats a string that it cannot parse, and that may hold a password.
        raise ConfigurationError(f"database.dsn: {'not a valid connection string' if dsn in str(error) else one_line(error)}") from None
    except psycopg.Error as error:
        raise DatabaseUnavailable(f"cannot connect to the database: {one_line(error)}") from error
    await conn.set_isolation_level(IsolationLevel.READ_COMMITTED)
    limits = LIMITS | {"idle_in_transaction_session_timeout": f"{idle_in_transaction_s}s"}
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in limits.items())
    await conn.execute(f"SELECT {settings}".encode())
    return conn


def one_line(error: BaseException) -> str:
    """The first line of what Postgres said, without the prefix that repeats host and port for each address it tried.

    >>> one_line(ValueError("no such\\n  table"))
    'no such'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
