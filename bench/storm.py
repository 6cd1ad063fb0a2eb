"""20,000 statuses change in one statement, as after an outage: how fast each way to push them is, what it costs, and whether all is right.

An EMP that answers at once shows what a worker can do, one that takes 25 ms whether it keeps 64 requests open. The rate counts from the
return of the UPDATE to the last arrival; a worker that has not finished after 15 s, or not sent a fifth after 5 s, is stopped, and its rate
so far counts. Beside them stand HTTP clients without a database, which post as many prepared messages, httpx fewer. Of the EMP that answers
at once, fast arms have three rounds in turns, of which the medians count; all else has one. fsync is on. What the CPO notices is its UPDATE
with the trigger ÷ without, while no worker runs: ours the medians of three each in turns, the others' one, without before with.
"""

import json
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.arms import OURS, present
from bench.arms.arm import Arm
from bench.arms.peers import CLIENTS, GRAPHILE_LOCAL, WORKERS
from bench.cpo import Cpo
from bench.emp import Emp
from bench.fleet import CONCURRENCY, CONNECTORS
from bench.result import Result
from bench.usage import cpu_s, family
from cdc_pusher.embedded import EmbeddedPostgres

STATIONS = 5_000
EVSES = STATIONS * CONNECTORS
DELAY_MS = 25
ROUNDS, UPDATES = 3, 3
LIMIT_S, LOOK_S, REST_S = 15.0, 0.1, 0.3
HOPE_S, HOPE = 5.0, 0.2  # a worker that is not fast and has sent less than this share by then will not finish
BARE = {"pyreqwest": EVSES, "aiohttp": EVSES, "httpx": 500}  # messages


@dataclass(frozen=True, slots=True, kw_only=True)
class _Storm:
    """One storm; processor time in seconds, of the worker and of its sessions on the server."""

    sent: int
    seconds: float
    worker_s: float
    sessions_s: float
    wrong: int
    overlaps: int
    duplicates: int

    @property
    def is_finished(self) -> bool:
        return self.sent >= EVSES

    @property
    def rate(self) -> float:
        return self.sent / self.seconds

    @property
    def cost_us(self) -> float:
        return 1e6 * self.worker_s / max(1, self.sent)

    @property
    def sessions_us(self) -> float:
        return 1e6 * self.sessions_s / max(1, self.sent)


def run() -> list[Result]:
    arms, skipped = present()
    storms: dict[tuple[str, int], list[_Storm]] = defaultdict(list)
    bare: dict[str, list[dict[str, float]]] = defaultdict(list)
    has_clients = not CLIENTS.missing()
    with (
        EmbeddedPostgres() as server,
        TemporaryDirectory() as directory,
        Emp() as emp,
        _Databases(server, Path(directory), emp) as databases,
    ):
        for turn in range(ROUNDS):
            for arm in arms if turn % 2 else reversed(arms):
                for delay_ms in (0, DELAY_MS) if turn == 0 else (0,) if arm.is_fast else ():
                    storms[arm.name, delay_ms].append(_storm(arm, databases, emp, delay_ms))
            for client in BARE if has_clients else ():
                bare[client].append(_bare(client, emp))
        updates = {arm.name: _update(databases.of(arm), UPDATES if arm is OURS else 1) for arm in arms}
    results = [result for arm in arms for result in _results(arm, storms, updates[arm.name])]
    clients = [result for client, found in bare.items() for result in _bare_results(client, found)]
    return [*results, *clients, *skipped, *_goals(storms, bare)]


class _Databases:
    """A database for each arm, which it keeps until it has not finished."""

    def __init__(self, server: EmbeddedPostgres, directory: Path, emp: Emp) -> None:
        self._server, self._directory, self._emp = server, directory, emp
        self._kept: dict[str, Cpo] = {}

    def __enter__(self) -> "_Databases":
        return self

    def __exit__(self, *_: object) -> None:
        for cpo in self._kept.values():
            cpo.__exit__()

    def of(self, arm: Arm) -> Cpo:
        if arm.name not in self._kept:
            cpo = self._kept[arm.name] = Cpo(self._server, self._directory, arm.key, stations=STATIONS).__enter__()
            arm.install(cpo, self._emp)
        return self._kept[arm.name]

    def drop(self, arm: Arm) -> None:
        self._kept.pop(arm.name).__exit__()


def _storm(arm: Arm, databases: _Databases, emp: Emp, delay_ms: int) -> _Storm:
    cpo = databases.of(arm)
    with arm.worker(cpo, emp, delay_ms) as process:
        cpo.tidy()
        before = cpo.statuses()
        worker = family(process.pid)
        worker_was, sessions_were = cpu_s(worker), {pid: cpu_s([pid]) for pid in cpo.sessions()}
        cpo.storm()
        began = time.time()
        while (sent := emp.counts()["statuses"]) < EVSES and time.time() < began + LIMIT_S:
            if not arm.is_fast and time.time() > began + HOPE_S and sent < HOPE * EVSES:
                break
            time.sleep(LOOK_S)
        time.sleep(REST_S)
        took_s = time.time() - began
        ledger = emp.ledger()
        worker_s = cpu_s(worker) - worker_was
        sessions_s = sum(max(0.0, cpu_s([pid]) - sessions_were.get(pid, 0.0)) for pid in cpo.sessions())
        is_finished = ledger["statuses"] >= EVSES
        storm = _Storm(
            sent=ledger["statuses"],
            seconds=ledger["last_at"] - began if is_finished else took_s,
            worker_s=worker_s,
            sessions_s=sessions_s,
            wrong=cpo.wrong(before | ledger["last"]),
            overlaps=ledger["overlaps"],
            duplicates=ledger["duplicates"],
        )
    if not is_finished:
        databases.drop(arm)
    return storm


def _bare(client: str, emp: Emp) -> dict[str, float]:
    command = [*CLIENTS.command(WORKERS / "bare.py"), client, emp.url(), str(BARE[client])]
    done = subprocess.run(command, env={**os.environ, **CLIENTS.environ}, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _update(cpo: Cpo, turns: int) -> float:
    """The CPO's UPDATE with its trigger ÷ without."""
    seconds: dict[str, list[float]] = {"DISABLE": [], "ENABLE": []}
    for turn in range(turns):
        for state in sorted(seconds, reverse=bool(turn % 2)):
            cpo.triggers(state)
            cpo.tidy()
            seconds[state].append(cpo.storm())
    return median(seconds["ENABLE"]) / median(seconds["DISABLE"])


def _results(arm: Arm, storms: Mapping[tuple[str, int], Sequence[_Storm]], update: float) -> list[Result]:
    at_once, late = storms[arm.name, 0], storms[arm.name, DELAY_MS]
    ours = arm is OURS
    finished = [storm for storm in (*at_once, *late) if storm.is_finished]
    found = [
        Result(arm=arm.name, name="messages a second, answered at once", value=_rate(at_once), unit="1/s", note=_note(at_once)),
        Result(
            arm=arm.name,
            name=f"messages a second, answered after {DELAY_MS} ms",
            value=_rate(late),
            unit="1/s",
            at_least=0.9 * CONCURRENCY / DELAY_MS * 1000 if ours else None,
            note=_note(late),
        ),
        Result(
            arm=arm.name,
            name="processor time of the worker a message",
            value=median(storm.cost_us for storm in at_once),
            unit="µs",
            note=f"its sessions on the server {median(storm.sessions_us for storm in at_once):.0f}",
        ),
        Result(arm=arm.name, name="the UPDATE with trigger ÷ without", value=update, at_most=1.5 if ours else None),
        Result(arm=arm.name, name="overlaps", value=sum(storm.overlaps for storm in late), at_most=0 if ours else None),
        Result(arm=arm.name, name="duplicates", value=sum(storm.duplicates for storm in (*at_once, *late))),
    ]
    if finished or ours:
        wrong = sum(storm.wrong for storm in finished or (*at_once, *late))
        found.append(Result(arm=arm.name, name="EVSEs wrong at the EMP", value=wrong, at_most=0 if ours else None))
    return found


def _bare_results(client: str, found: Sequence[dict[str, float]]) -> list[Result]:
    arm = f"{client} alone"
    rates = [one["rate"] for one in found]
    return [
        Result(arm=arm, name="messages a second, answered at once", value=median(rates), unit="1/s", note=_spread(rates)),
        Result(arm=arm, name="processor time of the worker a message", value=median(one["cpu_us"] for one in found), unit="µs"),
    ]


def _goals(storms: Mapping[tuple[str, int], Sequence[_Storm]], bare: Mapping[str, Sequence[dict[str, float]]]) -> list[Result]:
    """How we stand to the fastest of the others."""
    ours, found = _rate(storms[OURS.name, 0]), []
    if storms.get((GRAPHILE_LOCAL.name, 0)):
        ratio = ours / _rate(storms[GRAPHILE_LOCAL.name, 0])
        found.append(Result(name=f"messages a second ÷ {GRAPHILE_LOCAL.name}", value=ratio, at_least=1.1))
    if bare:
        rates = {client: median(one["rate"] for one in of) for client, of in bare.items()}
        fastest = max(rates, key=rates.__getitem__)
        found.append(Result(name="messages a second ÷ the fastest client alone", value=ours / rates[fastest], at_least=0.5, note=fastest))
    return found


def _rate(storms: Sequence[_Storm]) -> float:
    return median(storm.rate for storm in storms)


def _note(storms: Sequence[_Storm]) -> str:
    unfinished = [f"stopped after {storm.sent:,}" for storm in storms if not storm.is_finished]
    return ", ".join([_spread([storm.rate for storm in storms]), *unfinished])


def _spread(rates: Sequence[float]) -> str:
    return f"{min(rates):,.0f} to {max(rates):,.0f}" if len(rates) > 1 else "one round"
