"""A worker is killed in the middle of a storm: is the EMP right in the end? And are two requests for one EVSE ever open?

2,000 random changes a second of 700 EVSEs for five seconds, ten in a statement; `kill -9` of the worker in the middle, and at once another
one. When that has caught up, one UPDATE changes all 700, and 0.1 s later it is killed, too. Each time the EMP's last status of each EVSE
is compared with the database until all are right, or 20 s have gone by. A change that got lost among random ones is mended by the next one
of its EVSE; the last one is not.

Then 3,000 changes of 40 EVSEs, one a statement, as fast as the server takes them up to 1,000 a second: a request that comes while another
for its EVSE is unanswered may be processed before it. The EMP takes 25 ms for an answer.
"""

import random
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.arms import OURS, present
from bench.arms.arm import Arm
from bench.cpo import Cpo
from bench.emp import Emp
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

STATIONS = 175
DELAY_MS = 25
RATE, SECONDS, AT_ONCE = 2_000, 5, 10
WAIT_S, SOON_S = 20.0, 0.1
FEW, CHANGES, FEW_RATE = 40, 3_000, 1_000
QUIET_S, LOOK_S = 2.0, 0.5
STATUSES = ("Available", "Occupied", "Offline", "Reserved")
CHANGE = "UPDATE connector SET status = %s WHERE evse_id = ANY (%s)"


def run() -> list[Result]:
    arms, skipped = present()
    found = []
    with EmbeddedPostgres() as server, TemporaryDirectory() as directory, Emp() as emp:
        for arm in arms:
            with Cpo(server, Path(directory), arm.key, stations=STATIONS) as cpo:
                arm.install(cpo, emp)
                found += _killed(arm, cpo, emp)
            with Cpo(server, Path(directory), f"{arm.key}_order", stations=STATIONS) as cpo:
                arm.install(cpo, emp)
                found += _in_order(arm, cpo, emp)
    return [*found, *skipped]


def _killed(arm: Arm, cpo: Cpo, emp: Emp) -> list[Result]:
    chosen = random.Random(1)
    with arm.worker(cpo, emp, DELAY_MS) as process:
        told = cpo.statuses()
        _storm(cpo, chosen)
        process.kill()
    with arm.started(cpo, emp, DELAY_MS):
        _storm(cpo, chosen)
        among = _until_right(arm, cpo, emp, told, "killed among changes")
    with arm.worker(cpo, emp, DELAY_MS) as process:
        told = cpo.statuses()
        cpo.storm()
        time.sleep(SOON_S)
        process.kill()
    with arm.started(cpo, emp, DELAY_MS):
        return [among, _until_right(arm, cpo, emp, told, "killed after the last change")]


def _until_right(arm: Arm, cpo: Cpo, emp: Emp, told: Mapping[str, str], what: str) -> Result:
    """How many EVSEs are wrong `WAIT_S` after the last change, or none before that."""
    began = time.monotonic()
    wrong = len(cpo.evses)
    while wrong and time.monotonic() < began + WAIT_S:
        time.sleep(LOOK_S)
        ledger = emp.ledger()
        wrong = cpo.wrong({**told, **ledger["last"]})
    return Result(
        arm=arm.name,
        name=f"{what}: EVSEs wrong {WAIT_S:.0f} s later",
        value=wrong,
        at_most=0 if arm is OURS else None,
        note=f"of {len(cpo.evses)}; {ledger['statuses']:,} requests" + ("" if wrong else f", right after {time.monotonic() - began:.1f} s"),
    )


def _storm(cpo: Cpo, chosen: random.Random) -> None:
    """Half of the changes."""
    began = time.monotonic()
    for n in range(RATE * SECONDS // AT_ONCE // 2):
        time.sleep(max(0.0, began + n * AT_ONCE / RATE - time.monotonic()))
        cpo.sql(CHANGE, chosen.choice(STATUSES), chosen.sample(cpo.evses, AT_ONCE))


def _in_order(arm: Arm, cpo: Cpo, emp: Emp) -> list[Result]:
    with arm.worker(cpo, emp, DELAY_MS):
        told = cpo.statuses()
        chosen = random.Random(2)
        began = time.monotonic()
        for n in range(CHANGES):
            time.sleep(max(0.0, began + n / FEW_RATE - time.monotonic()))
            cpo.sql(CHANGE, chosen.choice(STATUSES), [chosen.choice(cpo.evses[:FEW])])
        _wait_for_quiet(emp)
        ledger = emp.ledger()
        wrong = cpo.wrong(told | ledger["last"])
    at_most = 0 if arm is OURS else None
    note = f"of {ledger['statuses']:,} requests for {CHANGES:,} changes"
    return [
        Result(
            arm=arm.name, name=f"{FEW} EVSEs: requests beside another for the EVSE", value=ledger["overlaps"], at_most=at_most, note=note
        ),
        Result(arm=arm.name, name=f"{FEW} EVSEs: wrong at the EMP afterwards", value=wrong, at_most=at_most),
    ]


def _wait_for_quiet(emp: Emp) -> None:
    """Until nothing has arrived for a while."""
    deadline = time.monotonic() + WAIT_S
    sent, since = -1, time.monotonic()
    while time.monotonic() < min(since + QUIET_S, deadline):
        now = emp.counts()["statuses"]
        if now != sent:
            sent, since = now, time.monotonic()
        time.sleep(LOOK_S)
