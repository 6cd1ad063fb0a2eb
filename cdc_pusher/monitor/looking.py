"""What the views look with: the configuration, the figures that the daemon has anyway, and now and then a connection.

A view that nobody asks for costs nothing. One that is asked for costs a connection for as long as it takes, of which there are
`AT_ONCE`, reads only, and gives up a statement after `PATIENCE`, and all of it after `LOOK_S`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from cdc_pusher.config import Settings
from cdc_pusher.database import BY_INDEX, Connection, connect
from cdc_pusher.gauges import Figures, Gauges
from cdc_pusher.monitor.probes import Probes
from cdc_pusher.sql import queries

sql = queries("monitor")

AT_ONCE = 2
PATIENCE = "5s"
LOOK_S = 8.0  # less than a connection to the page lasts
OF_THE_CPO = {"statement_timeout": PATIENCE, "max_parallel_workers_per_gather": "0", "default_transaction_read_only": "on"}
OURS = BY_INDEX | OF_THE_CPO | {"enable_bitmapscan": "on"}  # the only way through an index of words

Row = dict[str, Any]


class Eyes:
    """`me`: the name of this daemon."""

    def __init__(self, me: str, settings: Callable[[], Settings], gauges: Gauges, probes: Probes) -> None:
        self.me = me
        self.probes = probes
        self._settings = settings
        self._gauges = gauges
        self._places = asyncio.Semaphore(AT_ONCE)

    @property
    def settings(self) -> Settings:
        return self._settings()

    @asynccontextmanager
    async def connection(self, settings: Mapping[str, str] = OURS) -> AsyncIterator[Connection]:
        """One that reads; for the CPO's tables with the settings `OF_THE_CPO`. Raises `DatabaseUnavailable`."""
        async with self._places, await connect(self.settings.database.dsn, "page", settings=settings) as conn:
            await conn.set_read_only(True)  # behind a pooler, where there is no setting for transactions to come
            yield conn

    async def figures(self, conn: Connection) -> Figures:
        """As new as they may be had: the longer reading them takes, the older; beyond half a second, as old as the daemon's own looks."""
        former = self._gauges.figures
        if former is not None and not self._gauges.is_due_for_people():
            return former
        try:
            return await self._gauges.refresh(conn, self.settings)
        except psycopg.Error:
            if former is None:
                raise
            return former

    def emps(self, emp: str | None) -> list[str]:
        """The EMP that is asked for, or all of the configuration."""
        return sorted(self.settings.emp) if emp is None else [emp]


async def rows(conn: Connection, query: bytes, **parameters: object) -> Sequence[Row]:
    """What a query finds."""
    return await (await conn.execute(query, parameters)).fetchall()
