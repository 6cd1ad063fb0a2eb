"""The EMP: it takes what it is sent in the order in which it gets round to it, and answers by what it holds."""

from collections.abc import Iterator

from model.state import (
    ACCEPTED,
    ENTITIES,
    FOR_GOOD,
    IN_FLIGHT,
    LATE,
    LATER,
    MISSING,
    NOW,
    PARKED,
    REFUSED,
    SENT,
    STATION,
    UNCLEAR,
    UNKNOWN,
    Job,
    Row,
    State,
    deletion,
    is_deletion,
)
from model.step import Label, Step

DELETED = "-"


class Emp:
    """The worst that the protocol allows: whether a station that is posted keeps its statuses is not documented, so here it loses them."""

    def process(self, state: State, index: int, content: str) -> tuple[str, State]:
        """The answer, and what the EMP holds then."""
        if index != STATION:
            if state.station.emp in ("", DELETED):
                return MISSING, state
            return ACCEPTED, state.of(index, emp=content)
        station, first, second = state.entities
        held = station._replace(emp=DELETED if is_deletion(content) else content)
        return ACCEPTED, state._replace(entities=(held, first._replace(emp=""), second._replace(emp="")))

    def holds(self, state: State, index: int) -> str:
        """What it has of an entity, in the words of a message."""
        held = state.entities[index].emp
        return deletion(state.station.row.payload) if held == DELETED else held

    def requests(self, state: State) -> Iterator[Step]:
        """The EMP gets round to a request, to one that nobody waits for any more, too, or never does; and the quiet time ends."""
        for index in ENTITIES:
            for job in set(state.entities[index].jobs):
                if job.phase == SENT:
                    answer, after = self.process(state, index, job.content)
                    yield Label(f"EMP answers '{answer}'", index, job.owner), after.job(index, job, job._replace(phase=answer))
                elif job.phase == LATE:
                    _, after = self.process(state, index, job.content)
                    yield Label("EMP processes late", index), after.job(index, job)
                    yield Label("EMP never processes", index), state.job(index, job)
            if self.is_quiet(state, index):
                yield Label("the quiet time is over", index), state.of(index, row=self.quiet(state.entities[index].row))

    def quiet(self, row: Row) -> Row:
        """The row when the quiet time is over."""
        return Row() if row.state == PARKED else row._replace(quiet=False, due=NOW if row.due == LATER else row.due)

    def is_quiet(self, state: State, index: int) -> bool:
        """Whether the quiet time can end: all that is late was processed. What is in flight by then counts as sent within it."""
        entity = state.entities[index]
        return entity.row.quiet and entity.row.state != IN_FLIGHT and not any(job.phase == LATE for job in entity.jobs)

    def faults(self, state: State) -> Iterator[Step]:
        """What can go wrong with a request."""
        left = state.left
        for index in ENTITIES:
            for job in set(state.entities[index].jobs):
                if job.phase != SENT:
                    continue
                if left.lost:
                    after = state.spend("lost").of(index, jobs=tuple(sorted((*state.entities[index].jobs, Job(LATE, job.content)))))
                    yield Label("gets no answer", index, job.owner), self.untold(after.job(index, job, job._replace(phase=UNKNOWN)), index)
                    unclear = self.untold(state.spend("lost").job(index, job, job._replace(phase=UNCLEAR)), index)
                    yield Label("EMP fails before", index, job.owner), unclear
                    yield Label("EMP fails after", index, job.owner), self.process(unclear, index, job.content)[1]
                if left.refused:
                    yield Label("EMP refuses", index, job.owner), state.spend("refused").job(index, job, job._replace(phase=REFUSED))
                if left.rejected and self.holds(state, index) != job.content:
                    yield Label("EMP refuses for good", index, job.owner), self.refused_for_good(state.spend("rejected"), index, job)

    def refused_for_good(self, state: State, index: int, job: Job) -> State:
        """It would refuse the same once more, however late."""
        jobs = tuple(other for other in state.entities[index].jobs if other != Job(LATE, job.content))
        return state.of(index, jobs=jobs).job(index, job, job._replace(phase=FOR_GOOD))

    def untold(self, state: State, index: int) -> State:
        """Nobody knows any more what the EMP has of the station."""
        return state._replace(told="") if index == STATION else state
