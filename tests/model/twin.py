"""The real thing beside the model: the daemon's own capture, walks, claims and records on real tables, one step of the model at a time.

The EMP is the model's alone, and time is moved by hand. `differs` says where the tables say something else than the model's state.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

from hand import settings
from rig import connected

from cdc_pusher import capture, claims, enqueue, outbox
from cdc_pusher.claims import Claim, Result
from cdc_pusher.database import BY_INDEX, Connection, connect
from cdc_pusher.errors import LeaseLost
from cdc_pusher.reconcile import GONE
from cdc_pusher.source import Source
from model.capture import OUTBOX, OUTBOX_END, SOURCE, SOURCE_END
from model.state import DAEMONS, ENTITIES, LATER, NOW, OLD, PARKED, STATION, WAITS, Row, State, deletion
from model.step import Label

KEYS = ("s1", "DE*8PS*E1", "DE*8PS*E2")
NAMES = {"a": "v0", "b": "v1", "x": "Available", "y": "Occupied"}
LETTERS = {name: letter for letter, name in NAMES.items()}
QUIET_S = 3600.0
SAID: dict[str, dict[str, Any]] = {
    "accepted": {"outcome": "accepted"},
    "missing": {"outcome": "station_missing", "counts": 1, "result_code": 181, "reason": "181", "error": "181"},
    "refused": {"outcome": "retry", "counts": 1, "result_code": 100, "error": "100"},
    "refused for good": {"outcome": "rejected", "counts": 1, "result_code": 200, "reason": "200", "error": "200"},
    "unclear": {"outcome": "retry", "counts": 1, "uncertain": True, "http_status": 500, "error": "500"},
    "unknown": {"outcome": "retry", "counts": 1, "uncertain": True, "late": True, "error": "no answer"},
}

BEGIN = """
SET session_replication_role = replica;
TRUNCATE station, connector, cdc_pusher.outbox, cdc_pusher.evse, cdc_pusher.change, cdc_pusher.emp, cdc_pusher.cpo, cdc_pusher.attempt;
UPDATE cdc_pusher.capture SET epoch = 0;
INSERT INTO station (id, name, latitude, longitude, street, street_number, city, zip, country, phone, cpo)
VALUES ('s1', 'v0', 52.5, 13.4, 'Street', '1', 'City', '10243', 'DE', '+49 30 1', '8ps');
INSERT INTO connector (station_id, evse_id, type, speed_kw, status)
VALUES ('s1', 'DE*8PS*E1', 'Type2', 22, 'Available'), ('s1', 'DE*8PS*E2', 'Type2', 22, 'Available');
RESET session_replication_role;
"""
ADD = "\n".join(BEGIN.splitlines()[4:8])
REMOVE = "DELETE FROM connector; DELETE FROM station;"
LATER_ON = """
UPDATE cdc_pusher.outbox
SET uncertain_at = uncertain_at - interval '1 day', next_attempt_at = CASE WHEN next_attempt_at IS NOT NULL THEN now() END
WHERE key = %s
"""
ROWS = """
SELECT key, state, reason, payload, acknowledged, doubtful, desired_gen, sending_gen, delivered_gen, resend_gen,
    coalesce(uncertain_at > now() - interval '1 h', false) AS quiet, next_attempt_at, next_attempt_at > now() + interval '1 min' AS is_later
FROM cdc_pusher.outbox
"""
REST = """
SELECT
    EXISTS (SELECT FROM cdc_pusher.change) AS log,
    coalesce((SELECT string_agg(DISTINCT at_emp, ' and ') FROM cdc_pusher.evse), 'no') AS at_emp,
    lane_epoch, walk, walk_phase, walk_cursor, walk_next
FROM cdc_pusher.emp
"""


class Gate:
    """A source that waits before and after it reads, until it is let through."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.arrived, self.reads, self.has_read, self.returns = (asyncio.Event() for _ in range(4))

    async def read(self, stations: Sequence[str]) -> Any:
        self.arrived.set()
        await self.reads.wait()
        found = await self.source.read(stations)
        self.has_read.set()
        await self.returns.wait()
        return found


class Twin:
    """Open it once, `begin` for each play."""

    def __init__(self, dsn: str, *, leases: bool, reads_apart: bool) -> None:
        self.dsn, self.leases, self.reads_apart = dsn, leases, reads_apart
        self.settings = settings(dsn, "a")
        self.captures: dict[int, tuple[asyncio.Task[Any], Gate]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Twin":
        self.cpo = await connected(self.dsn)
        self._stack.push_async_callback(self.cpo.close)
        self.conns = [await self._stack.enter_async_context(await connect(self.dsn, "test", settings=BY_INDEX)) for _ in range(4)]
        sources = [await self._stack.enter_async_context(await connect(self.dsn, "test source")) for _ in DAEMONS]
        self.sources = [await Source.open(conn, self.settings.source, self.settings.only) for conn in sources]
        return self

    async def __aexit__(self, *_: object) -> None:
        for d in list(self.captures):
            await self._roll_back(d)
        await self._stack.aclose()

    async def begin(self) -> None:
        """The full load is about to begin."""
        for statement in BEGIN.strip().split(";\n"):
            await self.cpo.execute(statement.rstrip(";").encode())
        await enqueue.register(self.conns[0], self.settings)
        self.claims: dict[int, list[Claim]] = {index: [] for index in ENTITIES}
        self.lanes = [1, 0]
        self.intakes = [1, 0]

    def _capture_conn(self, d: int) -> Connection:
        return self.conns[d]

    def _lane_conn(self, d: int) -> Connection:
        return self.conns[2 + d]

    # ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def step(self, before: State, label: Label, after: State) -> None:
        """Do what the model has done."""
        verb, d = label.verb, label.daemon
        steps: dict[str, Callable[[], Awaitable[None]]] = {
            "consumes": lambda: self._consume(d),
            "reads": lambda: self._read(d),
            "writes": lambda: self._write(d),
            "turns the page": lambda: self._turn(d),
            "orders a sweep": self._order_sweep,
            "claims": lambda: self._claim(label.entity, d),
            "finds a claim run out": lambda: self._expire(label.entity, d),
            "finds it too late to send": lambda: self._record(before, label, after, "unsent"),
            "puts back": lambda: self._record(before, label, after, "unsent"),
            "the quiet time is over": lambda: self._later(label.entity),
            "takes the lease of the lane": lambda: self._take(self.lanes, d),
            "captures from now on": lambda: self._take(self.intakes, d),
            "is refused": lambda: self._is_refused(d),
            "crashes": lambda: self._roll_back(d),
            "has its capture rolled back": lambda: self._roll_back(d),
        }
        if verb.startswith("CPO"):
            await self._change(label, after, noticed="misses" not in verb)
        elif verb.startswith("records"):
            await self._record(before, label, after, verb.split("'")[1])
        elif verb in steps:
            await steps[verb]()

    async def _change(self, label: Label, after: State, *, noticed: bool) -> None:
        verb = label.verb.split(",")[0]
        async with self.cpo.transaction():
            if not noticed:
                await self.cpo.execute("SET LOCAL session_replication_role = replica")
            if verb == "CPO adds":
                for statement in ADD.split(";\n"):
                    await self.cpo.execute(statement.rstrip(";").encode())
            elif verb == "CPO removes":
                await self.cpo.execute(REMOVE)
            elif label.entity == STATION:
                await self.cpo.execute("UPDATE station SET name = %s", [NAMES[after.station.db]])
            else:
                status = NAMES[after.entities[label.entity].db]
                await self.cpo.execute("UPDATE connector SET status = %s WHERE evse_id = %s", [status, KEYS[label.entity]])

    async def _consume(self, d: int) -> None:
        gate = Gate(self.sources[d])
        epoch = self.intakes[d] if self.leases else None
        batch = capture.batch(self._capture_conn(d), gate, capture.receivers(self.settings), 100, epoch=epoch)  # type: ignore[arg-type]
        self.captures[d] = asyncio.create_task(batch), gate
        await self._reached(d, gate.arrived)
        if not self.reads_apart:
            await self._read(d)

    async def _read(self, d: int) -> None:
        gate = self.captures[d][1]
        gate.reads.set()
        await self._reached(d, gate.has_read)

    async def _write(self, d: int) -> None:
        task, gate = self.captures.pop(d)
        gate.returns.set()
        await task

    async def _reached(self, d: int, event: asyncio.Event) -> None:
        task = self.captures[d][0]
        waits = asyncio.create_task(event.wait())
        await asyncio.wait([task, waits], return_when=asyncio.FIRST_COMPLETED)
        assert not task.done(), f"a capture has ended too soon: {task}"

    async def _roll_back(self, d: int) -> None:
        if d in self.captures:
            task, _ = self.captures.pop(d)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _turn(self, d: int) -> None:
        await enqueue.page(self._capture_conn(d), self.sources[d], ["a"], 1)

    async def _order_sweep(self) -> None:
        await outbox.order_walk_after(self.conns[2], ["a"], "sweep")

    async def _take(self, epochs: list[int], d: int) -> None:
        epochs[d] = max(epochs) + 1

    async def _lock(self, d: int) -> None:
        await claims.lock_emp(self._lane_conn(d), "a", self.lanes[d] if self.leases else None)

    async def _is_refused(self, d: int) -> None:
        try:
            async with self._lane_conn(d).transaction():
                await self._lock(d)
        except LeaseLost:
            return
        raise AssertionError("a lane that is old is not refused")

    async def _claim(self, index: int, d: int) -> None:
        conn = self._lane_conn(d)
        async with conn.transaction():
            await self._lock(d)
            others = [KEYS[other] for other in ENTITIES if other != index]
            claimed = await claims.claim(conn, "a", limit=1, lease_s=600.0, quiet_s=QUIET_S, not_yet=others)
        assert [claim.key for claim in claimed] == [KEYS[index]], f"{KEYS[index]} is not to be claimed: {claimed}"
        self.claims[index] += claimed

    async def _expire(self, index: int, d: int) -> None:
        conn = self._lane_conn(d)
        await conn.execute(
            "UPDATE cdc_pusher.outbox SET lease_until = now() - interval '1 s' WHERE key = %s AND state = 'in_flight'", [KEYS[index]]
        )
        async with conn.transaction():
            await self._lock(d)
            assert await claims.expire(conn, "a") == 1

    async def _record(self, before: State, label: Label, after: State, phase: str) -> None:
        """What is fresh is recorded for the last claim, what is not for one before it."""
        index, d = label.entity, label.daemon
        gone = list(before.entities[index].jobs)
        for job in after.entities[index].jobs:
            gone.remove(job)
        found = self.claims[index]
        claim = found[-1] if gone[0].fresh else found[0]
        said = SAID.get(phase, {"outcome": phase})
        conn = self._lane_conn(d)
        async with conn.transaction():
            await self._lock(d)
            await claims.record(conn, "a", [Result(claim=claim, sent_at=datetime.now(UTC), **said)], quiet_s=QUIET_S)

    async def _later(self, index: int) -> None:
        await self.cpo.execute(LATER_ON, [KEYS[index]])
        await claims.forget(self.conns[2], "a", quiet_s=QUIET_S)

    # ── comparison ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    async def differs(self, state: State) -> list[str]:
        """What the tables say otherwise than the model, in words; what an open transaction has written is not seen."""
        found = {row["key"]: _row(row) for row in await (await self.cpo.execute(ROWS)).fetchall()}
        rest = await (await self.cpo.execute(REST)).fetchone()
        assert rest is not None
        return [*self._rows(state, found), *self._rest(state, rest)]

    def _rows(self, state: State, found: dict[str, Row]) -> Iterator[str]:
        for index in ENTITIES:
            row = found.get(KEYS[index], Row())
            if row != state.entities[index].row:
                yield f"{KEYS[index]} is {row}, in the model {state.entities[index].row}"

    def _rest(self, state: State, rest: dict[str, Any]) -> Iterator[str]:
        log = state.log or any(daemon.intake for daemon in state.daemons)
        if rest["log"] != log:
            yield f"the change log names the station: {rest['log']}, in the model {log}"
        if rest["at_emp"] != state.at_emp:
            yield f"at_emp is {rest['at_emp']}, in the model {state.at_emp}"
        place = {("source", None): SOURCE, ("source", "s1"): SOURCE_END, ("outbox", None): OUTBOX, ("outbox", "s1"): OUTBOX_END}
        walk = place.get((rest["walk_phase"], rest["walk_cursor"]), "")
        if (walk, rest["walk_next"] is not None) != (state.walk, state.walk_next):
            yield f"the walk stands at {walk}, in the model at {state.walk}"
        for d in DAEMONS:
            if state.daemons[d].lane == OLD and (rest["lane_epoch"] > self.lanes[d]) != state.raised:
                yield f"the epoch of the last writer is {rest['lane_epoch']}, in the model it has been raised: {state.raised}"


def _row(row: dict[str, Any]) -> Row:
    if row["reason"] == GONE:
        return Row(PARKED, quiet=True) if row["quiet"] else Row()  # forgotten with the lane's next look
    sending = row["sending_gen"]
    again = 2 if sending is not None and row["resend_gen"] > sending else int(row["resend_gen"] > row["delivered_gen"])
    return Row(
        state=row["state"],
        payload=_content(row["payload"]),
        acknowledged=_content(row["acknowledged"]),
        doubtful=_content(row["doubtful"]),
        quiet=row["quiet"],
        again=again,
        marked=sending is not None and row["desired_gen"] > sending,
        due=WAITS if row["next_attempt_at"] is None else LATER if row["is_later"] else NOW,
    )


def _content(payload: dict[str, Any] | None) -> str:
    if payload is None:
        return ""
    if "status" in payload:
        return LETTERS[payload["status"]]
    return deletion(LETTERS[payload["name"]]) if payload["deleted"] else LETTERS[payload["name"]]
