"""What a lane claims ahead, and what becomes of it; moved by hand on a real database, with a real EMP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hand import Hand, hand
from rig import KEY, Rig, rig, until

from cdc_pusher.client import EmpClient
from cdc_pusher.clock import now_s
from cdc_pusher.delivery import Lane
from cdc_pusher.lease import Lease
from cdc_pusher.memory import Memory
from cdc_pusher.model import Retry
from cdc_pusher.sandbox import Sandbox, SandboxSettings

STATIONS = [f"s{n}" for n in range(12)]
WIDTH = 2
DUE = "SELECT count(*) FROM cdc_pusher.outbox WHERE state = 'pending' AND next_attempt_at <= now()"
CLAIMED = "SELECT count(*) FROM cdc_pusher.outbox WHERE state = 'in_flight'"


@pytest.fixture
async def cpo(dsn: str, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig(dsn, tmp_path) as made:
        await made.build(*STATIONS)
        yield made


@asynccontextmanager
async def at_work(cpo: Rig, sandbox: Sandbox) -> AsyncIterator[tuple[Hand, Lane]]:
    """A lane that has as much claimed ahead as it may send at once, since the EMP was quick; now what is under way hangs."""
    async with hand(cpo.dsn, url=sandbox.url, concurrency=WIDTH, request_timeout_s=20.0, api_key=KEY) as daemon:
        await daemon.capture()
        async with EmpClient(daemon.settings.emp["a"]) as client:
            lease = Lease(name="lane a", epoch=1, valid_until=now_s() + 60.0)
            wake = asyncio.Event()
            lane = Lane("a", daemon.settings.emp["a"], client, lease, Memory(), daemon="here", wake=wake, changed=lambda: None)
            await lane._keep_books(daemon.conn, send=True)
            await until(lambda: len(lane._results) == WIDTH, "the EMP has answered")
            sandbox.set_faults([{"kind": "hang"}])
            await lane._keep_books(daemon.conn, send=True)
            assert (len(lane._requests), len(lane._ahead)) == (WIDTH, WIDTH)
            try:
                yield daemon, lane
            finally:
                lane._ahead.clear()
                requests = list(lane._requests)
                for request in requests:
                    request.cancel()
                await asyncio.gather(*requests, return_exceptions=True)


async def test_what_is_claimed_ahead_is_put_back_unsent_when_the_breaker_opens(cpo: Rig) -> None:
    async with Sandbox(SandboxSettings(api_key=KEY, partner_identifier="p" * 16)) as sandbox, at_work(cpo, sandbox) as (daemon, lane):
        claimed, due = await cpo.value(CLAIMED), await cpo.value(DUE)
        lane._health._learn(lane._ahead[0][0], Retry(reason="HTTP 401", blames="configuration"), now_s())
        await lane._keep_books(daemon.conn, send=True)
        assert (await cpo.value(CLAIMED), len(lane._requests)) == (WIDTH, WIDTH)
        assert await cpo.value("SELECT count(*) FROM cdc_pusher.outbox WHERE attempts > 0 OR doubtful IS NOT NULL") == 0
        assert (claimed, await cpo.value(DUE)) == (2 * WIDTH, due + WIDTH), "what was put back is due as before"


async def test_nothing_is_claimed_ahead_of_an_emp_that_does_not_answer(cpo: Rig) -> None:
    async with Sandbox(SandboxSettings(api_key=KEY, partner_identifier="p" * 16)) as sandbox, at_work(cpo, sandbox) as (daemon, lane):
        for _ in range(3):
            await lane._keep_books(daemon.conn, send=True)
        assert await cpo.value(CLAIMED) == 2 * WIDTH
