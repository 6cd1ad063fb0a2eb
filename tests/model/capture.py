"""Capture: change log → outbox, and the walks that fill the log. After `capture`, `reconcile`, `plan` and `enqueue`."""

from collections.abc import Iterator

from model.state import (
    CONSUMED,
    DAEMONS,
    DELIVERED,
    ENTITIES,
    EVSES,
    IN_FLIGHT,
    NOW,
    OVERTAKEN,
    PARKED,
    PENDING,
    READ,
    READ_FIRST,
    REJECTED,
    STATION,
    UNREAD,
    WAITS,
    YES,
    Row,
    State,
    deletion,
    is_deletion,
)
from model.step import Label, Step

SOURCE, SOURCE_END, OUTBOX, OUTBOX_END = "source", "source, after it", "outbox", "outbox, after it"
VOID = "of another walk"
NEXT = {SOURCE: SOURCE_END, OUTBOX: OUTBOX_END}  # of a page that is not empty
EMPTY, SEEN, FOUND = "empty", "seen", "found"
THEN = {SOURCE: OUTBOX, SOURCE_END: OUTBOX, OUTBOX: "", OUTBOX_END: ""}  # of an empty one


class Capture:
    """Who captures walks, too. Without leases either daemon captures whenever the other does not; with them, whose epoch is the newest."""

    reads_apart: bool

    def captures(self, state: State) -> Iterator[Step]:
        """What the intake of either daemon can do next."""
        for d in DAEMONS:
            intake = state.daemons[d].intake
            if not intake and state.log and state.daemons[d].captures and self.may_begin(state):
                yield Label("consumes", daemon=d), self.begin(state, d)
            elif intake == CONSUMED:
                yield Label("reads", daemon=d), self.read(state, d).daemon(d, intake=READ)
            elif intake == READ_FIRST:
                yield Label("writes", daemon=d), self.write(self.consume(state, d), d)
            elif intake in (READ, OVERTAKEN):
                yield Label("writes", daemon=d), self.write(state, d)

    def may_begin(self, state: State) -> bool:
        """Whether the row lock of `capture` is free."""
        return not any(daemon.intake for daemon in state.daemons)

    def begin(self, state: State, d: int) -> State:
        """Take changes out of the log, in a transaction that is open from now on; and read, if that is not to be a step of its own."""
        state = self.consume(state, d)
        return state if self.reads_apart else self.read(state, d).daemon(d, intake=READ)

    def consume(self, state: State, d: int) -> State:
        return state._replace(log=False).daemon(d, intake=CONSUMED)

    def read(self, state: State, d: int) -> State:
        """Read the station as it is now."""
        is_there = bool(state.station.db)
        for index in ENTITIES:
            entity = state.entities[index]
            found = entity.db if is_there else ""
            state = state.of(index, read=(found, entity.read[1]) if d == 0 else (entity.read[0], found))
        return state

    def write(self, state: State, d: int) -> State:
        """Decide about each row, write and commit."""
        station = self.station(state.station.row, state.station.read[d])
        leaves = station.state in (PENDING, IN_FLIGHT) and is_deletion(station.payload)
        due = self.is_due(state, leaves=leaves)
        after = state
        for index in EVSES:
            entity = state.entities[index]
            after = after.of(index, row=self.status(entity.row, entity.read[d], due=due))
        return self.closed(self.overtakes(after.of(STATION, row=station), d), d)

    def is_due(self, state: State, *, leaves: bool) -> bool:
        """Whether a status may be sent: the EMP has accepted its station, which does not leave."""
        return state.at_emp == YES and not leaves

    def closed(self, state: State, d: int) -> State:
        """The transaction of a capture has ended."""
        for index in ENTITIES:
            read = state.entities[index].read
            state = state.of(index, read=(UNREAD, read[1]) if d == 0 else (read[0], UNREAD))
        return state.daemon(d, intake="")

    def rolled_back(self, state: State, d: int) -> State:
        """The transaction of a capture has failed: the changes are in the log as before."""
        is_open = state.daemons[d].intake in (CONSUMED, READ, OVERTAKEN)
        return self.closed(state, d)._replace(log=state.log or is_open)

    def overtakes(self, state: State, d: int) -> State:
        """Another reading, if there can be one, is older than what was just written."""
        other = 1 - d
        if state.daemons[other].intake != READ or all(entity.read[0] == entity.read[1] for entity in state.entities):
            return state
        return state.daemon(other, intake=OVERTAKEN)

    # ── what is decided about a row ────────────────────────────────────────────────────────────────────────────────────────────────────

    def station(self, row: Row, desired: str) -> Row:
        """The station's row; `desired` empty: the CPO no longer lists it."""
        if not desired:
            if not (row.acknowledged or row.doubtful or row.state == IN_FLIGHT):
                return Row()
            desired = deletion(row.doubtful or row.acknowledged or row.payload)
        return self.mark(row, desired) if row.state == IN_FLIGHT else self.settle(row, desired, due=True)

    def status(self, row: Row, desired: str, *, due: bool) -> Row:
        """An EVSE's row; `desired` empty: no station lists it."""
        if row.state == IN_FLIGHT:
            return self.mark(row, desired)
        return self.settle(row, desired, due=due) if desired else self.forgotten(row)

    def forgotten(self, row: Row) -> Row:
        """The row of a status that nobody wants any more: it remembers as long as it takes that a request may be processed late."""
        return Row(PARKED, quiet=True) if row.quiet else Row()

    def mark(self, row: Row, desired: str) -> Row:
        """A row in flight is only noted not to be the last word."""
        return row if row.payload == desired else row._replace(marked=True)

    def settle(self, row: Row, desired: str, *, due: bool) -> Row:
        """A row at rest is brought to what is desired."""
        if row.acknowledged == desired and not row.doubtful and not row.again:
            return row._replace(state=DELIVERED, payload=desired, due=WAITS)
        same = row.payload == desired
        if same and row.state == REJECTED:
            return row
        keeps_its_turn = same and row.state == PENDING and row.due
        return row._replace(state=PENDING, payload=desired, due=(row.due if keeps_its_turn else NOW) if due else WAITS)

    # ── walks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def walks(self, state: State) -> Iterator[Step]:
        """A page is read, then put into the log together with the cursor, if the walk still stands where it was read for."""
        if state.missed:
            ordered = state._replace(missed=False)
            yield Label("orders a sweep"), ordered._replace(walk_next=True) if state.walk else self.new_walk(ordered)
        for d in DAEMONS:
            daemon = state.daemons[d]
            if daemon.page[0]:
                yield Label("turns the page", daemon=d), self.turn(state, d)
            elif state.walk and daemon.captures and not daemon.intake:
                yield Label("reads a page", daemon=d), state.daemon(d, page=(state.walk, self.page(state)))

    def page(self, state: State) -> str:
        """Whether there is a station from the place of the walk on, and whether it goes into the log: what the source lacks."""
        there, known = bool(state.station.db), bool(state.station.row.state)
        if state.walk == SOURCE and there:
            return FOUND
        return (SEEN if there else FOUND) if state.walk == OUTBOX and known else EMPTY

    def turn(self, state: State, d: int) -> State:
        """Move the cursor and put into the log what was found, in one transaction."""
        place, page = state.daemons[d].page
        moves = state.walk == place
        state = self.move(state.daemon(d, page=("", "")), place, page)
        return state._replace(log=True) if moves and page == FOUND else state

    def move(self, state: State, place: str, page: str) -> State:
        """The cursor, unless the walk has gone on meanwhile; at its end the next one begins."""
        if state.walk != place:
            return state
        walk = THEN[place] if page == EMPTY else NEXT[place]
        return state._replace(walk=walk) if walk or not state.walk_next else self.new_walk(state._replace(walk_next=False))

    def new_walk(self, state: State) -> State:
        """It has another number: a page that was read for the one before moves nothing."""
        for d in DAEMONS:
            if state.daemons[d].page[0]:
                state = state.daemon(d, page=(VOID, EMPTY))
        return state._replace(walk=SOURCE)
