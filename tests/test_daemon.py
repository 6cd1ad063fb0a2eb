"""What a part of the daemon does when its database comes and goes."""

import asyncio

import psycopg
import pytest

from cdc_pusher.database import Connection
from cdc_pusher.part import Part


async def test_pause_grows_although_the_connection_itself_is_had(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby lets everybody in, and fails with the first statement that writes."""
    pauses: list[float] = []

    async def write(conn: Connection, part: Part) -> None:
        raise psycopg.errors.ReadOnlySqlTransaction

    part = Part("capture", lambda part: part.connected(write), dsn=dsn)

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 6:
            part.stop.set()

    monkeypatch.setattr(part, "pause", note)
    async with asyncio.TaskGroup() as group:
        part.begin(group, lambda: None)
    assert pauses[5] >= 0.5 * 0.2 * 2**5
