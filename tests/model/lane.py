"""A lane: claims what is due, and sends it. After `claims.sql` and `delivery`; leases after `lease`."""

from collections.abc import Iterator

from model.emp import Emp
from model.record import Record
from model.state import (
    CLAIMED,
    DAEMONS,
    ENTITIES,
    EVSES,
    HELD,
    IN_FLIGHT,
    LAPSED,
    LATE,
    MAYBE,
    NO,
    NOW,
    OLD,
    PENDING,
    RESULTS,
    SENT,
    STATION,
    WAITS,
    YES,
    Job,
    State,
    is_deletion,
)
from model.step import Label, Step


class Lane(Record, Emp):
    """Which daemon may do what: `leases`, or, without, both everything at any time. `dawdles`: a claim is not sent in the same moment."""

    def __init__(self, *, leases: bool, dawdles: bool) -> None:
        self.leases, self.dawdles = leases, dawdles

    # ── leases ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def takes_lease(self, state: State) -> Iterator[Step]:
        """A lease that nobody holds any more is taken by a daemon that has done with the last one."""
        if not self.leases or any(daemon.lane == HELD for daemon in state.daemons):
            return
        for d in DAEMONS:
            if not state.daemons[d].lane:
                yield Label("takes the lease of the lane", daemon=d), self.take(state, d)

    def take(self, state: State, d: int) -> State:
        """Under a new epoch, which the database has not seen yet."""
        if state.daemons[1 - d].lane == LAPSED:
            state = state.daemon(1 - d, lane=OLD)._replace(raised=False)
        return state.daemon(d, lane=HELD)

    def may_write(self, state: State, d: int) -> bool:
        """Whether the epoch of a daemon's lease is not below that of the last writer."""
        return state.daemons[d].lane in (HELD, LAPSED) or (state.daemons[d].lane == OLD and not state.raised)

    def wrote(self, state: State, d: int) -> State:
        """The epoch has been raised; a lease that is lost is let go with the last claim."""
        lane = state.daemons[d].lane
        if lane != OLD and not state.raised:
            state = state._replace(raised=True)
        return state if lane == HELD or self.is_at_work(state, d) else state.daemon(d, lane="")

    def is_at_work(self, state: State, d: int) -> bool:
        return any(job.owner == d for entity in state.entities for job in entity.jobs)

    def lapse(self, state: State, d: int) -> State:
        """By its own clock the daemon has lost the lease."""
        return state.daemon(d, lane=LAPSED if self.is_at_work(state, d) else "")

    def let_go(self, state: State, d: int) -> State:
        """The lane ends, and whatever it had begun: what was sent may still be processed."""
        for index in ENTITIES:
            for job in state.entities[index].jobs:
                if job.owner == d:
                    state = state if job.phase == CLAIMED else self.untold(state, index)
                    late = (Job(LATE, job.content),) if job.phase == SENT else ()
                    state = state.job(index, job, *late)
        return state

    # ── claim, send ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def lanes(self, state: State) -> Iterator[Step]:
        """What the lane of either daemon can do next."""
        for d in DAEMONS:
            lane = state.daemons[d].lane
            if lane == HELD:
                for index in ENTITIES:
                    if self.may_claim(state, index):
                        yield Label("claims", index, d), self.wrote(self.claim(state, index, d), d)
            if self.may_write(state, d):
                yield from self.expiries(state, d)
            elif lane == OLD:
                yield Label("is refused", daemon=d), self.let_go(state, d).daemon(d, lane="")
        for index in ENTITIES:
            for job in set(state.entities[index].jobs):
                yield from self.goes_on(state, index, job)

    def goes_on(self, state: State, index: int, job: Job) -> Iterator[Step]:
        """What a daemon can do about a claim that it has in mind."""
        d = job.owner
        if job.phase == CLAIMED and self.in_time(state, job):
            yield Label("sends", index, d), state.job(index, job, job._replace(phase=SENT))
        elif job.phase == CLAIMED and self.may_write(state, d):
            yield Label("finds it too late to send", index, d), self.wrote(self.put_back(state, index, job), d)
        elif job.phase in RESULTS and self.may_write(state, d):
            recorded = self.recorded(state.job(index, job), index, job)
            yield Label(f"records '{job.phase}'", index, d), self.wrote(recorded, d)

    def puts_back(self, state: State) -> Iterator[Step]:
        """What was claimed is not sent after all, since the EMP fails, or the lane is to go over to another daemon."""
        for index in ENTITIES if state.left.stalls else ():
            for job in set(state.entities[index].jobs):
                if job.phase == CLAIMED and job.fresh and self.may_write(state, job.owner):
                    yield Label("puts back", index, job.owner), self.wrote(self.put_back(state.spend("stalls"), index, job), job.owner)

    def in_time(self, state: State, job: Job) -> bool:
        """Whether a claim may still be sent, by the daemon's own clock."""
        return job.fresh and state.daemons[job.owner].lane == HELD

    def may_claim(self, state: State, index: int) -> bool:
        """Whether a message is due. A status is not sent beside its station's farewell."""
        row = state.entities[index].row
        if row.state != PENDING or row.due != NOW:
            return False
        station = state.station.row
        if state.at_emp == NO:
            return True
        if index != STATION:
            return not (station.state in (PENDING, IN_FLIGHT) and is_deletion(station.payload))
        return not is_deletion(row.payload) or not any(state.entities[evse].row.state == IN_FLIGHT for evse in EVSES)

    def claim(self, state: State, index: int, d: int) -> State:
        """The claim is committed before anything is sent; from now on the EMP may have, or have lost, the EVSEs of a station."""
        entity = state.entities[index]
        row = entity.row._replace(state=IN_FLIGHT, due=WAITS, marked=False)
        job = Job(CLAIMED if self.dawdles else SENT, row.payload, d, True)
        state = state.of(index, row=row, jobs=tuple(sorted((*entity.jobs, job))))
        if index == STATION and state.at_emp == (YES if is_deletion(row.payload) else NO):
            state = state._replace(at_emp=MAYBE)
        return state

    def expiries(self, state: State, d: int) -> Iterator[Step]:
        """A claim runs out: its daemon has died, or hangs, which counts as a stall."""
        for index in ENTITIES:
            entity = state.entities[index]
            if entity.row.state != IN_FLIGHT:
                continue
            lives = any(job.fresh for job in entity.jobs)
            if lives and not state.left.stalls:
                continue
            after = state.spend("stalls") if lives else state
            yield Label("finds a claim run out", index, d), self.wrote(self.expire(after, index), d)

    def expire(self, state: State, index: int) -> State:
        """What was sent may have arrived. What is not the last word waits to be captured again."""
        entity = state.entities[index]
        row = self.doubted(self.at_rest(entity.row, due=not entity.row.marked), late=True)
        jobs = (Job(LATE, job.content) if job.fresh and job.phase == SENT else job._replace(fresh=False) for job in entity.jobs)
        state = self.untold(state.of(index, row=row, jobs=tuple(sorted(jobs))), index)
        return self.look_again(state, entity.row.marked)
