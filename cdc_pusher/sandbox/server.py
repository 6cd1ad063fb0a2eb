"""The sandbox EMP on the network: one OIOI endpoint, and the inspection endpoints beside it.

    POST         /api/v4/request   OIOI v4
    GET          /stations         what the EMP holds, deleted stations too
    GET          /stats            counts
    GET, DELETE  /ledger           every request: `?after=<seq>`, `&limit=<n>`
    GET, PUT     /faults           how it misbehaves: `{"seed": 1, "rules": []}`

No fault ever touches the inspection endpoints; they need no key.
"""

import asyncio
import json
import signal
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from cdc_pusher.errors import CdcPusherError, ConfigurationError
from cdc_pusher.sandbox.emp import Content
from cdc_pusher.sandbox.endpoint import Endpoint
from cdc_pusher.sandbox.faults import Faults, read_request
from cdc_pusher.sandbox.ledger import Entry
from cdc_pusher.sandbox.settings import SandboxSettings

PATH = "/api/v4/request"
_STOP_S = 0.2
"""How long a stop waits for answers that are being written."""


class Sandbox:
    """A strict EMP while its context is open (once); everything it was told stays readable afterwards.

    Entering raises a `CdcPusherError` if it cannot listen; a mistake in the settings' faults is a `ConfigurationError` at once.
    """

    def __init__(self, settings: SandboxSettings | None = None) -> None:
        self.settings = settings or SandboxSettings()
        self._endpoint = Endpoint(self.settings)
        self._runner: web.AppRunner | None = None
        self._port = self.settings.port

    @property
    def root(self) -> str:
        """`http://host:port`; the port is known once the context is open."""
        host = self.settings.host
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    @property
    def url(self) -> str:
        """The OIOI endpoint."""
        return self.root + PATH

    @property
    def stations(self) -> dict[str, Content]:
        """What the EMP holds, as `GET /stations` shows it."""
        return self._endpoint.emp.stations

    @property
    def ledger(self) -> list[Entry]:
        """Every request that was processed, as `GET /ledger` shows it."""
        return list(self._endpoint.ledger.entries)

    def stats(self) -> dict[str, Any]:
        """Counts since the start, as `GET /stats` shows them."""
        return self._endpoint.stats()

    def set_faults(self, rules: Sequence[Mapping[str, Any]], *, seed: int | None = None) -> None:
        """Puts these rules in force and starts their generator afresh (`seed`: as before); an empty list makes the sandbox behave."""
        self._endpoint.faults = Faults(rules, seed=self._endpoint.faults.seed if seed is None else seed)

    async def __aenter__(self) -> Self:
        runner = web.AppRunner(self._application(), access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.settings.host, self.settings.port, backlog=1024).start()
        except OSError as error:
            await runner.cleanup()
            raise CdcPusherError(f"the sandbox cannot listen at {self.settings.host}:{self.settings.port}: {error.strerror}") from error
        self._runner = runner
        self._port = runner.addresses[0][1]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._endpoint.close()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def _application(self) -> web.Application:
        app = web.Application()
        app.router.add_post(PATH, self._endpoint.answer)
        app.router.add_get("/stations", self._get_stations)
        app.router.add_get("/stats", self._get_stats)
        app.router.add_get("/ledger", self._get_ledger)
        app.router.add_delete("/ledger", self._delete_ledger)
        app.router.add_get("/faults", self._get_faults)
        app.router.add_put("/faults", self._put_faults)
        return app

    async def _get_stations(self, _request: web.Request) -> web.Response:
        return web.json_response(self._endpoint.emp.stations)

    async def _get_stats(self, _request: web.Request) -> web.Response:
        return web.json_response(self.stats())

    async def _get_ledger(self, request: web.Request) -> web.Response:
        try:
            after, limit = int(request.query.get("after", 0)), int(request.query.get("limit", self.settings.ledger_size))
        except ValueError:
            return _mistake("after and limit must be integers")
        return web.json_response(self._endpoint.ledger.after(after)[: max(limit, 0)])

    async def _delete_ledger(self, _request: web.Request) -> web.Response:
        self._endpoint.ledger.entries.clear()
        return web.Response(status=204)

    async def _get_faults(self, _request: web.Request) -> web.Response:
        return web.json_response(self._endpoint.faults.as_json())

    async def _put_faults(self, request: web.Request) -> web.Response:
        try:
            self._endpoint.faults = read_request(json.loads(await request.read()), seed=self._endpoint.faults.seed)
        except ConfigurationError as error:
            return _mistake(str(error))
        except ValueError as error:
            return _mistake(f"body: is not JSON: {error}")
        return web.json_response(self._endpoint.faults.as_json())


async def serve(settings: SandboxSettings, *, announce: Callable[[str], None]) -> None:
    """Runs the sandbox until SIGTERM or SIGINT; `announce` gets one line with the URL once it listens."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        async with Sandbox(settings) as sandbox:
            announce(f"Sandbox EMP (OIOI v4) at {sandbox.url}")
            await stop.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _mistake(message: str) -> web.Response:
    return web.json_response({"error": message}, status=400)
