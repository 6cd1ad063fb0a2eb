"""The EMP: it takes what it is sent in the order in which it gets round to it, and answers by what it holds."""

from model.state import ACCEPTED, MISSING, STATION, State, deletion, is_deletion

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
