"""The mapping's row reader: a column of any type with any value makes a station, or one that is held.

No other station suffers, and nothing is raised.
"""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import psycopg
import pytest
from effort import at_most, examples
from hypothesis import given
from hypothesis import strategies as st

from cdc_pusher import oioi
from cdc_pusher.config import SourceSettings
from cdc_pusher.database import connect
from cdc_pusher.embedded import EmbeddedPostgres
from cdc_pusher.model import Held, Station
from cdc_pusher.source import Source

MEMORY = 24 * 2**20
ODD = "CREATE TABLE odd (id text PRIMARY KEY, value text)"
FIXED = "1 AS latitude, 2 AS longitude, 's' AS street, '1' AS street_number, 'c' AS city, 'z' AS zip, 'p' AS phone, true AS is_open_24"
# Each type in each place where a protocol module would rather have another one.
STATIONS = "SELECT o.id AS station_id, v.it AS name, v.it AS notes, v.it AS country, v.it AS floor_level, v.it AS open_hour_notes,"
STATIONS += f" '8ps' AS cpo, {FIXED} FROM odd AS o CROSS JOIN LATERAL (SELECT o.value::{{type}} AS it OFFSET 0) AS v"
CONNECTORS = "SELECT o.id AS station_id, v.it AS evse_id, v.it AS type, v.it AS speed_kw, v.it AS status"
CONNECTORS += " FROM odd AS o CROSS JOIN LATERAL (SELECT o.value::{type} AS it OFFSET 0) AS v"

LITERALS = {
    "text": ["", "\x7f", "\u202e", "\x1b[31m", "x" * 200_000, "'; DROP TABLE odd; --", "%s", "\ufffe"],
    "numeric": ["NaN", "Infinity", "1e400", "-0.0", "1e-400", "9" * 5000, "0." + "1" * 5000],
    "double precision": ["NaN", "-Infinity", "5e-324", "1.7e308", "-0"],
    "bigint": ["9223372036854775807", "-9223372036854775808"],
    "timestamptz": ["infinity", "-infinity", "0001-01-01 BC", "294276-12-31", "2026-01-01 00:00:00+15:59", "epoch"],
    "date": ["infinity", "4713-01-01 BC", "5874897-12-31"],
    "time": ["24:00", "00:00:00.000001"],
    "timetz": ["24:00+15:59", "00:00-15:59:59"],
    "interval": ["178000000 years", "-178000000 years", "1 month -1 day 00:00:00.000001", "00:00:00.000001"],
    "jsonb": [
        "null",
        '"\\u0000"',
        "1e400",
        "9" * 5000,
        '{"a": [1]}',
        "[" * 6000 + "]" * 6000,
        '[{"times": ["07:30", "19:00"], "days": ["Mo", "Fr"]}]',
    ],
    "json": ['"\\ud800"', "1e99999", '{"a": 1, "a": 2}', '"\\u0000"'],
    "bytea": ["\\x00ff", "\\x"],
    "boolean": ["t", "f"],
    "uuid": ["00000000-0000-0000-0000-000000000000"],
    "inet": ["::1/128", "0.0.0.0/0"],
    "int[]": ["{}", "{NULL}", "{{1,2},{3,4}}", "[-5:-3]={1,2,3}"],
    "text[]": ['{"a,b",NULL,"\\""}'],
    "int4range": ["empty", "(,)", "[1,2)"],
    "tstzmultirange": ["{}", "{(,)}", "{[0001-01-01 BC,infinity]}"],
    "date[]": ["{infinity}", "{0001-01-01 BC}"],
    "point": ["(NaN,Infinity)"],
    "bit varying": ["", "101"],
    "hstore_like": ["(1,a)", '(,"")'],
    "money": ["-92233720368547758.08"],
    "oid": ["4294967295"],
    "bpchar": ["", "a  "],
    "jsonpath": ["$.a", "00"],
    "regclass": ["odd", "nowhere", "4294967295"],
    "picky": ["a", "b"],
    "pg_lsn": ["0/0"],
    '"char"': ["\x7f", ""],
    "tsvector": ["a:1 b"],
}
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
casts = st.sampled_from(sorted(LITERALS)).flatmap(
    lambda name: st.tuples(st.just(name), st.lists(st.sampled_from(LITERALS[name]) | texts, max_size=3))
)


class Reader:
    """A database, and a reader for each type, which share a connection no longer than a loop."""

    def __init__(self, dsn: str, runner: asyncio.Runner) -> None:
        self.dsn = dsn
        self._runner = runner
        self._stack = AsyncExitStack()
        self._sources: dict[str, Source] = {}

    def read(self, type_name: str, values: list[str]) -> dict[str, Station | Held]:
        with psycopg.connect(self.dsn, autocommit=True) as cpo:
            cpo.execute("TRUNCATE odd")
            rows = [("null", None), *((f"'{n}\"", value) for n, value in enumerate(values))]
            cpo.cursor().executemany("INSERT INTO odd VALUES (%s, %s)", rows)
        return dict(self._runner.run(self._read(type_name, [key for key, _ in rows])))

    async def _read(self, type_name: str, keys: list[str]) -> dict[str, Station | Held]:
        if type_name not in self._sources:
            conn = await self._stack.enter_async_context(await connect(self.dsn, "fuzz"))
            mapping = {
                "stations": STATIONS.replace("{type}", type_name),
                "connectors": CONNECTORS.replace("{type}", type_name),
                "watch": [],
            }
            self._sources[type_name] = await Source.open(conn, SourceSettings.model_validate(mapping))
        source = self._sources[type_name]
        assert sorted(await source.page(None, 100)) == sorted(keys)
        return dict(await source.read(keys))

    def close(self) -> None:
        self._runner.run(self._stack.aclose())


@pytest.fixture(scope="module")
def reader(embedded_postgres: EmbeddedPostgres) -> Iterator[Reader]:
    with psycopg.connect(embedded_postgres.dsn(), autocommit=True) as server:
        server.execute("CREATE DATABASE fuzz_rows")
    dsn = embedded_postgres.dsn("fuzz_rows")
    with psycopg.connect(dsn, autocommit=True) as cpo:
        cpo.execute(ODD)
        cpo.execute("CREATE TYPE hstore_like AS (a int, b text)")
        cpo.execute("CREATE FUNCTION pick(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not %'', $1; END'")
        cpo.execute("CREATE DOMAIN picky AS text CHECK (VALUE IS NULL OR pick(VALUE))")
    with asyncio.Runner() as runner:
        made = Reader(dsn, runner)
        yield made
        made.close()
    with psycopg.connect(embedded_postgres.dsn(), autocommit=True) as server:
        server.execute("DROP DATABASE fuzz_rows WITH (FORCE)")


def judge(found: dict[str, Station | Held], values: list[str]) -> None:
    assert len(found) == len(values) + 1, "each is a station, or held"
    assert isinstance(found["null"], Station), "what others have does not matter to it"
    for one in found.values():
        encoded = one if isinstance(one, Held) else oioi.encode_station(one, cpo_id="DE*8PS")
        assert isinstance(encoded, Held), "no value is good in every place"
        assert encoded.reason.isprintable() or isinstance(one, Held)
        if isinstance(one, Station):
            for status in oioi.encode_statuses(one).values():
                assert isinstance(status, Held)
                assert status.reason.isprintable()


@examples(60)
@given(case=casts)
def test_any_value_of_any_type_concerns_its_own_station_alone(reader: Reader, case: tuple[str, list[str]]) -> None:
    type_name, values = case
    judge(reader.read(type_name, values), values)


@pytest.mark.parametrize("type_name", LITERALS)
def test_edges_of_each_type_concern_their_own_station_alone(reader: Reader, type_name: str) -> None:
    reader.read(type_name, [])  # opened, and not to be measured
    with at_most(MEMORY):
        judge(reader.read(type_name, LITERALS[type_name]), LITERALS[type_name])
