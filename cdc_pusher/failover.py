"""What a database may have lost when it failed over: the last records of what an EMP was told, which a standby had not got yet.

Each EMP's row says on which server, and on which of its timelines, its records were made. When a lane finds itself on another one, what it
remembers having told is doubtful there and is sent again; when it does not remember all of it, everything is sent. A server without any
records may be a new one, or one that has lost all of them: what the lane remembers tells.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import orjson
import structlog

from cdc_pusher import claims, outbox
from cdc_pusher.clock import now_s
from cdc_pusher.database import Connection, as_json
from cdc_pusher.memory import Memory, Told
from cdc_pusher.sql import queries

log = structlog.get_logger(__name__)

_sql = queries("failover")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """On which server the EMP's records were made (`recorded_on`, None: on none yet), and on which we are now."""

    recorded_on: str | None
    timeline: str


class Records:
    """The records of one EMP on the server that a lane is connected to.

    `are_complete`: they have been looked after on this connection. Times in seconds: requests of others may be processed for as long as
    `claim_s`, which a claim lasts, and `quiet_s` after that.
    """

    def __init__(self, emp: str, memory: Memory, *, claim_s: float, quiet_s: float) -> None:
        self.are_complete = False
        self._emp = emp
        self._memory = memory
        self._claim_s, self._quiet_s = claim_s, quiet_s
        self._began_at = now_s()
        self._timeline: str | None = None  # where we have been last

    async def complete(self, conn: Connection, lane_epoch: int) -> bool:
        """Make good what this server may have lost; the last lane that wrote on it did so under the lease of this epoch.

        Returns whether we have come from another server: this one may not know the claims of what is under way.
        """
        self.are_complete = False
        found = await self._place(conn)
        if found is None:
            return False
        has_moved = self._timeline not in (None, found.timeline)
        self._timeline = found.timeline
        if found.recorded_on == found.timeline:
            if self._memory.has_gap:
                self._memory.close_gap()
            self.are_complete = True
            return has_moved
        if (found.recorded_on is None and self._memory.is_new) or await self._make_good(conn, lane_epoch):
            await conn.execute(_sql.note_timeline, {"emp": self._emp, "timeline": found.timeline})
            self.are_complete = True
        return has_moved

    async def _make_good(self, conn: Connection, lane_epoch: int) -> bool:
        """Send again what the EMP was told and the server does not know, or everything. False: it is too early for that."""
        if not self._memory.has_gap:
            self._memory.has_gap = not await self._remembers(conn, lane_epoch)
        if self._memory.has_gap and now_s() - self._began_at < self._claim_s + self._quiet_s:
            return False  # what others had sent may still be processed, and must not come after what we send
        stations = await doubt(conn, self._emp, self._memory.all(quiet_s=self._quiet_s))
        if self._memory.has_gap:
            await outbox.order_walk(conn, [self._emp], "everything")
            log.warning("the database is another one than before: everything is sent again", emp=self._emp)
        else:
            log.warning("the database has failed over: what it may have lost is sent again", emp=self._emp, stations=stations)
        return True

    async def _place(self, conn: Connection) -> Place | None:
        """Where the EMP's records were made. None: the database does not know it."""
        row = await (await conn.execute(_sql.place, {"emp": self._emp})).fetchone()
        return Place(**row) if row else None

    async def _remembers(self, conn: Connection, lane_epoch: int) -> bool:
        """Whether we know all that the EMP was told since the server's records end."""
        if lane_epoch < self._memory.epoch and self._memory.epoch > 1:  # what was told under leases between the two is known to others
            return False
        if self._memory.since is None:
            return True
        row = await (await conn.execute(_sql.last_delivery, {"emp": self._emp})).fetchone()
        return row is not None and row["at"] is not None and self._memory.since <= row["at"]


async def doubt(conn: Connection, emp: str, lost: Iterable[Told]) -> int:
    """The EMP was told this, and the database may have lost the record of it: send again what differs. Returns the number of stations."""
    names = ("kind", "key", "station_id", "late")
    rows = [{name: getattr(one, name) for name in names} | {"payload": orjson.loads(one.payload)} for one in lost]
    if not rows:
        return 0
    found = await (await conn.execute(_sql.doubt, {"emp": emp, "told": as_json(rows)})).fetchall()
    await claims.expose(conn, emp, {row["key"]: row["payload"] for row in rows if row["kind"] == "station"})
    return len({row["station_id"] for row in found})
