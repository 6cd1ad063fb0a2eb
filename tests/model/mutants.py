"""Protocols that are broken on purpose, each in one method; and two that do what the code does where the model does otherwise."""

from collections.abc import Iterator

from model.capture import FOUND
from model.protocol import Protocol
from model.state import IN_FLIGHT, LATE, NOW, PENDING, READ_FIRST, SENT, Job, Row, State
from model.step import Step

APART = "to be put into the log"


# ── invariant 2: nothing committed is lost ─────────────────────────────────────────────────────────────────────────────────────────────


class ReadsBeforeItConsumes(Protocol):
    """What is committed between the two is consumed and was not read."""

    def begin(self, state: State, d: int) -> State:
        return self.read(state, d).daemon(d, intake=READ_FIRST)


class SupersededIsForgotten(Protocol):
    """What changed while a request was in flight is not looked at again."""

    def look_again(self, state: State, wanted: bool) -> State:
        return state


class ClaimsNeverExpire(Protocol):
    """The claims of a daemon that has died stay."""

    def expiries(self, state: State, d: int) -> Iterator[Step]:
        return iter(())


class CursorMovesAlone(Protocol):
    """The cursor of a walk moves in one transaction, its page goes into the log in the next one."""

    def turn(self, state: State, d: int) -> State:
        place, page = state.daemons[d].page
        if place == APART:
            return state.daemon(d, page=("", ""))._replace(log=True)
        after = self.move(state.daemon(d, page=("", "")), place, page)
        return after.daemon(d, page=(APART, FOUND)) if page == FOUND and state.walk == place else after


class CursorStandsStill(Protocol):
    """A walk begins with the same page again and again."""

    def move(self, state: State, place: str, page: str) -> State:
        return state


class CapturesUnderAnOldEpoch(Protocol):
    """Who has lost the capture's lease captures all the same: a walk passes by what it has read and not written yet."""

    def initial(self) -> State:
        return super().initial().daemon(1, captures=True)


# ── invariant 3: no stale word is the last word ────────────────────────────────────────────────────────────────────────────────────────


class DoubtIsForgotten(Protocol):
    """A request without an answer counts as not applied."""

    def doubted(self, row: Row, *, late: bool) -> Row:
        return super().doubted(row, late=late)._replace(doubtful="")


class NoSecondSending(Protocol):
    """What is accepted within the quiet time is delivered."""

    def accepted(self, state: State, index: int, row: Row) -> State:
        return super().accepted(state, index, row._replace(quiet=False))


class CapturesWithoutLock(Protocol):
    """Two daemons capture at once."""

    def may_begin(self, state: State) -> bool:
        return True


class SendsWithoutAClock(Protocol):
    """Before it sends, a daemon does not ask whether its claim is still good."""

    def in_time(self, state: State, job: Job) -> bool:
        return True


class ClaimsEndTooSoon(Protocol):
    """A claim can run out while its request is waited for."""

    def expire(self, state: State, index: int) -> State:
        jobs = state.entities[index].jobs
        after = super().expire(state, index)
        waited_for = [job for job in jobs if job.phase == SENT]
        return after.of(index, jobs=tuple(sorted((*(job for job in after.entities[index].jobs if job.phase != LATE), *waited_for))))


class AnyClaimCounts(Protocol):
    """An answer is recorded for whatever request is in flight."""

    def counts(self, row: Row, job: Job) -> bool:
        return row.state == IN_FLIGHT


class QuietTimeEndsInFlight(Protocol):
    """What was sent within the quiet time and is recorded after it is delivered."""

    def is_quiet(self, state: State, index: int) -> bool:
        entity = state.entities[index]
        return entity.row.quiet and not any(job.phase == LATE for job in entity.jobs)


class RowGoesWithItsDoubt(Protocol):
    """The row of a status that nobody wants is forgotten, and with it that a request may come late."""

    def forgotten(self, row: Row) -> Row:
        return Row()


# ── invariant 4: a status follows its station ──────────────────────────────────────────────────────────────────────────────────────────


class StatusesWaitForNothing(Protocol):
    """A status is due as soon as it is captured."""

    def is_due(self, state: State, *, leaves: bool) -> bool:
        return True


class StatusesDoNotFollow(Protocol):
    """After its station was accepted, a status is not sent."""

    def released(self, state: State, station: str) -> State:
        return state


class StatusBesideItsStationsFarewell(Protocol):
    """A claim looks at nothing but whether its message is due."""

    def may_claim(self, state: State, index: int) -> bool:
        row = state.entities[index].row
        return row.state == PENDING and row.due == NOW


# ── invariant 5: the full load happens once ────────────────────────────────────────────────────────────────────────────────────────────


class WhatIsLookedAtIsSent(Protocol):
    """Whatever the EMP has."""

    def settle(self, row: Row, desired: str, *, due: bool) -> Row:
        return super().settle(row._replace(again=1), desired, due=due)


# ── what nothing rests on ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class NoEpochOfLanes(Protocol):
    """A lane that has lost its lease is not refused."""

    def may_write(self, state: State, d: int) -> bool:
        return bool(state.daemons[d].lane)

    def lanes(self, state: State) -> Iterator[Step]:
        return (step for step in super().lanes(state) if step[0].verb != "is refused")
