"""Connections to the CPO's database, each with limits of our own, so that neither side can hold up the other.

The CPO's defaults (a short statement_timeout, another isolation level, a search_path) must not change what our statements mean; and a
connection of ours that hangs in a transaction is ended by the server. Errors of connecting are translated here and nowhere else.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import AsyncConnection, IsolationLevel
from psycopg.rows import DictRow, dict_row

from cdc_pusher.errors import ConfigurationError, DatabaseUnavailable

Connection = AsyncConnection[DictRow]

CONNECT_TIMEOUT_S = 5
# How values become text: station ids, made in the CPO's sessions by our triggers and in ours by the mapping, have to be spelled alike.
STYLES = {"DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "bytea_output": "hex", "extra_float_digits": "1", "TimeZone": "UTC"}
LIMITS = {"statement_timeout": "60s", "lock_timeout": "5s", **STYLES}


async def connect(dsn: str, purpose: str, *, idle_in_transaction_s: int = 20) -> Connection:
    """Open a connection in autocommit mode, READ COMMITTED in every transaction, named `cdc-pusher PURPOSE` in pg_stat_activity.

    Raises what `connecting` raises.
    """
    with connecting():
        conn = await AsyncConnection.connect(
            dsn,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=CONNECT_TIMEOUT_S,
            client_encoding="UTF8",
            application_name=f"cdc-pusher {purpose}",
        )
    await conn.set_isolation_level(IsolationLevel.READ_COMMITTED)
    limits = LIMITS | {"idle_in_transaction_session_timeout": f"{idle_in_transaction_s}s"}
    settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in limits.items())
    try:
        # The CPO's default may be too short even for this: it ends with the first statement of the message.
        await conn.execute(f"SET statement_timeout = '{LIMITS['statement_timeout']}'; SELECT {settings}".encode())
    except BaseException:
        await conn.close()
        raise
    return conn


@contextmanager
def connecting() -> Iterator[None]:
    """Translate errors of opening a connection; no part of a password is in the text.

    Raises `DatabaseUnavailable` (try again later) or `ConfigurationError` (the DSN is wrong).
    """
    try:
        yield
    except psycopg.ProgrammingError as error:
        # libpq repeats what it cannot parse, and that may be a password; the name of an option is not.
        said = one_line(error)
        harmless = said.startswith("invalid URI query parameter: ")
        raise ConfigurationError(f"database.dsn: {said if harmless else 'not a valid connection string'}") from None
    except psycopg.Error as error:
        # After an @ that is not percent-encoded, the rest of a password counts as part of the host, which psycopg repeats.
        said = re.sub("'.*@", "'…@", one_line(error))
        said = re.sub("failed to resolve host '.*?'", "failed to resolve the host in database.dsn", said)
        raise DatabaseUnavailable(f"cannot connect to the database: {said}") from None


def one_line(error: BaseException) -> str:
    """The first line of what Postgres said, without the prefix that repeats host and port for each address it tried.

    >>> one_line(ValueError("no such\\n  table"))
    'no such'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
