"""A soak: `python -m faults.soak --minutes 60 --seed 1` has a CPO make a hundred changes a second while faults strike; what grows?

Of two daemons one is killed, stopped and ended like everything else that can break; the other one, the survivor, lives through all of it,
so that what it does not let go of shows. Of every series that has to be flat a line through its second half tells whether it is (`flat`).
In the end all has to come to rest, and is judged as any run of the campaign.

The server is one with its defaults, autovacuum among them; only in a soak that is shorter than ten of its rounds does it come round
sooner, so that there is something to see.
"""

import argparse
import asyncio
import functools
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Column, Table
from rig import Daemon, connected

from faults.campaign import LEAVE_INVALID, injected, judged, leaves
from faults.flat import Line, Series, line, second_half
from faults.kinds import KINDS, Kind
from faults.sample import SURVIVOR, Samples
from faults.stage import Needs, Stage, stage
from faults.steady import Steady

PER_SECOND = 100.0
STRIKES = KINDS["all together"].strikes
EMPS = {"alpha": "send", "beta": "replace"}
EVERY_S = (10.0, 30.0)
SWEEP_S = 60.0  # instead of a quarter of an hour: the end would have to wait for it
PATIENCE_S = 60.0 + SWEEP_S
NAP_S = 60.0  # of autovacuum, by default
TELL_S = 60.0
TOLD = ("survivor: memory, MB", "survivor: descriptors", "survivor: sessions", "undelivered", "log, changes")
AUDIT = """
SELECT
    (SELECT count(*) FROM cdc_pusher.attempt) AS requests,
    (SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('cdc_pusher.attempt') WHERE isleaf)::float AS bytes
"""
NUMBER = functools.partial(Column, justify="right")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one soak. `attempt_bytes`: what the audit trail takes for each request."""

    seconds: float
    injected: Mapping[str, int]
    changes: int
    requests: int
    attempt_bytes: float
    recovery_s: float
    series: Mapping[str, Series]
    wrong: Sequence[str]

    @property
    def lines(self) -> Sequence[Line]:
        """Of every series that was sampled twice or more in the second half."""
        halves = {what: second_half(series, self.seconds) for what, series in self.series.items()}
        return [line(what, half) for what, half in halves.items() if len(half) > 1]

    @property
    def is_well(self) -> bool:
        return not self.wrong and all(line.is_flat for line in self.lines)


def kind(seconds: float) -> Kind:
    """What a soak of that length needs; EMPs remember whatever they are told."""
    return Kind(
        name="soak",
        strikes=STRIKES,
        needs=Needs(
            daemons=2,
            emps=EMPS,
            ledger=round(4 * PER_SECOND * (seconds + PATIENCE_S)),
            settings={"autovacuum_naptime": f"{max(1, min(NAP_S, seconds / 10)):.0f}s"},
        ),
    )


async def soak(
    seconds: float, seed: int, directory: Path, *, every_s: tuple[float, float] = EVERY_S, checkout: Path | None = None
) -> Outcome:
    """Play one, of the program in another `checkout` if one is given; a fault every so many seconds."""
    what = kind(seconds)
    async with stage(what.needs, directory, f"{seed} soak", checkout) as made:
        made.workload = cpo = Steady(made.dsn, seed, PER_SECOND)
        samples, recovery_s = Samples(), math.nan
        try:
            await made.workload.build()
            survivor = await _started(made)
            await _play(made, survivor, samples, seconds, every_s)
            await made.workload.end(LEAVE_INVALID)
            recovery_s = await made.rig.quiet(PATIENCE_S)
            made.daemons.append(survivor)
            wrong = await judged(made, what, survivor.peak_mb)
        except* (AssertionError, psycopg.Error) as errors:
            wrong = [row for error in leaves(errors) for row in (*str(error).splitlines(), *made.rig.said.splitlines()[-20:])]
        (audit,) = await made.rig.sql(AUDIT)
        return Outcome(
            seconds=seconds,
            injected=dict(injected(made)),
            changes=cpo.changes,
            requests=audit["requests"],
            attempt_bytes=audit["bytes"] / max(audit["requests"], 1),
            recovery_s=recovery_s,
            series=dict(samples.series),
            wrong=wrong,
        )


async def _started(made: Stage) -> Daemon:
    """Both daemons; returns the survivor, of whom what strikes the daemons of the stage knows nothing."""
    await made.rig.sql(f"CREATE ROLE {SURVIVOR} SUPERUSER LOGIN")
    usual = made.rig.config.read_text().replace("[daemon]", f"[daemon]\nsweep_interval_s = {SWEEP_S}")
    made.rig.config.write_text(usual)
    config = made.directory / "survivor.toml"
    config.write_text(usual.replace("user=postgres", f"user={SURVIVOR}"))
    made.start()
    return made.rig.daemon(config, checkout=made.checkout)


async def _play(made: Stage, survivor: Daemon, samples: Samples, seconds: float, every_s: tuple[float, float]) -> None:
    """The CPO writes, faults strike, and somebody looks on."""
    over = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        group.create_task(made.workload.run(), name="workload")
        group.create_task(_sample(made, survivor, samples, over), name="samples")
        await _torment(made, over, every_s)
        made.workload.finish()


async def _torment(made: Stage, over: float, every_s: tuple[float, float]) -> None:
    """All strikes in turn, and again in another turn."""
    turns = (made.chance.sample(STRIKES, len(STRIKES)) for _ in itertools.count())
    for strike in itertools.chain.from_iterable(turns):
        pause_s = made.chance.uniform(*every_s)
        if time.monotonic() + pause_s > over:
            break
        await asyncio.sleep(pause_s)
        if (what := await strike(made)) is not None:
            made.injected[what] += 1
        made.revive()
    await asyncio.sleep(max(0.0, over - time.monotonic()))


async def _sample(made: Stage, survivor: Daemon, samples: Samples, over: float) -> None:
    """Every few seconds, and a word now and then."""
    began = told_at = time.monotonic()
    pause_s = max(1.0, min(5.0, (over - began) / 100))
    async with await connected(made.dsn) as conn:
        await conn.execute("SET lock_timeout = '300ms'")
        while (now := time.monotonic()) < over:
            assert survivor.exit_code is None, "the survivor has died"
            await samples.take(conn, {SURVIVOR: survivor, "the other": made.daemons[0]})
            if now - told_at >= TELL_S:
                told_at = now
                print(f"{now - began:5.0f} s", *(f"{what} {samples.latest(what):.0f}" for what in TOLD), sep="; ", flush=True)  # noqa: T201
            await asyncio.sleep(pause_s)


# ── the command ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 when all is flat, and nothing was wrong."""
    parser = argparse.ArgumentParser(prog="faults.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, every sample among them")
    parser.add_argument("--checkout", type=Path, metavar="DIRECTORY", help="of the program, if not this one")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="cdc-soak-") as directory:
        Path(directory).chmod(0o755)
        outcome = asyncio.run(soak(asked.minutes * 60, asked.seed, Path(directory), checkout=asked.checkout))
    _tell(outcome)
    if asked.json is not None:
        lines = [{**asdict(line), "is_flat": line.is_flat} for line in outcome.lines]
        asked.json.write_text(json.dumps({**asdict(outcome), "lines": lines}, indent=1) + "\n")
    return 0 if outcome.is_well else 1


def _tell(outcome: Outcome) -> None:
    table = Table(
        "what", *(NUMBER(name) for name in ("at the start of the second half", "at the end", "slope per hour", "bound")), "verdict"
    )
    for row in outcome.lines:
        verdict = "not judged" if row.bound is None else "flat" if row.is_flat else "GROWS"
        bound = "" if row.bound is None else f"{row.bound:,.1f}"
        table.add_row(row.what, f"{row.begin:,.2f}", f"{row.end:,.2f}", f"{row.slope:+,.2f}", bound, verdict)
    console = Console(width=150)
    console.print(table)
    console.print(
        f"{outcome.changes:,} changes in {outcome.seconds:.0f} s, {outcome.changes / outcome.seconds:.0f} a second;"
        f" {outcome.requests:,} requests, {outcome.attempt_bytes:.0f} bytes of the audit trail for each;"
        f" all was quiet {outcome.recovery_s:.1f} s after the last change."
    )
    console.print("Faults:", ", ".join(f"{times} {fault}" for fault, times in sorted(outcome.injected.items())))
    console.print("In the end:", "all is well" if not outcome.wrong else "\n  ".join(["WRONG", *outcome.wrong]), markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
