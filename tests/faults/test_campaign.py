"""A part of the campaign, on every change; the whole of it is `make faults`."""

from pathlib import Path

import pytest

from faults import mutants, points
from faults.campaign import causeless, duplicates, run
from faults.kinds import KINDS

SHORT = ("killed in delivery", "killed while looks from the start are slow", "ended", "all together")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", SHORT)
async def test_nothing_is_wrong_after_faults(kind: str, tmp_path: Path) -> None:
    outcome = await run(KINDS[kind], 1, tmp_path)
    assert not outcome.wrong, "\n".join(outcome.wrong)
    assert sum(outcome.injected.values()) >= len(KINDS[kind].strikes) / 2
    assert outcome.messages > len(KINDS[kind].strikes)


@pytest.mark.parametrize("name", mutants.CAUGHT_BY)
def test_mutant_can_still_be_made(name: str, tmp_path: Path) -> None:
    assert mutants.sentence(name).startswith("Invariant ")
    checkout = mutants.made(name, tmp_path)
    changed = [file for file in (checkout / "cdc_pusher").rglob("*.py") if file.read_text() != original(file, checkout).read_text()]
    assert len(changed) == 1
    compile(changed[0].read_text(), changed[0].name, "exec")
    assert mutants.CAUGHT_BY[name][0] in KINDS


def original(file: Path, checkout: Path) -> Path:
    return mutants.ROOT / file.relative_to(checkout)


def test_each_invariant_has_a_mutant() -> None:
    assert [name.partition("-")[0] for name in mutants.CAUGHT_BY] == [str(number) for number in range(1, 10)]


@pytest.mark.parametrize("where", [where for _, where in points.POINTS.values()])
def test_place_of_a_failpoint_is_there(where: str) -> None:
    owner, name = points.place(where)
    assert callable(getattr(owner, name))


def test_what_was_told_twice_is_found() -> None:
    def entry(seq: int, kind: str, key: str, payload: object, outcome: str = "accepted") -> dict[str, object]:
        return {"seq": seq, "kind": kind, "key": key, "payload": payload, "outcome": outcome, "applied": outcome == "accepted"}

    station = {"connectors": [{"id": "E1"}]}
    ledger = [
        entry(1, "station", "s1", station),
        entry(2, "status", "E1", "Available"),
        entry(3, "status", "E1", "Available", "fault:http"),
        entry(4, "status", "E1", "Available"),
        entry(5, "station", "s1", station),
        entry(6, "status", "E1", "Available"),
        entry(7, "status", "E1", "Occupied", "refused:181"),
        entry(8, "station", "s1", station),
    ]
    assert [again["seq"] for again, _ in duplicates(ledger)] == [4, 5, 8]
    assert [again["seq"] for again in causeless(ledger)] == [5]
