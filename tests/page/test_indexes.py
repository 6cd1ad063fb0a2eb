"""With 100,000 stations no view goes through a table: each query finds what it asks for by an index."""

import json
import re

import pytest

from cdc_pusher import sql
from cdc_pusher.database import connect
from cdc_pusher.monitor.looking import OURS
from cdc_pusher.schema import WORDS

QUERIES = vars(sql.queries("monitor"))
PARAMETERS = {
    "emps": ["e1"],
    "emp": "e1",
    "state": None,
    "kind": None,
    "limit": 200,
    "station_id": "s1",
    "evse": "DE*8PS*E1",
    "most": 10_000,
    "groups": 50,
    "keys": ["s1", "DE*8PS*E1"],
    "cpo": "8ps",
    "after": "",
    "text": "s1",
    "words": "haupt:*",
}
# Which index finds what a query asks for; what is not named here reads small tables.
BY = {
    "problems": {"outbox_problem"},
    "problem_groups": {"outbox_problem"},
    "station_of": {"outbox_pkey"},
    "rows": {"outbox_station"},
    "attempts": {"attempt_default_key_sent_at_idx"},
    "places": {"outbox_pkey"},
    "open": {"outbox_problem", "outbox_due", "outbox_lease"},
    "by_key": {"outbox_pkey"},
    "by_words": {"outbox_words"},
    "minutes": {"minute_pkey"},
}
SMALL = {"emp", "lease", "cpo", "daemon"}  # a row for each EMP, CPO or daemon
FILLED = """
INSERT INTO cdc_pusher.emp (name) VALUES ('e1');
INSERT INTO cdc_pusher.outbox (emp, kind, key, station_id, payload, acknowledged, desired_gen, delivered_gen, state)
SELECT 'e1', kind, key, 's' || n, payload, payload, 1, 1, 'delivered'
FROM generate_series(1, 5000) AS n
CROSS JOIN LATERAL (VALUES
    ('station', 's' || n, jsonb_build_object('id', 's' || n, 'name', 'Haupt ' || n, 'connectors', '[]'::jsonb, 'deleted', false)),
    ('status', 'DE*8PS*E' || n, jsonb_build_object('connector-id', 'DE*8PS*E' || n, 'status', 'Available'))
) AS m (kind, key, payload);
ANALYZE cdc_pusher.outbox
"""


@pytest.mark.parametrize("name", QUERIES)
async def test_query_goes_by_index(watched_dsn: str, name: str) -> None:
    async with await connect(watched_dsn, "test", settings=OURS | {"default_transaction_read_only": "off"}) as conn:
        await conn.execute(FILLED)
        found = await (await conn.execute(b"EXPLAIN (FORMAT JSON) " + QUERIES[name], PARAMETERS)).fetchone()
    assert found is not None
    plan = json.dumps(found["QUERY PLAN"])
    scanned = set(re.findall(r'"Node Type": "Seq Scan"[^{}]*?"Relation Name": "(\w+)"', plan))
    assert {one for one in scanned if not one.startswith("attempt")} <= SMALL, plan
    used = set(re.findall(r'"Index Name": "(\w+)"', plan))
    assert used >= BY.get(name, set()), plan


def test_words_are_spelled_in_the_query_as_in_the_index() -> None:
    spelled = QUERIES["by_words"].decode()
    assert re.sub(r"\s+", "", WORDS) in re.sub(r"\s+", "", spelled)
