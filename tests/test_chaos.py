"""The proof by chaos: the CPO writes, the EMP misbehaves, the daemon is killed, and in the end everybody knows the same.

Three seeds run by default. A campaign: `CHAOS_SEEDS=3-20 CHAOS_SECONDS=15 pytest tests/test_chaos.py -s`; every seed then runs with both
kinds of EMP, those that let connectors change (`send`) and those that do not (`hold`, and `replace`: a new station in its place).
"""

import asyncio
import contextlib
import os
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import oracle
import pytest
from rig import KEY, Daemon, Rig, rig
from workload import Workload

from cdc_pusher.sandbox import Sandbox, SandboxSettings

SECONDS = float(os.environ.get("CHAOS_SECONDS", "8"))
LEAVE_INVALID = 2

FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "delay", "seconds": [0, 0.4]},
    {"kind": "http", "status": 500},
    {"kind": "http", "status": 503, "retry_after": 1},
    {"kind": "http", "status": 429, "retry_after": 0},
    {"kind": "code", "code": 300},
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "garbage"},
    {"kind": "hang"},
    {"kind": "hang", "applied": True},
)


def seeds() -> list[tuple[int, str]]:
    """`3`, `3,5` or `3-20`, each with both kinds of EMP."""
    wanted = os.environ.get("CHAOS_SEEDS")
    if not wanted:
        return [(1, "send"), (2, "hold"), (3, "replace")]
    ranges = [part.partition("-") for part in wanted.split(",")]
    numbers = [n for first, _, last in ranges for n in range(int(first), int(last or first) + 1)]
    return [(n, kind) for n in numbers for kind in ("send", "hold", "replace")]


class Monkey:
    """Keeps one daemon running, but not for long; and puts the EMP in ever other moods."""

    def __init__(self, rigged: Rig, sandbox: Sandbox, seed: int) -> None:
        self._rig = rigged
        self._sandbox = sandbox
        self._chance = random.Random(f"{seed} monkey")
        self.done: Counter[str] = Counter()

    async def play(self, daemon: Daemon, over: asyncio.Event) -> None:
        """Go on until it is over; then one daemon runs."""
        self.daemon = daemon
        last: Callable[[], Awaitable[None]] | None = None
        while not over.is_set():
            self._change_mood()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._chance.uniform(0.3, 4.0)):
                    await over.wait()
            if self.daemon.exit_code is not None:
                may_end = last == self._cut_sessions and "ready" not in self.daemon.said
                assert may_end, f"the daemon ended by itself\n{self.daemon.said}"
                self.daemon = self._rig.daemon()  # as systemd would
            last = self._chance.choices((self._kill, self._stop, self._cut_sessions), (50, 15, 35))[0]
            self.done[last.__name__] += 1
            await last()

    def _change_mood(self) -> None:
        probability = self._chance.choice((0.0, 0.01, 0.04))
        self._sandbox.set_faults([{**fault, "probability": probability} for fault in FAULTS], seed=self._chance.randrange(1 << 30))

    async def _kill(self) -> None:
        await self.daemon.kill()
        self.daemon = self._rig.daemon()

    async def _stop(self) -> None:
        took_s = await self.daemon.stop()
        assert took_s < 10, f"SIGTERM took {took_s:.1f} s"
        self.daemon = self._rig.daemon()

    async def _cut_sessions(self) -> None:
        """The database ends sessions of the daemon."""
        await self._rig.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'cdc-pusher %%' AND random() < %(share)s",
            share=self._chance.choice((0.3, 1.0)),
        )


@pytest.mark.timeout(120 + SECONDS)
@pytest.mark.parametrize(("seed", "kind"), seeds())
async def test_chaos_ends_with_emp_and_database_equal(seed: int, kind: str, dsn: str, tmp_path: Path) -> None:
    await play(seed, kind, dsn, tmp_path, env={})


@pytest.mark.timeout(120 + SECONDS)
async def test_chaos_ends_well_where_looks_begin_where_the_one_before_ended(dsn: str, tmp_path: Path) -> None:
    """As if a long transaction elsewhere made every look from the start slow: `horizon`."""
    patch = tmp_path / "patch"
    patch.mkdir()
    (patch / "sitecustomize.py").write_text("import cdc_pusher.horizon as h\nh.SLOW_S, h.SHARE = -1.0, 0.002\n")
    await play(4, "send", dsn, tmp_path, env={"PYTHONPATH": f"{patch}:{Path(__file__).parent.parent}"})


async def play(seed: int, kind: str, dsn: str, tmp_path: Path, env: Mapping[str, str]) -> None:
    settings = SandboxSettings(api_key=KEY, connectors_may_change=kind == "send")
    async with rig(dsn, tmp_path) as rigged, Sandbox(settings) as sandbox:
        rigged.env = env
        rigged.add_emp("alpha", sandbox, connectors_changed=kind)
        workload = Workload(dsn, seed, SECONDS)
        await workload.build()
        monkey = Monkey(rigged, sandbox, seed)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(monkey.play(rigged.daemon(), over), name="monkey")
            await workload.run()
            over.set()
        sandbox.set_faults([])
        await workload.end(LEAVE_INVALID)
        quiet_s = await rigged.quiet()
        wrong = await verdict(rigged, "alpha", sandbox, workload, kind)
        summary = f"seed {seed} {kind}: quiet after {quiet_s:.1f} s; {dict(monkey.done)}; {dict(workload.done)}; {sandbox.stats()}"
        print(summary)  # noqa: T201  # for campaigns
        if wrong:
            pytest.fail("\n".join([summary, *wrong[:12], await rigged.dump(*concerned(wrong)), *story(sandbox, concerned(wrong))]))


async def verdict(rigged: Rig, name: str, emp: Sandbox, workload: Workload, kind: str, forgiven: int = 0) -> list[str]:
    """Everything that is not as it should be with one EMP; so many overlaps are `forgiven`."""
    sandbox = oracle.AsOne(emp)
    expected = oracle.Expected(await rigged.sql("SELECT * FROM station"), await rigged.sql("SELECT * FROM connector"))
    in_doubt = await rigged.sql("SELECT station_id, evse_id FROM cdc_pusher.evse WHERE at_emp = 'maybe' AND emp = %(emp)s", emp=name)
    reasons = oracle.excused(expected, sandbox, in_doubt, connectors_may_change=kind != "hold")
    history = await rigged.sql("SELECT n, evse_id, status, xid::text::bigint FROM history")
    overlaps = emp.stats()["overlaps"] - forgiven
    return [
        *oracle.differences(expected, sandbox, reasons),
        *oracle.wrong_rows(expected, reasons, await rigged.sql("SELECT * FROM cdc_pusher.outbox WHERE emp = %(emp)s", emp=name)),
        *oracle.without_statuses_after(sandbox, expected, reasons),
        *oracle.went_back_stations(sandbox),
        *oracle.went_back_statuses(sandbox, history, workload.committed_after),
        *([f"{overlaps} requests came while another one for the same entity was in flight"] if overlaps else ()),
        *oracle.refusals(sandbox, connectors_may_change=kind == "send"),
        *(["a daemon said Traceback"] if "Traceback" in rigged.said else ()),
        *(["the API key is in what a daemon said"] if KEY in rigged.said else ()),
    ]


def concerned(wrong: Iterable[str]) -> list[str]:
    """The stations and EVSEs that the first complaints are about."""
    return list(dict.fromkeys(key for sentence in list(wrong)[:4] for key in re.findall(r"'(s\d\d|DE[^']*)'", sentence)))


def story(sandbox: Sandbox, keys: Iterable[str]) -> list[str]:
    """What the EMP was told of them."""
    wanted = set(keys)
    entries = [e for e in sandbox.ledger if e["key"] in wanted or (e["kind"] == "station" and wanted & evses(e["payload"]))]
    return [
        f"{e['seq']} {e['received_at']:.3f} {e['key']} {e['outcome']} applied={e['applied']} "
        + (
            e["payload"]["status"]
            if e["kind"] == "status"
            else f"{e['payload']['name']} {e['payload']['deleted']} {sorted(evses(e['payload']))}"
        )
        for e in entries[-60:]
    ]


def evses(payload: Any) -> set[str]:
    return {connector["id"] for connector in payload["connectors"]}
