"""What must hold: in each step, and where nothing is left to do."""

from model.emp import DELETED
from model.state import DELIVERED, EVSES, IN_FLIGHT, OVERTAKEN, REJECTED, SENT, STATION, Job, State, is_deletion
from model.step import Label

ONE_REQUEST = "one request of an entity at a time"
NEVER_OLDER = "nothing is sent with older data than before"
STATUS_FOLLOWS = "a status follows its station"
ONLY_ONCE = "an accepted station is not sent again without cause"
EMP_IS_RIGHT = "when all is quiet, the EMP holds what the database holds"
ROW_IS_RIGHT = "when all is quiet, the outbox says so"
ENDS = "everything comes to an end"


def broken_by(before: State, label: Label, after: State) -> str | None:
    """The property that a step breaks, if any."""
    if label.verb == "writes" and before.daemons[label.daemon].intake == OVERTAKEN:
        return NEVER_OLDER
    if label.verb not in ("claims", "sends"):
        return None
    now = _sent(after, label.entity)
    if len(now) <= len(_sent(before, label.entity)):
        return None
    if len(now) > 1 or not all(job.fresh for job in now):
        return ONE_REQUEST
    if label.entity != STATION:
        return None if _may_have_status(after) else STATUS_FOLLOWS
    if is_deletion(now[0].content) and any(_sent(after, evse) for evse in EVSES):
        return STATUS_FOLLOWS
    return ONLY_ONCE if now[0].content == before.told else None


def broken_at_rest(state: State) -> str | None:
    """The property that a state in which nothing is left to do breaks. What the EMP refused for good is excused: the row says so."""
    station = state.station
    if station.row.state == REJECTED:
        return None
    if station.emp != (station.db or (DELETED if station.row.state else "")):
        return EMP_IS_RIGHT
    if station.row.state not in ("", DELIVERED):
        return ROW_IS_RIGHT
    for index in EVSES:
        entity = state.entities[index]
        if not station.db:
            if entity.row.state:
                return ROW_IS_RIGHT
        elif entity.row.state != REJECTED:
            if entity.emp != entity.db:
                return EMP_IS_RIGHT
            if entity.row.state != DELIVERED:
                return ROW_IS_RIGHT
    return None


def _sent(state: State, index: int) -> list[Job]:
    return [job for job in state.entities[index].jobs if job.phase == SENT]


def _may_have_status(state: State) -> bool:
    """Whether, for all that we can know, the EMP has the station, and no request is under way that deletes it."""
    row = state.station.row
    if row.state == IN_FLIGHT and is_deletion(row.payload):
        return False
    return bool(state.station.emp) and not is_deletion(state.told or "?")
