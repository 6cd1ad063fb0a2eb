"""What the model remembers: immutable, hashable, comparable, all of short strings, so that a trace can be read.

Contents are letters: a station is called `a` or `b`, its deletion is `-a` or `-b`, the status of an EVSE is `x` or `y`, and nothing is the
empty string. A letter can come back, as a value in a database does. Entity 0 is the station, 1 and 2 are its EVSEs.
"""

from collections.abc import Callable
from typing import NamedTuple

STATION = 0
EVSES = (1, 2)
ENTITIES = (STATION, *EVSES)
DAEMONS = (0, 1)
NOBODY = -1
UNREAD = "?"
ASKED = "?"

PENDING, IN_FLIGHT, DELIVERED, REJECTED, PARKED = "pending", "in_flight", "delivered", "rejected", "parked"
NOW, LATER, WAITS = "now", "later", ""
NO, MAYBE, YES = "no", "maybe", "yes"
CLAIMED, SENT, LATE = "claimed", "sent", "late"
ACCEPTED, MISSING, REFUSED, FOR_GOOD, UNCLEAR, UNKNOWN = "accepted", "missing", "refused", "refused for good", "unclear", "unknown"
RESULTS = frozenset((ACCEPTED, MISSING, REFUSED, FOR_GOOD, UNCLEAR, UNKNOWN))
HELD, LAPSED, OLD = "held", "lapsed", "old"
CONSUMED, READ, OVERTAKEN, READ_FIRST = "consumed", "read", "overtaken", "read first"


def is_deletion(content: str) -> bool:
    """Whether this deletes a station."""
    return content.startswith("-")


def deletion(content: str) -> str:
    """The deletion of a station that the EMP has, or may have, like this."""
    return content if is_deletion(content) else f"-{content}"


class Row(NamedTuple):
    """A row of the outbox. Generations are kept as what follows from them.

    `state` empty: there is no row. `again`: `resend_gen` is above `delivered_gen` (1), in flight also above `sending_gen` (2). `marked`:
    `desired_gen` is above `sending_gen`. `quiet`: `uncertain_at` is less than the quiet time ago. `due`: back-off is over at once, `later`
    is the end of the quiet time, and who waits has no `next_attempt_at`. `parked`: nobody wants the row any more, and it is kept for the
    rest of the quiet time.
    """

    state: str = ""
    payload: str = ""
    acknowledged: str = ""
    doubtful: str = ""
    quiet: bool = False
    again: int = 0
    marked: bool = False
    due: str = WAITS


class Job(NamedTuple):
    """A claim in the memory of the daemon `owner`: `claimed`, then `sent`, then a result; or a request that nobody waits for (`late`).

    `fresh`: the row is still in flight under this claim.
    """

    phase: str
    content: str
    owner: int = NOBODY
    fresh: bool = False


class Entity(NamedTuple):
    """The station or an EVSE: in the CPO's database, in the outbox, at the EMP, between them; and what each daemon has read of it."""

    db: str
    row: Row = Row()
    emp: str = ""
    jobs: tuple[Job, ...] = ()
    read: tuple[str, str] = (UNREAD, UNREAD)


class Daemon(NamedTuple):
    """`lane`: held, lapsed (by its own clock), old (another daemon has taken it since), or none.

    `intake`: how far a capture has come. `page`: the place of a walk, and what was read there. `captures`: nobody captures under a newer
    epoch.
    """

    lane: str = ""
    intake: str = ""
    page: tuple[str, str] = ("", "")
    captures: bool = True


class Left(NamedTuple):
    """How often each of these may still happen."""

    changes: int = 0
    crashes: int = 0
    lost: int = 0
    refused: int = 0
    rejected: int = 0
    stalls: int = 0
    lapses: int = 0
    missed: int = 0


class State(NamedTuple):
    """Everything. `log`: the change log names the station. `raised`: the database refuses a lane that is old.

    `missed`: triggers have missed a change, and no walk was ordered for it. `told`, for the checker alone: what the EMP has surely got of
    the station, and we know; `ASKED`: it asked for the station while that was under way.
    """

    entities: tuple[Entity, Entity, Entity]
    daemons: tuple[Daemon, Daemon]
    left: Left
    log: bool = False
    at_emp: str = NO
    told: str = ""
    raised: bool = True
    walk: str = ""
    walk_next: bool = False
    missed: bool = False

    @property
    def station(self) -> Entity:
        return self.entities[0]

    def of(self, index: int, **values: object) -> "State":
        """The same, but for this of an entity."""
        changed = self.entities[index]._replace(**values)  # type: ignore[arg-type]  # fields by name
        return State((*self.entities[:index], changed, *self.entities[index + 1 :]), *self[1:])  # type: ignore[arg-type]  # three

    def row(self, index: int, **values: object) -> "State":
        """The same, but for this of an entity's row."""
        return self.of(index, row=self.entities[index].row._replace(**values))  # type: ignore[arg-type]  # fields by name

    def daemon(self, index: int, **values: object) -> "State":
        """The same, but for this of a daemon."""
        changed = self.daemons[index]._replace(**values)  # type: ignore[arg-type]  # fields by name
        return self._replace(daemons=(changed, self.daemons[1]) if index == 0 else (self.daemons[0], changed))

    def job(self, index: int, old: Job, *new: Job) -> "State":
        """The same with other jobs in the place of one."""
        jobs = list(self.entities[index].jobs)
        jobs.remove(old)
        return self.of(index, jobs=tuple(sorted((*jobs, *new))))

    def spend(self, what: str) -> "State":
        """The same, and this may happen once less."""
        return self._replace(left=self.left._replace(**{what: getattr(self.left, what) - 1}))


def canonical(state: State) -> State:
    """One of all states that differ only in which EVSE, or which daemon, is called the first."""
    first, second = state.daemons
    swapped = _with_daemons_swapped(state) if second <= first else state
    if first.lane == second.lane == HELD and not state.left.crashes:
        # Without leases and crashes, who has claimed something makes no difference.
        state, swapped = _of_one_daemon(state), _of_one_daemon(swapped)
    if first != second:
        return _ordered(swapped)
    return _ordered(state) if state == swapped else min(_ordered(state), _ordered(swapped))


def _ordered(state: State) -> State:
    station, first, second = state.entities
    return state if first <= second else state._replace(entities=(station, second, first))


def _of_one_daemon(state: State) -> State:
    return _with_jobs(state, lambda job: job._replace(owner=0) if job.owner == 1 else job)


def _with_daemons_swapped(state: State) -> State:
    state = _with_jobs(state, lambda job: job if job.owner == NOBODY else job._replace(owner=1 - job.owner))
    first, second = state.daemons
    if first.intake or second.intake:
        station, one, other = (entity._replace(read=entity.read[::-1]) for entity in state.entities)
        state = state._replace(entities=(station, one, other))
    return state._replace(daemons=(second, first))


def _with_jobs(state: State, change: Callable[[Job], Job]) -> State:
    for index, entity in enumerate(state.entities):
        if entity.jobs:
            state = state.of(index, jobs=tuple(sorted(map(change, entity.jobs))))
    return state
