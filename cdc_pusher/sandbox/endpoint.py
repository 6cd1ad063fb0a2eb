"""The OIOI endpoint of the sandbox: reads a request, lets the faults strike, takes the message and answers.

HTTP statuses: 401 for a wrong key or partner identifier (210, 211), 400 for a message that can never be taken (200, 322), and 200 for
every other result code: 181 among them, since it is well-formed and may be taken later. The text leaves this open, and a sender has to
look at the result code first.

A request is inside until its handler ends or its client leaves. No request waits for another one; what is still waiting when the
endpoint closes (a hanging answer, a `late` message) is dropped.
"""

import asyncio
import contextlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from cdc_pusher.sandbox.emp import Emp
from cdc_pusher.sandbox.faults import Fault, Faults
from cdc_pusher.sandbox.ledger import Entry, Ledger
from cdc_pusher.sandbox.rules import (
    EVSE_ELSEWHERE,
    EVSE_NOT_FOUND,
    INVALID_API_KEY,
    INVALID_PARTNER,
    MALFORMED,
    Message,
    Refusal,
    read_message,
)
from cdc_pusher.sandbox.settings import SandboxSettings

HTTP_STATUS = {MALFORMED: 400, EVSE_ELSEWHERE: 400, INVALID_API_KEY: 401, INVALID_PARTNER: 401}
_SUCCESS = Refusal(code=0, message="Success.")
_FOREVER_S = 365 * 86_400

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Visit:
    """One request in the server; two of them are never equal."""

    request: web.Request
    message: Message
    received_at: float

    @property
    def has_left(self) -> bool:
        return self.request.transport is None or self.request.transport.is_closing()


class Endpoint:
    """One EMP's endpoint, with all that it holds and remembers. A mistake in the settings' faults is a `ConfigurationError`."""

    def __init__(self, settings: SandboxSettings) -> None:
        self.emp = Emp(connectors_may_change=settings.connectors_may_change)
        self.ledger = Ledger(size=settings.ledger_size)
        self.faults = Faults(settings.faults, seed=settings.seed)
        self._settings = settings
        self._struck: Counter[str] = Counter()
        self._requests = 0
        self._overlaps = 0
        self._inside: defaultdict[tuple[str | None, str], list[_Visit]] = defaultdict(list)
        self._waiting: set[asyncio.Task[Any]] = set()
        self._misbehave: dict[str, Callable[[_Visit, Fault], Awaitable[web.Response]]] = {
            "delay": self._delay,
            "http": self._http,
            "drop_before": self._drop_before,
            "drop_after": self._drop_after,
            "hang": self._hang,
            "garbage": self._garbage,
            "code": self._code,
            "late": self._late,
        }

    def stats(self) -> dict[str, Any]:
        """Counts since the start: `requests` and `faults` count at arrival, `accepted` and `refused` what was answered without a fault."""
        return {
            "requests": self._requests,
            "accepted": {"station": self.ledger.accepted["station"], "status": self.ledger.accepted["status"]},
            "refused": dict(self.ledger.refused),
            "faults": dict(self._struck),
            "duplicates": self.emp.duplicates,
            "overlaps": self._overlaps,
            "status_before_station": self.emp.status_before_station,
        }

    async def close(self) -> None:
        """Ends every wait, so that no handler is left that hangs."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    async def answer(self, request: web.Request) -> web.Response:
        """Answers one request, as OIOI v4 says or as the faults want it."""
        received_at = time.time()
        body = await request.read()
        self._requests += 1
        visit = _Visit(request=request, message=self._read(request, body), received_at=received_at)
        fault = self.faults.choose(visit.message.kind)
        with self._inside_the_server(visit):
            if fault is None:
                return self._process(visit)
            self._struck[fault.rule.kind] += 1
            return await self._misbehave[fault.rule.kind](visit, fault)

    def _read(self, request: web.Request, body: bytes) -> Message:
        """OIOI v4, request, headers; then the body."""
        if request.headers.get("Authorization") != f"key={self._settings.api_key}":
            return Message(refusal=Refusal(code=INVALID_API_KEY, message="Authorization: must be key=<API key>, with a key known here"))
        if request.headers.get("Content-Type") != "application/json":
            return Message(refusal=Refusal(code=MALFORMED, message="Content-Type: must be application/json, without parameters"))
        return read_message(body, partner_identifier=self._settings.partner_identifier)

    @contextlib.contextmanager
    def _inside_the_server(self, visit: _Visit) -> Iterator[None]:
        """Counts an overlap if another request for the same entity is inside whose client still waits for its answer.

        A handler hears a moment after its client that this has left; the transport knows at once.
        """
        if visit.message.key is None:
            yield
            return
        entity = visit.message.kind, visit.message.key
        inside = self._inside[entity]
        if any(not other.has_left for other in inside):
            self._overlaps += 1
        inside.append(visit)
        try:
            yield
        finally:
            inside.remove(visit)
            if not inside:
                self._inside.pop(entity, None)

    def _process(self, visit: _Visit) -> web.Response:
        """Takes the message as a well-behaved EMP does, and gives the answer."""
        refusal = self.emp.take(visit.message, answered=not visit.has_left)
        outcome = f"refused:{refusal.code}" if refusal else "accepted"
        self._record(visit, outcome, applied=refusal is None)
        return _result(refusal or _SUCCESS)

    def _process_unanswered(self, visit: _Visit, fault: Fault) -> Entry:
        """Takes the message, but the sender will not hear whether it was taken."""
        refusal = self.emp.take(visit.message, answered=False)
        self.emp.forgive(visit.message)
        return self._record(visit, f"fault:{fault.rule.kind}", applied=refusal is None)

    def _ignore(self, visit: _Visit, fault: Fault) -> Entry:
        """Does not take the message. A sender that is told 181 has to push the station again."""
        self.emp.forgive(visit.message, station_too=fault.rule.code == EVSE_NOT_FOUND)
        return self._record(visit, f"fault:{fault.rule.kind}", applied=False)

    def _record(self, visit: _Visit, outcome: str, *, applied: bool) -> Entry:
        return self.ledger.record(visit.message, outcome=outcome, applied=applied, received_at=visit.received_at, finished_at=time.time())

    # The faults, one method each

    async def _delay(self, visit: _Visit, fault: Fault) -> web.Response:
        return await asyncio.shield(self._later(fault.seconds, lambda: self._process(visit)))

    async def _http(self, visit: _Visit, fault: Fault) -> web.Response:
        self._ignore(visit, fault)
        retry_after = fault.rule.retry_after
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        return web.Response(status=fault.rule.status or 500, text="This is a fault of the sandbox.\n", headers=headers)

    async def _drop_before(self, visit: _Visit, fault: Fault) -> web.Response:
        self._ignore(visit, fault)
        return _cut(visit)

    async def _drop_after(self, visit: _Visit, fault: Fault) -> web.Response:
        self._process_unanswered(visit, fault)
        return _cut(visit)

    async def _hang(self, visit: _Visit, fault: Fault) -> web.Response:
        entry = self._process_unanswered(visit, fault) if fault.rule.applied else self._ignore(visit, fault)
        entry["finished_at"] = None
        try:
            await self._later(_FOREVER_S if fault.seconds is None else fault.seconds, lambda: None)
        finally:
            entry["finished_at"] = time.time()
        return _cut(visit)

    async def _garbage(self, visit: _Visit, fault: Fault) -> web.Response:
        self._process_unanswered(visit, fault)
        return web.Response(text='<html>{"result": {"code": 0', content_type="text/html")

    async def _code(self, visit: _Visit, fault: Fault) -> web.Response:
        self._ignore(visit, fault)
        return _result(Refusal(code=fault.rule.code or 0, message="This is a fault of the sandbox."), status=fault.rule.status)

    async def _late(self, visit: _Visit, fault: Fault) -> web.Response:
        self.emp.forgive(visit.message)
        self._later(fault.seconds, lambda: self._process_unanswered(visit, fault))
        return _cut(visit)

    def _later(self, seconds: float | None, act: Callable[[], T]) -> asyncio.Task[T]:
        async def wait_and_act() -> T:
            await asyncio.sleep(seconds or 0)
            return act()

        task = asyncio.create_task(wait_and_act(), name="sandbox: process later")
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task


def _result(refusal: Refusal, *, status: int | None = None) -> web.Response:
    """OIOI v4, response: the result object."""
    body = json.dumps({"result": {"code": refusal.code, "message": refusal.message}}).encode()
    return web.Response(status=status or HTTP_STATUS.get(refusal.code, 200), body=body, content_type="application/json")


def _cut(visit: _Visit) -> web.Response:
    """Aborts the connection; the answer that a handler has to give goes nowhere."""
    if visit.request.transport is not None:
        visit.request.transport.abort()
    return web.Response()
