"""For machines: `/metrics` for Prometheus, `/livez`, `/readyz`, and `/readyz/EMP` for one EMP.

Ready means: the triggers are as configured, capture keeps up, and the oldest change on its way to each EMP is younger than its
`late_after_s`. Each of these has its line, so one bad EMP is seen, and not taken for the rest.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from cdc_pusher import metrics
from cdc_pusher.config import Settings
from cdc_pusher.gauges import Gauges
from cdc_pusher.plain import plain

STALE_S = 120.0

Checks = Iterator[tuple[str, str | None]]


class Probes:
    """`hanging`: the parts of the daemon that do not move any more."""

    def __init__(self, settings: Callable[[], Settings], gauges: Gauges, hanging: Callable[[], Sequence[str]]) -> None:
        self._settings = settings
        self._gauges = gauges
        self._hanging = hanging

    def routes(self) -> list[Route]:
        return [
            Route("/metrics", self._metrics),
            Route("/livez", self._livez),
            Route("/readyz", self._readyz),
            Route("/readyz/{emp}", self._readyz),
        ]

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _livez(self, _: Request) -> Response:
        return _answer([("parts", f"do not move any more: {', '.join(hanging)}" if (hanging := self._hanging()) else None)])

    async def _readyz(self, request: Request) -> Response:
        emp = request.path_params.get("emp")
        if emp is not None and emp not in self._settings().emp:
            return PlainTextResponse(f"no EMP {emp!r}\n", status_code=404)
        return _answer(list(self.checks(emp)))

    def checks(self, emp: str | None = None) -> Checks:
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


def _late(age_s: float, limit_s: float) -> str | None:
    """What is wrong with a change of this age.

    >>> _late(301.5, 300)
    'the oldest change is 302 s old, and should be younger than 300 s'
    """
    return f"the oldest change is {age_s:.0f} s old, and should be younger than {limit_s:g} s" if age_s > limit_s else None


def _answer(checks: Sequence[tuple[str, str | None]]) -> Response:
    """One line for each check; the status is 503 if anything is wrong."""
    lines = [plain(f"[{'-' if wrong else '+'}] {name}{f': {wrong}' if wrong else ' ok'}") + "\n" for name, wrong in checks]
    return PlainTextResponse("".join(lines), status_code=503 if any(wrong for _, wrong in checks) else 200)
