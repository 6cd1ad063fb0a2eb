"""Serves an ASGI application to people and machines beside us, on uvicorn, inside the daemon's own event loop.

Nothing can be changed here, and nobody who connects can hold up the daemon: a connection carries one request and lasts `CONNECTION_S`,
there are at most `MOST_CONNECTIONS`, and what is done for one ends when whoever asked has gone. On an address of this machine alone,
requests for any other name are refused: a page of somebody else in a browser here would reach us by a name that it has led to this address
(DNS rebinding).
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import h11
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

MOST_CONNECTIONS = 32
CONNECTION_S = 10.0
STOP_S = 1.0
LONGEST_HEAD = 16_384  # bytes of a request's line and headers

_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"connection", b"close"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        b" base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
_LOOPBACK = re.compile(r"localhost|127\.[\d.]+|\[::1\]", re.IGNORECASE)
_NO_NAME = re.compile(rb"((localhost|[\d.]+|\[[\da-f:.]+\])(:\d*)?)?", re.IGNORECASE)  # a Host header

logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # not that somebody sent what is no HTTP, which would fill the log


class Server:
    """One application at one address, `HOST:PORT`; listens for the length of a `with` block. Raises OSError, OverflowError."""

    def __init__(self, application: ASGIApp, address: str) -> None:
        host, _, port = address.rpartition(":")
        guarded = _Guard(application, by_address_only=_LOOPBACK.fullmatch(host) is not None)
        self._host, self._port = host, int(port)
        unused: dict[str, Any] = {"log_config": None, "access_log": False, "ws": "none", "lifespan": "off", "proxy_headers": False}
        self._config = Config(guarded, h11_max_incomplete_event_size=LONGEST_HEAD, **unused)
        self._config.load()
        self._state = ServerState()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Yields the address with the port that it got."""
        listener = await asyncio.get_running_loop().create_server(self._accept, self._host.strip("[]"), self._port)
        try:
            yield f"{self._host}:{listener.sockets[0].getsockname()[1]}"
        finally:
            listener.close()
            if self._state.tasks:
                await asyncio.wait(self._state.tasks, timeout=STOP_S)
            for connection in list(self._state.connections):
                connection.transport.abort()
            await asyncio.gather(*self._state.tasks, return_exceptions=True)

    def _accept(self) -> asyncio.Protocol:
        if len(self._state.connections) >= MOST_CONNECTIONS:
            return _NoRoom()
        return _Connection(config=self._config, server_state=self._state, app_state={})


class _NoRoom(asyncio.Protocol):
    """Hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class _Connection(H11Protocol):
    """Ends after `CONNECTION_S`, whatever it has not sent or read by then."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as theirs has it
        super().connection_made(transport)
        self.loop.call_later(CONNECTION_S, transport.abort)

    def data_received(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except h11.ProtocolError:  # more than one request, or nonsense after it
            self.transport.abort()


class _Guard:
    """Refuses names of others, and has no page of theirs make anything of an answer, with which the connection ends."""

    def __init__(self, application: ASGIApp, *, by_address_only: bool) -> None:
        self._application = application
        self._by_address_only = by_address_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def finish(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        answer: ASGIApp = self._application
        if self._by_address_only and not _NO_NAME.fullmatch(dict(scope["headers"]).get(b"host", b"")):
            answer = PlainTextResponse("ask for an address, or for localhost\n", status_code=421)
        await _while_asked(receive, answer(scope, receive, finish))


async def _while_asked(receive: Receive, answering: Awaitable[None]) -> None:
    """Answer, but no longer than there is somebody to hear it."""
    answer = asyncio.ensure_future(answering)
    leaves = asyncio.create_task(_leaves(receive), name="leaves")
    try:
        await asyncio.wait((answer, leaves), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            answer.result()
    finally:
        for task in (answer, leaves):
            task.cancel()
        await asyncio.gather(answer, leaves, return_exceptions=True)


async def _leaves(receive: Receive) -> None:
    """Whoever asked has gone; what they have sent meanwhile is nothing to us."""
    while (await receive())["type"] != "http.disconnect":
        pass
