"""What is wrong with how an EMP was kept informed, when everything is quiet again: sentences, none when all is well."""

import json
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import oracle
from rig import KEY, Rig
from workload import Workload

from cdc_pusher.sandbox import Sandbox

CLAIM_S = 5.9  # how long a claim lasts: the time-out of a request (`rig`) and five seconds; a sender that runs has left by then


async def verdict(
    rigged: Rig,
    name: str,
    emp: Sandbox,
    workload: Workload,
    kind: str,
    *,
    forgiven: int = 0,
    goes_back: bool = False,
    disordered: bool = False,
) -> list[str]:
    """Everything that is not as it should be with one EMP; so many overlaps are `forgiven`. `goes_back`: so did the CPO's database.

    `disordered`: the EMP may refuse what it would have taken in order.
    """
    sandbox = oracle.AsOne(emp)
    expected = oracle.Expected(await rigged.sql("SELECT * FROM station"), await rigged.sql("SELECT * FROM connector"))
    in_doubt = await rigged.sql("SELECT station_id, evse_id FROM cdc_pusher.evse WHERE at_emp = 'maybe' AND emp = %(emp)s", emp=name)
    reasons = oracle.excused(expected, sandbox, in_doubt, connectors_may_change=kind != "hold")
    history = await rigged.sql("SELECT n, evse_id, status, xid::text::bigint FROM history")
    overlaps = emp.stats()["overlaps"] - forgiven
    return [
        *oracle.differences(expected, sandbox, reasons),
        *oracle.wrong_rows(expected, reasons, await rigged.sql("SELECT * FROM cdc_pusher.outbox WHERE emp = %(emp)s", emp=name)),
        *await _untold(rigged, name, expected),
        *oracle.without_statuses_after(sandbox, expected, reasons),
        *(() if goes_back else oracle.went_back_stations(sandbox)),
        *(() if goes_back else oracle.went_back_statuses(sandbox, history, workload.committed_after)),
        *([f"{overlaps} requests came while another one for the same entity was in flight"] if overlaps else ()),
        *(() if disordered else oracle.refusals(sandbox, connectors_may_change=kind == "send")),
        *(["a daemon said Traceback"] if "Traceback" in rigged.said else ()),
        *(["the API key is in what a daemon said"] if KEY in rigged.said else ()),
    ]


async def _untold(rigged: Rig, emp: str, expected: oracle.Expected) -> list[str]:
    """Stations that cannot be sent, and of which people are not told why."""
    told = "SELECT key FROM cdc_pusher.outbox WHERE emp = %(emp)s AND kind = 'station' AND state = 'held' AND reason <> ''"
    return [
        f"'{station}' cannot be sent, and nothing says so"
        for station in expected.wrong - {r["key"] for r in await rigged.sql(told, emp=emp)}
    ]


def concerned(wrong: Iterable[str]) -> list[str]:
    """The stations and EVSEs that the first complaints are about."""
    return list(dict.fromkeys(key for sentence in list(wrong)[:4] for key in re.findall(r"'(s\d+|DE[^']*)'", sentence)))


def story(sandbox: Sandbox, keys: Iterable[str]) -> list[str]:
    """What the EMP was told of them."""
    wanted = set(keys)
    entries = [e for e in sandbox.ledger if e["key"] in wanted or (e["kind"] == "station" and wanted & evses(e["payload"]))]
    return [
        f"{e['seq']} {e['received_at']:.3f} {e['key']} {e['outcome']} applied={e['applied']} "
        + (
            e["payload"]["status"]
            if e["kind"] == "status"
            else f"{e['payload']['name']} {e['payload']['deleted']} {sorted(evses(e['payload']))}"
        )
        for e in entries[-60:]
    ]


def evses(payload: Any) -> set[str]:
    return {connector["id"] for connector in payload["connectors"]}


def beside_stopped_senders(emp: Sandbox) -> int:
    """Requests that came beside one whose claim had run out, since its sender is stopped and cannot even close the connection."""
    found = 0
    for hung in emp.ledger:
        finished_at = hung["finished_at"] or time.time()
        if hung["outcome"] == "fault:hang" and finished_at - hung["received_at"] > CLAIM_S:
            beside = [e for e in emp.ledger if hung["received_at"] + CLAIM_S < e["received_at"] < finished_at]
            found += sum((e["kind"], e["key"]) == (hung["kind"], hung["key"]) for e in beside)
    return found


async def sent_without_a_lease(rigged: Rig, emp: str) -> list[str]:
    """Requests that a daemon began when the lane was not its own, by what the daemons say of when they took it."""
    taken = sorted(
        (line["epoch"], datetime.fromisoformat(line["timestamp"]), line["daemon"])
        for line in map(json.loads, rigged.said.splitlines())
        if line["event"] == "lease taken" and line["lease"] == f"lane {emp}"
    )
    ends = [min((other[1] for other in taken[n + 1 :]), default=datetime.max.replace(tzinfo=UTC)) for n in range(len(taken))]
    spans = [(daemon, begin, end) for (_, begin, daemon), end in zip(taken, ends, strict=True)]
    attempts = await rigged.sql("SELECT host, sent_at, key FROM cdc_pusher.attempt WHERE emp = %(emp)s AND outcome <> 'retry'", emp=emp)
    return [
        f"{row['key']} sent by {row['host']} at {row['sent_at']}"
        for row in attempts
        if not any(daemon == row["host"] and begin <= row["sent_at"] <= end for daemon, begin, end in spans)
    ]
