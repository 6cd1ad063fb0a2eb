"""Hears NOTIFY, from the triggers and from other daemons, and wakes whoever it is for; only ever a hint.

The connection does nothing else. Now and then it is tested: a half-open socket stays silent for ever, and a transaction pooler takes LISTEN
and delivers nothing. So a message is sent through another connection; while none arrives, `hears` is false, and the daemon polls. After
every connection everybody is woken, for what was sent before was not heard.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import structlog
from psycopg import sql

from cdc_pusher import metrics
from cdc_pusher.database import Connection, connect, require_writable
from cdc_pusher.names import CHANNEL, LANE_CHANNEL
from cdc_pusher.part import Part, wait

log = structlog.get_logger(__name__)

HEARTBEAT_S = 10.0
HEARTBEAT_TIMEOUT_S = 5.0
TEST_S = 300.0
HEARD_WITHIN_S = 3.0


class Listener:
    """`heard` is called with the channel and what came with it; `dsn` leads to the database that the NOTIFY come from."""

    def __init__(self, dsn: str, me: str, heard: Callable[[str, str], None]) -> None:
        self.hears = False
        self._dsn = dsn
        self._me = me
        self._heard = heard
        self._tested_at = float("-inf")
        self._said: bool | None = None

    async def run(self, conn: Connection, part: Part) -> None:
        """Listen until asked to end. Raises psycopg errors or `TimeoutError` when the connection is dead."""
        channels = (CHANNEL, LANE_CHANNEL, self._own)
        try:
            await conn.execute(sql.SQL("; ").join(sql.SQL("LISTEN {}").format(sql.Identifier(channel)) for channel in channels))
            self._tested_at = float("-inf")
            self._heard(CHANNEL, "")
            while not part.stop.is_set():
                if time.monotonic() - self._tested_at > TEST_S:
                    await self._test(conn)
                until = time.monotonic() + HEARTBEAT_S
                while (left_s := until - time.monotonic()) > 0:
                    async for notification in conn.notifies(timeout=0):
                        self._heard(notification.channel, notification.payload)
                        part.moves()
                    await _spoken_to(conn, left_s)
                async with asyncio.timeout(HEARTBEAT_TIMEOUT_S):
                    await require_writable(conn)
                part.moves()
        finally:
            self.hears = False
            metrics.listening.set(0)

    @property
    def _own(self) -> str:
        return f"{CHANNEL} {self._me}"[:63]

    async def _test(self, conn: Connection) -> None:
        """See whether what is sent arrives."""
        self.hears = await arrives(conn, self._dsn, self._own, self._heard)
        self._tested_at = time.monotonic()
        metrics.listening.set(self.hears)
        if self.hears is not self._said:
            self._said = self.hears
            if self.hears:
                log.info("NOTIFY is heard")
            else:
                log.warning("NOTIFY is not heard, so the database is polled: is there a transaction pooler? See database.listen_dsn")


async def _spoken_to(conn: Connection, seconds: float) -> None:
    """Wait until the server says something, at most so many seconds. To wait in `notifies` would be to wake ten times a second."""
    loop, spoken = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(conn.fileno(), spoken.set)
    try:
        await wait(spoken, seconds)
    finally:
        loop.remove_reader(conn.fileno())


async def arrives(conn: Connection, dsn: str, channel: str, heard: Callable[[str, str], None] = lambda *_: None) -> bool:
    """Whether a NOTIFY that is sent through another connection (`dsn`) reaches this one, which listens; others go to `heard`."""
    async with await connect(dsn, "listen") as other:
        await other.execute("SELECT pg_notify(%s, '')", [channel])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HEARD_WITHIN_S):
            arrived = False
            while not arrived:
                async for notification in conn.notifies(stop_after=1):  # and all that came with it: to leave in between would lose them
                    heard(notification.channel, notification.payload)
                    arrived |= notification.channel == channel
            return True
    return False
