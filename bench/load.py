"""A full load of 25,000 stations with 100,000 connectors, and how what a message costs grows with the number of stations.

Concurrency 64, an EMP that answers at once. The rate of a load is that of its messages, from the start of the daemon to the last arrival;
the same daemon then has a storm, one UPDATE of 20,000 statuses, whose rate counts from the commit. The stub sees no overlaps while it
answers at once: `storm` and `latency` have an EMP that takes its time.

A message's cost is the processor time of the daemon and of its sessions on the server. At 100,000 stations it is that of the whole load,
with the start of the daemon: capture runs ahead of delivery, so a load that is stopped earlier would count what was captured and not sent.
At 1,000 stations one daemon begins from nothing again and again (the rows of the outbox are deleted, `cdc-pusher resync`) until 50,000
messages are measured, at its best, with statistics of full tables: what a load costs before there are any shows in the first one.
LOAD_STATIONS=20000 makes the largest one smaller.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.emp import Emp
from bench.fleet import Fleet, Usage, arrived, peak_mb
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

SMALL, MEDIUM, LARGE = 1_000, 25_000, int(os.environ.get("LOAD_STATIONS", "100000"))
REPEATED = 50_000  # messages that are measured with few stations
STORM = 20_000
MEMORY_MB = 150
TOLD = "SELECT count(DISTINCT key) FROM cdc_pusher.attempt WHERE kind = 'station' AND outcome = 'accepted'"
FORGET = ("VACUUM ANALYZE cdc_pusher.outbox, cdc_pusher.evse", "DELETE FROM cdc_pusher.outbox", "DELETE FROM cdc_pusher.evse")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Load:
    """What so many messages took; processor time in seconds."""

    stations: int
    messages: int
    seconds: float
    daemon_s: float
    backends_s: float
    peak_mb: float

    @property
    def cost_us(self) -> float:
        return 1e6 * (self.daemon_s + self.backends_s) / self.messages

    @property
    def results(self) -> list[Result]:
        arm = f"{self.stations:,} stations"
        shares = f"daemon {1e6 * self.daemon_s / self.messages:.0f}, its sessions {1e6 * self.backends_s / self.messages:.0f}"
        return [
            Result(arm=arm, name="messages a second", value=self.messages / self.seconds, unit="1/s", note=f"{self.messages:,} messages"),
            Result(arm=arm, name="processor time a message", value=self.cost_us, unit="µs", note=shares),
            Result(arm=arm, name="memory of the daemon at most", value=self.peak_mb, unit="MB", at_most=MEMORY_MB),
        ]


def run() -> list[Result]:
    with EmbeddedPostgres() as server, TemporaryDirectory() as directory, Emp() as emp:
        emps = {"bench": emp.url()}
        with Fleet(server, Path(directory), "small", stations=SMALL, emps=emps) as fleet, fleet.daemon() as daemon:
            first = _full(fleet, emp, daemon)
            small = _repeated(fleet, emp, daemon)
        with Fleet(server, Path(directory), "medium", stations=MEDIUM, emps=emps) as fleet, fleet.daemon() as daemon:
            medium = _full(fleet, emp, daemon)
            checked = _medium(fleet, emp, medium)
        with Fleet(server, Path(directory), "large", stations=LARGE, emps=emps) as fleet, fleet.daemon() as daemon:
            large = _full(fleet, emp, daemon)
    growth = Result(
        name=f"processor time a message: {LARGE:,} stations ÷ {SMALL:,}",
        value=large.cost_us / small.cost_us,
        at_most=1.2,
        note=f"{first.cost_us / small.cost_us:.2f} in the first load of {SMALL:,}, the start of the daemon included",
    )
    return [*small.results, *medium.results, *checked, *large.results, growth]


def _full(fleet: Fleet, emp: Emp, daemon: int) -> _Load:
    """The full load of a daemon that has just been started."""
    began = time.time()
    emp.reset()
    usage = Usage(fleet, daemon)
    arrived(emp, fleet.messages)
    fleet.settle()
    daemon_s, backends_s = usage.daemon_s, usage.backends_s
    return _Load(
        stations=fleet.stations,
        messages=fleet.messages,
        seconds=emp.counts()["last_at"] - began,
        daemon_s=daemon_s,
        backends_s=backends_s,
        peak_mb=peak_mb(daemon),
    )


def _repeated(fleet: Fleet, emp: Emp, daemon: int) -> _Load:
    """Loads of one daemon after its first, each of an outbox that knows nothing."""
    times = -(-REPEATED // fleet.messages)
    seconds = daemon_s = backends_s = 0.0
    for _ in range(times):
        for statement in FORGET:
            fleet.sql(statement)
        emp.reset()
        usage = Usage(fleet, daemon)
        fleet.command("resync", "--all")
        arrived(emp, fleet.messages)
        fleet.settle()
        counts = emp.counts()
        seconds += counts["last_at"] - counts["first_at"]
        daemon_s += usage.daemon_s
        backends_s += usage.backends_s
    return _Load(
        stations=fleet.stations,
        messages=times * fleet.messages,
        seconds=seconds,
        daemon_s=daemon_s,
        backends_s=backends_s,
        peak_mb=peak_mb(daemon),
    )


def _medium(fleet: Fleet, emp: Emp, load: _Load) -> list[Result]:
    """Whether all is right at the EMP, and the rate of a storm beside that of the load."""
    loaded = emp.ledger()
    results = [
        Result(name="stations a second", value=fleet.stations / load.seconds, unit="1/s"),
        Result(name="stations that the EMP was not told of", value=fleet.stations - fleet.value(TOLD), at_most=0),
        Result(name="stations sent more than once", value=loaded["stations"] - fleet.stations, at_most=0),
        Result(name="EVSEs that are wrong at the EMP", value=fleet.wrong(loaded["last"]), at_most=0),
    ]
    emp.reset()
    fleet.storm(STORM)
    began = time.time()
    arrived(emp, STORM)
    fleet.settle()
    stormed = emp.ledger()
    rate = STORM / (stormed["last_at"] - began)
    return [
        *results,
        Result(name=f"a storm of {STORM:,} statuses", value=rate, unit="1/s"),
        Result(name="EVSEs that are wrong at the EMP after it", value=fleet.wrong(loaded["last"] | stormed["last"]), at_most=0),
        Result(name="messages a second: load ÷ storm", value=load.messages / load.seconds / rate, at_least=0.8),
        Result(name="overlaps", value=loaded["overlaps"] + stormed["overlaps"], at_most=0),
    ]
