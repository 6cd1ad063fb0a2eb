"""Ten EMPs: what all of them get together, from one daemon and from two.

A storm of 2,000 statuses, one UPDATE, goes to ten EMPs; beside it stands a storm of 20,000 statuses to one EMP, which is as many messages.
The rate counts from the commit to the last arrival. Then two daemons on the same database share the ten EMPs by their leases. The stub is
one process, which answers at once, so all of it runs on the same processors: the notes say how busy each part was, in processors.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.emp import Emp
from bench.fleet import CONNECTORS, Fleet, Usage, arrived, until
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

EMPS, STATUSES, ROUNDS = 10, 2_000, 1
TOLD = """SELECT count(*) FROM (
        SELECT FROM cdc_pusher.attempt WHERE kind = 'status' AND outcome = 'accepted' AND sent_at >= to_timestamp(%s)
        GROUP BY emp HAVING count(DISTINCT key) = %s
    ) AS e"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Storm:
    """Messages a second, and how many processors each part kept busy; `wrong` counts EVSEs, `left_out` EMPs."""

    rate: float
    daemons: float
    backends: float
    stub: float
    wrong: int
    left_out: int


def run() -> list[Result]:
    with EmbeddedPostgres() as server, TemporaryDirectory() as directory, Emp() as emp:
        one, all_of_them = {"bench": emp.url()}, {f"emp{n}": emp.url() for n in range(EMPS)}
        with Fleet(server, Path(directory), "one", stations=EMPS * STATUSES // CONNECTORS, emps=one) as fleet:
            to_one = _storms(fleet, emp, daemons=1, emps=1)
        with Fleet(server, Path(directory), "many", stations=STATUSES // CONNECTORS, emps=all_of_them) as fleet:
            to_many = _storms(fleet, emp, daemons=1, emps=EMPS)
            by_two = _storms(fleet, emp, daemons=2, emps=EMPS)
    arms = {"one EMP": to_one, f"{EMPS} EMPs": to_many, f"{EMPS} EMPs, two daemons": by_two}
    storms = [storm for arm in arms.values() for storm in arm]
    return [
        *(_rate(arm, found) for arm, found in arms.items()),
        Result(name=f"{EMPS} EMPs ÷ one EMP", value=_median(to_many) / _median(to_one), at_least=0.9),
        Result(name="two daemons ÷ one", value=_median(by_two) / _median(to_many), at_least=1.5),
        Result(name="EVSEs that are wrong in the end", value=sum(storm.wrong for storm in storms), at_most=0),
        Result(name="EMPs that were not told of each", value=sum(storm.left_out for storm in storms), at_most=0),
    ]


def _storms(fleet: Fleet, emp: Emp, *, daemons: int, emps: int) -> list[_Storm]:
    with ExitStack() as stack:
        processes = [stack.enter_context(fleet.daemon()) for _ in range(daemons)]
        until(lambda: _shared(fleet, daemons, emps))
        fleet.settle()
        fleet.sql("VACUUM ANALYZE")
        return [_storm(fleet, emp, processes, emps) for _ in range(ROUNDS)]


def _shared(fleet: Fleet, daemons: int, emps: int) -> bool:
    """Whether every lease is held, by all daemons and as evenly as it goes."""
    held = dict(fleet.sql("SELECT holder, count(*) FROM cdc_pusher.lease GROUP BY holder"))
    leases = emps + 1
    return None not in held and sum(held.values()) == leases and len(held) == daemons and max(held.values()) <= -(-leases // daemons)


def _storm(fleet: Fleet, emp: Emp, daemons: list[int], emps: int) -> _Storm:
    statuses = EMPS * STATUSES // emps
    emp.reset()
    before = time.time()
    usage, stub_was = Usage(fleet, *daemons), emp.cpu_s
    fleet.storm(statuses)
    began = time.time()
    arrived(emp, EMPS * STATUSES)
    took_s = emp.counts()["last_at"] - began
    busy = [seconds / took_s for seconds in (usage.daemon_s, usage.backends_s, emp.cpu_s - stub_was)]
    fleet.settle()
    return _Storm(
        rate=EMPS * STATUSES / took_s,
        daemons=busy[0],
        backends=busy[1],
        stub=busy[2],
        wrong=fleet.wrong(emp.ledger()["last"]),
        left_out=emps - fleet.value(TOLD, before, statuses),
    )


def _rate(arm: str, storms: list[_Storm]) -> Result:
    busy = (median(of) for of in zip(*((storm.daemons, storm.backends, storm.stub) for storm in storms), strict=True))
    note = "busy: daemons {:.2f}, their sessions {:.2f}, stub {:.2f} processors".format(*busy)
    return Result(arm=arm, name="messages a second", value=_median(storms), unit="1/s", note=note)


def _median(storms: list[_Storm]) -> float:
    return median(storm.rate for storm in storms)
