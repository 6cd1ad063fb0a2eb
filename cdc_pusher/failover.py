"""What a database may have lost when it failed over: the last records of what an EMP was told, which a standby had not got yet.

Each EMP's row says on which server, and on which of its timelines, its records were made. When a lane finds itself on another one, what it
remembers having told is doubtful there and is sent again; when it does not remember all of it, everything is sent. A server without any
records may be a new one, or one that has lost all of them: what the lane remembers tells.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

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
    """The records of one EMP on the server that a lane is connected to. `epoch`: of the lease that it works under.

    `are_complete`: they have been looked after on this connection. Times in seconds: requests of others may be processed for as long as
    `claim_s`, which a claim lasts, and `quiet_s` after that.
    """

    def __init__(self, emp: str, memory: Memory, *, epoch: int, claim_s: float, quiet_s: float) -> None:
        self.are_complete = False
        self._emp = emp
        self._memory = memory
        self._epoch = epoch
        self._written_under = epoch
        self._claim_s, self._quiet_s = claim_s, quiet_s
        self._began_at = now_s()

    def were_written_under(self, epoch: int) -> None:
        """The lane that wrote last on this server did so under another lease than ours."""
        self.are_complete, self._written_under = False, epoch

    async def complete(self, conn: Connection) -> bool:
        """Make good what this server may have lost. Returns whether it may have: then it knows nothing of what is under way, either."""
        found = await self._place(conn)
        if found is None or found.recorded_on == found.timeline:
            self.are_complete = found is not None
            return False
        told = self._memory.all(quiet_s=self._quiet_s)
        is_blank = found.recorded_on is None  # no record was made here: what the CPO lists is sent anyway
        knows_all = is_blank or await self._remembers(conn)
        if not knows_all and now_s() - self._began_at < self._claim_s + self._quiet_s:
            return False  # what others had sent may still be processed, and must not come after what we send
        stations = await doubt(conn, self._emp, told)
        if not knows_all:
            await outbox.order_walk(conn, [self._emp], "everything")
            log.warning("the database is another one than before: everything is sent again", emp=self._emp)
        elif told or not is_blank:
            log.warning("the database has failed over: what it may have lost is sent again", emp=self._emp, stations=stations)
        await conn.execute(_sql.note_timeline, {"emp": self._emp, "timeline": found.timeline})
        self.are_complete, self._written_under = True, self._epoch
        return bool(told) or not is_blank

    async def _place(self, conn: Connection) -> Place | None:
        """Where the EMP's records were made. None: the database does not know it."""
        row = await (await conn.execute(_sql.place, {"emp": self._emp})).fetchone()
        return Place(**row) if row else None

    async def _remembers(self, conn: Connection) -> bool:
        """Whether we know all that the EMP was told since the records end."""
        if self._written_under < self._memory.epoch:
            return False
        row = await (await conn.execute(_sql.last_delivery, {"emp": self._emp})).fetchone()
        last: datetime | None = row["at"] if row else None
        return last is None or self._memory.since < last


async def doubt(conn: Connection, emp: str, lost: Iterable[Told]) -> int:
    """The EMP was told this, and the database may have lost the record of it: send again what differs. Returns the number of stations."""
    names = ("kind", "key", "station_id", "late")
    rows = [{name: getattr(one, name) for name in names} | {"payload": orjson.loads(one.payload)} for one in lost]
    if not rows:
        return 0
    found = await (await conn.execute(_sql.doubt, {"emp": emp, "told": as_json(rows)})).fetchall()
    await claims.expose(conn, emp, {row["key"]: row["payload"] for row in rows if row["kind"] == "station"})
    return len({row["station_id"] for row in found})
