"""Tells how the daemon does, over HTTP, at one address and without changing anything.

    probes     for machines: metrics, whether we live, whether we are ready
    pages      for people: each view as a page, and as JSON under /api/
    server     who may connect, for how long, and what a browser may make of it

An address that cannot be had is no reason not to deliver.
"""

from collections.abc import Callable, Sequence

import structlog
from starlette.applications import Starlette

from cdc_pusher.config import Settings
from cdc_pusher.gauges import Gauges
from cdc_pusher.monitor import pages
from cdc_pusher.monitor.looking import Eyes
from cdc_pusher.monitor.probes import Probes
from cdc_pusher.monitor.server import Server
from cdc_pusher.part import Part

log = structlog.get_logger(__name__)

RETRY_S = 10.0


class Monitor:
    """`me`: the name of this daemon; `hanging`: the parts of it that do not move any more."""

    def __init__(self, me: str, settings: Callable[[], Settings], gauges: Gauges, hanging: Callable[[], Sequence[str]]) -> None:
        probes = Probes(settings, gauges, hanging)
        self._application = Starlette(
            routes=[*probes.routes(), *pages.routes(Eyes(me, settings, gauges, probes))], exception_handlers=pages.EXCEPTION_HANDLERS
        )
        self._application.router.redirect_slashes = False  # to an address that is made of what was asked

    async def run(self, part: Part) -> None:
        """Serve until asked to end."""
        while not part.stop.is_set():
            try:
                async with Server(self._application, part.key).listening() as address:
                    log.info("metrics are served", address=address)
                    await part.rest()
            except (OSError, OverflowError) as error:
                log.error("metrics cannot be served at this address", address=part.key, error=str(error), retry_in_s=RETRY_S)
                await part.pause(RETRY_S)
