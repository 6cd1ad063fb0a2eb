"""A part of the daemon: one task, which says that it moves, can be asked to end, and is given a new connection whenever one breaks.

    waiting ──begin──▶ working ──asked to end──▶ ending ──▶ ended
                          └── fails in a way that no new connection mends: the daemon ends with its reason

The pause between connections grows. Whoever is asked to end finishes what it has begun within `grace_s`; one that has not ended some time
after that is cut off (leases and claims take care of what it held).
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import structlog

from cdc_pusher import metrics, policy
from cdc_pusher.database import BY_INDEX, NOT_WAITED_FOR, Connection, connect, one_line
from cdc_pusher.errors import CdcPusherError, DatabaseUnavailable

log = structlog.get_logger(__name__)

RECONNECT_BASE_S, RECONNECT_CAP_S = 0.2, 10.0
CUT_OFF_S = 2.0  # after its grace
IDLE_S = 5.0  # a part that waits looks up so often, to show that it moves
DEAD_CONNECTION = (DatabaseUnavailable, psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError, TimeoutError)


async def wait(event: asyncio.Event, seconds: float | None = IDLE_S) -> bool:
    """Wait for an event, at most so many seconds (None: for as long as it takes). Returns whether it has come."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


class Part:
    """`name` is for people. `key`: what it was begun for; for something else there is another one. `wake`: there is something to do."""

    def __init__(self, name: str, work: Callable[["Part"], Awaitable[None]], *, key: Any = None, dsn: str = "") -> None:
        self.name = name
        self.key = key
        self.stop = asyncio.Event()
        self.wake = asyncio.Event()
        self.grace_s = math.inf
        self.is_working = False
        self.worked_at = time.monotonic()  # when it last did
        self.moved_at = time.monotonic()
        self._work = work
        self._dsn = dsn
        self._task: asyncio.Task[None] | None = None

    def begin(self, group: asyncio.TaskGroup, ended: Callable[[], None]) -> None:
        """Start; `ended` is called when it is over."""
        metrics.connections_lost.labels(self.name.partition(" ")[0])
        self._task = group.create_task(self._run(), name=self.name)
        self._task.add_done_callback(lambda _: ended())

    async def _run(self) -> None:
        await self._work(self)

    @property
    def has_ended(self) -> bool:
        return self._task is not None and self._task.done()

    def end(self, grace_s: float) -> None:
        """Ask it to end, with so many seconds for what it has begun; asked again, the shorter time counts."""
        assert self._task is not None, "it has begun"
        if grace_s < self.grace_s:
            self.grace_s = grace_s
            asyncio.get_running_loop().call_later(grace_s + CUT_OFF_S, self._task.cancel)
        self.stop.set()
        self.wake.set()

    def cut_off(self) -> None:
        """End it now, once: what only waits has begun nothing."""
        assert self._task is not None, "it has begun"
        if self.grace_s >= 0:
            self.grace_s = -1.0
            self.stop.set()
            self._task.cancel()

    def moves(self) -> None:
        """Say that it works, or waits for good reason; one that hangs does not say so."""
        self.moved_at = time.monotonic()

    async def connected(
        self, work: Callable[[Connection, "Part"], Awaitable[None]], *, waits: bool = True, idle_in_transaction_s: int = 5, dsn: str = ""
    ) -> None:
        """Do work on a connection, and again on a new one whenever that breaks. `waits`: for its commits to be durable.

        Returns when the work does, or when asked to end while there is no connection.

        Raises `CdcPusherError` when a new connection would not help.
        """
        failures, connected_at = 0, math.inf
        settings = BY_INDEX if waits else BY_INDEX | NOT_WAITED_FOR
        while True:
            self.moves()
            try:
                async with await connect(
                    dsn or self._dsn, self.name, settings=settings, idle_in_transaction_s=idle_in_transaction_s
                ) as conn:
                    connected_at = time.monotonic()
                    if failures:
                        log.info("database connected again", part=self.name)
                    conn.moves = self.moves
                    self.is_working = True
                    return await work(conn, self)
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege) as error:
                raise CdcPusherError(f"{self.name}: {one_line(error)}; run cdc-pusher migrate") from error
            except DEAD_CONNECTION as error:
                if self.stop.is_set():
                    return None
                if time.monotonic() - connected_at > RECONNECT_CAP_S:
                    failures = 0  # it has worked meanwhile
                connected_at = math.inf
                pause = policy.backoff_s(failures, base_s=RECONNECT_BASE_S, cap_s=RECONNECT_CAP_S, chance=random.uniform(0.5, 1.0))
                metrics.connections_lost.labels(self.name.partition(" ")[0]).inc()
                log.warning("database connection lost", part=self.name, error=one_line(error), retry_in_s=round(pause, 2))
                failures += 1
                await self.pause(pause)
            finally:
                self.is_working = False

    async def rest(self) -> None:
        """Do nothing until asked to end."""
        while not await wait(self.stop):
            self.moves()

    async def pause(self, seconds: float) -> None:
        """Let time pass, unless asked to end."""
        until = time.monotonic() + seconds
        while not self.stop.is_set() and (left := until - time.monotonic()) > 0:
            await wait(self.stop, min(left, IDLE_S))
            self.moves()
