"""One run: the CPO writes, faults of one kind strike, then everything is mended and has to come to rest, and is judged."""

import asyncio
import math
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from rig import KEY, until
from verdict import beside_stopped_senders, concerned, evses, sent_without_a_lease, story, verdict
from workload import Workload

from faults import mutants
from faults.kinds import KINDS, Kind
from faults.stage import Stage, stage

LEAVE_INVALID = 2
PATIENCE_S = 60.0
MOST_S = 600.0  # until the faults are over
MOST_MB = 150.0
HOUR_S = 3600.0
STOP_S = 10.0
AT_WORK, WORKS_S = 20, 15.0  # requests; seconds
SESSION_S = 5.0  # until a server has noticed that a client has gone

OWN_TABLES = (
    "SELECT format('%%I.%%I', n.nspname, c.relname) AS name FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
    " WHERE n.nspname = 'cdc_pusher' AND c.relkind = 'r'"
)
NOTICED = """
SELECT bool_and(timeline LIKE '%%/' || 'cdc_pusher.outbox'::regclass::oid)
FROM cdc_pusher.emp
"""
LEFT = """
SELECT
    (SELECT count(*) FROM cdc_pusher.outbox WHERE state = 'in_flight') AS "messages in flight",
    (SELECT count(*) FROM cdc_pusher.change) AS changes,
    (SELECT count(*) FROM cdc_pusher.lease WHERE holder IS NOT NULL AND expires_at > clock_timestamp()) AS leases,
    (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'cdc-pusher %%') AS sessions
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one run. `messages`: that the EMPs processed, `duplicates` among them; `recovery_s`: from the last fault until all was quiet."""

    kind: str
    seed: int
    injected: Mapping[str, int]
    messages: int
    duplicates: int
    recovery_s: float
    peak_mb: float
    transactions: int
    wrong: Sequence[str]


def play(kind: str, seed: int, mutant: str | None = None) -> Outcome:
    """One run, in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="cdc-faults-") as directory:
        Path(directory).chmod(0o755)
        checkout = mutants.made(mutant, Path(directory)) if mutant else None
        return asyncio.run(run(KINDS[kind], seed, Path(directory), checkout))


async def run(kind: Kind, seed: int, directory: Path, checkout: Path | None = None) -> Outcome:
    """Play one run, of the program in another `checkout` if one is given."""
    async with stage(kind.needs, directory, f"{seed} {kind.name}", checkout) as made:
        made.workload = Workload(made.dsn, seed, HOUR_S, stubborn=kind.cuts_cpo, truncates=seed % 2 == 0)
        recovery_s, peak_mb = math.nan, math.nan
        try:
            async with asyncio.timeout(MOST_S):
                await _play(made, kind)
            recovery_s = await made.rig.quiet(PATIENCE_S)
            peak_mb = max(daemon.peak_mb for daemon in made.daemons if daemon.exit_code is None)
            wrong = await judged(made, kind, peak_mb)
        except* (AssertionError, TimeoutError, psycopg.Error) as errors:
            wrong = [
                line
                for error in leaves(errors)
                for line in (*(str(error) or type(error).__name__).splitlines(), *made.rig.said.splitlines()[-20:])
            ]
        return Outcome(
            kind=kind.name,
            seed=seed,
            injected=injected(made),
            messages=sum(entry["applied"] for emp in made.emps.values() for entry in emp.ledger),
            duplicates=sum(len(list(duplicates(emp.ledger))) for emp in made.emps.values()),
            recovery_s=recovery_s,
            peak_mb=peak_mb,
            transactions=made.workload.done.total(),
            wrong=wrong,
        )


async def _play(made: Stage, kind: Kind) -> None:
    """Everything until the faults are over, and what the CPO does last."""
    await made.workload.build()
    for _ in range(kind.needs.daemons):
        made.start()
    async with asyncio.TaskGroup() as group:
        group.create_task(made.workload.run(), name="workload")
        await _torment(made, kind)
        made.workload.finish()
    await made.workload.end(LEAVE_INVALID)
    if kind.goes_back:  # what was put back may look as if all was done
        await until(lambda: made.rig.value(NOTICED), "the daemon has noticed that this is another database", PATIENCE_S)


def leaves(errors: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in errors.exceptions:
        yield from leaves(error) if isinstance(error, BaseExceptionGroup) else (error,)


async def _at_work(made: Stage) -> None:
    """Wait until EMPs are told something again, or for some time: a fault that strikes nobody proves nothing."""
    told = [len(emp.ledger) for emp in made.emps.values()]
    with suppress(AssertionError):
        await until(lambda: sum(len(emp.ledger) for emp in made.emps.values()) > sum(told) + AT_WORK, "the daemons work", WORKS_S)


async def _torment(made: Stage, kind: Kind) -> None:
    strikes = list(kind.strikes)
    random.Random(made.chance.random()).shuffle(strikes)
    for strike in strikes:
        await _at_work(made)
        await made.pause(*kind.every_s)
        if (what := await strike(made)) is not None:
            made.injected[what] += 1
        made.revive()


def injected(made: Stage) -> Counter[str]:
    """What has struck, by name; of an EMP's faults each request that met one."""
    met = [entry["outcome"].partition(":") for emp in made.emps.values() for entry in emp.ledger]
    return made.injected + Counter(f"EMP: {fault}" for outcome, _, fault in met if outcome == "fault")


async def judged(made: Stage, kind: Kind, peak_mb: float) -> list[str]:
    """Once all is quiet: everything that is not as it should be, with the story of the first complaints about each EMP."""
    found = [line for name in made.emps for line in await _wrong_at(made, kind, name)]
    if peak_mb > MOST_MB:
        found.append(f"a daemon has held {peak_mb:.0f} MB")
    for table in await made.rig.sql(OWN_TABLES):
        if await made.rig.value(f"SELECT count(*) FROM {table['name']} AS t WHERE t::text LIKE %(key)s", key=f"%{KEY}%"):
            found.append(f"the API key is in {table['name']}")
    return found + [line async for line in _wrong_in_the_end(made)]


async def _wrong_at(made: Stage, kind: Kind, name: str) -> list[str]:
    emp = made.emps[name]
    forgiven = beside_stopped_senders(emp) if kind.needs.daemons > 1 else 0
    found = await verdict(
        made.rig, name, emp, made.workload, made.kinds[name], forgiven=forgiven, goes_back=kind.goes_back, disordered=kind.disorders
    )
    if kind.needs.daemons > 1:
        found += await sent_without_a_lease(made.rig, name)
    if kind.is_sure:
        again = causeless(emp.ledger)
        found += [f"'{entry['key']}' was sent again without a cause (request {entry['seq']})" for entry in again]
    if not found:
        return []
    return [f"{name}: {line}" for line in found] + [await made.rig.dump(*concerned(found)), *story(emp, concerned(found))]


async def _wrong_in_the_end(made: Stage) -> AsyncIterator[str]:
    """What is left of daemons that are told to end."""
    for daemon in list(made.daemons):
        took_s = await daemon.stop()
        if took_s > STOP_S:
            yield f"a daemon with nothing to do took {took_s:.1f} s to end"
    try:
        await until(lambda: _nothing_is_left(made), "sessions end", SESSION_S)
    except AssertionError:
        yield f"when all daemons have ended, there are left: {(await made.rig.sql(LEFT))[0]}"


async def _nothing_is_left(made: Stage) -> bool:
    return not any((await made.rig.sql(LEFT))[0].values())


def duplicates(ledger: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Messages that told the EMP what it had been told last of the same entity, and the request that had.

    A status that follows its station tells nothing twice: it belongs to it.
    """
    last: dict[tuple[str, str], Mapping[str, Any]] = {}
    for entry in ledger:
        if entry["applied"]:
            entity = entry["kind"], entry["key"]
            before = last.get(entity)
            if before is not None and before["payload"] == entry["payload"]:
                yield entry, before
            last[entity] = entry
            if entry["kind"] == "station":
                for evse in evses(entry["payload"]):
                    last.pop(("status", evse), None)


def causeless(ledger: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Stations that were sent again although the EMP has not said that it lacks one of their EVSEs."""
    lacking = [entry for entry in ledger if entry["outcome"] == "refused:181"]
    for entry, before in duplicates(ledger):
        between = [e["key"] for e in lacking if before["seq"] < e["seq"] < entry["seq"]]
        if entry["kind"] == "station" and not evses(entry["payload"]).intersection(between):
            yield entry
