"""`python -m faults`: the campaign, or the proof that it notices what it should (`--mutants`)."""

import argparse
import os
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from rich.console import Console
from rich.table import Table

from faults import mutants
from faults.campaign import Outcome, play
from faults.kinds import KINDS

AT_ONCE = 2


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 when nothing was wrong, or every mutant was noticed."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__, epilog="kinds: " + ", ".join(KINDS))
    parser.add_argument("--seed", type=int, default=1, help="of the first run of each kind")
    parser.add_argument("--runs", type=int, default=1, help="of each kind, with the seeds that follow")
    parser.add_argument("--kinds", nargs="*", default=[], help="some of them, without blanks (killed-within); all by default")
    parser.add_argument("--mutants", nargs="*", help="play these, or all, instead of the program as it is")
    asked = parser.parse_args(arguments)
    if asked.mutants is not None:
        return _try_mutants(asked.mutants or list(mutants.CAUGHT_BY))
    kinds = [kind.replace("-", " ") for kind in asked.kinds] or list(KINDS)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        parser.error(f"there is no kind {', '.join(unknown)}; there are: {', '.join(KINDS)}")
    plays = [(kind, seed) for seed in range(asked.seed, asked.seed + asked.runs) for kind in kinds if _can(kind)]
    outcomes = list(_all(plays))
    Console(width=150).print(*_tables(outcomes))
    return 1 if any(outcome.wrong for outcome in outcomes) else 0


def _can(kind: str) -> bool:
    if missing := KINDS[kind].needs.missing:
        print(f"{kind}: left out, {missing}")  # noqa: T201  # a command
    return not missing


def _all(plays: Iterable[tuple[str, int]]) -> Iterable[Outcome]:
    """Two at a time; each is told of as soon as it is over."""
    pool = ProcessPoolExecutor(min(AT_ONCE, os.cpu_count() or 1), mp_context=get_context("spawn"), max_tasks_per_child=1)
    with pool:
        for done in as_completed([pool.submit(play, kind, seed) for kind, seed in plays]):
            outcome = done.result()
            verdict = "\n  ".join(["WRONG", *outcome.wrong]) if outcome.wrong else "all is well"
            print(f"{outcome.kind}, seed {outcome.seed}: quiet {outcome.recovery_s:.1f} s later, {verdict}", flush=True)  # noqa: T201
            yield outcome


def _tables(outcomes: Sequence[Outcome]) -> tuple[Table, Table]:
    """By kind, and how often each fault struck."""
    of_kind: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        of_kind[outcome.kind].append(outcome)
    columns = (
        "faults of the kind",
        "runs",
        "faults",
        "transactions",
        "messages",
        "duplicates a fault",
        "quiet after s, most",
        "MB",
        "violations",
    )
    table, struck = Table(*columns), Table("fault", "times")
    for kind, found in sorted(of_kind.items()):
        faults = sum(sum(outcome.injected.values()) for outcome in found)
        table.add_row(
            kind,
            str(len(found)),
            str(faults),
            str(sum(outcome.transactions for outcome in found)),
            str(sum(outcome.messages for outcome in found)),
            f"{sum(outcome.duplicates for outcome in found) / max(faults, 1):.1f}",
            f"{statistics.median(outcome.recovery_s for outcome in found):.1f}, {max(outcome.recovery_s for outcome in found):.1f}",
            f"{max(outcome.peak_mb for outcome in found):.0f}",
            str(sum(bool(outcome.wrong) for outcome in found)),
        )
    for fault, times in sorted(sum((Counter(outcome.injected) for outcome in outcomes), Counter[str]()).items()):
        struck.add_row(fault, str(times))
    return table, struck


def _try_mutants(names: Sequence[str]) -> int:
    table, escaped = Table("mutant", "breaks", "noticed in a run of", "by"), 0
    for name in names:
        kind, seed = mutants.CAUGHT_BY[name]
        wrong = play(kind, seed, name).wrong
        escaped += not wrong
        table.add_row(name, mutants.sentence(name), kind, wrong[0] if wrong else "NOT NOTICED")
    Console(width=150).print(table)
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
