"""A network between a daemon and a server, which can be cut without a word: bytes stop, connections stay."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Relay:
    """Forwards TCP connections on `port` of 127.0.0.1 to a TCP port or a Unix socket.

    `forwarded` counts the bytes that clients sent on; `delay_s` says how long the next bytes take, None: no time.
    """

    def __init__(self, target: int | str) -> None:
        self.port = 0
        self.forwarded = 0
        self.delay_s: Callable[[], float] | None = None
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._refuses = False
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """From now on nothing arrives, in either direction."""
        self._open.clear()

    def refuse(self) -> None:
        """Break all connections, and take no new one."""
        self._refuses = True
        self._abort()

    def mend(self) -> None:
        """What was sent meanwhile arrives, and all that follows."""
        self._refuses = False
        self._open.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        self._writers.add(writer)
        try:
            if isinstance(self._target, int):
                there, back = await asyncio.open_connection("127.0.0.1", self._target)
            else:
                there, back = await asyncio.open_unix_connection(self._target)
            self._writers.add(back)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, back, counted=True), name="there")
                    group.create_task(self._pump(there, writer, counted=False), name="back")
            finally:
                back.close()  # one that was reset, too
        except* OSError:
            pass
        finally:
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        while data := await reader.read(65536):
            await self._open.wait()
            if self.delay_s is not None:
                await asyncio.sleep(self.delay_s())
            self.forwarded += len(data) if counted else 0
            writer.write(data)
            await writer.drain()
        writer.close()

    def close(self) -> None:
        """End all connections."""
        self.mend()
        self._abort()

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


@asynccontextmanager
async def relay(target: int | str) -> AsyncIterator[Relay]:
    """A relay for the length of the block."""
    made = Relay(target)
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        made.close()
        await server.wait_closed()
