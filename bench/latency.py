"""From commit to arrival: 50 changes a second, one row each, pushed by each arm to an EMP that answers at once.

A change is committed when the UPDATE, in autocommit, has returned to its client: time.time() then, and time.time() of the EMP's process
when the request has been read, on one machine. Each change is of another EVSE. cdc-pusher and the naive script have two turns, whose
medians count, the others one. The latency beside a full load is `beside`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from bench.arms import OURS, present
from bench.arms.arm import Arm
from bench.arms.peers import NAIVE
from bench.cpo import Cpo
from bench.emp import Emp
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

STATIONS = 500
RATE, SECONDS, WARM_UP_S = 50, 10, 2
TURNS = 2
GRACE_S = 2.0
STEP = 797  # coprime to the number of EVSEs: one after the other far apart


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """Milliseconds of each change that arrived, and how many did not."""

    latencies: Sequence[float]
    lost: int

    @property
    def p50(self) -> float:
        return median(self.latencies)

    @property
    def p99(self) -> float:
        return quantiles(self.latencies, n=100)[98]


def run() -> list[Result]:
    arms, skipped = present()
    turns: dict[str, list[_Turn]] = {arm.name: [] for arm in arms}
    with EmbeddedPostgres() as server, TemporaryDirectory() as directory, Emp() as emp:
        for turn in range(TURNS):
            for arm in arms if turn % 2 else reversed(arms):
                if arm in (OURS, NAIVE) or turn == 0:
                    with Cpo(server, Path(directory), arm.key, stations=STATIONS) as cpo:
                        turns[arm.name].append(_turn(arm, cpo, emp))
    results = [result for arm in arms for result in _results(arm, turns[arm.name])]
    return [*results, *skipped, *_goals(turns)]


def _turn(arm: Arm, cpo: Cpo, emp: Emp) -> _Turn:
    arm.install(cpo, emp)
    with arm.worker(cpo, emp):
        cpo.tidy()
        _change(cpo, 0, RATE * WARM_UP_S)
        time.sleep(GRACE_S)
        emp.reset()
        made = _change(cpo, RATE * WARM_UP_S, RATE * SECONDS)
        time.sleep(GRACE_S)
        arrived: dict[str, float] = {}
        for at, evse, _ in emp.ledger(arrivals=True)["arrivals"]:
            arrived.setdefault(evse, at)
    return _Turn(
        latencies=[1000 * max(0.0, arrived[evse] - at) for evse, at in made.items() if evse in arrived],
        lost=len(made.keys() - arrived.keys()),
    )


def _change(cpo: Cpo, first: int, changes: int) -> dict[str, float]:
    """Change one EVSE after the other, at `RATE`. Returns when each was committed."""
    made: dict[str, float] = {}
    began = time.monotonic()
    for n in range(changes):
        time.sleep(max(0.0, began + n / RATE - time.monotonic()))
        evse = cpo.evses[(first + n) * STEP % len(cpo.evses)]
        made[evse] = cpo.toggle(evse)
    return made


def _results(arm: Arm, turns: Sequence[_Turn]) -> list[Result]:
    ours = arm is OURS
    return [
        Result(
            arm=arm.name,
            name="commit to arrival: p50",
            value=median(turn.p50 for turn in turns),
            unit="ms",
            at_most=2.0 if ours else None,
            note=", ".join(f"{turn.p50:.2f}" for turn in turns),
        ),
        Result(
            arm=arm.name,
            name="commit to arrival: p99",
            value=median(turn.p99 for turn in turns),
            unit="ms",
            note=", ".join(f"{turn.p99:.2f}" for turn in turns),
        ),
        Result(
            arm=arm.name,
            name=f"not arrived {GRACE_S:.0f} s after the last change",
            value=sum(turn.lost for turn in turns),
            at_most=0 if ours else None,
        ),
    ]


def _goals(turns: dict[str, list[_Turn]]) -> list[Result]:
    if NAIVE.name not in turns:
        return []
    ours, naive = (median(turn.p99 for turn in turns[name]) for name in (OURS.name, NAIVE.name))
    return [Result(name=f"p99 ÷ {NAIVE.name}", value=ours / naive, at_most=1.2)]
