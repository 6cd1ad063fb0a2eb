"""A full load of 100,000 stations with 400,000 connectors, what drivers see meanwhile, and how a message's cost grows.

Concurrency 64, an EMP that answers at once. 2,000 stations are loaded; 50 of their statuses a second change, first with nothing else to do,
then while 98,000 more stations, which no trigger has told of, are sent by `cdc-pusher resync` (a walk with the priority of a full load).
The changes begin when the load has sent its first thousand stations, and the load outlasts them, or the benchmark fails. Each change is
of another EVSE; it has arrived when the stub is told that status, by the clock of the same machine. The rate of the load is that of all
messages until the last arrival; the same daemon then has a storm, one UPDATE of 20,000 statuses, whose rate counts from the commit. The
stub sees no overlaps while it answers at once: `storm` has an EMP that takes its time.

A message's cost is the processor time of the daemon and of its sessions on the server, beside that of loads of 1,000 stations, which one
daemon begins from nothing again and again (the rows of the outbox are deleted, `cdc-pusher resync`) until 25,000 messages are measured,
with statistics of full tables. LOAD_STATIONS=20000 makes the large one smaller.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from bench.emp import Emp
from bench.fleet import CONNECTORS, MESSAGES, Fleet, Usage, arrived, peak_mb, until
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

SMALL, LOADED, ALL = 1_000, 2_000, int(os.environ.get("LOAD_STATIONS", "100000"))
REPEATED = 25_000  # messages that are measured with few stations
RATE, SECONDS, WARM_UP_S = 50, 20, 5
BEGUN = 1_000  # stations of the load
GRACE_S = 3.0  # the stub is held up when it is asked for all arrivals
STEP = 4_793  # coprime to the number of EVSEs: one after the other far apart
STORM = 20_000
MEMORY_MB = 150
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
    def rate(self) -> float:
        return self.messages / self.seconds

    @property
    def cost_us(self) -> float:
        return 1e6 * (self.daemon_s + self.backends_s) / self.messages

    @property
    def results(self) -> list[Result]:
        arm = f"{self.stations:,} stations"
        shares = f"daemon {1e6 * self.daemon_s / self.messages:.0f}, its sessions {1e6 * self.backends_s / self.messages:.0f}"
        return [
            Result(arm=arm, name="messages a second", value=self.rate, unit="1/s", note=f"{self.messages:,} messages"),
            Result(arm=arm, name="processor time a message", value=self.cost_us, unit="µs", note=shares),
            Result(arm=arm, name="memory of the daemon at most", value=self.peak_mb, unit="MB", at_most=MEMORY_MB),
        ]


def run() -> list[Result]:
    with EmbeddedPostgres() as server, TemporaryDirectory() as directory, Emp() as emp:
        emps = {"bench": emp.url()}
        with Fleet(server, Path(directory), "small", stations=SMALL, emps=emps) as fleet, fleet.daemon() as daemon:
            arrived(emp, fleet.messages)
            fleet.settle()
            small = _repeated(fleet, emp, daemon)
        with Fleet(server, Path(directory), "large", stations=LOADED, emps=emps) as fleet, fleet.daemon() as daemon:
            fleet.settle()
            fleet.sql("VACUUM ANALYZE")
            _latencies(fleet, emp, 0, RATE * WARM_UP_S)
            alone = _latencies(fleet, emp, RATE * WARM_UP_S, RATE * SECONDS)
            told = emp.ledger()["last"]
            fleet.fill(LOADED + 1, ALL)
            large, beside = _large(fleet, emp, daemon)
            checked = _checked(fleet, emp, large, told)
    return [
        *small.results,
        *large.results,
        Result(name=f"processor time a message: {ALL:,} stations ÷ {SMALL:,}", value=large.cost_us / small.cost_us, at_most=1.2),
        *checked,
        *_of(alone, "alone"),
        *_of(beside, "beside the load"),
        Result(name="commit to arrival: p99 beside the load ÷ alone", value=_p99(beside) / _p99(alone), at_most=3.0),
    ]


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


def _large(fleet: Fleet, emp: Emp, daemon: int) -> tuple[_Load, list[float]]:
    """The load, and the milliseconds of the changes that were made beside it."""
    messages = MESSAGES * (ALL - LOADED) + RATE * SECONDS
    emp.reset()
    usage = Usage(fleet, daemon)
    began = time.time()
    fleet.command("resync", "--all")
    until(lambda: emp.counts()["stations"] >= BEGUN)
    beside = _latencies(fleet, emp, RATE * (WARM_UP_S + SECONDS), RATE * SECONDS)
    counts = emp.counts()
    assert counts["stations"] + counts["statuses"] < messages, "the load was over too soon"
    arrived(emp, messages)
    fleet.settle()
    load = _Load(
        stations=ALL,
        messages=messages,
        seconds=emp.counts()["last_at"] - began,
        daemon_s=usage.daemon_s,
        backends_s=usage.backends_s,
        peak_mb=peak_mb(daemon),
    )
    return load, beside


def _latencies(fleet: Fleet, emp: Emp, first: int, changes: int) -> list[float]:
    """Milliseconds from the commit of each change to its arrival."""
    made: dict[tuple[str, str], float] = {}
    began = time.monotonic()
    for n in range(changes):
        time.sleep(max(0.0, began + n / RATE - time.monotonic()))
        number = (first + n) * STEP % (LOADED * CONNECTORS)
        evse = f"DE*8PS*E{number // CONNECTORS + 1}*{number % CONNECTORS + 1}"
        status = fleet.toggle(evse)
        made[evse, status] = time.time()
    found: dict[tuple[str, str], float] = {}

    def all_arrived() -> bool:
        for at, evse, status in emp.ledger(arrivals=True)["arrivals"]:
            found.setdefault((evse, status), at)
        return made.keys() <= found.keys()

    time.sleep(GRACE_S)
    until(all_arrived, every_s=GRACE_S)
    return [1000 * max(0.0, found[change] - at) for change, at in made.items()]


def _checked(fleet: Fleet, emp: Emp, load: _Load, told: dict[str, str]) -> list[Result]:
    """Whether all is right at the EMP, and the rate of a storm beside that of the load; `told`: of each EVSE, before the load."""
    loaded = emp.ledger()
    told = told | loaded["last"]
    results = [
        Result(name="stations sent more than once", value=loaded["stations"] - (ALL - LOADED), at_most=0),
        Result(name="EVSEs that are wrong at the EMP", value=fleet.wrong(told), at_most=0),
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
        Result(name="EVSEs that are wrong at the EMP after it", value=fleet.wrong(told | stormed["last"]), at_most=0),
        Result(name="messages a second: load ÷ storm", value=load.rate / rate, at_least=0.8),
        Result(name="overlaps", value=loaded["overlaps"] + stormed["overlaps"], at_most=0),
    ]


def _p99(latencies: list[float]) -> float:
    return quantiles(latencies, n=100)[98]


def _of(latencies: list[float], arm: str) -> list[Result]:
    return [
        Result(arm=arm, name="commit to arrival: p50", value=median(latencies), unit="ms"),
        Result(arm=arm, name="commit to arrival: p99", value=_p99(latencies), unit="ms", note=f"at most {max(latencies):.0f}"),
    ]
