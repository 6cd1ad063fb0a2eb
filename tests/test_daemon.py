"""What the daemon does when its database comes and goes."""

import psycopg
import pytest
from hand import settings

from cdc_pusher.daemon import Daemon
from cdc_pusher.database import Connection


async def test_pause_grows_although_the_connection_itself_is_had(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A standby lets everybody in, and fails with the first statement that writes."""
    daemon = Daemon(settings(dsn, "a"))
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 6:
            daemon._stop.set()

    async def write(conn: Connection) -> None:
        raise psycopg.errors.ReadOnlySqlTransaction

    monkeypatch.setattr(daemon, "_pause", note)
    await daemon._connected("capture", write)
    assert pauses[5] >= 0.5 * 0.2 * 2**5
