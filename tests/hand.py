"""Capture and delivery moved by hand, step by step, for the orders that only bad luck brings about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from cdc_pusher import capture, claims, config, enqueue
from cdc_pusher.claims import Claim, Result
from cdc_pusher.config import EmpSettings, Settings, SourceSettings
from cdc_pusher.database import BY_INDEX, Connection, connect
from cdc_pusher.source import Source

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def settings(dsn: str, *emps: str, source: SourceSettings | None = None, **options: Any) -> Settings:
    """A configuration with these EMPs, all alike."""
    given = {"confirm_cpos": "automatic", "cpos": {"8ps": "DE*8PS"}, **options}
    emp = EmpSettings.model_validate({"url": "http://127.0.0.1:1/", "partner_identifier": "p" * 16, **given})
    return Settings(database=config.DatabaseSettings(dsn=dsn), emp=dict.fromkeys(emps, emp), source=source or SourceSettings())


class Hand:
    """One daemon, moved by hand."""

    def __init__(self, settings: Settings, conn: Connection, source: Source) -> None:
        self.settings, self.conn, self.source = settings, conn, source

    async def capture(self) -> int:
        """Walk and capture until nothing is left; returns the number of changes."""
        changes = 0
        self.healed: dict[str, frozenset[str]] = {}
        while True:
            captured = await capture.batch(self.conn, self.source, capture.receivers(self.settings), 100)
            self.healed |= captured.healed
            walked = await enqueue.page(self.conn, self.source, list(self.settings.emp), 100)
            changes += captured.changes
            if not captured.changes and walked is None:
                return changes

    async def claim(self, emp: str = "a", *, lease_s: float = 60.0, quiet_s: float = 0.0) -> dict[str, Claim]:
        async with self.conn.transaction():
            await claims.lock_emp(self.conn, emp)
            return {c.key: c for c in await claims.claim(self.conn, emp, limit=100, lease_s=lease_s, quiet_s=quiet_s)}

    async def answer(self, claim: Claim, outcome: str = "accepted", emp: str = "a", quiet_s: float = 0.0, **said: Any) -> None:
        async with self.conn.transaction():
            await claims.lock_emp(self.conn, emp)
            await claims.record(self.conn, emp, [Result(claim=claim, outcome=outcome, sent_at=NOW, **said)], quiet_s=quiet_s)

    async def deliver(self, emp: str = "a") -> list[str]:
        """Claim and accept until nothing is due; returns what was sent, in order."""
        sent: list[str] = []
        while claimed := await self.claim(emp):
            for claim in claimed.values():
                await self.answer(claim, emp=emp)
                sent.append(claim.key)
            await self.capture()
        return sent


@asynccontextmanager
async def hand(dsn: str, *emps: str, **options: Any) -> AsyncIterator[Hand]:
    """One daemon with these EMPs ("a" alone if none is named), which does nothing by itself."""
    configured = settings(dsn, *(emps or ("a",)), **options)
    async with await connect(dsn, "test", settings=BY_INDEX) as conn, await connect(dsn, "test source") as source_conn:
        await enqueue.register(conn, configured)
        yield Hand(configured, conn, await Source.open(source_conn, configured.source, configured.only))
