"""Tells how the daemon does, over HTTP: `/metrics` for Prometheus, `/livez`, `/readyz`, and `/readyz/EMP` for one EMP.

Ready means: the triggers are as configured, capture keeps up, and the oldest change on its way to each EMP is younger than its
`late_after_s`. Each of these has its line, so one bad EMP is seen, and not taken for the rest. An address that cannot be had is no reason
not to deliver.

Nothing can be changed here, and nobody who connects can hold up the daemon: a connection carries one request and lasts `CONNECTION_S`, and
there are at most `MOST_CONNECTIONS`. On an address of this machine alone, requests for any other name are refused: a page of somebody else
in a browser here would reach us by a name that it has led to this address (DNS rebinding).
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cdc_pusher import metrics
from cdc_pusher.config import Settings
from cdc_pusher.gauges import Gauges
from cdc_pusher.part import Part
from cdc_pusher.plain import plain

log = structlog.get_logger(__name__)

STALE_S = 120.0
RETRY_S = 10.0
STOP_S = 1.0
MOST_CONNECTIONS = 32
CONNECTION_S = 10.0

_HEADERS = {"Cache-Control": "no-store", "Cross-Origin-Resource-Policy": "same-origin", "X-Content-Type-Options": "nosniff"}
_LOOPBACK = re.compile(r"localhost|127\.[\d.]+|\[::1\]", re.IGNORECASE)
_NO_NAME = re.compile(r"((localhost|[\d.]+|\[[\da-f:.]+\])(:\d*)?)?", re.IGNORECASE)  # a Host header

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Checks = Iterator[tuple[str, str | None]]


class Monitor:
    """`hanging`: the parts of the daemon that do not move any more."""

    def __init__(self, settings: Callable[[], Settings], gauges: Gauges, hanging: Callable[[], Sequence[str]]) -> None:
        self._settings = settings
        self._gauges = gauges
        self._hanging = hanging

    async def run(self, part: Part) -> None:
        """Serve until asked to end."""
        host, _, port = part.key.rpartition(":")
        runner = web.AppRunner(self._application(host), access_log=None, shutdown_timeout=STOP_S)
        await runner.setup()
        assert runner.server is not None, "it is set up"
        listener = None
        try:
            while not part.stop.is_set():
                try:
                    listener = await asyncio.get_running_loop().create_server(_accepting(runner.server), host.strip("[]"), int(port))
                except (OSError, OverflowError) as error:
                    log.error("metrics cannot be served at this address", address=part.key, error=str(error), retry_in_s=RETRY_S)
                    await part.pause(RETRY_S)
                else:
                    log.info("metrics are served", address=f"{host}:{listener.sockets[0].getsockname()[1]}")
                    await part.rest()
        finally:
            if listener is not None:
                listener.close()
            await runner.cleanup()

    def _application(self, host: str) -> web.Application:
        application = web.Application(middlewares=[_guarded] if _LOOPBACK.fullmatch(host) else [])
        application.on_response_prepare.append(_finish)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/readyz/{emp}", self._readyz)
        return application

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _livez(self, _: web.Request) -> web.Response:
        return _answer([("parts", f"do not move any more: {', '.join(hanging)}" if (hanging := self._hanging()) else None)])

    async def _readyz(self, request: web.Request) -> web.Response:
        emp = request.match_info.get("emp")
        if emp is not None and emp not in self._settings().emp:
            return web.Response(status=404, text=f"no EMP {emp!r}\n")
        return _answer(list(self._checks(emp)))

    def _checks(self, emp: str | None) -> Checks:
        """What is looked at, and what is wrong with it (None: nothing)."""
        figures, settings = self._gauges.figures, self._settings()
        if figures is None or time.monotonic() - figures.at > STALE_S:
            yield "database", "has not been looked into for too long"
            return
        yield "database", None
        if emp is None:
            yield "triggers", "; ".join(figures.trigger_faults) or None
            yield "capture", _late(figures.change_log_age_s, settings.monitoring.capture_late_after_s)
        for name, age_s in figures.oldest_s.items():
            if emp in (None, name) and name in settings.emp:
                yield f"emp {name}", _late(age_s, settings.emp[name].late_after_s)


class _NoRoom(asyncio.Protocol):
    """Hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _accepting(server: web.Server) -> Callable[[], asyncio.Protocol]:
    """A factory of protocols, one for each connection."""
    loop = asyncio.get_running_loop()

    def accept() -> asyncio.Protocol:
        if len(server.connections) >= MOST_CONNECTIONS:
            return _NoRoom()
        protocol = server()
        loop.call_later(CONNECTION_S, _cut_off, protocol)
        return protocol

    return accept


def _cut_off(protocol: web.RequestHandler) -> None:
    """Whatever it has not sent or read by now."""
    if protocol.transport is not None:
        protocol.transport.abort()


def _is_ours(record: logging.LogRecord) -> bool:
    """Not that somebody sent what is no HTTP, which would fill the log."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


logging.getLogger("aiohttp.server").addFilter(_is_ours)


@web.middleware
async def _guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    if not _NO_NAME.fullmatch(request.headers.get("Host", "")):
        return web.Response(status=421, text="ask for an address, or for localhost\n")
    return await handler(request)


async def _finish(_: web.Request, response: web.StreamResponse) -> None:
    """No page of others makes anything of an answer, and the connection ends with it."""
    response.headers.update(_HEADERS)
    response.headers["Connection"] = "close"
    response.force_close()


def _late(age_s: float, limit_s: float) -> str | None:
    """What is wrong with a change of this age.

    >>> _late(301.5, 300)
    'the oldest change is 302 s old, and should be younger than 300 s'
    """
    return f"the oldest change is {age_s:.0f} s old, and should be younger than {limit_s:g} s" if age_s > limit_s else None


def _answer(checks: Sequence[tuple[str, str | None]]) -> web.Response:
    """One line for each check; the status is 503 if anything is wrong."""
    lines = [plain(f"[{'-' if wrong else '+'}] {name}{f': {wrong}' if wrong else ' ok'}") + "\n" for name, wrong in checks]
    return web.Response(status=503 if any(wrong for _, wrong in checks) else 200, text="".join(lines))
