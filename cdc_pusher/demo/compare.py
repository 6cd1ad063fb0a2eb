"""What the EMP holds against what the CPO's database holds, what it was told twice, how long it had to wait; pure but for `expected`.

The oracle of the demo: it reads the CPO's tables with SQL of its own (`sql/demo.sql`), and knows neither our tables nor our encoder.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import IsolationLevel
from psycopg.types.json import Jsonb

from cdc_pusher.database import Connection
from cdc_pusher.sql import queries

_sql = queries("demo")
_ABSENT = "nothing"

Holding = dict[str, dict[str, Any]]
"""Station id → `{"station": content, "statuses": {EVSE id: status}}`, as the sandbox shows it at `GET /stations`."""


async def expected(conn: Connection, cpos: Mapping[str, str]) -> Holding:
    """What an EMP should hold now; `cpos` as in the configuration."""
    held: Holding = {}
    await conn.set_isolation_level(IsolationLevel.REPEATABLE_READ)
    try:
        async with conn.transaction():
            async for row in await conn.execute(_sql.expected_stations, {"cpos": Jsonb(dict(cpos))}):
                held[row["id"]] = {"station": row["station"], "statuses": {}}
            async for row in await conn.execute(_sql.expected_statuses):
                held[row["station_id"]]["statuses"][row["evse_id"]] = row["status"]
    finally:
        await conn.set_isolation_level(IsolationLevel.READ_COMMITTED)
    return held


def differences(should: Holding, holds: Holding) -> list[str]:
    """Every field and status that differs, in words, sorted; a station that was deleted at the EMP need not be known to the database.

    >>> should = {"s1": {"station": {"name": "A", "deleted": False}, "statuses": {"E1": "Available"}}}
    >>> differences(should, should), differences(should, {})
    ([], ['station s1: should be there, the EMP has nothing'])
    >>> for one in differences(should, {"s1": {"station": {"name": "B", "deleted": False}, "statuses": {"E2": "Offline"}}}): print(one)
    station s1: name should be 'A', the EMP has 'B'
    status E1: should be 'Available', the EMP has nothing
    status E2: should be nothing, the EMP has 'Offline'
    >>> differences({}, should), differences({}, {"s1": {"station": {"deleted": True}, "statuses": {}}})
    (['station s1: should be deleted, the EMP has it'], [])
    """
    found: list[str] = []
    for station_id in sorted(should.keys() | holds.keys()):
        wanted, held = should.get(station_id), holds.get(station_id)
        if wanted is None:
            if held is not None and held["station"]["deleted"] is not True:
                found.append(f"station {station_id}: should be deleted, the EMP has it")
        elif held is None:
            found.append(f"station {station_id}: should be there, the EMP has nothing")
        else:
            wanted_fields, held_fields = _flat(wanted["station"]), _flat(held["station"])
            found += [f"station {station_id}: {difference}" for difference in _unequal(wanted_fields, held_fields)]
            found += [f"status {difference}" for difference in _unequal(wanted["statuses"], held["statuses"], ":")]
    return found


def _unequal(should: Mapping[str, Any], holds: Mapping[str, Any], colon: str = "") -> Iterable[str]:
    for name in sorted(should.keys() | holds.keys()):
        if name not in holds or name not in should or should[name] != holds[name]:
            yield f"{name}{colon} should be {_word(should, name)}, the EMP has {_word(holds, name)}"


def _word(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else _ABSENT


def _flat(station: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a station by their path; the order of its connectors means nothing."""
    fields: dict[str, Any] = {}
    for name, value in station.items():
        if isinstance(value, dict):
            fields |= {f"{name}.{inner}": one for inner, one in value.items()}
        elif name == "connectors":
            fields[name] = sorted(value, key=lambda c: (c["id"], c["name"], c["speed"]))
        else:
            fields[name] = value
    return fields


def repeats(ledger: Iterable[Mapping[str, Any]]) -> int:
    """How many messages told the EMP again what the one before about the same station or EVSE had told; however often, they count once.

    >>> story = ((True, "a"), (True, "a"), (False, "b"), (True, "a"), (True, "c"))
    >>> repeats({"applied": applied, "kind": "status", "key": "E1", "payload": said} for applied, said in story)
    1
    """
    told: dict[tuple[str, str], Any] = {}
    repeated: set[tuple[str, str]] = set()
    count = 0
    for entry in ledger:
        if entry["applied"]:
            entity = entry["kind"], entry["key"]
            if told.get(entity) != entry["payload"]:
                repeated.discard(entity)
            elif entity not in repeated:
                repeated.add(entity)
                count += 1
            told[entity] = entry["payload"]
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """One change of an EVSE's status: sent to Postgres at `began`, known to be committed at `at`. Unix seconds."""

    evse_id: str
    status: str
    began: float
    at: float


def latencies_s(changes: Iterable[Committed], ledger: Iterable[Mapping[str, Any]]) -> list[float]:
    """Seconds from each commit until the EMP received that status or a later one of the EVSE, sorted.

    A change that was taken back before it could be sent, and so never had to be, has none.
    """
    received: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for entry in ledger:
        if entry["kind"] == "status" and entry["outcome"] == "accepted":
            received[entry["key"]].append((entry["received_at"], entry["payload"]["status"]))
    made: dict[str, list[Committed]] = defaultdict(list)
    for change in changes:
        made[change.evse_id].append(change)
    waits = (_wait(of_evse[index:], received[evse_id]) for evse_id, of_evse in made.items() for index in range(len(of_evse)))
    return sorted(wait for wait in waits if wait is not None)


def _wait(changes: Sequence[Committed], received: Iterable[tuple[float, str]]) -> float | None:
    """How long the first of these changes of one EVSE waited: until it or one of the others arrived."""
    for at, status in received:
        if any(change.status == status and change.began <= at for change in changes):
            return max(at - changes[0].at, 0.0)
    return None


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the sorted values does not exceed.

    >>> percentile([1, 2, 3, 4], 0.5), percentile([1, 2, 3, 4], 0.99), percentile([7], 0.5)
    (2, 4, 7)
    """
    return values[max(0, -int(-share * len(values) // 1) - 1)]
