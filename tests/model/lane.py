"""A lane: claims what is due, sends it, records the answers. After `claims.sql`, `claims` and `delivery`; leases after `lease`."""

from collections.abc import Iterator

from model.emp import Emp
from model.state import (
    ACCEPTED,
    ASKED,
    CLAIMED,
    DAEMONS,
    DELIVERED,
    ENTITIES,
    EVSES,
    FOR_GOOD,
    HELD,
    IN_FLIGHT,
    LAPSED,
    LATE,
    LATER,
    MAYBE,
    MISSING,
    NO,
    NOW,
    OLD,
    PARKED,
    PENDING,
    REFUSED,
    REJECTED,
    RESULTS,
    SENT,
    STATION,
    UNCLEAR,
    UNKNOWN,
    WAITS,
    YES,
    Job,
    Row,
    State,
    is_deletion,
)
from model.step import Label, Step


class Lane(Emp):
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
            if state.daemons[d].lane == HELD:
                for index in ENTITIES:
                    if self.may_claim(state, index):
                        yield Label("claims", index, d), self.wrote(self.claim(state, index, d), d)
            elif state.daemons[d].lane == OLD and state.raised:
                yield Label("is refused", daemon=d), self.let_go(state, d).daemon(d, lane="")
            if self.may_write(state, d):
                yield from self.expiries(state, d)
        for index in ENTITIES:
            for job in set(state.entities[index].jobs):
                if job.phase == CLAIMED and self.in_time(state, job):
                    yield Label("sends", index, job.owner), state.job(index, job, job._replace(phase=SENT))
                elif job.phase == CLAIMED and self.may_write(state, job.owner):
                    yield Label("finds it too late to send", index, job.owner), self.wrote(self.put_back(state, index, job), job.owner)
                elif job.phase in RESULTS and self.may_write(state, job.owner):
                    recorded = self.recorded(state.job(index, job), index, job)
                    yield Label(f"records '{job.phase}'", index, job.owner), self.wrote(recorded, job.owner)

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

    # ── record ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def recorded(self, state: State, index: int, job: Job) -> State:
        """What a result means for the row and for others; nothing, if the row is not in flight under this claim."""
        row = state.entities[index].row
        if not self.counts(row, job):
            return state
        match job.phase:
            case "accepted":
                return self.accepted(state, index, row)
            case "missing":
                return self.missing(state, index, row)
            case "refused for good":
                return self.rejected(state, index, row)
        uncertain = job.phase in (UNCLEAR, UNKNOWN)
        after = self.at_rest(row, due=True)
        after = self.doubted(after, late=job.phase == UNKNOWN) if uncertain else after
        return self.look_again(self.withdrawn(state.of(index, row=after), index), row.marked)

    def put_back(self, state: State, index: int, job: Job) -> State:
        """A claim is not sent after all."""
        row = state.entities[index].row
        state = state.job(index, job)
        if not job.fresh:
            return state
        return self.look_again(self.withdrawn(state.of(index, row=self.at_rest(row, due=not row.marked)), index), row.marked)

    def counts(self, row: Row, job: Job) -> bool:
        """Whether the row is in flight under this claim."""
        return row.state == IN_FLIGHT and job.fresh

    def at_rest(self, row: Row, *, due: bool) -> Row:
        """The row after a request that settled nothing."""
        return row._replace(state=PENDING, again=min(row.again, 1), marked=False, due=NOW if due else WAITS)

    def doubted(self, row: Row, *, late: bool) -> Row:
        """The row after a request that may have been applied, or (`late`) still may be."""
        return row._replace(doubtful=row.payload, quiet=row.quiet or late)

    def accepted(self, state: State, index: int, row: Row) -> State:
        """Within the quiet time it is sent once more when that is over."""
        again = int(row.quiet or row.again == 2)
        done = not (row.marked or row.quiet)
        due = LATER if row.quiet and not row.marked else WAITS
        after = Row(DELIVERED if done else PENDING, row.payload, row.payload, quiet=row.quiet, again=again, due=due)
        state = state.of(index, row=after)
        look_again = row.marked
        if index == STATION:
            look_again = look_again or is_deletion(row.payload) or bool(row.doubtful)
            state = self.released(self.settled(state, row.payload), row.payload)
            state = state._replace(told="" if row.quiet or state.told == ASKED else row.payload)
        return self.look_again(state, look_again)

    def settled(self, state: State, station: str) -> State:
        """What the EMP has now; statuses of what it has deleted wait."""
        if not is_deletion(station):
            return state._replace(at_emp=YES)
        state = state._replace(at_emp=NO)
        for evse in EVSES:
            if state.entities[evse].row.state == PENDING:
                state = state.row(evse, due=WAITS)
        return state

    def released(self, state: State, station: str) -> State:
        """The statuses of a station that was accepted follow, whether the EMP had them before or not."""
        if is_deletion(station):
            return state
        for evse in EVSES:
            row = state.entities[evse].row
            if row.state == IN_FLIGHT:
                state = state.row(evse, again=2, marked=True)
            elif row.state not in ("", PARKED):
                state = state.row(evse, state=PENDING, again=1, due=NOW)
        return state

    def missing(self, state: State, index: int, row: Row) -> State:
        """The EMP does not know the EVSE: its station is sent again, and the status waits for that."""
        waits = row._replace(state=PENDING, again=1, marked=False, due=WAITS)
        state = self.look_again(state.of(index, row=waits), row.marked)
        if state.at_emp != YES:
            return state
        station = state.station.row
        if station.state == IN_FLIGHT:
            again = station._replace(again=2, marked=True)
        elif station.state == DELIVERED:
            again = station._replace(state=PENDING, again=1, due=NOW)
        else:
            again = station._replace(again=1)
        return state.of(STATION, row=again)._replace(at_emp=MAYBE, told=ASKED if station.state == IN_FLIGHT else "")

    def rejected(self, state: State, index: int, row: Row) -> State:
        """The EMP will never take it as it is. If it is what is in doubt, the EMP has not applied that, either."""
        doubtful = "" if row.doubtful == row.payload else row.doubtful
        after = self.at_rest(row, due=False)._replace(state=PENDING if row.marked else REJECTED, doubtful=doubtful)
        return self.look_again(self.withdrawn(state.of(index, row=after), index), row.marked or index == STATION)

    def withdrawn(self, state: State, index: int) -> State:
        """A station that was surely not taken: the EMP has the EVSEs that it acknowledged last."""
        row = state.station.row
        if index != STATION or row.doubtful or state.at_emp != MAYBE:
            return state
        return state._replace(at_emp=YES if row.acknowledged and not is_deletion(row.acknowledged) else NO)

    def look_again(self, state: State, wanted: bool) -> State:
        """The station goes into the change log, if its newest reading could not be acted on."""
        return state._replace(log=True) if wanted else state

    # ── the EMP's side of a request ────────────────────────────────────────────────────────────────────────────────────────────────────

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
        """Whether the quiet time can end: what the EMP processes late, it has processed. For a request in flight it counts when it was claimed."""
        entity = state.entities[index]
        return entity.row.quiet and entity.row.state != IN_FLIGHT and not any(job.phase == LATE for job in entity.jobs)

    def faults(self, state: State) -> Iterator[Step]:
        """What can go wrong with a request."""
        left = state.left
        for index in ENTITIES:
            for job in set(state.entities[index].jobs):
                if job.phase == CLAIMED and left.stalls and job.fresh and self.may_write(state, job.owner):
                    after = self.wrote(self.put_back(state.spend("stalls"), index, job), job.owner)
                    yield Label("puts back", index, job.owner), after
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


