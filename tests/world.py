"""A CPO, one EMP and one daemon that do nothing by themselves: every order of events can be played, and every outcome of a request.

The tables are real, capture and the bookkeeping of the lane are the daemon's own; only HTTP is left out, and time is moved by hand. The EMP
is the sandbox's. `broken` names what an EMP must never see; `settle` lets everything come to an end, `wrong` compares both sides then.
"""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, get_args

import oracle
import psycopg
from hand import Hand, hand
from rig import Row, connected

from cdc_pusher import capture, claims, enqueue
from cdc_pusher.claims import Claim
from cdc_pusher.config import ConnectorsChanged
from cdc_pusher.sandbox.emp import Emp
from cdc_pusher.sandbox.rules import EVSE_NOT_FOUND, Message

STATIONS = ("s1", "s2", "s3")
EVSES = ("DE*8PS*E1", "DE*8PS*E2", "DE*8PS*E3", "DE*8PS*E4")
STATUSES = ("Available", "Occupied", "Reserved")
QUIET_S = 3600.0

Outcome = Literal["answered", "not taken", "cut off before", "cut off after", "processed late", "crash before", "crash after"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

EMPTY = """
SET session_replication_role = replica;
TRUNCATE station, connector, cdc_pusher.outbox, cdc_pusher.evse, cdc_pusher.change, cdc_pusher.emp, cdc_pusher.cpo, cdc_pusher.attempt;
RESET session_replication_role;
"""
STATION = """
INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
VALUES (%(id)s, 'v0', 52.5, 13.4, 'Street', '1', 'City', '10243', 'DE', '+49 30 1', '8ps')
ON CONFLICT DO NOTHING
"""
CONNECTOR = """
INSERT INTO connector (station_id, evse_id, type, speed_kw, status)
SELECT %(station)s, %(evse)s, 'Type2', 22, 'Available'
WHERE EXISTS (SELECT FROM station WHERE id = %(station)s)
  AND NOT EXISTS (SELECT FROM connector WHERE evse_id = %(evse)s)
"""
# As if the quiet time, every back-off and every lease had passed.
LATER = """
UPDATE cdc_pusher.outbox
SET uncertain_at = uncertain_at - interval '1 day',
    next_attempt_at = CASE WHEN next_attempt_at > now() THEN now() ELSE next_attempt_at END,
    lease_until = CASE WHEN lease_until IS NOT NULL THEN now() - interval '1 s' END
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that is under way."""

    claim: Claim
    message: Message


class World:
    """One play; `open` it first, `close` it last."""

    def __init__(self, dsn: str, mode: ConnectorsChanged) -> None:
        self.dsn, self.mode = dsn, mode
        self.emp = Emp(connectors_may_change=mode == "send")
        self.sent: dict[str, Sent] = {}
        self.late: list[Sent] = []
        self.broken: list[str] = []
        self._doubted: set[str] = set()
        self._stack = AsyncExitStack()

    async def open(self) -> None:
        self.conn: psycopg.AsyncConnection[Row] = await connected(self.dsn)
        self._stack.push_async_callback(self.conn.close)
        for statement in EMPTY.strip().split(";\n"):
            await self.conn.execute(statement.rstrip(";").encode())
        self.hand: Hand = await self._stack.enter_async_context(hand(self.dsn, connectors_changed=self.mode))

    async def close(self) -> None:
        await self._stack.aclose()

    # ── the CPO ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def sql(self, query: str, **parameters: object) -> list[Row]:
        cursor = await self.conn.execute(query.encode(), parameters)
        return await cursor.fetchall() if cursor.description else []

    async def add(self, station: str) -> None:
        await self.sql(STATION, id=station)

    async def remove(self, station: str) -> None:
        await self.sql("DELETE FROM connector WHERE station_id = %(id)s", id=station)
        await self.sql("DELETE FROM station WHERE id = %(id)s", id=station)

    async def rename(self, station: str, name: str) -> None:
        await self.sql("UPDATE station SET name = %(name)s WHERE id = %(id)s", id=station, name=name)

    async def plug(self, station: str, evse: str) -> None:
        """The EVSE moves to this station, or is new there."""
        await self.sql(
            "UPDATE connector SET station_id = %(to)s WHERE evse_id = %(evse)s AND EXISTS (SELECT FROM station WHERE id = %(to)s)",
            to=station,
            evse=evse,
        )
        await self.sql(CONNECTOR, station=station, evse=evse)

    async def set_status(self, evse: str, status: str) -> None:
        await self.sql("UPDATE connector SET status = %(status)s WHERE evse_id = %(evse)s", evse=evse, status=status)

    # ── the daemon ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def capture(self, limit: int = 100) -> int:
        """One batch, and one page of a walk if one is due."""
        receivers = capture.receivers(self.hand.settings)
        captured = await capture.batch(self.hand.conn, self.hand.source, receivers, limit)
        walked = await enqueue.page(self.hand.conn, self.hand.source, ["a"], 2)
        return captured.changes + (walked or 0)

    async def walk(self) -> None:
        await enqueue.resync(self.hand.conn, ["a"], None, None)

    async def claim(self) -> int:
        """Send everything that is due."""
        claims = await self.hand.claim(quiet_s=QUIET_S)
        for claim in claims.values():
            if claim.key in self.sent:
                self.broken.append(f"two requests for {claim.key} at once")
            station = claim.kind == "station"
            content = dict(claim.payload)
            key = content["id"] if station else content["connector-id"]
            self.sent[claim.key] = Sent(claim, Message(kind=claim.kind, key=key, payload=content))
        return len(claims)

    async def end(self, key: str, outcome: Outcome) -> None:
        """What becomes of a request."""
        one = self.sent.pop(key)
        if outcome == "processed late" and one.claim.kind == "station":
            outcome = "cut off after"  # a late station can make the EMP refuse another one for good, which is nobody's fault
        unsure = {"outcome": "retry", "uncertain": True, "late": True, "counts": 1, "error": outcome, "delay_s": 0.0}
        match outcome:
            case "answered":
                await self._answer(one)
            case "not taken":
                await self._record(one, outcome="retry", counts=1, error="code 100", result_code=100)
            case "cut off before":
                await self._record(one, **unsure)
            case "cut off after" | "processed late":
                (self._take_unheard if outcome == "cut off after" else self.late.append)(one)
                await self._record(one, **unsure)
            case "crash before" | "crash after":
                if outcome == "crash after":
                    self._take_unheard(one)
                self._doubted.add(key)
                await self.sql("UPDATE cdc_pusher.outbox SET lease_until = now() - interval '1 s' WHERE key = %(key)s", key=key)
                async with self.hand.conn.transaction():
                    await claims.lock_emp(self.hand.conn, "a")
                    await claims.expire(self.hand.conn, "a")

    async def _answer(self, one: Sent) -> None:
        if one.claim.key in self._doubted:
            self.emp.forgive(one.message, station_too=True)
        duplicates = self.emp.duplicates
        refusal = self.emp.take(one.message)
        if self.emp.duplicates > duplicates and one.claim.kind == "station":  # a status may be, after its station
            self.broken.append(f"{one.claim.kind} {one.message.key} was sent again although the EMP had acknowledged it")
        if refusal is None:
            await self._record(one, outcome="accepted")
        elif refusal.code == EVSE_NOT_FOUND and one.claim.kind == "status":
            await self._record(one, outcome="station_missing", counts=1, result_code=refusal.code, error="181", reason="181")
        else:
            self.broken.append(f"{one.claim.kind} {one.message.key} is refused: {refusal.code} {refusal.message}")
            await self._record(one, outcome="rejected", counts=1, result_code=refusal.code, error="refused", reason=refusal.message)

    def _take_unheard(self, one: Sent) -> None:
        self.emp.forgive(one.message, station_too=True)
        came_too_early = self.emp.status_before_station
        self.emp.take(one.message, answered=False)
        if one in self.late:  # its station may have gone meanwhile
            self.late.remove(one)
            self.emp.status_before_station = came_too_early

    async def _record(self, one: Sent, **said: Any) -> None:
        if said.get("uncertain"):
            self._doubted.add(one.claim.key)
        await self.hand.answer(one.claim, quiet_s=QUIET_S, **said)

    async def process_late(self) -> None:
        """The EMP gets round to a request that it had left lying."""
        if self.late:
            self._take_unheard(self.late[0])

    async def later(self) -> None:
        """Much time passes: what lay about has been processed."""
        while self.late:
            await self.process_late()
        self._doubted |= self.sent.keys()  # the daemon has died with them
        self.sent.clear()
        await self.sql(LATER)
        async with self.hand.conn.transaction():
            await claims.lock_emp(self.hand.conn, "a")
            await claims.expire(self.hand.conn, "a")
            await claims.forget(self.hand.conn, "a", quiet_s=QUIET_S)

    # ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def settle(self) -> None:
        """Nothing is changed any more, and everything is answered."""
        for _ in range(60):
            await self.later()
            while await self.capture():
                pass
            if not await self.claim():
                return
            for key in list(self.sent):
                await self.end(key, "answered")
        self.broken.append("it does not come to an end")

    async def wrong(self) -> list[str]:
        """What the EMP holds otherwise than the database, and what the outbox says wrongly of it; and all that was broken before."""
        expected = oracle.Expected(await self.sql("SELECT * FROM station"), await self.sql("SELECT * FROM connector"))
        held = oracle.AsOne(SimpleNamespace(ledger=[], stations=self.emp.stations))  # type: ignore[arg-type]  # what it reads of a sandbox
        in_doubt = await self.sql("SELECT station_id, evse_id FROM cdc_pusher.evse WHERE at_emp = 'maybe'")
        reasons = oracle.excused(expected, held, in_doubt, connectors_may_change=self.mode != "hold")
        rows = await self.sql("SELECT * FROM cdc_pusher.outbox")
        hidden = [f"{one} is not as it should be at the EMP, and the outbox does not say so" for one in reasons if not _is_told(one, rows)]
        return [
            *self.broken,
            *hidden,
            *oracle.differences(expected, held, reasons),
            *oracle.wrong_rows(expected, reasons, rows),
            *self._counted(),
        ]

    def _counted(self) -> Iterator[str]:
        if self.emp.status_before_station:
            yield f"{self.emp.status_before_station} statuses came before their station"


def _is_told(station: str, rows: list[Row]) -> bool:
    """Whether the outbox has a reason for a station that is not delivered (design, invariant 6)."""
    return any(row["kind"] == "station" and row["key"] == station and row["state"] != "delivered" and row["reason"] for row in rows)
