"""Every state that can be reached is as it should be, and the checker would notice if one were not."""

import pytest

from model import mutants, properties
from model.configurations import CONFIGURATIONS, REMOVE, STATUS
from model.explorer import Explorer, Found
from model.protocol import Bounds, Protocol


def explored(protocol: Protocol) -> Found:
    return Explorer(protocol).explore()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bounds", CONFIGURATIONS.values(), ids=CONFIGURATIONS.keys())
def test_nothing_is_broken(bounds: Bounds) -> None:
    found = explored(Protocol(bounds))
    assert found.broken is None, str(found)
    assert found.at_rest


BROKEN: list[tuple[type[Protocol], Bounds, str]] = [
    (mutants.ReadsBeforeItConsumes, Bounds(changes=2), properties.EMP_IS_RIGHT),
    (mutants.SupersededIsForgotten, Bounds(changes=2), properties.EMP_IS_RIGHT),
    (mutants.ClaimsNeverExpire, Bounds(changes=1, crashes=1), properties.ROW_IS_RIGHT),
    (mutants.CursorMovesAlone, Bounds(changes=0, crashes=1, full_load=True, leases=True), properties.EMP_IS_RIGHT),
    (mutants.CursorStandsStill, Bounds(changes=0, full_load=True, leases=True), properties.ENDS),
    (
        mutants.CapturesUnderAnOldEpoch,
        Bounds(changes=1, missed=1, kinds=(REMOVE,), full_load=True, leases=True),
        properties.EMP_IS_RIGHT,
    ),
    (mutants.DoubtIsForgotten, Bounds(changes=2, lost=1), properties.EMP_IS_RIGHT),
    (mutants.NoSecondSending, Bounds(changes=2, lost=1), properties.EMP_IS_RIGHT),
    (mutants.CapturesWithoutLock, Bounds(changes=2), properties.NEVER_OLDER),
    (mutants.SendsWithoutAClock, Bounds(changes=1, stalls=1), properties.ONE_REQUEST),
    (mutants.ClaimsEndTooSoon, Bounds(changes=1, stalls=1), properties.ONE_REQUEST),
    (mutants.AnyClaimCounts, Bounds(changes=2, stalls=1, lost=1, kinds=(STATUS,)), properties.ONE_REQUEST),
    (mutants.StatusesWaitForNothing, Bounds(changes=0, full_load=True, leases=True), properties.STATUS_FOLLOWS),
    (mutants.StatusesDoNotFollow, Bounds(changes=1), properties.EMP_IS_RIGHT),
    (mutants.StatusBesideItsStationsFarewell, Bounds(changes=2), properties.STATUS_FOLLOWS),
    (mutants.WhatIsLookedAtIsSent, Bounds(changes=1), properties.ONLY_ONCE),
    (mutants.QuietTimeEndsInFlight, Bounds(changes=2, lost=1), properties.EMP_IS_RIGHT),
    (mutants.RowGoesWithItsDoubt, Bounds(lost=1, kinds=(STATUS, REMOVE)), properties.EMP_IS_RIGHT),
]


@pytest.mark.parametrize(("mutant", "bounds", "broken"), BROKEN, ids=[mutant.__name__ for mutant, _, _ in BROKEN])
def test_mutant_breaks_a_property(mutant: type[Protocol], bounds: Bounds, broken: str) -> None:
    found = explored(mutant(bounds))
    assert found.broken == broken, str(found)
    assert found.trace


@pytest.mark.parametrize("lapses", [1, 2])
def test_nothing_rests_on_the_epoch_of_a_lane(lapses: int) -> None:
    """The claims are enough: they are told apart, and none outlives its time."""
    found = explored(mutants.NoEpochOfLanes(Bounds(changes=1, lapses=lapses, crashes=2 - lapses, leases=True)))
    assert found.broken is None, str(found)


def test_a_trace_tells_the_shortest_way() -> None:
    found = explored(mutants.StatusesDoNotFollow(Bounds(changes=1)))
    assert [str(label) for label, _ in found.trace] == [
        "CPO changes: the station",
        "daemon 1 consumes",
        "daemon 1 writes",
        "daemon 1 claims: the station",
        "daemon 1 EMP answers 'accepted': the station",
        "daemon 1 records 'accepted': the station",
    ]
