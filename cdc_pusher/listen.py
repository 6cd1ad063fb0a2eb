"""Hears the triggers' NOTIFY and wakes the daemon; only ever a hint.

The connection does nothing else. It is tested by a query when nothing was heard for a while, since a half-open socket stays silent for
ever; after every connection the daemon is woken, for what was sent before was not heard.
"""

import asyncio
from collections.abc import Callable

from psycopg import sql

from cdc_pusher.database import Connection
from cdc_pusher.schema import CHANNEL

HEARTBEAT_S = 10.0
HEARTBEAT_TIMEOUT_S = 5.0


async def listen(conn: Connection, wake: Callable[[], None], stop: asyncio.Event) -> None:
    """Call `wake` for every notification until `stop` is set. Raises psycopg errors or `TimeoutError` when the connection is dead."""
    await conn.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
    wake()
    while not stop.is_set():
        async for _ in conn.notifies(timeout=HEARTBEAT_S):
            wake()
            if stop.is_set():
                return
        async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
            await conn.execute("SELECT 1")
