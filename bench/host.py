"""What the CPO's own transactions notice: pgbench updates the status of one EVSE after the other, with triggers and without, in turns.

Each arm is measured with its worker off, and with a worker at work that has an EMP which takes 2 s an answer, so that the trigger, the
wake-ups and the taking of changes count and the HTTP does not; ours has two requests at once then. All of it runs on the same processors.
The ratio of the medians is what counts, on a server with its own fsync; a latency is that of one transaction, its commit included.
cdc-pusher has three rounds, and so has the least that a trigger can do; the others have one, and only with the most clients. Heartbeats,
which change nothing that is pushed, are `heartbeat`.
"""

import re
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from bench.arms import present
from bench.arms.arm import Arm
from bench.arms.least import Least
from bench.arms.ours import Ours
from bench.arms.peers import PEERS
from bench.cpo import Cpo
from bench.emp import Emp
from bench.result import Result
from cdc_pusher.embedded import EmbeddedPostgres

STATIONS = 2_000
ROUNDS, SECONDS = 3, 3
CLIENTS = (1, 8)
DELAY_MS = 2_000
OURS = Ours(concurrency=2)
TPS, P99 = 0.95, 1.2


@dataclass(frozen=True, slots=True, kw_only=True)
class _Played:
    """One run of pgbench; the latency is in ms."""

    tps: float
    p99: float


def run() -> list[Result]:
    arms, skipped = present((OURS, Least(), *PEERS))
    with EmbeddedPostgres() as server, TemporaryDirectory() as directory, Emp() as emp:
        found = [result for arm in arms for result in _measured(arm, server, Path(directory), emp)]
    return [*found, *skipped]


def _measured(arm: Arm, server: EmbeddedPostgres, directory: Path, emp: Emp) -> list[Result]:
    results = []
    for state in ("at work", "off") if arm.has_worker else ("off",):
        with ExitStack() as stack:
            cpo = stack.enter_context(Cpo(server, directory, arm.key, stations=STATIONS))
            arm.install(cpo, emp)
            if state == "at work":
                stack.enter_context(arm.worker(cpo, emp, DELAY_MS))
            for clients in CLIENTS[-1:] if arm in PEERS else CLIENTS:
                results += _compared(arm, state, clients, _Pgbench(server, cpo, clients))
    return results


class _Pgbench:
    def __init__(self, server: EmbeddedPostgres, cpo: Cpo, clients: int) -> None:
        self._cpo = cpo
        script = cpo.directory / "status.sql"
        script.write_text(
            f"\\set n random(1, {len(cpo.evses)})\n"
            "UPDATE connector SET status = CASE status WHEN 'Occupied' THEN 'Available' ELSE 'Occupied' END WHERE id = :n;\n"
        )
        options = ("-n", "-M", "prepared", "-l", "-c", str(clients), "-j", "1", "-T", str(SECONDS))
        self._command = [str(server.bin / "pgbench"), *options, "-f", str(script), cpo.dsn]

    def play(self, triggers: str) -> _Played:
        self._cpo.triggers(triggers)
        self._cpo.tidy()
        with TemporaryDirectory(dir=self._cpo.directory) as directory:
            printed = subprocess.run(self._command, cwd=directory, check=True, capture_output=True, text=True).stdout
            (log,) = Path(directory).glob("pgbench_log.*")
            latencies = [int(line.split(" ", 3)[2]) / 1000 for line in log.read_text().splitlines()]
        found = re.search(r"tps = ([\d.]+)", printed)
        assert found is not None
        return _Played(tps=float(found[1]), p99=quantiles(latencies, n=100)[98])


def _compared(arm: Arm, state: str, clients: int, pgbench: _Pgbench) -> list[Result]:
    found: dict[str, list[_Played]] = {"DISABLE": [], "ENABLE": []}
    for turn in range(1 if arm in PEERS else ROUNDS):
        for triggers in sorted(found, reverse=bool(turn % 2)):
            found[triggers].append(pgbench.play(triggers))
    without, with_it = found["DISABLE"], found["ENABLE"]
    what = f"{clients} client{'s' if clients > 1 else ''}, worker {state}"
    spread = ", ".join(_spread([played.tps for played in of]) for of in (without, with_it))
    p99 = [median(played.p99 for played in of) for of in (without, with_it)]
    return [
        Result(
            arm=arm.name,
            name=f"{what}: tps with triggers ÷ without",
            value=median(played.tps for played in with_it) / median(played.tps for played in without),
            at_least=TPS if arm is OURS else None,
            note=f"{spread} tps without, with",
        ),
        Result(
            arm=arm.name,
            name=f"{what}: p99 with triggers ÷ without",
            value=p99[1] / p99[0],
            at_most=P99 if arm is OURS else None,
            note=f"{p99[0]:.2f}, {p99[1]:.2f} ms without, with",
        ),
    ]


def _spread(tps: Sequence[float]) -> str:
    return f"{min(tps):.0f} to {max(tps):.0f}" if len(tps) > 1 else f"{tps[0]:.0f}"
