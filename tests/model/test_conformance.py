"""The model is no fairy tale: what it does in random plays, the daemon's own code does on real tables, with the same rows after every step.

More of it: `MODEL_PLAYS=2000 pytest tests/model/test_conformance.py`.
"""

import asyncio
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from model.mutants import SupersededIsForgotten
from model.protocol import Bounds, Protocol
from model.step import Step
from model.twin import Twin

PLAYS = int(os.environ.get("MODEL_PLAYS", "60"))
FAULTS: dict[str, Any] = {"crashes": 1, "lost": 2, "refused": 1, "rejected": 1, "stalls": 2, "changes": 4}


def play(protocol: Protocol, chance: random.Random) -> Iterator[Step]:
    """One way through the model, to its end; a page is turned as soon as it is read. In half of them the full load is over at first."""
    state = protocol.initial()
    calm = chance.random() < 0.5
    while True:
        system, faults = list(protocol.system(state)), list(protocol.environment(state))
        turns = [step for step in system if step[0].verb == "turns the page"]
        calm = calm and bool(system)
        choice = turns or (system if calm or (system and chance.random() < 0.6) else faults or system)
        if not choice:
            return
        verb = chance.choice(sorted({label.verb for label, _ in choice}))
        step = chance.choice([step for step in choice if step[0].verb == verb])
        yield step
        state = step[1]


async def replayed(dsn: str, protocol: Protocol, seed: int) -> set[str]:
    """Plays both side by side. Returns what happened."""
    chance = random.Random(seed)
    seen: set[str] = set()
    async with Twin(dsn, leases=protocol.leases, reads_apart=protocol.reads_apart) as twin:
        for number in range(PLAYS // 2):
            await twin.begin()
            before = protocol.initial()
            told = [f"play {number} of seed {seed}"]
            for label, after in play(protocol, chance):
                told.append(str(label))
                await twin.step(before, label, after)
                differences = await twin.differs(after)
                assert not differences, "\n".join([*told, *differences])
                seen.add(label.verb)
                before = after
    return seen


@pytest.mark.timeout(120 + 2 * PLAYS)
@pytest.mark.parametrize(
    ("bounds", "seed"),
    [(Bounds(leases=True, full_load=True, missed=1, lapses=3, **FAULTS), 1), (Bounds(reads_apart=True, full_load=True, **FAULTS), 2)],
    ids=["with leases", "without"],
)
def test_the_code_does_what_the_model_does(watched_dsn: str, bounds: Bounds, seed: int) -> None:
    seen = asyncio.run(replayed(watched_dsn, Protocol(bounds), seed))
    assert {"writes", "claims", "records 'accepted'", "finds a claim run out", "the quiet time is over", "crashes"} <= seen


def test_another_protocol_would_be_noticed(watched_dsn: str) -> None:
    mutant = SupersededIsForgotten(Bounds(full_load=True, changes=6))
    with pytest.raises(AssertionError, match="the change log names the station: True, in the model False"):
        asyncio.run(replayed(watched_dsn, mutant, seed=3))
