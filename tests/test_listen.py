"""The listener hears at once, and sleeps while nothing is said."""

import asyncio
import contextlib
from typing import Any

import pytest
from rig import until

from cdc_pusher.database import connect
from cdc_pusher.listen import Listener, arrives
from cdc_pusher.names import CHANNEL
from cdc_pusher.part import Part

SILENCE_S = 1.5


async def test_listener_sleeps_until_something_is_said(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[str, str]] = []
    alarms: list[float] = []
    listener = Listener(dsn, "test/1/1", lambda channel, payload: heard.append((channel, payload)))
    async with await connect(dsn, "listen") as conn, await connect(dsn, "other") as other:
        task = asyncio.create_task(listener.run(conn, Part("listen", lambda _: asyncio.sleep(0))))
        try:
            await until(lambda: listener.hears, "it hears")
            loop = asyncio.get_running_loop()
            call_later = loop.call_later

            def noted(delay: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
                alarms.append(delay)
                return call_later(delay, *arguments, **options)

            heard.clear()
            with monkeypatch.context() as watched:
                watched.setattr(loop, "call_later", noted)
                await asyncio.wait([task], timeout=SILENCE_S)
            assert len([delay for delay in alarms if delay < SILENCE_S]) <= 1, "it does not look up"
            for n in range(3):
                await other.execute("SELECT pg_notify(%s, %s)", [CHANNEL, str(n)])
                await until(lambda: heard, "it is heard", 5.0)
                assert heard == [(CHANNEL, str(n))]
                heard.clear()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_what_comes_together_with_the_test_is_heard(dsn: str) -> None:
    heard: list[tuple[str, str]] = []
    async with await connect(dsn, "listen") as conn, await connect(dsn, "other") as other:
        await conn.execute(f"LISTEN {CHANNEL}; LISTEN own")
        await other.execute("SELECT pg_notify('own', ''), pg_notify(%s, 'beside')", [CHANNEL])
        assert await arrives(conn, dsn, "own", lambda channel, payload: heard.append((channel, payload)))
    assert (CHANNEL, "beside") in heard
