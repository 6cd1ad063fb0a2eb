"""The play: full load, quiet traffic, changes of stations, an EMP that is down, a daemon that is killed, and the comparison at the end."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from cdc_pusher import report, show
from cdc_pusher.demo import compare, traffic
from cdc_pusher.demo.fleet import CPOS, Fleet
from cdc_pusher.demo.processes import Process
from cdc_pusher.demo.stage import CONCURRENCY, EMP, Stage
from cdc_pusher.errors import CdcPusherError

LIVE_S = 5.0
BETWEEN_S = 0.3
OUTAGE_S = 2.0
LEAD_S = 0.7  # traffic before the kill
SLOW_S = 0.3
DEAD_S = 1.5
_LOOK_S = 0.05
_SHOWN_DIFFERENCES = 10

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Play:
    """One performance; `latencies_s` are sorted, `broken` is what must not have happened on the way, though all is well in the end."""

    stage: Stage
    fleet: Fleet
    traffic: traffic.Traffic
    console: Console
    latencies_s: list[float] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    async def run(self) -> int:
        """Play everything; returns the number of differences."""
        async with self.stage.daemon() as daemon:
            await self._full_load(daemon)
            await self._live(daemon)
            await self._stations(daemon)
            await self._outage(daemon)
            await self._kill(daemon)
        async with self.stage.daemon() as daemon:
            quiet_after_s = await self._until_quiet(daemon)
            self.say(f"a new daemon: all quiet after {quiet_after_s:.1f} s, most of it until the claims of the dead one ran out")
            return await self._compare()

    def say(self, line: str) -> None:
        """Tell the audience."""
        self.console.print(f"• {line}", soft_wrap=True, markup=False, highlight=False)

    async def _full_load(self, daemon: Process) -> None:
        began = time.monotonic()
        with show.progress() as progress:
            bar = progress.add_task("full load", total=len(self.fleet.stations) + self.fleet.evses)

            async def loaded() -> bool:
                accepted = (await self.stage.emp.stats())["accepted"]
                done = accepted["station"] + accepted["status"]
                progress.update(bar, completed=done)
                return bool(done >= len(self.fleet.stations) + self.fleet.evses) and await self._is_quiet()

            await self._until(loaded, daemon, "the full load did not end")
        self.say(
            f"the EMP knows {len(self.fleet.stations):,} stations and {self.fleet.evses:,} statuses after {time.monotonic() - began:.1f} s"
        )

    async def _live(self, daemon: Process) -> None:
        await self.stage.emp.forget()
        async with self.traffic.flowing():
            await asyncio.sleep(LIVE_S)
        await self._until_quiet(daemon)
        self.latencies_s = compare.latencies_s(self.traffic.committed, await self.stage.emp.ledger())
        self.say(f"live: {self.traffic.changes} status changes in {LIVE_S:g} s from {traffic.DRIVERS} connections")

    async def _stations(self, daemon: Process) -> None:
        stations = self.fleet.stations
        edited, gone = stations[len(stations) // 3], stations[len(stations) // 2]
        async with self.traffic.flowing():
            await asyncio.sleep(BETWEEN_S)
            await traffic.build(self.stage.conn, self.fleet.spare[:1])
            await traffic.edit(self.stage.conn, edited.station_id)
            await traffic.delete(self.stage.conn, gone.station_id)
            await asyncio.sleep(BETWEEN_S)
        await self._until_quiet(daemon)
        self.say(f"amid it a new station {self.fleet.spare[0].station_id}, an edit of {edited.station_id}, a deletion of {gone.station_id}")

    async def _outage(self, daemon: Process) -> None:
        before = await self.stage.emp.stats()
        await self.stage.emp.misbehave([{"kind": "drop_before"}])
        changed = [await traffic.burst(self.stage.conn, number) for number in (0, 1)]
        await asyncio.sleep(OUTAGE_S)
        await self.stage.emp.misbehave([])
        cut = _cut(await self.stage.emp.stats()) - _cut(before)
        await self._until_quiet(daemon)
        sent = _accepted(await self.stage.emp.stats()) - _accepted(before)
        self.say(f"{OUTAGE_S:g} s without the EMP: {sum(changed):,} changes, {cut:,} connections cut; after it {sent:,} messages did")

    async def _kill(self, daemon: Process) -> None:
        """While the EMP is slow, so that there surely are requests whose answers nobody hears."""
        self.broken += [f"{n} messages sent twice without a reason" for n in [(await self.stage.emp.stats())["duplicates"]] if n]
        await self.stage.emp.forget()
        before = self.traffic.changes
        async with self.traffic.flowing():
            await asyncio.sleep(LEAD_S)
            await self.stage.emp.misbehave([{"kind": "delay", "seconds": SLOW_S}])
            await traffic.burst(self.stage.conn, 2)
            await self._until(self._is_sending, daemon, "the daemon did not send")
            await daemon.kill()
            await self.stage.emp.misbehave([])
            _, in_flight = await self.stage.outstanding()
            await asyncio.sleep(DEAD_S)
        changes = self.traffic.changes - before
        self.say(f"kill -9 of the daemon with {in_flight} requests under way, {changes} more status changes before and after it")

    async def _is_sending(self) -> bool:
        return (await self.stage.outstanding())[1] >= CONCURRENCY // 2

    async def _is_quiet(self) -> bool:
        return (await self.stage.outstanding())[0] == 0

    async def _until_quiet(self, daemon: Process) -> float:
        """Returns the seconds that it took."""
        began = time.monotonic()
        await self._until(self._is_quiet, daemon, "the daemon did not get done")
        return time.monotonic() - began

    async def _until(self, condition: Callable[[], Awaitable[bool]], daemon: Process, otherwise: str) -> None:
        """Wait for it while the daemon runs; how long is no less than the machine needs by any account."""
        limit_s = 20 + 0.03 * len(self.fleet.stations)
        deadline = time.monotonic() + limit_s
        while not await condition():
            daemon.require_running()
            if time.monotonic() > deadline:
                left, in_flight = await self.stage.outstanding()
                raise CdcPusherError(f"{otherwise} within {limit_s:.0f} s: {left} left to do, {in_flight} requests under way")
            await asyncio.sleep(_LOOK_S)

    async def _compare(self) -> int:
        should = await compare.expected(self.stage.conn, CPOS)
        holds = await self.stage.emp.stations()
        stats = await self.stage.emp.stats()
        repeats = compare.repeats(await self.stage.emp.ledger())
        found = [*compare.differences(should, holds), *self.broken, *broken_promises(stats)]
        self.console.print()
        summary = self._summary(holds, stats, repeats, len(found))
        self.console.print(show.table(summary, ("measure", "value", "meaning"), f"EMP {EMP}"))
        for difference in found[:_SHOWN_DIFFERENCES]:
            self.say(difference)
        return len(found)

    def _summary(self, holds: compare.Holding, stats: dict[str, Any], repeats: int, differences: int) -> list[report.Row]:
        deleted = sum(held["station"]["deleted"] for held in holds.values())
        p50, p99 = (f"{compare.percentile(self.latencies_s, share) * 1000:.0f} ms" for share in (0.5, 0.99))
        rows = (
            ("stations", f"{len(holds) - deleted:,}", f"and {deleted} deleted"),
            ("statuses", f"{sum(len(held['statuses']) for held in holds.values()):,}", "one for each EVSE"),
            ("messages sent", f"{stats['requests']:,}", f"{_accepted(stats):,} accepted, {_cut(stats):,} cut off"),
            ("duplicates", f"{repeats:,}", "killed before the answer was written down; sent again, and once more"),
            ("overlaps", f"{stats['overlaps']:,}", "two requests at once for one station or EVSE"),
            ("latency p50", p50, f"commit to EMP, {len(self.latencies_s):,} changes of live traffic"),
            ("latency p99", p99, ""),
            ("differences", f"{differences:,}", "what the EMP holds, what the database holds"),
        )
        return [{"measure": measure, "value": value, "meaning": meaning} for measure, value, meaning in rows]


def broken_promises(stats: dict[str, Any]) -> list[str]:
    """What the EMP counts of things that must not happen.

    >>> broken_promises({"overlaps": 2, "status_before_station": 0, "refused": {"200": 1}})
    ['2 requests while another one for the same entity was under way', '1 messages refused with code 200']
    """
    found = []
    if stats["overlaps"]:
        found.append(f"{stats['overlaps']} requests while another one for the same entity was under way")
    if stats["status_before_station"]:
        found.append(f"{stats['status_before_station']} statuses before their station")
    return found + [f"{count} messages refused with code {code}" for code, count in stats["refused"].items()]


def _accepted(stats: dict[str, Any]) -> int:
    return sum(stats["accepted"].values())


def _cut(stats: dict[str, Any]) -> int:
    count: int = stats["faults"].get("drop_before", 0)
    return count
