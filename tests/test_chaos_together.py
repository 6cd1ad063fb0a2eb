"""The same proof with three daemons on one database, which are killed, stopped, paused and cut off from it at random.

One seed runs by default. A campaign: `CHAOS_SEEDS=3-20 CHAOS_SECONDS=30 pytest tests/test_chaos_together.py -s`.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rig import KEY, Daemon, Rig, rig
from test_chaos import FAULTS, LEAVE_INVALID, concerned, story, verdict
from workload import Workload

from cdc_pusher.sandbox import Sandbox, SandboxSettings

SECONDS = float(os.environ.get("CHAOS_SECONDS", "25"))
CLAIM_S = 5.9  # how long a claim lasts: the time-out of a request (`rig`) and five seconds; a sender that runs has left by then
EMPS = {"alpha": "send", "beta": "hold", "gamma": "replace"}


def seeds() -> list[int]:
    """`3`, `3,5` or `3-20`."""
    ranges = [part.partition("-") for part in os.environ.get("CHAOS_SEEDS", "1").split(",")]
    return [n for first, _, last in ranges for n in range(int(first), int(last or first) + 1)]


class Monkeys:
    """Keep three daemons running, none of them for long."""

    def __init__(self, rigged: Rig, emps: dict[str, Sandbox], seed: int) -> None:
        self._rig = rigged
        self._emps = emps
        self._chance = random.Random(f"{seed} monkeys")
        self.done: Counter[str] = Counter()

    async def play(self, over: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(self._torment(over), name=f"monkey {number}")
            group.create_task(self._change_moods(over), name="moods")

    async def _change_moods(self, over: asyncio.Event) -> None:
        while not over.is_set():
            for emp in self._emps.values():
                probability = self._chance.choice((0.0, 0.01, 0.04))
                emp.set_faults([{**fault, "probability": probability} for fault in FAULTS], seed=self._chance.randrange(1 << 30))
            await self._while(over, 2.0)

    async def _torment(self, over: asyncio.Event) -> None:
        daemon = self._rig.daemon()
        while not over.is_set():
            await self._while(over, self._chance.uniform(0.5, 12.0))
            if daemon.exit_code is not None:
                assert "ready" not in daemon.said, f"a daemon ended by itself\n{daemon.said}"
                daemon = self._rig.daemon()
            what = self._chance.choices(("kill", "stop", "pause", "cut"), (35, 15, 35, 15))[0]
            self.done[what] += 1
            match what:
                case "kill":
                    await daemon.kill()
                    daemon = self._rig.daemon()
                case "stop":
                    await daemon.stop()
                    daemon = self._rig.daemon()
                case "pause":
                    await self._pause(daemon, over)
                case "cut":
                    await self._rig.sql(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND application_name LIKE 'cdc-pusher %%' AND random() < 0.3"
                    )

    async def _pause(self, daemon: Daemon, over: asyncio.Event) -> None:
        daemon.send_signal(signal.SIGSTOP)
        try:
            await self._while(over, self._chance.choice((0.5, 3.0, 9.0, 16.0)))
        finally:
            daemon.send_signal(signal.SIGCONT)

    async def _while(self, over: asyncio.Event, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await over.wait()


@pytest.mark.timeout(150 + SECONDS)
@pytest.mark.parametrize("seed", seeds())
async def test_chaos_among_three_daemons_ends_with_emps_and_database_equal(seed: int, dsn: str, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        rigged = await stack.enter_async_context(rig(dsn, tmp_path))
        emps = {}
        for name, kind in EMPS.items():
            settings = SandboxSettings(api_key=KEY, connectors_may_change=kind == "send")
            emps[name] = await stack.enter_async_context(Sandbox(settings))
            rigged.add_emp(name, emps[name], connectors_changed=kind)
        workload = Workload(dsn, seed, SECONDS)
        await workload.build()
        monkeys = Monkeys(rigged, emps, seed)
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(monkeys.play(over), name="monkeys")
            await workload.run()
            over.set()
        for emp in emps.values():
            emp.set_faults([])
        await workload.end(LEAVE_INVALID)
        quiet_s = await rigged.quiet(90.0)
        wrong = {}
        for name, kind in EMPS.items():
            if found := await verdict(rigged, name, emps[name], workload, kind, forgiven=beside_stopped_senders(emps[name])):
                wrong[name] = found
        summary = f"seed {seed}: quiet after {quiet_s:.1f} s; {dict(monkeys.done)}; {dict(workload.done)}"
        print(summary, *(emp.stats() for emp in emps.values()), sep="\n")  # noqa: T201  # for campaigns
        for name, found in wrong.items():
            lines = [summary, name, *found[:12], await rigged.dump(*concerned(found)), *story(emps[name], concerned(found))]
            pytest.fail("\n".join(lines))
        assert [line for name in EMPS for line in await sent_without_a_lease(rigged, name)] == []
        taken = Counter(line["lease"] for line in map(json.loads, rigged.said.splitlines()) if line["event"] == "lease taken")
        assert max(taken.values()) > 1, "something has gone over to another daemon"


def beside_stopped_senders(emp: Sandbox) -> int:
    """Requests that came beside one whose claim had run out, since its sender is stopped and cannot even close the connection."""
    found = 0
    for hung in emp.ledger:
        finished_at = hung["finished_at"] or time.time()
        if hung["outcome"] == "fault:hang" and finished_at - hung["received_at"] > CLAIM_S:
            beside = [e for e in emp.ledger if hung["received_at"] + CLAIM_S < e["received_at"] < finished_at]
            found += sum((e["kind"], e["key"]) == (hung["kind"], hung["key"]) for e in beside)
    return found


async def sent_without_a_lease(rigged: Rig, emp: str) -> list[str]:
    """Requests that a daemon began when the lane was not its own, by what the daemons say of when they took it."""
    taken = sorted(
        (line["epoch"], datetime.fromisoformat(line["timestamp"]), line["daemon"])
        for line in map(json.loads, rigged.said.splitlines())
        if line["event"] == "lease taken" and line["lease"] == f"lane {emp}"
    )
    ends = [min((other[1] for other in taken[n + 1 :]), default=datetime.max.replace(tzinfo=UTC)) for n in range(len(taken))]
    spans = [(daemon, begin, end) for (_, begin, daemon), end in zip(taken, ends, strict=True)]
    attempts = await rigged.sql("SELECT host, sent_at, key FROM cdc_pusher.attempt WHERE emp = %(emp)s AND outcome <> 'retry'", emp=emp)
    return [
        f"{row['key']} sent by {row['host']} at {row['sent_at']}"
        for row in attempts
        if not any(daemon == row["host"] and begin <= row["sent_at"] <= end for daemon, begin, end in spans)
    ]
