"""What becomes of a claim: the record of its answer, with all that follows for other rows. After `claims.sql` and `claims`."""

from model.state import (
    ASKED,
    DELIVERED,
    EVSES,
    IN_FLIGHT,
    LATER,
    MAYBE,
    NO,
    NOW,
    PARKED,
    PENDING,
    REJECTED,
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


class Record:
    """Steps within the transaction of a lane."""

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
