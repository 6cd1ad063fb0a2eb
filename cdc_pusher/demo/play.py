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
from cdc_pusher.demo.stage import EMP, Stage
from cdc_pusher.errors import CdcPusherError

LIVE_S = 5.0
OUTAGE_S = 2.0
LEAD_S = 0.7  # traffic before the kill
DEAD_S = 1.5
_LOOK_S = 0.1
_SHOWN_DIFFERENCES = 10

Say = Callable[[str], None]


@dataclass(slots=True, kw_only=True)
class Play:
    """One performance; `latencies_s` are sorted."""

    stage: Stage
    fleet: Fleet
    traffic: traffic.Traffic
    console: Console
    latencies_s: list[float] = field(default_factory=list)

    async def run(self) -> int:
        """Play everything; returns the number of differences."""
        async with self.stage.daemon() as daemon:
            await self._full_load(daemon)
            await self._live(daemon)
            await self._stations(daemon)
            await self._outage(daemon)
            await self._kill(daemon)
        async with self.stage.daemon() as daemon:
            self.say("a new daemon: it waits until the claims of the dead one have run out, since their requests may have arrived")
            quiet_after_s = await self._until_quiet(daemon)
            self.say(f"all quiet after {quiet_after_s:.1f} s")
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
        self.say(f"full load: {len(self.fleet.stations):,} stations, {self.fleet.evses:,} statuses in {time.monotonic() - began:.1f} s")

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
        await traffic.build(self.stage.conn, self.fleet.spare[:1])
        await traffic.edit(self.stage.conn, edited.station_id)
        await traffic.delete(self.stage.conn, gone.station_id)
        await self._until_quiet(daemon)
        self.say(f"a new station {self.fleet.spare[0].station_id}, an edit of {edited.station_id}, a deletion of {gone.station_id}")

    async def _outage(self, daemon: Process) -> None:
        before = await self.stage.emp.stats()
        await self.stage.emp.misbehave([{"kind": "drop_before"}])
        changed = [await traffic.burst(self.stage.conn, number) for number in (0, 1)]
        await asyncio.sleep(OUTAGE_S)
        await self.stage.emp.misbehave([])
        cut = _faults(await self.stage.emp.stats()) - _faults(before)
        await self._until_quiet(daemon)
        sent = _accepted(await self.stage.emp.stats()) - _accepted(before)
        self.say(f"{OUTAGE_S:g} s without the EMP: {sum(changed):,} changes, {cut} connections cut; then {sent:,} messages, none twice")

    async def _kill(self, daemon: Process) -> None:
        before = self.traffic.changes
        async with self.traffic.flowing():
            await asyncio.sleep(LEAD_S)
            await traffic.burst(self.stage.conn, 2)
            await self._until(self._is_sending, daemon, "nothing was sent")
            await daemon.kill()
            _, in_flight = await self.stage.outstanding()
            await asyncio.sleep(DEAD_S)
        changes = self.traffic.changes - before
        self.say(f"kill -9 of the daemon with {in_flight} requests under way; {changes} changes of statuses before and after")

    async def _is_sending(self) -> bool:
        return (await self.stage.outstanding())[1] > 0

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
        found = [*compare.differences(should, holds), *broken_promises(stats)]
        self.console.print()
        self.console.print(show.table(self._summary(holds, stats, len(found)), ("measure", "value", "meaning"), f"EMP {EMP}"))
        for difference in found[:_SHOWN_DIFFERENCES]:
            self.say(difference)
        return len(found)

    def _summary(self, holds: dict[str, Any], stats: dict[str, Any], differences: int) -> list[report.Row]:
        deleted = sum(held["station"]["deleted"] for held in holds.values())
        p50, p99 = (f"{compare.percentile(self.latencies_s, share) * 1000:.0f} ms" for share in (0.5, 0.99))
        rows = (
            ("stations", f"{len(holds) - deleted:,}", f"and {deleted} deleted"),
            ("statuses", f"{sum(len(held['statuses']) for held in holds.values()):,}", "one for each EVSE"),
            ("messages sent", f"{stats['requests']:,}", f"{_accepted(stats):,} accepted, {_faults(stats):,} cut while the EMP was down"),
            ("duplicates", f"{stats['duplicates']:,}", "answered, but the daemon was killed before it had written that down"),
            ("overlaps", f"{stats['overlaps']:,}", "requests for a station or EVSE while another one was under way"),
            ("latency p50", p50, f"commit to EMP, {len(self.latencies_s):,} changes in quiet traffic"),
            ("latency p99", p99, ""),
            ("differences", f"{differences:,}", "between what the EMP holds and what the database holds"),
        )
        return [{"measure": measure, "value": value, "meaning": meaning} for measure, value, meaning in rows]


def broken_promises(stats: dict[str, Any]) -> list[str]:
    """What must not have happened on the way, though all is well in the end.

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


def _faults(stats: dict[str, Any]) -> int:
    return sum(stats["faults"].values())
