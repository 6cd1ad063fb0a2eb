"""The whole: CPO, daemons and EMP, step by step."""

from collections.abc import Iterator
from dataclasses import dataclass

from model.capture import SOURCE, Capture
from model.lane import Lane
from model.state import DAEMONS, DELIVERED, EVSES, HELD, STATION, YES, Daemon, Entity, Left, Row, State
from model.step import Label, Step

OTHER = {"a": "b", "b": "a", "x": "y", "y": "x"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is explored. `kinds`: of changes. `leases`: only who has the lane's lease sends. `full_load`: nothing was delivered yet."""

    changes: int = 3
    kinds: tuple[str, ...] = ("rename", "remove", "status")
    full_load: bool = False
    leases: bool = False
    reads_apart: bool = False
    crashes: int = 0
    lost: int = 0
    refused: int = 0
    rejected: int = 0
    stalls: int = 0
    lapses: int = 0
    missed: int = 0

    @property
    def left(self) -> Left:
        return Left(**{name: getattr(self, name) for name in Left._fields})


class Protocol(Capture, Lane):
    """The protocol as it is; a mutant overrides one method."""

    def __init__(self, bounds: Bounds) -> None:
        super().__init__(leases=bounds.leases, dawdles=bounds.stalls > 0)
        self.bounds, self.reads_apart = bounds, bounds.reads_apart

    def initial(self) -> State:
        """One station with two EVSEs: the EMP has all of it, or the full load is about to begin."""
        lanes = (Daemon(HELD), Daemon(captures=False) if self.leases else Daemon(HELD))
        if self.bounds.full_load:
            return State((Entity("a"), Entity("x"), Entity("x")), lanes, self.bounds.left, walk=SOURCE)
        station, status = (Entity(db, Row(DELIVERED, db, db), db) for db in "ax")
        return State((station, status, status), lanes, self.bounds.left, at_emp=YES, told="a")

    def system(self, state: State) -> Iterator[Step]:
        """What happens when nobody does anything and nothing fails."""
        yield from self.captures(state)
        yield from self.walks(state)
        yield from self.takes_lease(state)
        yield from self.lanes(state)
        yield from self.requests(state)

    def environment(self, state: State) -> Iterator[Step]:
        """What the CPO does, and what fails."""
        if state.left.changes:
            for label, changed in self.changes(state.spend("changes")):
                yield label, changed._replace(log=True)
                if state.left.missed:
                    yield label._replace(verb=f"{label.verb}, and the trigger misses it"), changed.spend("missed")._replace(missed=True)
        yield from self.faults(state)
        yield from self.puts_back(state)
        for d in DAEMONS:
            if state.left.crashes and self.is_busy(state, d):
                yield Label("crashes", daemon=d), self.crash(state.spend("crashes"), d)
            if state.left.stalls and state.daemons[d].intake:
                yield Label("has its capture rolled back", daemon=d), self.rolled_back(state.spend("stalls"), d)
            if state.left.lapses and state.daemons[d].lane == HELD:
                yield Label("loses the lease of the lane", daemon=d), self.lapse(state.spend("lapses"), d)
            if self.leases and state.left.lapses and not state.daemons[d].captures and self.may_begin(state):
                taken = state.spend("lapses").daemon(d, captures=True)
                yield Label("captures from now on", daemon=d), taken.daemon(1 - d, captures=False)

    def changes(self, state: State) -> Iterator[Step]:
        """What the CPO can commit. A station that comes back is like a new one."""
        kinds, name = self.bounds.kinds, state.station.db
        if not name:
            new = state.of(STATION, db="a")
            for evse in EVSES:
                new = new.of(evse, db="x")
            yield Label("CPO adds", STATION), new
            return
        if "rename" in kinds:
            yield Label("CPO changes", STATION), state.of(STATION, db=OTHER[name])
        if "remove" in kinds:
            gone = state.of(STATION, db="")
            for evse in EVSES:
                gone = gone.of(evse, db="x")
            yield Label("CPO removes", STATION), gone
        if "status" in kinds:
            for evse in EVSES:
                yield Label("CPO changes", evse), state.of(evse, db=OTHER[state.entities[evse].db])

    def is_busy(self, state: State, d: int) -> bool:
        """Whether a crash would change anything."""
        daemon = state.daemons[d]
        return bool(daemon.intake or daemon.page[0] or (self.leases and daemon.lane) or self.is_at_work(state, d))

    def crash(self, state: State, d: int) -> State:
        """The daemon starts anew, and remembers nothing."""
        state = self.let_go(self.rolled_back(state, d), d)
        return state.daemon(d, lane="" if self.leases else HELD, page=("", ""))
