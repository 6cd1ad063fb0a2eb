"""A primary and its standby, and what can happen to such a pair.

The clients reach the primary through a relay, so that it can vanish as a machine does that loses its power or its network: what is sent to
it is not even acknowledged, and no connection to it ends. Both servers and the relay listen on 127.0.0.1. Linux only.
"""

import asyncio
import ctypes
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from psycopg.conninfo import make_conninfo
from rig import connected, until

from cdc_pusher.embedded import EmbeddedPostgres

SETTINGS = {"fsync": "off", "wal_receiver_status_interval": "1s", "wal_retrieve_retry_interval": "200ms"}
SO_ATTACH_FILTER = 26
DROP_EVERYTHING = struct.pack("HBBI", 0x06, 0, 0, 0)  # classic BPF: return 0, that is, keep no byte of any packet

Disaster = Literal["crash", "vanish"]


class Relay:
    """Forwards connections to a port of 127.0.0.1 until it vanishes."""

    def __init__(self, to_port: int) -> None:
        self.port = 0
        self._to_port = to_port
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._has_vanished = False

    async def __aenter__(self) -> "Relay":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def vanish(self) -> None:
        """From now on no packet of any client is received, so none is answered: neither data nor keepalives nor attempts to connect."""
        self._has_vanished = True
        for sock in (*self._server.sockets, *(client.get_extra_info("socket") for client in self._clients)):
            _drop_everything(sock)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer), name="relay")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            await self._connect(reader, writer)
        finally:
            writer.transport.abort()
            self._clients.discard(writer)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            return
        try:
            ways = [asyncio.create_task(_forward(reader, back)), asyncio.create_task(self._answer(there, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                if self._has_vanished:
                    await asyncio.Event().wait()  # a machine that is not there closes nothing
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            back.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (data := await _read(reader)) and not self._has_vanished:
            writer.write(data)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await _read(reader):
        writer.write(data)


async def _read(reader: asyncio.StreamReader) -> bytes:
    """What comes next; nothing at the end, however that comes."""
    try:
        return await reader.read(65_536)
    except ConnectionError:
        return b""


def can_vanish() -> bool:
    """Whether this kernel lets whoever we are have a filter on a socket; some reserve that for root."""
    with socket.socket() as sock:
        try:
            _drop_everything(sock)
        except OSError:
            return False
    return True


def _drop_everything(sock: Any) -> None:
    program = ctypes.create_string_buffer(DROP_EVERYTHING, len(DROP_EVERYTHING))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HxxxxxxP", 1, ctypes.addressof(program)))


class Pair:
    """Two servers; `dsn` names both and leads to the one that takes writes."""

    def __init__(self, primary: EmbeddedPostgres, standby: EmbeddedPostgres, relay: Relay) -> None:
        self.primary = primary
        self.standby = standby
        self._relay = relay

    @property
    def dsn(self) -> str:
        return make_conninfo(
            host="127.0.0.1,127.0.0.1",
            port=f"{self._relay.port},{self.standby.port}",
            user="postgres",
            dbname="postgres",
            target_session_attrs="read-write",
        )

    async def replicate(self, *, synchronous: bool) -> None:
        """Wait until the standby streams; from now on commits wait for it, or not."""
        if synchronous:
            await self._on(self.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        wanted = "sync" if synchronous else "async"
        streaming = f"SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = '{wanted}'"
        await self._until(self.primary, streaming, 1, "the standby streams")

    async def cut(self) -> None:
        """The standby has all that was written, and from now on receives nothing any more; clients still reach both."""
        await self._level()
        await self._on(self.standby, "ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        await self._until(self.primary, "SELECT count(*) FROM pg_stat_replication", 0, "the standby is cut off")
        await self._until(self.standby, "SELECT count(*) FROM pg_stat_wal_receiver", 0, "the standby has given up receiving")

    async def fail_over(self, disaster: Disaster) -> None:
        """The primary crashes, or vanishes from one moment to the next; then the standby takes over."""
        if disaster == "vanish":
            self._relay.vanish()
        await asyncio.to_thread(self.primary.stop, "immediate")
        await self.promote()

    async def switch_over(self) -> None:
        """In good order: the primary stops and comes back as the standby of the other one."""
        address = make_conninfo(host=self.standby.host, port=self.standby.port, user="postgres")
        data = Path(await self._on(self.primary, f"ALTER SYSTEM SET primary_conninfo = '{address}'", "SHOW data_directory"))
        await asyncio.to_thread(self.primary.stop)
        await self.promote()
        _make_a_standby(data)
        await asyncio.to_thread(self.primary.start)
        await self._until(
            self.standby, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'", 1, "the former primary follows"
        )

    async def forbid_writing(self) -> None:
        """The primary goes on, also with the connections it has, but takes no writes. The standby has all that was written."""
        await self._on(self.primary, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
        await self._until(self.primary, "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL", 0, "nobody writes any more")
        await self._level()

    async def promote(self) -> None:
        """The standby takes over, whatever the primary does."""
        await self._on(self.standby, "SELECT pg_promote()")
        await self._until(self.standby, "SELECT pg_is_in_recovery()", False, "the standby takes writes")

    async def _level(self) -> None:
        level = "SELECT flush_lsn >= pg_current_wal_lsn() FROM pg_stat_replication"
        await self._until(self.primary, level, True, "the standby has it all")

    async def _on(self, server: EmbeddedPostgres, *statements: str) -> Any:
        """The first value of the last of these statements."""
        async with await connected(server.dsn()) as conn:
            for statement in statements:
                cursor = await conn.execute(statement.encode())
            row = await cursor.fetchone() if cursor.description else None
        return next(iter(row.values())) if row else None

    async def _until(self, server: EmbeddedPostgres, query: str, value: object, what: str) -> None:
        async def holds() -> bool:
            return bool(await self._on(server, query) == value)

        await until(holds, what)


def _make_a_standby(data: Path) -> None:
    """What is in this data directory starts as a standby next time."""
    owner, signal = data.stat(), data / "standby.signal"
    signal.touch()
    os.chown(signal, owner.st_uid, owner.st_gid)


@asynccontextmanager
async def pair(*, synchronous: bool) -> AsyncIterator[Pair]:
    """A primary and a standby that streams from it; with `synchronous`, no commit is confirmed before the standby has it."""
    async with AsyncExitStack() as stack:
        primary = await _running(stack, EmbeddedPostgres(settings=SETTINGS, listen=True))
        standby = await _running(stack, EmbeddedPostgres(settings=SETTINGS, listen=True, standby_of=primary))
        made = Pair(primary, standby, await stack.enter_async_context(Relay(primary.port)))
        await made.replicate(synchronous=synchronous)
        yield made


async def _running(stack: AsyncExitStack, server: EmbeddedPostgres) -> EmbeddedPostgres:
    """Start a server, which blocks, beside the event loop; it ends with the stack."""
    await asyncio.to_thread(server.__enter__)
    stack.push_async_callback(asyncio.to_thread, server.__exit__)
    return server
