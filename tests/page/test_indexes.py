"""With 100,000 stations no view goes through a table: each query finds what it asks for by an index."""

import json
import re
from pathlib import Path

import pytest

from cdc_pusher import sql
from cdc_pusher.database import connect
from cdc_pusher.monitor.looking import READ_ONLY

QUERIES = vars(sql.queries("monitor"))
PARAMETERS = {
    "emps": ["e1"],
    "emp": "e1",
    "state": None,
    "kind": None,
    "limit": 200,
    "station_id": "s1",
    "keys": ["s1", "DE*8PS*E1"],
    "cpo": "8ps",
    "after": "",
    "text": "s1",
    "words": "haupt:*",
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
    async with await connect(watched_dsn, "test", settings=READ_ONLY | {"default_transaction_read_only": "off"}) as conn:
        await conn.execute(FILLED)
        found = await (await conn.execute(b"EXPLAIN (FORMAT JSON) " + QUERIES[name], PARAMETERS)).fetchone()
    assert found is not None
    plan = json.dumps(found["QUERY PLAN"])
    scanned = set(re.findall(r'"Node Type": "Seq Scan"[^{}]*?"Relation Name": "(\w+)"', plan))
    assert {one for one in scanned if not one.startswith("attempt")} <= SMALL, plan
    assert ("outbox_words" in plan) == (name == "by_words"), plan


def test_words_are_spelled_in_the_query_as_in_the_index() -> None:
    by_words = QUERIES["by_words"].decode()
    description = (Path(__file__).parents[2] / "cdc_pusher" / "schema.py").read_text()
    assert by_words.count("coalesce(") == description.count("coalesce(payload")
