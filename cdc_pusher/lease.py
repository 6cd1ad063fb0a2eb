"""Leases: which of all the daemons on one database captures, and which serves the lane of which EMP.

Postgres alone coordinates them, with rows: a lease has a holder, an epoch that grows with each holder, and a time from which on another
daemon may take it. `keep` renews what is ours once in `BEAT_S`; by our monotonic clock a lease is ours until `MARGIN_S` before the database
would give it to somebody else, counted from before the renewal was sent. So who holds no lease any more knows it before somebody else does,
even if the database is out of reach, or the process was stopped and wakes up. What is written under a lease carries its epoch, and is
refused when a later one has written (`claims.lock_emp`, `outbox.lock_capture`).

A fail-over may take the rows back in time. So whoever comes with a later epoch than a row has, has the lease: it was taken on the server
that was before. And on a new primary nothing is taken for a while, since what is free there may have a holder who is about to come.

Never sends anything, and never starts or stops what works under a lease: it says what is held (`held`), and is told what has ended.
"""

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import structlog
from psycopg.rows import DictRow

from cdc_pusher import __version__, metrics
from cdc_pusher.clock import now_s
from cdc_pusher.database import Connection, as_json
from cdc_pusher.part import Part, wait
from cdc_pusher.roster import Roster
from cdc_pusher.sql import queries

_sql = queries("lease")
log = structlog.get_logger(__name__)

LEASE_S = 6.0
MARGIN_S = 1.5
BEAT_S = 2.0
PATIENCE_S = 20.0  # longer than any daemon takes to find a new primary
SETTLED_S = 5.0  # a daemon that has lived for so long is given leases that others have; before, only free ones
AVOID_S = 60.0  # how long a lease is left to others when what works under it fails here


def daemon_name() -> str:
    """A name that no other daemon has, of this machine or another, before or after: `machine/process id/number by chance`."""
    return f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(3)}"


@dataclass(slots=True, kw_only=True, eq=False)
class Lease:
    """One that we have. `valid_until`: seconds of our clock (`clock`); `leaving`: it is to be given back when its work has ended.

    `is_refused`: somebody has written under a later one. `had_lapsed`: it has run out meanwhile, while there were other daemons.
    """

    name: str
    epoch: int
    valid_until: float
    leaving: bool = False
    is_refused: bool = False
    had_lapsed: bool = False

    def is_valid(self) -> bool:
        """Whether nobody else can have it yet."""
        return not self.is_refused and now_s() < self.valid_until

    def refuse(self) -> None:
        """Nothing more is done under it; it is given back, and may be taken anew."""
        self.is_refused = self.leaving = True


async def end_predecessor(conn: Connection, name: str) -> None:
    """End sessions that worked under this lease before us and hang in a transaction: a process that is stopped may hold a lock for good."""
    for _ in await (await conn.execute(_sql.end_predecessor, {"name": name})).fetchall():
        log.warning("a session of the daemon that had the lease before is ended: it hangs, and holds a lock", lease=name)


@dataclass(slots=True)
class Leases:
    """Those of one daemon, called `me`. `changed` is called when `held` has changed, or one of them is to be given back."""

    me: str
    wanted: frozenset[str]
    changed: Callable[[], None]
    held: dict[str, Lease] = field(default_factory=dict)
    daemons: int = 0
    listens: bool = False  # for people to see
    elsewhere: frozenset[str] = frozenset()  # those that other living daemons have
    _epochs: dict[str, int] = field(default_factory=dict)  # the last that we had
    _lapsed: dict[str, Lease] = field(default_factory=dict)  # that ran out while the database was out of reach
    _timeline: str | None = None  # of the server that answered last
    _patient_until: float = float("-inf")
    _avoided_until: dict[str, float] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    _differ: bool = False
    _poke: asyncio.Event = field(default_factory=asyncio.Event)
    _leaving: bool = False

    def want(self, names: Iterable[str]) -> None:
        """From now on, take and keep these; others are given back."""
        if self._leaving:
            return
        for gone in self.wanted - frozenset(names):
            metrics.lease_held.remove(gone)
        self.wanted = frozenset(names)
        self._show()
        self._poke.set()

    def give_back(self, name: str) -> None:
        """The work under a lease that is `leaving` has ended."""
        self._ended.add(name)
        self._poke.set()

    def leave(self) -> None:
        """Take nothing any more; give back what is held when its work has ended."""
        self.want(())
        self._leaving = True

    def avoid(self, name: str) -> None:
        """What works under this lease fails here: let others try, for a while."""
        self._avoided_until[name] = now_s() + AVOID_S
        self._poke.set()

    def _offers(self) -> set[str]:
        """What we would take, and keep: of what fails here, nothing for a while."""
        now = now_s()
        return {name for name in self.wanted if now >= self._avoided_until.get(name, now)}

    def expire(self) -> None:
        """Forget what is not ours any more by the clock, whatever the database says; called when it does not answer."""
        if lost := [name for name, lease in self.held.items() if not lease.is_valid() and not lease.is_refused]:
            for name in lost:
                self._lapsed[name] = lease = self.held.pop(name)
                lease.had_lapsed = lease.had_lapsed or self.daemons > 1
            log.error("leases are lost: the database was out of reach for too long", leases=lost)
            self._show()
            self.changed()

    @property
    def is_done(self) -> bool:
        """Whether all is given back after `leave`."""
        return self._leaving and not self.held

    async def keep(self, conn: Connection, part: Part) -> None:
        """Renew, take and give back until all is given back after `leave`. Raises psycopg errors and `TimeoutError`: connect again."""
        await conn.execute(_sql.bury)
        while not self.is_done:
            self._poke.clear()
            async with asyncio.timeout(LEASE_S):
                await self._beat(conn)
            part.moves()
            if not self.is_done:
                await wait(self._poke, BEAT_S)
        await conn.execute(_sql.leave, {"me": self.me})

    async def _beat(self, conn: Connection) -> None:
        self.expire()
        began, names = now_s(), sorted(self._offers())
        ended = sorted(self._ended)
        if ended:
            await conn.execute(_sql.give_back, {"me": self.me, "names": ended})
        held = {name: lease.epoch for name, lease in (self._lapsed | self.held).items() if name not in ended}
        spoken = {
            "me": self.me,
            "held": as_json(held),
            "version": __version__,
            "leases": names,
            "wants": sorted(self.wanted),
            "listens": self.listens,
            "lease_s": LEASE_S,
            "settled_s": SETTLED_S,
        }
        found = await (await conn.execute(_sql.beat, spoken)).fetchone()
        assert found is not None, "an aggregate has a row"
        ours: dict[str, int] = found["ours"]
        roster = self._roster(found)
        if found["timeline"] != self._timeline:
            if self._timeline is not None:
                self._patient_until = began + PATIENCE_S
            self._timeline = found["timeline"]
        if began >= self._patient_until and (to_take := roster.to_take(self.me)):
            chosen = {"me": self.me, "names": list(to_take), "epochs": as_json(self._epochs), "lease_s": LEASE_S}
            taken = await conn.execute(_sql.take, chosen)
            ours |= {row["name"]: row["epoch"] for row in await taken.fetchall()}
        self.daemons = len(roster.daemons)
        self.elsewhere = frozenset(name for name, holder in roster.holders.items() if holder not in (None, self.me))
        self._ended.difference_update(ended)
        self._note(ours, began + LEASE_S - MARGIN_S, roster.to_give(self.me))

    def _roster(self, found: DictRow) -> Roster:
        living = found["daemons"]
        self._compare({row["name"]: row["wants"] for row in living if row["wants"]})
        return Roster(
            daemons={row["name"]: frozenset(row["leases"]) for row in living},
            holders=found["holders"],
            settled=frozenset(row["name"] for row in living if row["is_settled"]),
        )

    def _compare(self, wants: dict[str, list[str]]) -> None:
        """Daemons with other EMPs in their configuration work against each other: which EMPs there are is up to the one that captures."""
        differ = len({frozenset(names) for names in wants.values()}) > 1
        if differ and not self._differ:
            log.error("the daemons have different EMPs in their configurations: give them the same, and reload", daemons=wants)
        self._differ = differ

    def _note(self, ours: dict[str, int], valid_until: float, to_give: str | None) -> None:
        """Make `held` what the database says."""
        changed = False
        for name in [name for name, lease in self.held.items() if ours.get(name) != lease.epoch]:
            del self.held[name]
            changed = True
            log.info("lease is ours no more", lease=name)
        self._epochs = {name: epoch for name, epoch in (self._epochs | ours).items() if name in self.wanted or name in ours}
        for name, epoch in ours.items():
            lease = self.held.get(name)
            if lease is None:
                before = self._lapsed.get(name)
                had_lapsed = before is not None and before.had_lapsed and before.epoch == epoch
                self.held[name] = Lease(name=name, epoch=epoch, valid_until=valid_until, had_lapsed=had_lapsed)
                changed = True
                metrics.lease_taken.labels(name).inc()
                log.info("lease taken", lease=name, epoch=epoch, daemon=self.me)
            else:
                lease.valid_until = valid_until
        self._lapsed.clear()
        for name, lease in self.held.items():
            if not lease.leaving and (name not in self._offers() or name == to_give):
                lease.leaving = True
                changed = True
        if changed:
            self._show()
            self.changed()

    def _show(self) -> None:
        """To Prometheus: also what is not ours, or nobody could see that nobody has it."""
        for name in self.wanted:
            metrics.lease_held.labels(name).set(name in self.held)
            metrics.lease_taken.labels(name)
