"""Connections to the CPO's database, each with limits of our own, so that neither side can hold up the other.

The CPO's defaults (a short statement_timeout, another isolation level, a search_path) must not change what our statements mean; and a
connection of ours that hangs in a transaction is ended by the server. Errors of connecting are translated here and nowhere else.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import orjson
import psycopg
from psycopg import AsyncConnection, AsyncCursor, AsyncTransaction, IsolationLevel
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, args_row, dict_row
from psycopg.types.json import Jsonb

from cdc_pusher.errors import ConfigurationError, DatabaseUnavailable

T = TypeVar("T")
CONNECT_TIMEOUT_S = 5
KEPT_ALIVE_S = 1.0
# How values become text: station ids, made in the CPO's sessions by our triggers and in ours by the mapping, have to be spelled alike.
STYLES = {"DateStyle": "ISO, YMD", "IntervalStyle": "postgres", "bytea_output": "hex", "extra_float_digits": "1", "TimeZone": "UTC"}
LIMITS = {"statement_timeout": "60s", "lock_timeout": "5s", **STYLES}
# Our tables fill and empty faster than statistics are made of them: what there is an index for is read by it, and in its order. What there
# is none for is planned at a cost at which it would be compiled. Statistics are made while work waits, so of fewer rows than usual.
BY_INDEX = {"enable_seqscan": "off", "enable_bitmapscan": "off", "jit": "off", "default_statistics_target": "10"}
# For what is done again if a crash of the server loses it, and what nobody is told of before something durable has come after it.
NOT_WAITED_FOR = {"synchronous_commit": "off"}
# A server that is gone without a word is noticed after about ten seconds, whether we wait for an answer or for something to happen.
KEEPALIVE = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}


class Connection(AsyncConnection[DictRow]):
    """A connection that keeps to limits of ours.

    Through a transaction pooler, whose sessions others use between our transactions, they are set for each transaction: a statement outside
    one gets one of its own, and nothing is prepared, since the next one may be in another session.
    """

    limits: bytes | None = None  # what is set in each transaction; None: the session is ours, and has them
    moves: Callable[[], None] = staticmethod(lambda: None)  # called after each statement

    @property
    def is_pooled(self) -> bool:
        """Whether there is a pooler between us and the server."""
        return self.limits is not None

    @asynccontextmanager
    async def transaction(self, savepoint_name: str | None = None, force_rollback: bool = False) -> AsyncIterator[AsyncTransaction]:
        """As in psycopg, with our limits."""
        begins = self.info.transaction_status == TransactionStatus.IDLE
        async with super().transaction(savepoint_name, force_rollback) as transaction:
            if begins and self.limits:
                await super().execute(self.limits)
            yield transaction

    async def execute(self, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool = False) -> AsyncCursor[DictRow]:
        """As in psycopg, with our limits."""
        if self.limits is None or self.info.transaction_status != TransactionStatus.IDLE:
            found = await super().execute(query, params, prepare=prepare, binary=binary)
        else:
            async with self.transaction():
                found = await super().execute(query, params, prepare=prepare, binary=binary)
        self.moves()
        return found


def parameters(dsn: str) -> dict[str, Any]:
    """The connection parameters of a DSN, with what we add: dead servers are noticed, and of several hosts the primary is looked for.

    Raises psycopg.ProgrammingError for what is no DSN.
    """
    given = conninfo_to_dict(dsn)
    several = "," in str(given.get("host") or os.environ.get("PGHOST", ""))
    primary = {"target_session_attrs": "read-write"} if several and "PGTARGETSESSIONATTRS" not in os.environ else {}
    return {**KEEPALIVE, **primary, **given, "connect_timeout": CONNECT_TIMEOUT_S, "client_encoding": "UTF8"}


async def connect(dsn: str, purpose: str, *, settings: Mapping[str, str] | None = None, idle_in_transaction_s: int = 20) -> Connection:
    """Open a connection in autocommit mode, READ COMMITTED in every transaction, named `cdc-pusher PURPOSE` in pg_stat_activity.

    `settings`: more of them, beside the limits.

    Raises what `connecting` raises.
    """
    with connecting():
        conn = await Connection.connect(**parameters(dsn), application_name=f"cdc-pusher {purpose}", autocommit=True, row_factory=dict_row)
    try:
        await conn.set_isolation_level(IsolationLevel.READ_COMMITTED)
        limits = LIMITS | {"idle_in_transaction_session_timeout": f"{idle_in_transaction_s}s", **(settings or {})}
        cursor = await _insisting(conn, f"{_time_out(limits, local=True)}; SELECT pg_backend_pid() AS pid".encode())
        cursor.nextset()
        row = await cursor.fetchone()
        if row is not None and row["pid"] != conn.info.backend_pid:  # a pooler has told us another one
            conn.limits = _setting(limits, local=True)
            conn.prepare_threshold = None
        else:
            await _insisting(conn, _setting(limits, local=False))
    except BaseException:
        await conn.close()
        raise
    return conn


async def _insisting(conn: Connection, statements: bytes) -> AsyncCursor[DictRow]:
    """Execute what sets limits, again if need be: until then the CPO's own time-out holds, and the machine may be busy for as long."""
    for _ in range(4):
        with suppress(psycopg.errors.QueryCanceled):
            return await conn.execute(statements)
    return await conn.execute(statements)


def _setting(limits: Mapping[str, str], *, local: bool) -> bytes:
    """The statements that set limits."""
    others = ", ".join(f"set_config('{name}', '{value}', {'true' if local else 'false'})" for name, value in limits.items())
    return f"{_time_out(limits, local=local)}; SELECT {others}".encode()


def _time_out(limits: Mapping[str, str], *, local: bool) -> str:
    """What comes first: the CPO's default may be too short for anything that looks into the catalogue, and ends with this."""
    return f"SET {'LOCAL ' if local else ''}statement_timeout = '{limits['statement_timeout']}'"


async def require_writable(conn: Connection) -> None:
    """Raise psycopg.errors.ReadOnlySqlTransaction if the server takes no writes any more: the primary is elsewhere."""
    row = await (await conn.execute("SELECT current_setting('transaction_read_only') AS it")).fetchone()
    if row is None or row["it"] == "on":
        raise psycopg.errors.ReadOnlySqlTransaction("the server takes no writes any more")


@asynccontextmanager
async def kept_alive(conn: Connection) -> AsyncIterator[None]:
    """While we wait for another connection within a transaction: a word a second, so that the server ends only one that hangs."""

    over = asyncio.Event()

    async def speak() -> None:
        with suppress(psycopg.Error):  # whoever uses the connection next hears of it
            while not over.is_set():
                try:
                    async with asyncio.timeout(KEPT_ALIVE_S):
                        await over.wait()
                except TimeoutError:
                    await AsyncConnection.execute(conn, "SELECT")  # which is no sign that anything moves

    speaking = asyncio.create_task(speak(), name="kept alive")
    try:
        yield
    finally:
        over.set()  # not cancelled: a query that is cut off spoils the transaction
        await speaking


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


async def made(cursor: AsyncCursor[Any], make: Callable[..., T]) -> list[T]:
    """All rows, each made of its columns in their order: for statements that return many, for which a dict for each is dear."""
    cursor.row_factory = args_row(make)
    return await cursor.fetchall()


def as_json(rows: object) -> Jsonb:
    """A parameter of type jsonb."""
    return Jsonb(rows, dumps=orjson.dumps)


def one_line(error: BaseException) -> str:
    """The first line of what Postgres said, without the prefix that repeats host and port for each address it tried.

    >>> one_line(ValueError("no such\\n  table"))
    'no such'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
