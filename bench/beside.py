"""What drivers see while a full load goes on for the same EMP: from commit to arrival, alone and beside the load.

2,000 stations are loaded; 50 of their statuses a second change, first with nothing else to do, then while 98,000 more stations, which no
trigger has told of, are sent by `cdc-pusher resync` (a walk with the priority of a full load). The changes begin when the load has sent
its first thousand stations, and the load outlasts them, or the benchmark fails. Each change is of another EVSE; it has arrived when the
stub is told that status, by the clock of the same machine.
"""

import time
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from bench.emp import Emp
from bench.fleet import CONNECTORS, MESSAGES, Fleet, until
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

LOADED, ALL = 2_000, 100_000
RATE, SECONDS, WARM_UP_S = 50, 20, 5
BEGUN = 1_000  # stations of the load
GRACE_S = 3.0  # the stub is held up when it is asked for all arrivals
STEP = 4_793  # coprime to the number of EVSEs: one after the other far apart
GOAL = 3.0


def run() -> list[Result]:
    with EmbeddedPostgres() as server, TemporaryDirectory() as directory, Emp() as emp:
        fleet = Fleet(server, Path(directory), "beside", stations=LOADED, emps={"bench": emp.url()})
        with fleet, fleet.daemon():
            fleet.settle()
            fleet.sql("VACUUM ANALYZE")
            emp.reset()
            _latencies(fleet, emp, 0, RATE * WARM_UP_S)
            alone = _latencies(fleet, emp, RATE * WARM_UP_S, RATE * SECONDS)
            fleet.fill(LOADED + 1, ALL)
            emp.reset()
            fleet.command("resync", "--all")
            until(lambda: emp.counts()["stations"] >= BEGUN)
            first, began = _sent(emp), time.monotonic()
            beside = _latencies(fleet, emp, RATE * (WARM_UP_S + SECONDS), RATE * SECONDS)
            rate = (_sent(emp) - first) / (time.monotonic() - began)
            assert _sent(emp) < MESSAGES * (ALL - LOADED), "the load was over too soon"
    return [
        *_results("alone", alone),
        *_results("beside a full load", beside),
        Result(name="p99 beside a full load ÷ alone", value=_p99(beside) / _p99(alone), at_most=GOAL),
        Result(name="messages a second meanwhile", value=rate, unit="1/s", note=f"{RATE} of them are the changes"),
    ]


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
    arrived: dict[tuple[str, str], float] = {}

    def all_arrived() -> bool:
        for at, evse, status in emp.ledger(arrivals=True)["arrivals"]:
            arrived.setdefault((evse, status), at)
        return made.keys() <= arrived.keys()

    time.sleep(GRACE_S)
    until(all_arrived, every_s=GRACE_S)
    return [1000 * max(0.0, arrived[change] - at) for change, at in made.items()]


def _sent(emp: Emp) -> int:
    counts = emp.counts()
    return int(counts["stations"]) + int(counts["statuses"])


def _p99(latencies: list[float]) -> float:
    return quantiles(latencies, n=100)[98]


def _results(arm: str, latencies: list[float]) -> list[Result]:
    return [
        Result(arm=arm, name="p50", value=median(latencies), unit="ms"),
        Result(arm=arm, name="p99", value=_p99(latencies), unit="ms", note=f"at most {max(latencies):.0f}"),
    ]
